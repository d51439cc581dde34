"""``weft list``: what is registered."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer

from weft.cli.source import repeated

REGISTRIES = {
    "fusion": ("weft.fusion", "fusions"),
    "aligner": ("weft.alignment", "aligners"),
    "objective": ("weft.alignment", "objectives"),
    "regulariser": ("weft.alignment", "regularisers"),
    "encoder": ("weft.encoders", "encoders"),
    "dataset": ("weft.data", "datasets"),
    "column": ("weft.data.kinds", "kinds"),
    "task": ("weft.tasks.base", "tasks"),
    "system": ("weft.training.system", "systems"),
    "protocol": ("weft.models.protocol", "protocols"),
    "schedule": ("weft.training.schedule", "schedules"),
}
ABOUT = ("arity", "wants", "absent", "kinds", "reads", "writes", "judge", "paper")


def list_registered(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names.")] = "*",
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(REGISTRIES)}.")] = "fusion",
    exclude: Annotated[list[str], repeated("--exclude", "Shell pattern of names to leave out.", "PATTERN")] = [],
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List what is registered: fusions by default; of a single one, its options and source too.

    Examples:

        weft list

        weft list "*attention*" --exclude "multi*"

        weft list lmf

        weft list --kind encoder --json
    """
    from weft.cli.output import say, write_json, write_table

    registry = _registry(kind)
    rows = []
    for name in registry.names(pattern, exclude):
        summary, options = registry.describe(name)
        about = {key: getattr(registry.get(name), key) for key in ABOUT if hasattr(registry.get(name), key)}
        if kind == "system":
            about["reads"] = {role: need.kind for role, need in about["reads"].items()}
        rows.append({"name": name, "summary": summary, **about, "options": options})
    if json:
        write_json(rows)
        return
    if not rows:
        from weft.errors import UserError, did_you_mean

        raise UserError(f"no {kind} matches", pattern, did_you_mean(pattern.strip("*"), registry.names(), "names"))
    for row in rows:
        if "arity" in row:
            fewest, most = row["arity"]
            row["arity"] = f"{fewest}" if fewest == most else f"{fewest}-{most}" if most else f"{fewest}+"
        if kind == "system":
            row["reads"] = ", ".join(f"{role} ({kind})" for role, kind in row["reads"].items())
        if "kinds" in row:
            row["kinds"] = ", ".join(row["kinds"])
        row["options"] = ", ".join(f"{k}={v}" for k, v in row["options"].items())
    if len(rows) == 1:
        write_table(rows[0]["name"], [{"": key, kind: value} for key, value in rows[0].items() if key != "name"])
        return
    short = ("name", "summary", "arity", "kinds", "reads", "writes")
    write_table(f"{len(rows)} {kind}s", [{key: row[key] for key in short if key in row} for row in rows])
    say(f"options and source of one: weft list NAME{'' if kind == 'fusion' else f' --kind {kind}'}")


def _registry(kind: str) -> Any:
    from weft.errors import UserError, did_you_mean

    if kind not in REGISTRIES:
        raise UserError("unknown kind", kind, did_you_mean(kind, REGISTRIES, "kinds"))
    module, attribute = REGISTRIES[kind]
    return getattr(importlib.import_module(module), attribute)

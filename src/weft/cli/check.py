"""``weft check``: is the installation sound, and is this source ready to encode?"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from weft.cli.source import Data, Json, Root

EXTRAS = {"audio": "soundfile", "ann": "faiss-cpu", "log": "tensorboard"}
PACKAGES = ("weft", "torch", "transformers", "accelerate", "numpy", "scikit-learn", "pyarrow", "safetensors")


def add_to(app: typer.Typer) -> None:
    app.command("check")(check)


def check(
    source: Annotated[str | None, typer.Argument(help="A YAML or data set to read through, row by row.")] = None,
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Versions, devices and extras; with a source, also reads every sample of it and names the first bad row.

    Of a source it says the classes, the columns, and what to mend before time is spent: columns that give the target
    away, contents on both sides of the split, classes with few rows or two spellings, constants, duplicates.

    Examples:

        weft check

        weft check weft.yaml
    """
    from weft.cli.output import write_json, write_table

    report: dict[str, Any] = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    report |= {f"extra {extra}": _version(package) for extra, package in EXTRAS.items()}
    report |= _devices()
    if source is not None:
        report |= _samples(source, root, data)
    if json:
        write_json(report)
    else:
        warnings = report.pop("warnings", [])
        rows = [{"what": key, "found": value} for key, value in report.items()]
        write_table("weft check", rows + [{"what": "warning", "found": warning} for warning in warnings])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, Any]:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"devices": ", ".join(names) or "cpu", "threads": torch.get_num_threads()}


def _samples(source: str, root: Any, data: list[str]) -> dict[str, Any]:
    from weft.cli.source import read_source
    from weft.data import make_splits
    from weft.data.findings import look_over
    from weft.errors import UserError

    dataset = read_source(source, root, data)
    for name in dataset.modalities:
        dataset.verify(name)
    found: dict[str, Any] = {"rows": len(dataset), "task": dataset.task}
    try:
        split, why = make_splits(dataset), None
    except UserError as error:
        split, why = None, f"{error.what}: {error.found} ({error.remedy})"
    findings = look_over(dataset, split)
    found |= findings.facts
    if split is not None:
        found |= {f"split {part}": len(rows) for part, rows in split._asdict().items()}
    found["warnings"] = findings.warnings + ([f"no split can be made: {why}"] if why else [])
    return found

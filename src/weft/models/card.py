"""The card of a model, from the evidence that lies beside it: what others have to know before they use it.

Evidence is what verbs leave: ``comparison.json``, ``table.md`` and ``figures/`` of a comparison, ``aligners.json`` of
``weft align``, ``metrics.json`` of a training. It travels with the model, so a model that was fetched still has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.files import read_json
from weft.hub import Repo
from weft.models.seen import PARTS
from weft.store.card import address, bullets, encoder_cells, encoder_limits, table, title_of

COMPARISON, ALIGNERS, METRICS, TABLE = "comparison.json", "aligners.json", "metrics.json", "table.md"


@dataclass(frozen=True)
class Evidence:
    """What is known of a model beside its weights.

    Attributes:
        files: ``{name: path}``, figures included.
        comparison, aligners, metrics: what the files say; empty where they are not there.
        text: sentence, notes and table of a comparison.
    """

    files: dict[str, Path] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)
    aligners: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    @property
    def measured(self) -> dict[str, float]:
        """The figures of this very model, on test rows where there were some."""
        kept = self.comparison.get("kept") or {}
        found = kept.get("metrics") or self.metrics.get("test") or self.metrics.get("dev") or {}
        return {k: v for k, v in found.items() if isinstance(v, int | float) and math.isfinite(v)}

    @property
    def part(self) -> str:
        """The rows that :attr:`measured` is of."""
        return "test" if self.comparison or "test" in self.metrics else "dev"


def evidence_of(folder: Path | None) -> Evidence:
    """What lies in the folder of a model, or in that of the comparison or training it comes from."""
    if folder is None:
        return Evidence()
    place = folder.parent if folder.name in ("winner", "best") else folder
    files = {n: place / n for n in (COMPARISON, ALIGNERS, METRICS, TABLE) if (place / n).is_file()}
    if not files:
        return Evidence()
    files |= {f"figures/{path.name}": path for path in sorted((place / "figures").glob("*.png"))}
    known = {name.removesuffix(".json"): read_json(path) for name, path in files.items() if name.endswith(".json")}
    text = files[TABLE].read_text(encoding="utf-8") if TABLE in files else ""
    return Evidence(files, text=text, **known)


def model_card(model: Any, place: str, evidence: Evidence) -> str:
    """Markdown, with the hub's metadata before it.

    Args:
        model: what is pushed.
        place: where to.
        evidence: what is known of it.
    """
    title = title_of(place)
    figures = [name for name in evidence.files if name.startswith("figures/")]
    parts = [
        f"---\n{_metadata(model, title, evidence)}\n---",
        f"# {title}",
        _what(model),
        *_verdict(evidence),
        *(f"![{Path(name).stem.replace('-', ' ')}]({name})" for name in figures),
        *_measured(evidence),
        *_modalities(model),
        "## Data",
        bullets(_data(model, evidence)),
        "## Limits",
        bullets(_limits(model, evidence)),
        "## How to load it",
        _use(model, place),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(model: Any, title: str, evidence: Evidence) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    kinds = dict.fromkeys(spec["kind"] for spec in (getattr(model, "encoders", None) or {}).values())
    task, seen = getattr(model, "task", None), getattr(model, "seen", None)
    asked = "retrieval" if task is None else str(task.config()["name"])
    data: dict[str, Any] = {
        "dataset_type": "weft",
        "dataset_name": f"{evidence.part} rows",
        "dataset_split": evidence.part,
    }
    if seen is not None and seen.fingerprint:
        data["dataset_revision"] = seen.fingerprint
    results = [
        EvalResult(task_type=asked, metric_type=name.replace(" ", "_"), metric_name=name, metric_value=value, **data)
        for name, value in evidence.measured.items()
    ]
    tags = ["weft", "multimodal", asked, *kinds]
    card = ModelCardData(model_name=title, library_name="weft", tags=tags, eval_results=results or None)
    return str(card.to_yaml())


def _what(model: Any) -> str:
    """One sentence: what it is, what it reads, what it answers."""
    kind = type(model).__name__
    names = ", ".join(getattr(model, "names", None) or getattr(type(model), "reads", {}) or ())
    if hasattr(model, "task"):
        asked = f"answers `{model.target}`" if model.target else "answers"
        labels = [str(label) for label in model.task.labels]
        among = f": {', '.join(labels[:12])}{', ...' if len(labels) > 12 else ''}" if labels else ""
        return f"A model of weft ({kind}): it reads {names} and {asked}{among}."
    if hasattr(model, "embed"):
        return f"An aligner of weft ({kind}): it puts {names} into one space of {model.width} dimensions, for search."
    return f"A system of weft, {model.format.partition('/')[0]}: it reads {names} and gives a {type(model).writes}."


def _verdict(evidence: Evidence) -> list[str]:
    """The sentence, what a reader should know beside it, and the table of what was tried."""
    if evidence.text:
        return ["## The evidence", evidence.text.strip()]
    if not evidence.aligners:
        return []
    head = ("aligner", "sum of recalls on test, %", "95 % CI", "on dev", "with hubs lowered", "p", "seeds")
    rows = []
    for r in evidence.aligners["table"]:
        figures = [f"{r['test']:.1f}", f"{r['low']:.1f} to {r['high']:.1f}", f"{r['dev']:.1f}", f"{r['hubs']:.1f}"]
        p = "" if r["p_value"] is None else f"{r['p_value']:.2g}"
        rows.append([r["aligner"], *figures, p, str(r["seeds"])])
    return ["## The evidence", f"**{evidence.aligners['sentence']}**", *table(head, rows)]


def _measured(evidence: Evidence) -> list[str]:
    rows = [(name, f"{value:.4g}") for name, value in evidence.measured.items()]
    return [f"## This model on {evidence.part} rows", *table(("metric", "value"), rows)] if rows else []


def _modalities(model: Any) -> list[str]:
    specs: Mapping[str, Any] | None = getattr(model, "encoders", None)
    if specs is None and not hasattr(model, "dims"):
        options = {k: v for k, v in model.config().items() if isinstance(v, str | int | float | bool)}
        head = ("option", "value", "licence, where it is a model")
        return ["## Options", *table(head, [_option(*option) for option in options.items()])] if options else []
    if specs is None:
        return []
    rows = [(n, s["kind"], str(model.dims[n]), *encoder_cells(s)) for n, s in specs.items() if n in model.dims]
    return ["## Modalities", *table(("modality", "kind", "width", "encoder", "licence of the encoder"), rows)]


def _option(name: str, value: Any) -> tuple[str, str, str]:
    """An option of a system; a model by its name, and not by where it lies here."""
    if isinstance(value, str) and (Path(value).is_dir() or (Repo.of(value) and "://" not in value)):
        return (name, *encoder_cells({"spec": f"hf:{value}"}))
    return name, f"`{value}`", ""


def _data(model: Any, evidence: Evidence) -> list[str]:
    seen = getattr(model, "seen", None)
    if seen is None:
        return ["Which rows it was trained on is not known."]
    sizes = ", ".join(f"{part} {len(seen.parts[part]):,}" for part in PARTS)
    found = [
        f"Rows: {sizes}. `seen.safetensors` knows them by hashes of their ids, so that `evaluate` leaves them out."
    ]
    found += [f"Fingerprint of the features: `{seen.fingerprint}`"] if seen.fingerprint else []
    return [*found, f"Hash of the table's ids and targets: `{seen.table}`"]


def _limits(model: Any, evidence: Evidence) -> list[str]:
    specs = getattr(model, "encoders", None)
    found = ["Measured on held-out rows of one table: rows of another source are another question."]
    found += ["No test of fairness between groups of people or things was made."]
    found += [] if evidence.files else ["No comparison came with it: nothing is known of what else was tried."]
    if specs:
        found += encoder_limits(specs)
    elif hasattr(model, "dims"):
        found.append("It does not know its encoders: it reads features, not raw rows.")
    if getattr(model, "needs_all", False):
        found.append("It cannot do without a modality.")
    elif hasattr(model, "task"):
        found.append("A row may lack modalities, all but one; the table says what that costs where it was measured.")
    return [*found, "The licence of this model is for whoever pushed it to say; it is not known here."]


def _use(model: Any, place: str) -> str:
    name = address(place, "model")
    if hasattr(model, "task"):
        rows = "a data set" if model.table is None else "a DataFrame with the columns it was trained on"
        ask = f'answers = model.predict(rows)["prediction"]  # {rows}'
        verb = f"weft predict {name} {'SOURCE' if model.table is None else 'new_rows.csv'}"
    elif hasattr(model, "embed"):
        ask, verb = "vectors = model.embed(model.encode(rows))  # a data set", f"weft search {name} SOURCE --query ..."
    else:
        ask, verb = "answers = model.predictions(rows)  # a data set", f"weft predict {name} SOURCE"
    return f'```python\nimport weft\n\nmodel = weft.load("{place}")\n{ask}\n```\n\nOr `{verb}`.'

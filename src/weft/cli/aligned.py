"""What the verbs of an aligner share: which modality is meant, and vectors of a store's or a data set's rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.errors import UserError, did_you_mean, some

if TYPE_CHECKING:
    import numpy as np

    from weft.data import Dataset
    from weft.store import Store
    from weft.training import AlignedModel

Model = Annotated[Path, typer.Argument(help="Folder of an aligner: `weft fit` on retrieval data.")]


def modality_of(model: AlignedModel, kind: str, chosen: str | None) -> str:
    """The modality called ``chosen``, or the only one of a kind.

    Raises:
        UserError: there is none, or there are several and none is chosen.
    """
    kinds = {name: spec["kind"] for name, spec in (model.encoders or {}).items()}
    able = [name for name in model.names if kinds.get(name) == kind]
    if chosen is not None:
        if chosen not in model.names:
            raise UserError("the model has no such modality", chosen, did_you_mean(chosen, model.names, "modalities"))
        return chosen
    if len(able) != 1:
        found = f"{kind} modalities: {some(able) or 'none'}; all: {some(model.names)}"
        raise UserError(f"the model has not exactly one modality of kind {kind}", found, f"choose one with --{kind}")
    return able[0]


def open_rows(model: AlignedModel, source: str, root: Path | None, data: list[str], name: str) -> Store | Dataset:
    """A store whose ``name`` was encoded as the model's was, or the data set.

    Raises:
        UserError: the store has no such modality, or another encoder made it.
    """
    from weft.cli.source import read_source
    from weft.store import Store

    if not (Path(source) / "manifest.json").is_file():
        return read_source(source, root, data)
    store = Store.open(source)
    if name not in store.dims:
        raise UserError(f"the store has no modality {name!r}", source, did_you_mean(name, store.dims, "modalities"))
    made_by, trained_on = store.manifest["modalities"][name]["encoder"], (model.encoders or {}).get(name, {})
    if model.encoders is not None and made_by != trained_on.get("identity"):
        found = f"{made_by} in {source}, {trained_on.get('identity')} in the model"
        raise UserError(
            f"another encoder made {name!r} of the store", found, "encode the source with the model's encoder"
        )
    return store


def vectors_of(model: AlignedModel, rows: Store | Dataset, name: str, index: np.ndarray, *, progress: bool) -> Any:
    """Unit vectors ``(n, dim)`` of the rows ``index``."""
    from weft.data import Dataset
    from weft.training.embed import embed_values

    if not isinstance(rows, Dataset):
        return model.embed(rows.subset([name]), index)[name]
    if name not in rows.modalities:
        remedy = did_you_mean(name, rows.modalities, "modalities")
        raise UserError(f"{rows.name} has no modality {name!r}", f"it has {some(rows.modalities)}", remedy)
    values = [rows.modalities[name].values[i] for i in index]
    absent = [rows.ids[i] for i, value in zip(index, values, strict=True) if value is None]
    if absent:
        raise UserError(f"{name!r} is absent (an empty caption, say)", f"rows {some(absent)}", "leave these rows out")
    return embed_values(model, name, values, progress=progress)


def column(targets: Any, chosen: str | None) -> str:
    """The target column called ``chosen``, or the first.

    Raises:
        UserError: there is none.
    """
    name = next(iter(targets), "") if chosen is None else chosen
    if name not in targets:
        raise UserError("there is no such target", chosen or "no target", did_you_mean(name, targets, "targets"))
    return name


def rows_of(data: Any, part: str) -> np.ndarray:
    """Rows of ``train``, ``dev`` or ``test`` (of the official split, where there is one), or ``all``.

    Raises:
        UserError: unknown part, or no rows in it.
    """
    import numpy as np

    if part == "all" or (data.split is None and part == "test"):
        return np.arange(len(data))
    rows = np.flatnonzero(data.split == part) if data.split is not None else np.array([], dtype=np.int64)
    if not len(rows):
        known = ["all"] if data.split is None else ["all", *sorted(set(data.split))]
        raise UserError("this part has no rows", part, did_you_mean(part, known, "parts"))
    return rows

"""What is asked of an aligner: which modality is meant, which rows, and the vectors of rows of a store or data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from weft.errors import UserError, did_you_mean, some

if TYPE_CHECKING:
    import numpy as np

    from weft.data import Dataset
    from weft.models import AlignedModel
    from weft.retrieval.hub import HubCorrection, Hubs
    from weft.store import Store


def require_aligner(model: Any) -> Any:
    """The model itself, if it embeds modalities, whatever class wrote it.

    Raises:
        UserError: it embeds nothing.
    """
    if not (hasattr(model, "embed") and hasattr(model, "names")):
        found = f"a {type(model).__name__}"
        raise UserError("this verb needs an aligner", found, "train one: weft fit SOURCE --fusion two-tower")
    return model


def kinds_of(model: AlignedModel, rows: Store | Dataset | None = None) -> dict[str, str]:
    """The kind of every modality of a model, by its encoders or by the rows; "" where it is not known."""
    from weft.store import Store

    kinds = {name: spec["kind"] for name, spec in (model.encoders or {}).items()}
    if isinstance(rows, Store):
        kinds |= {name: entry["kind"] for name, entry in rows.manifest["modalities"].items()}
    elif rows is not None:
        kinds |= {name: modality.kind for name, modality in rows.modalities.items()}
    return {name: kinds.get(name, "") for name in model.names}


def modality_of(model: AlignedModel, kind: str, chosen: str | None) -> str:
    """The modality called ``chosen``, or the only one of a kind.

    Raises:
        UserError: there is none, or there are several and none is chosen.
    """
    kinds = kinds_of(model)
    able = [name for name in model.names if kinds[name] == kind]
    if chosen is not None:
        if chosen not in model.names:
            raise UserError("the model has no such modality", chosen, did_you_mean(chosen, model.names, "modalities"))
        return chosen
    if len(able) != 1:
        found = f"{kind} modalities: {some(able) or 'none'}; all: {some(model.names)}"
        raise UserError(f"the model has not exactly one modality of kind {kind}", found, f"choose one with --{kind}")
    return able[0]


def searched(model: AlignedModel, kinds: dict[str, str], find: list[str], by: str | None) -> tuple[list[str], str]:
    """The modalities that are searched, and the one of the queries: as named, else what is not text by the text.

    Raises:
        UserError: an unknown name, or several modalities could be meant.
    """
    for name in [*find, *([] if by is None else [by])]:
        if name not in model.names:
            raise UserError("the model has no such modality", name, did_you_mean(name, model.names, "modalities"))

    def only(names: list[str], text: bool, option: str) -> str:
        liked = [name for name in names if (kinds[name] == "text") == text]
        for able in (liked, names):
            if len(able) == 1:
                return able[0]
        found = ", ".join(f"{name} ({kinds[name] or 'unknown kind'})" for name in model.names)
        raise UserError(f"several modalities could be meant by --{option}", found, f"name one: --{option} NAME")

    if by is None:
        by = only([name for name in model.names if name not in find] or list(model.names), True, "by")
    return find or [only([name for name in model.names if name != by], False, "find")], by


def two_sides(model: AlignedModel, kinds: dict[str, str], find: list[str], by: str | None) -> tuple[list[str], str]:
    """The two modalities that are measured against each other; of a model of two, in whichever order.

    Raises:
        UserError: as :func:`searched`; or several are to be found.
    """
    if not find and by is None and len(model.names) == 2:
        by = next((name for name in model.names if kinds[name] == "text"), model.names[0])
    names, by = searched(model, kinds, find, by)
    if len(names) > 1:
        remedy = "name one --find, or give a --query"
        raise UserError("measuring goes between two modalities", ", ".join(names), remedy)
    return names, by


def values_asked(kind: str, name: str, queries: Sequence[str]) -> dict[str, Any]:
    """``{what it is called: value}`` of queries as they are typed: a text; else what a cell of a table would hold, a
    file or a list of numbers. A matrix ``(N, D)`` of vectors is ``N`` queries, ``FILE[0]`` and so on.

    Raises:
        UserError: a query is no value of this kind, or its file does not exist.
    """
    from pathlib import Path

    from weft.data.files import read_array
    from weft.data.kinds import Place, kind_named

    if kind in ("text", ""):
        return {query: query for query in queries}
    if kind_named(kind).typed:
        found = f"{name!r} is {kind}: several cells"
        raise UserError("a query is a text, a file or a list of numbers", found, "ask by another modality: --by NAME")
    values: dict[str, Any] = {}
    for query in queries:
        if kind == "vector" and query.lower().endswith(".npy"):
            array = read_array(Path(query), f"query {query!r}")
            if array.ndim == 2:
                values |= {f"{query}[{i}]": row for i, row in enumerate(array)}
                continue
        values[query] = kind_named(kind).convert([[query]], Place(name, [name], [query], Path()))[0]
    return values


def same_encoders(model: AlignedModel, rows: Store | Dataset, name: str | None = None) -> None:
    """Refuse a store whose ``name`` (None: every modality they share) another encoder made than the model's.

    Raises:
        UserError: the store has no such modality, or another encoder made it.
    """
    from weft.data import Dataset

    if isinstance(rows, Dataset):
        return
    where = str(rows.folder)
    if name is not None and name not in rows.dims:
        raise UserError(f"the store has no modality {name!r}", where, did_you_mean(name, rows.dims, "modalities"))
    for shared in [n for n in model.names if n in rows.dims] if name is None else [name]:
        made_by = rows.manifest["modalities"][shared]["encoder"]
        trained_on = (model.encoders or {}).get(shared, {}).get("identity")
        if model.encoders is not None and made_by != trained_on:
            raise UserError(
                f"another encoder made {shared!r} of the store",
                f"{made_by} in {where}, {trained_on} in the model",
                "encode the source with the model's encoder",
            )


def values_of(rows: Store | Dataset, name: str) -> tuple[np.ndarray, str]:
    """The number of each row's value among the different ones, ``(N,)``, -1 where absent; and a hash of them all.

    Raises:
        UserError: there is no such modality.
    """
    from weft.data import Dataset
    from weft.store.files import content_hash
    from weft.store.unique import unique_values

    if not isinstance(rows, Dataset):
        return rows._columns[name].pointer, str(rows.manifest["modalities"][name]["address"])
    if name not in rows.modalities:
        remedy = did_you_mean(name, rows.modalities, "modalities")
        raise UserError(f"{rows.name} has no modality {name!r}", f"it has {some(rows.modalities)}", remedy)
    unique = unique_values(name, rows)
    return unique.pointer, content_hash(unique.digests)


def vectors_of(model: AlignedModel, rows: Store | Dataset, name: str, index: np.ndarray, *, progress: bool) -> Any:
    """Unit vectors ``(n, dim)`` of the rows ``index``, in all of which the modality is there.

    Raises:
        UserError: the modality is absent in some of the raw rows.
    """
    from weft.data import Dataset
    from weft.models.embed import embed_values

    if not isinstance(rows, Dataset):
        return model.embed(rows.subset([name]), index)[name]
    values = [rows.modalities[name].values[i] for i in index]
    absent = [rows.ids[i] for i, value in zip(index, values, strict=True) if value is None]
    if absent:
        raise UserError(f"{name!r} is absent (an empty caption, say)", f"rows {some(absent)}", "leave these rows out")
    return embed_values(model, name, values, progress=progress)


def hubs_of(
    model: AlignedModel,
    rows: Store | Dataset,
    pairs: list[tuple[str, str]],
    candidates: Sequence[HubCorrection],
    *,
    asked_rows: Iterable[int] = (),
    progress: bool,
) -> Hubs:
    """The corrections of hubs of directions ``(by, find)``, their bank the training and dev rows to the model.

    Args:
        model, rows: what embeds what.
        pairs: the directions.
        candidates: how hubs are lowered; of several what serves the dev rows best, with a bank of training rows.
        asked_rows: those among the rows that will ask.
        progress: show a bar while encoding.

    Raises:
        UserError: rows that ask are in the bank.
    """
    import numpy as np

    from weft.retrieval.hub import Hubs, choose_correction, refuse_asked
    from weft.retrieval.metrics import Positives

    parts = {part: rows_of(rows, part, model) for part in ("train", "dev")}
    refuse_asked((rows.ids[i] for part in parts.values() for i in part), (rows.ids[i] for i in asked_rows))
    value = {name: values_of(rows, name)[0] for pair in pairs for name in pair}
    groups = np.arange(len(rows.ids)) if rows.group is None else np.asarray(rows.group)

    def there(part: str, name: str) -> np.ndarray:
        return parts[part][value[name][parts[part]] >= 0]

    asked = {
        (part, name): vectors_of(model, rows, name, there(part, name), progress=progress)
        for part in parts
        for name in {by for by, _ in pairs}
    }
    corrections = {}
    for by, find in pairs:
        chosen = candidates[0]
        if len(candidates) > 1:
            items = there("dev", find)
            items = items[np.sort(np.unique(value[find][items], return_index=True)[1])]
            queries = there("dev", by)
            known = np.isin(groups[queries], groups[items])
            positives = Positives.from_groups(groups[queries[known]], groups[items])
            gallery = vectors_of(model, rows, find, items, progress=progress)
            chosen = choose_correction(asked["dev", by][known], gallery, positives, asked["train", by], candidates)
        corrections[f"{by}->{find}"] = chosen
    bank = {by: np.concatenate([asked["train", by], asked["dev", by]]) for by, _ in pairs}
    return Hubs(bank, corrections)


def column(targets: Any, chosen: str | None) -> str:
    """The target column called ``chosen``, or the first.

    Raises:
        UserError: there is none.
    """
    name = next(iter(targets), "") if chosen is None else chosen
    if name not in targets:
        raise UserError("there is no such target", chosen or "no target", did_you_mean(name, targets, "targets"))
    return name


def rows_of(data: Any, part: str, *models: Any) -> np.ndarray:
    """Rows of ``train``, ``dev``, ``test``, ``new`` or ``all``: one meaning for every verb of an aligner.

    Where a model knows rows of the data, the parts are what they were to it, rows it has never met counting as test
    (:func:`weft.models.seen.rows_for`). Data that are new to every model have the parts of their own split column;
    without one, all their rows are test.

    Args:
        data: a data set or features.
        part: which rows.
        models: those that are asked about the rows; several must agree.

    Raises:
        UserError: unknown part, no rows in it, or a model whose training rows are not known.
    """
    import numpy as np

    from weft.data import make_splits
    from weft.models.seen import rows_for

    known = [model.seen for model in models if model.seen is None or model.seen.part_of(data).any()]
    if part in ("all", "new") or known or (models and data.split is None):
        chosen = [rows_for(seen, data, part) for seen in known or [model.seen for model in models] or [None]]
        rows = chosen[0]
        for other in chosen[1:]:
            rows = np.intersect1d(rows, other)
    else:
        parts = make_splits(data)._asdict()
        if part not in parts:
            raise UserError("unknown split", part, did_you_mean(part, [*parts, "all"], "splits"))
        rows = parts[part]
    if not len(rows):
        raise UserError("this part has no rows", part, "ask for another part, or for all")
    return rows

"""A table in memory compared, or fitted, in one call: what ``weft init``, ``compare`` and ``fit`` do to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any, TypeVar

from weft.compare.comparison import Comparison, compare
from weft.compare.config import CompareConfig
from weft.data import Dataset, TableConfig, read_table
from weft.data.clues import BY_ALPHABET
from weft.data.columns import Columns
from weft.data.guess import propose_table
from weft.encoders import create_encoder, default_encoder
from weft.errors import UserError, did_you_mean, some, warn_of
from weft.files import ask_folder, canonical, sha256
from weft.models.pretrained import load_model
from weft.store import Store, encode
from weft.store.unique import raw_fingerprint
from weft.training.train import train_model

F = TypeVar("F", bound=Callable[..., Any])
FIELDS = CompareConfig.model_fields
DEFAULTS = {name: field.get_default(call_default_factory=True) for name, field in FIELDS.items()}
SETTINGS = [
    Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=FIELDS[name].annotation)
    for name, default in DEFAULTS.items()
]


def spells_out(further: Iterable[Parameter]) -> Callable[[F], F]:
    """A function's ``**`` argument takes these by name: they are shown in its signature, and other names refused."""

    def wrap(function: F) -> F:
        fixed = {n: p for n, p in signature(function).parameters.items() if p.kind is not Parameter.VAR_KEYWORD}
        named = [p for p in further if p.name not in fixed and p.kind is Parameter.KEYWORD_ONLY]
        function.__dict__["__signature__"] = Signature([*fixed.values(), *named], return_annotation=Any)
        return function

    return wrap


def refuse_unknown_names(verb: str, function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse arguments that a function does not have.

    Raises:
        UserError: there is one.
    """
    known = signature(function).parameters
    for name in given:
        if name not in known:
            remedy = "results go to folder=..." if name == "out" else did_you_mean(name, known, "arguments")
            raise UserError(f"{verb} has no argument {name!r}", f"{name}={given[name]!r}"[:200], remedy)


@spells_out(SETTINGS)
def compare_frame(
    frame: Any,
    target: str | Sequence[str] | None = None,
    *,
    folder: Path | str | None = None,
    id: str | None = None,
    group: str | None = None,
    time: str | None = None,
    drop: Sequence[str] = (),
    types: Mapping[str, str] | None = None,
    task: str | None = None,
    labels: Sequence[str] | None = None,
    encoders: Mapping[str, str] | None = None,
    progress: bool = True,
    **settings: Any,
) -> Comparison:
    """Compare every way to predict a column of a table from the others; ``weft.compare(frame, target=...)``.

    What ``weft init`` says of columns in doubt is warned of; its options are the arguments of the same names.

    Args:
        frame: a pandas or polars DataFrame, a pyarrow Table, ``{column: cells}``, or the path of a table file. Files
            named in cells (photos, sounds) are relative to the working folder.
        target: the column to predict; for ``task="survival"`` two, ``["time", "event"]``.
        folder: of features, jobs and the winner; a second call with the same table goes on from there. None: a folder
            of this table's own in ``runs/frame``, so that the model of another table stays.
        id, group, time: columns with unique ids, of rows that belong together, and of dates to split by; guessed if not
            given, ``"none"``: none.
        drop: columns to leave out.
        types: ``{column: type}`` where a guess is wrong, ``{"size": "number", "code": "category", "remark": "text"}``;
            the types are those of :mod:`weft.data.cells`, and ``"text"``.
        task: what is asked of the target: ``"ordinal"``, ``"regression"``, ...; guessed if not given.
        labels: the classes in their order, for ``task="ordinal"``: lowest first; an ordered Categorical has its own.
        encoders: ``{modality: name}``, e.g. ``{"photo": "hf:facebook/dinov2-small"}``; those that are not named are
            built in.
        progress: show progress bars.
        settings: of :class:`~weft.compare.config.CompareConfig`: ``budget="5m"``, ``metric="auc"``, ...

    Returns:
        The comparison; ``comparison.best`` is the folder of the kept model, for ``weft.load_model``.

    Example:
        >>> import tempfile, weft
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> size, colour = rng.normal(size=120), rng.choice(["red", "blue"], 120)
        >>> frame = {"size": size, "colour": colour, "kind": np.where((size > 0) == (colour == "red"), "a", "b")}
        >>> quick = {"only": ["linear", "chance"], "seeds": 1, "resamples": 99, "budget": 60}
        >>> found = weft.compare(frame, target="kind", folder=tempfile.mkdtemp(), progress=False, **quick)
        >>> weft.load_model(found.best).predict({"size": [1.0, 1.0], "colour": ["red", "blue"]})["prediction"].shape
        (2,)

    Raises:
        UserError: no target, no such column, a table that cannot be read, or an unknown setting.
    """
    refuse_unknown_names("weft.compare", compare_frame, settings)
    roles: dict[str, Any] = {"id": id, "group": group, "time": time, "drop": drop, "types": types}
    roles |= {"task": task, "labels": labels}
    features, place = _encoded(
        "weft.compare", frame, target, folder, "runs/frame", encoders, progress=progress, **roles
    )
    return compare(features, CompareConfig(**settings), place, progress=progress)


@spells_out(signature(train_model).parameters.values())
def fit_frame(
    frame: Any,
    target: str | Sequence[str] | None = None,
    fusion: str = "gated",
    *,
    folder: Path | str | None = None,
    id: str | None = None,
    group: str | None = None,
    time: str | None = None,
    drop: Sequence[str] = (),
    types: Mapping[str, str] | None = None,
    task: str | None = None,
    labels: Sequence[str] | None = None,
    encoders: Mapping[str, str] | None = None,
    progress: bool = True,
    **options: Any,
) -> Any:
    """Train one fusion on a table in memory; ``weft.fit(frame, target=...)``.

    Arguments as for :func:`compare_frame`; ``options`` are those of :func:`~weft.training.train.train_model`. Returns
    the trained model, which predicts tables of the same columns: ``model.predict(frame)``.
    """
    refuse_unknown_names("weft.fit", fit_frame, options)
    roles: dict[str, Any] = {"id": id, "group": group, "time": time, "drop": drop, "types": types}
    roles |= {"task": task, "labels": labels}
    features, place = _encoded(
        "weft.fit", frame, target, folder, "runs/frame-fit", encoders, progress=progress, **roles
    )
    train_model(features, fusion, place / fusion, progress=progress, **options)
    return load_model(place / fusion)


def _encoded(
    verb: str,
    frame: Any,
    target: str | Sequence[str] | None,
    folder: Path | str | None,
    default: str,
    encoders: Mapping[str, str] | None,
    *,
    progress: bool,
    **roles: Any,
) -> tuple[Store, Path]:
    """The features of a table, and the folder of what is made of them: as asked for, else one of this table's own.

    Raises:
        UserError: no target.
    """
    if target is None:
        found = f"columns {some(Columns(frame).names, 20)}"
        raise UserError(f"{verb} needs to know the column to predict", found, f'{verb}(frame, target="...")')
    place = Path(default if folder is None else folder)
    ask_folder(place)
    features = encode_frame(frame, target, place / "store", encoders, progress=progress, **roles)
    return features, place / features.folder.name if folder is None else place


def encode_frame(
    frame: Any,
    target: str | Sequence[str],
    folder: Path,
    encoders: Mapping[str, str] | None = None,
    *,
    progress: bool = True,
    **roles: Any,
) -> Store:
    """The features of a table in memory, on disk; ``roles`` are ``id``, ``group``, ``time``, ``drop``, ``types``,
    ``task``: see :func:`compare_frame`.
    """
    config = propose_config(frame, target=target, **roles)
    return encode_config(frame, config, folder, encoders, progress=progress)


def propose_config(frame: Any, **chosen: Any) -> TableConfig:
    """What the columns of a table in memory are; it warns of those in doubt. ``chosen``: see
    :func:`~weft.data.guess.propose_table`.
    """
    proposal = propose_table(frame, **chosen)
    if proposal.reasons.get("labels") == BY_ALPHABET:
        remedy = "give labels=[...], lowest first, or make the column an ordered Categorical of pandas"
        raise UserError("ordinal classes that are words need their order", some(proposal.config.labels or ()), remedy)
    warn_of(proposal.doubts())
    return proposal.config


def encode_config(
    frame: Any, config: TableConfig, folder: Path, encoders: Mapping[str, str] | None = None, *, progress: bool = True
) -> Store:
    """The features of a table in memory, read as a configuration says; what reading it found is warned of likewise.

    They lie in ``folder`` under a name made of the table's content and how it is read, so that a table that was changed
    has features of its own.
    """
    dataset = read_table(frame, config)
    warn_of(dataset.notes)
    made = {}
    for name, modality in dataset.modalities.items():
        spec = (encoders or {}).get(name) or _of_table(dataset, name) or default_encoder(modality.kind)
        made[name] = create_encoder(spec, modality.kind)
    read = config.model_dump(mode="json", exclude={"table"}), {name: made[name].identity() for name in made}
    name = sha256(canonical([*read, raw_fingerprint(dataset)]))[:12]
    return encode(dataset, made, folder / name, progress=progress)


def _of_table(dataset: Dataset, name: str) -> str | None:
    return None if dataset.table is None else TableConfig(**dataset.table).modalities[name].encoder

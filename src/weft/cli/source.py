"""What a verb works on: a store, a YAML made by ``weft init``, or the name of a built-in or published data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from weft.data import Dataset
    from weft.data.failure import Failure, OnError
    from weft.encoders import Encoder
    from weft.models.predictor import Predictor
    from weft.store import MemoryFeatures, Store
    from weft.training.towers import RawRows


def repeated(flag: str, text: str, metavar: str = "KEY=VALUE") -> Any:
    """An option that may be given several times."""
    return typer.Option(flag, metavar=metavar, help=f"{text} Repeat.")


Model = Annotated[
    str, typer.Argument(help="Model folder of `weft fit` or `weft compare`; elsewhere: user/name on the hub, or a URL.")
]
Source = Annotated[
    str,
    typer.Argument(
        help="A store (folder, user/name, URL), a YAML of `weft init`, or a data set (weft list --kind dataset)."
    ),
]


def out_option(text: str, *, folder: bool = True) -> Any:
    """The option --out: a path, or a URL, to which the results go when the verb has ended well."""

    def place(context: typer.Context, value: str | None) -> Path | None:
        if value is None or "://" not in str(value) or context.resilient_parsing:
            return None if value is None else Path(value)
        return context.with_resource(_at_url(value, folder))

    return typer.Option("--out", "-o", help=text, metavar="PATH", parser=str, callback=place)


@contextmanager
def _at_url(url: str, folder: bool) -> Iterator[Path]:
    from weft.cli.output import say
    from weft.places import results

    with results(url, folder=folder) as place:
        yield place
    say(f"put at {url}")


Root = Annotated[Path | None, typer.Option(help="Folder of a published data set, in its official layout.")]
Data = Annotated[list[str], repeated("--data", "Option of the data set, e.g. --data rows=900.")]
Encoders = Annotated[list[str], repeated("--encoder", "e.g. image=hf:facebook/dinov2-small.", "MODALITY=NAME")]
StoreFolder = Annotated[Path | None, typer.Option("--store", help="Where the encoded features go.")]
Modalities = Annotated[list[str], repeated("--modality", "Read these modalities alone (default: all).", "NAME")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def settings(pairs: list[str], option: str) -> dict[str, Any]:
    """``["rows=900", "answers=[yes, no]"]`` as a dictionary; values are read as YAML in which words stay words.

    Raises:
        UserError: an entry without ``=``, or a value that is no YAML.
    """
    from weft.data.words import read_words

    parsed = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--{option} takes KEY=VALUE", pair, f"for example --{option} {key}=1")
        parsed[key] = read_words(value)
    return parsed


def read_source(source: str, root: Path | None, data: list[str], on_error: OnError = "stop") -> Dataset:
    """The samples of a YAML configuration or a named data set.

    Raises:
        UserError: the source is neither a store, nor a YAML, nor the name of a data set.
    """
    from weft.data import datasets, load_dataset
    from weft.data.columns import is_table, refuse_arrays

    if source.endswith((".yaml", ".yml")):
        from weft.data import load_config, read_table

        config = load_config(source)
        return said(read_table(config.table, config, on_error=on_error))
    if source not in datasets.names():
        if is_table(source):
            remedy = f"say what its columns are: weft init {source}; then give the YAML that it writes"
            raise UserError("the source is a table without a YAML", source, remedy)
        refuse_arrays(Path(source))
        raise UserError(
            "the source is neither a store, nor a YAML file, nor a data set",
            source,
            f"for a table of your own: weft init TABLE; else {did_you_mean(source, datasets.names(), 'data sets')}",
        )
    return load_dataset(source, root, **settings(data, "data"))


def open_rows(source: str, root: Path | None, data: list[str]) -> Store | Dataset:
    """The features of a store, or the samples of a YAML configuration or a named data set."""
    from weft.store import Store

    return Store.open(source) if is_store(source) else read_source(source, root, data)


def is_store(source: str) -> bool:
    """Whether a source is a store, here or elsewhere, see :mod:`weft.places`."""
    from weft.places import elsewhere

    here = (Path(source) / "manifest.json").is_file()
    return here or (not source.endswith((".yaml", ".yml")) and elsewhere(source))


def said(dataset: Dataset) -> Dataset:
    """The data set, after what reading it found has been said: cells that count as missing, rows left out."""
    from weft.cli.output import say

    for note in dataset.notes:
        say(f"{dataset.name}: {note}")
    return dataset


def new_features(
    model: Predictor, source: str, root: Path | None, data: list[str], on_error: OnError, progress: bool
) -> tuple[MemoryFeatures, list[Failure]]:
    """Features of rows to predict, and the cells of them that cannot be read: none where these are an error.

    Raises:
        UserError: as :func:`read_new_rows`, and of cells that cannot be read, naming all of them.
    """
    from weft.models.predictor import naming_all

    try:
        dataset = read_new_rows(model.table, source, root, data, on_error)
    except UserError as error:
        dataset = read_new_rows(model.table, source, root, data, "skip")
        bad = list(dataset.failures)
        model.encode(dataset, progress=False, failures=bad)
        raise naming_all(error, bad) from None
    failures = list(dataset.failures)
    return encoded(model, dataset, progress, failures if on_error == "skip" else None), failures


def encoded(
    model: Predictor, dataset: Dataset, progress: bool, failures: list[Failure] | None = None
) -> MemoryFeatures:
    """Features of raw rows by the encoders of a model; what these did not meet in training is said.

    Values that cannot be read are put into ``failures`` and count as absent; None: they are an error.
    """
    from weft.cli.output import say

    features = model.encode(dataset, progress=progress, failures=failures)
    for note in features.notes[len(dataset.notes) :]:
        say(f"{dataset.name}: {note}")
    return features


def read_new_rows(
    table: dict[str, Any] | None, source: str, root: Path | None, data: list[str], on_error: OnError = "stop"
) -> Dataset:
    """Rows to predict: a table read as the model's own was (targets may be missing), a YAML, or a named data set.

    Raises:
        UserError: the model was not trained on a table, so it cannot read one.
    """
    from weft.data import TableConfig, load_config, read_table
    from weft.data.columns import is_table
    from weft.data.more_rows import as_learned

    if source.endswith((".yaml", ".yml")):
        config = as_learned(load_config(source), table)
        return said(read_table(config.table, config, on_error=on_error))
    if not is_table(source):
        return read_source(source, root, data, on_error)
    if table is None:
        raise UserError(
            "the model does not know how to read a table",
            "it was trained on a named data set or a store",
            "pass a YAML of weft init, a data set, or train from a YAML: weft compare weft.yaml",
        )
    new = TableConfig(**{**table, "table": source})
    return said(read_table(source, new, require_target=False, on_error=on_error))


def choose_encoders(dataset: Dataset, source: str, chosen: list[str]) -> dict[str, Encoder]:
    """One encoder per modality: ``--encoder`` first, then the YAML's, then the built-in that needs no weights."""
    from weft.data import load_config
    from weft.encoders.choice import encoders_of

    config = load_config(source) if source.endswith((".yaml", ".yml")) else None
    return encoders_of(dataset, config, settings(chosen, "encoder"))


def open_store(
    source: str,
    root: Path | None,
    data: list[str],
    chosen: list[str],
    folder: Path | None,
    *,
    progress: bool,
    folds: int | None = None,
    aligned: bool = False,
) -> Store:
    """The features of a source; encodes what is not yet in the store (nothing, when the store is complete).

    Folds that cannot be made (a class with one row) are refused before anything is encoded, and so is a single modality
    that is to be ``aligned``.
    """
    from weft.data import make_folds
    from weft.models.aligned import refuse_single
    from weft.store import Store, encode

    if is_store(source):
        return Store.open(source)
    dataset = read_source(source, root, data)
    if aligned:
        refuse_single(dataset.modalities)
    if folds is not None:
        make_folds(dataset, folds)
    folder = folder or Path("runs") / Path(source).stem / "store"
    return encode(dataset, choose_encoders(dataset, source, chosen), folder, progress=progress)


def open_raw(source: str, root: Path | None, data: list[str], chosen: list[str]) -> RawRows:
    """The raw rows of a source, under encoders that are to be trained.

    Raises:
        UserError: the source is a store, or an encoder has no weights to train.
    """
    from weft.encoders.tower import Tower
    from weft.training.towers import RawRows

    if is_store(source):
        raise UserError(
            "encoders train on raw rows", f"{source} is a store of frozen features", "give the data set or the YAML"
        )
    dataset = read_source(source, root, data)
    return RawRows(dataset, {name: Tower(e) for name, e in choose_encoders(dataset, source, chosen).items()})

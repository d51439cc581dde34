"""The tables that ``tables.py`` measures: columns, target, modalities and groups, each as its source ships it."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("WEFT_DATA", ROOT / ".." / "shared" / "data"))
PACKAGES: list[Path] = []
MOST_ROWS = 4000


@dataclass
class Table:
    """A table and what is known about it.

    Attributes:
        columns: ``{name: cells}``.
        target: what is predicted.
        modalities: ``{name: (kind, columns)}``.
        group: rows that belong together.
        number: whether the target is a number.
        categories, dates: columns of the tabular modalities that are neither numbers nor texts.
    """

    columns: dict[str, list[Any]]
    target: str
    modalities: dict[str, tuple[str, list[str]]]
    group: str | None = None
    number: bool = False
    categories: list[str] = field(default_factory=list)
    dates: list[str] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """Columns of text."""
        return [name for kind, columns in self.modalities.values() if kind == "text" for name in columns]

    @property
    def numbers(self) -> list[str]:
        """Columns of numbers."""
        every = [n for kind, columns in self.modalities.values() if kind not in ("text", "texts") for n in columns]
        return [name for name in every if name not in (*self.categories, *self.dates)]


TABLES: dict[str, Callable[[], Table]] = {}


def table(function: Callable[[], Table]) -> Callable[[], Table]:
    """Register a table under the name of its function."""
    TABLES[function.__name__] = function
    return function


def read_csv(path: Path) -> dict[str, list[Any]]:
    """The columns of a file; its first rows, if it is long."""
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    convert = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    found = pyarrow.csv.read_csv(path, parse_options=options, convert_options=convert)
    columns: dict[str, list[Any]] = found.slice(0, MOST_ROWS).to_pydict()
    return columns


def package(name: str) -> Path:
    """Folder of a package that ships data."""
    for folder in PACKAGES:
        if (folder / name).is_dir():
            return folder / name
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package {name} (pip install {name}, or --data-packages FOLDER)")
    return Path(spec.origin).parent


def arrays(target: Any, views: dict[str, Any], number: bool = False) -> Table:
    """A table of arrays ``(N, D)``, one modality each."""
    columns: dict[str, list[Any]] = {}
    modalities = {}
    for name, values in views.items():
        names = [f"{name}_{i}" for i in range(values.shape[1])]
        columns |= dict(zip(names, np.asarray(values, dtype=np.float64).round(6).T.tolist(), strict=True))
        modalities[name] = ("vector" if values.shape[1] > 16 else "tabular", names)
    return Table({**columns, "target": np.asarray(target).tolist()}, "target", modalities, number=number)


@table
def reviews() -> Table:
    """Clothing reviews: whether the product is recommended."""
    categories = ["Clothing ID", "Division Name", "Department Name", "Class Name"]
    modalities = {
        "title": ("text", ["Title"]),
        "review": ("text", ["Review Text"]),
        "table": ("tabular", ["Age", "Positive Feedback Count", *categories]),
    }
    columns = read_csv(DATA / "tables" / "reviews.csv")
    return Table(columns, "Recommended IND", modalities, categories=categories)


@table
def pets() -> Table:
    """Pets: how soon they are adopted (five classes), rescuers apart."""
    categories = ["Type", "Breed1", "Breed2", "Gender", "Color1", "Color2", "Color3", "MaturitySize", "FurLength"]
    categories += ["Vaccinated", "Dewormed", "Sterilized", "Health", "State"]
    numbers = ["Age", "Quantity", "Fee", "VideoAmt", "PhotoAmt"]
    modalities = {
        "name": ("text", ["Name"]),
        "description": ("text", ["Description"]),
        "table": ("tabular", numbers + categories),
    }
    columns = read_csv(DATA / "tables" / "pets.csv")
    return Table(columns, "AdoptionSpeed", modalities, "RescuerID", categories=categories)


@table
def movies() -> Table:
    """Movies (bokeh_sampledata): the critics' score from title, people, genre, day of release and numbers."""
    fields = ["Title", "Cast", "Year", "Runtime", "Genre", "Released", "Director", "Writer", "Language", "Country"]
    with sqlite3.connect(package("bokeh_sampledata") / "_data" / "movies.db") as base:
        names = ", ".join(f'omdb."{name}"' for name in fields)
        rows = base.execute(
            f"select {names}, tomatoes.Meter from omdb join tomatoes on omdb.ID = tomatoes.ID "
            "where tomatoes.Meter is not null and tomatoes.Reviews >= 10 order by omdb.ID"
        ).fetchall()
    order = np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST_ROWS])
    columns = dict(zip([*fields, "Meter"], map(list, zip(*(rows[i] for i in order), strict=True)), strict=True))
    categories, dates = ["Director", "Writer", "Language", "Country"], ["Released"]
    modalities = {
        "title": ("text", ["Title"]),
        "cast": ("text", ["Cast"]),
        "genre": ("text", ["Genre"]),
        "table": ("tabular", ["Year", "Runtime", *categories, *dates]),
    }
    return Table(columns, "Meter", modalities, number=True, categories=categories, dates=dates)


@table
def titanic() -> Table:
    """Passengers (bokeh_sampledata): who survived, from the name and the list."""
    columns = read_csv(package("bokeh_sampledata") / "_data" / "titanic_all.csv")
    modalities = {"name": ("text", ["name"]), "table": ("tabular", ["class", "age", "sex"])}
    return Table(columns, "survived", modalities, categories=["class", "sex"])


@table
def auto_mpg() -> Table:
    """Cars (bokeh_sampledata): miles per gallon, from the name and the numbers."""
    columns = read_csv(package("bokeh_sampledata") / "_data" / "auto-mpg.csv")
    numbers = ["cyl", "displ", "hp", "weight", "accel", "yr", "origin"]
    return Table(columns, "mpg", {"name": ("text", ["name"]), "table": ("tabular", numbers)}, number=True)


@table
def penguins() -> Table:
    """Penguins (palmerpenguins): the sex, from remarks, a date, categories and measurements."""
    found = read_csv(package("palmerpenguins") / "data" / "penguins-raw.csv")
    able = [i for i, sex in enumerate(found["Sex"]) if sex in ("MALE", "FEMALE")]
    columns = {name.partition(" (")[0]: [cells[i] for i in able] for name, cells in found.items()}
    columns["Date Egg"] = [str(day) for day in columns["Date Egg"]]
    sizes = ["Culmen Length", "Culmen Depth", "Flipper Length", "Body Mass"]
    columns |= {name: [None if v in ("NA", None) else float(v) for v in columns[name]] for name in sizes}
    categories = ["Species", "Island", "Clutch Completion"]
    modalities = {
        "remarks": ("text", ["Comments"]),
        "table": ("tabular", [*categories, "Date Egg"]),
        "sizes": ("tabular", sizes),
    }
    return Table(columns, "Sex", modalities, categories=categories, dates=["Date Egg"])


def sentences(rows: list[tuple[str, str, Any]], number: bool = False) -> Table:
    """Two texts and what is said of them; some of them, if they are many."""
    order = np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST_ROWS])
    one, two, target = map(list, zip(*(rows[i] for i in order), strict=True))
    modalities = {"one": ("text", ["one"]), "two": ("text", ["two"]), "likeness": ("texts", ["one", "two"])}  # as init
    return Table({"one": one, "two": two, "target": target}, "target", modalities, number=number)


def lines(path: Path) -> list[list[str]]:
    """Rows of a gzipped file of tab-separated cells without quotes."""
    with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@table
def mrpc() -> Table:
    """MRPC: whether two sentences say the same."""
    rows = lines(DATA / "MRPC" / "msr_paraphrase_train.txt.gz")[1:]
    return sentences([(row[3], row[4], row[0]) for row in rows])


@table
def qqp() -> Table:
    """QQP: whether two questions ask the same."""
    return sentences([(r[3], r[4], r[5]) for r in lines(DATA / "QQP" / "qqp_23k.tsv.gz") if len(r) == 6])


@table
def sts_b() -> Table:
    """STS-B: how alike two sentences are, 0 to 5; the kind of source beside them."""
    rows = [r for r in lines(DATA / "STS-B" / "sts-train.tsv.gz") if len(r) >= 7]
    found = sentences([(row[5], row[6], (float(row[4]), row[0], row[1])) for row in rows], number=True)
    score, genre, file = map(list, zip(*found.columns["target"], strict=True))
    found.columns |= {"target": score, "genre": genre, "file": file}
    found.modalities["source"] = ("tabular", ["genre", "file"])
    found.categories = ["genre", "file"]
    return found


@table
def mosi() -> Table:
    """CMU-MOSI: the sign of the sentiment of utterances, from text, audio and video features."""
    found = np.load(DATA / "mosi" / "mosi_utt.npz", allow_pickle=False)
    both = {
        name: np.concatenate([found[f"{part}_{name}"] for part in ("train", "test")])
        for name in ("text", "audio", "video", "label")
    }
    return arrays(both.pop("label"), both)


@table
def wikipedia() -> Table:
    """Wikipedia: the topic of an article, from features of its text and of its image."""
    from scipy.io import loadmat

    found = loadmat(DATA / "multiview" / "Wikipedia.mat")
    views = {f"view{i}": view.astype(float) for i, view in enumerate(found["X"].ravel())}
    return arrays(found["y"].ravel(), views)


@table
def handwritten() -> Table:
    """Handwritten digits, six views."""
    from scipy.io import loadmat

    found = loadmat(DATA / "multiview" / "Handwritten.mat")
    return arrays(found["y"].ravel(), {f"view{i}": v.astype(float) for i, v in enumerate(found["X"].ravel())})


@table
def emotions() -> Table:
    """Emotions (MULAN): whether a piece of music is relaxing and calm, from rhythm and from timbre."""
    from scipy.io import loadmat

    found = loadmat(DATA / "mvml_emotions" / "emotions.mat")
    rhythm, timbre = found["data"].ravel()
    return arrays(found["target"][:, 2], {"rhythm": rhythm, "timbre": timbre})


@table
def breast_cancer() -> Table:
    """Breast cancer (scikit-learn): means, errors and extremes of ten measures."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return arrays(y, {"mean": x[:, :10], "error": x[:, 10:20], "worst": x[:, 20:]})


@table
def diabetes() -> Table:
    """Diabetes (scikit-learn): its progress, from the person and from the blood."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return arrays(y, {"person": x[:, :4], "blood": x[:, 4:]}, number=True)


def apart(name: str, target: str | None, group: str | None) -> Table:
    """``tables/NAME.csv`` of the folder of data, which this file does not know: columns as ``weft init`` reads them."""
    from weft.data.guess import guess_table

    path = DATA / "tables" / f"{name}.csv"
    if not path.is_file():
        raise SystemExit(f"no table {name!r}; there are {', '.join(TABLES)}, and {path} is no file")
    config, columns = guess_table(path, target=target, group=group), read_csv(path)
    one = config.target if isinstance(config.target, str) else (config.target or [""])[0]
    modalities = {}
    for modality, about in config.modalities.items():
        names = about.columns or [about.column or modality]
        modalities[modality] = ("tabular" if about.kind == "date" else about.kind, names)
    cells = {n: next((v for v in columns[n] if v is not None), None) for _, names in modalities.values() for n in names}
    plain = [n for kind, names in modalities.values() if kind == "tabular" for n in names]
    dates = [n for n in plain if isinstance(cells[n], date)]
    categories = [n for n in plain if isinstance(cells[n], str | bool)]
    number = config.task == "regression"
    return Table(columns, one, modalities, config.group, number, categories, dates)

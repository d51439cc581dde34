"""Tables of several modalities: weft's default command beside scikit-learn's ten lines, on the same rows.

    python benchmarks/tables.py --bar reviews        # one table: one JSON line, {"weft", "sklearn", "seconds"}, last
    python benchmarks/tables.py --budget 2m --folds 5 reviews pets

The rows are split once, and both sides get the same train, dev and test rows. weft's command gets the table, a budget
and nothing else; the other side is what a competent person writes first, TF-IDF of words and pairs of words, one-hot
categories, standardised numbers, logistic regression, fitted on train and dev rows together with its strength chosen by
cross-validation. Both are judged by accuracy on the test rows. With ``--folds`` the tests are those of
cross-validation, each with a split column of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import yaml

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("WEFT_DATA", ROOT / ".." / "shared" / "data")) / "tables"


@dataclass(frozen=True)
class Table:
    """A table and what is known about it."""

    target: str
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    group: str | None = None


TABLES = {
    "reviews": Table(
        "Recommended IND",
        ("Title", "Review Text"),
        ("Age", "Positive Feedback Count"),
        ("Clothing ID", "Division Name", "Department Name", "Class Name"),
    ),
    "pets": Table(
        "AdoptionSpeed",
        ("Name", "Description"),
        ("Age", "Quantity", "Fee", "VideoAmt", "PhotoAmt"),
        (
            *("Type", "Breed1", "Breed2", "Gender", "Color1", "Color2", "Color3", "MaturitySize", "FurLength"),
            *("Vaccinated", "Dewormed", "Sterilized", "Health", "State"),
        ),
        "RescuerID",
    ),
}


def read(name: str) -> dict[str, list[Any]]:
    """The columns of a table."""
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    columns: dict[str, list[Any]] = pyarrow.csv.read_csv(DATA / f"{name}.csv", parse_options=options).to_pydict()
    return columns


def splits(table: Table, columns: dict[str, list[Any]], folds: int) -> list[np.ndarray]:
    """One column of "train", "dev", "test" per fold."""
    from weft.data import make_folds, make_splits
    from weft.store import MemoryFeatures

    target = np.array([str(v) for v in columns[table.target]])
    group = None if table.group is None else np.array(columns[table.group])
    ids = [str(i) for i in range(len(target))]
    rows = MemoryFeatures(ids, {"x": np.zeros((len(ids), 1))}, {"y": target}, group=group)
    found = []
    for split in make_folds(rows, folds) if folds else [make_splits(rows)]:
        parts = np.full(len(ids), "train", dtype="<U5")
        parts[split.dev], parts[split.test] = "dev", "test"
        found.append(parts)
    return found


def run_weft(
    table: Table, columns: dict[str, list[Any]], parts: np.ndarray, budget: str, folder: Path, jobs: int
) -> dict[str, Any]:
    """weft's command on a table of these columns and its split."""
    used = [*table.texts, *table.numbers, *table.categories, table.target]
    content = {name: columns[name] for name in used} | {"split": parts.tolist()}
    if table.group is not None:
        content["group"] = columns[table.group]
    pyarrow.csv.write_csv(pa.table(content), folder / "table.csv")
    config = {
        "table": "table.csv",
        "split": "split",
        "group": "group" if table.group else None,
        "target": table.target,
        "task": "classification",
        "modalities": {
            **{name: {"kind": "text", "column": name} for name in table.texts},
            "table": {"kind": "tabular", "columns": [*table.numbers, *table.categories]},
        },
    }
    (folder / "weft.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-c", "from weft.cli import main; main()", "compare", "weft.yaml", "--budget", budget]
    command += ["--jobs", str(jobs), "--out", "out"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    found = json.loads((folder / "out" / "comparison.json").read_text())
    rows = {row["method"]: row for row in found["table"] if row["test"] is not None}
    return {
        "weft": found["kept"]["metrics"]["accuracy"],
        "kept": found["kept"]["method"],
        "seconds": seconds,
        "jobs_not_run": len(found["not_run"]),
        "rows": {name: {"dev": row["dev"], "test": row["test"]} for name, row in rows.items()},
    }


def run_scikit(table: Table, columns: dict[str, list[Any]], parts: np.ndarray) -> float:
    """Ten lines of scikit-learn."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    known, test = parts != "test", parts == "test"
    target, blocks = np.array([str(v) for v in columns[table.target]]), []
    for name in table.texts:
        texts = np.array([v or "" for v in columns[name]], dtype=object)
        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2).fit(texts[known])
        blocks.append(words.transform(texts))
    words = np.array([[str(v) for v in columns[name]] for name in table.categories]).T
    blocks.append(OneHotEncoder(handle_unknown="ignore").fit(words[known]).transform(words))
    numbers = np.array([[np.nan if v is None else float(v) for v in columns[name]] for name in table.numbers]).T
    numbers = np.where(np.isnan(numbers), np.nanmedian(numbers[known], axis=0), numbers)
    blocks.append(csr_matrix(StandardScaler().fit(numbers[known]).transform(numbers)))
    x = hstack(blocks).tocsr()
    model = GridSearchCV(LogisticRegression(max_iter=300), {"C": [0.1, 1, 10]}, cv=5)
    return float((model.fit(x[known], target[known]).predict(x[test]) == target[test]).mean())


def measure(name: str, budget: str, folds: int, jobs: int) -> dict[str, Any]:
    """Both sides on a table; means over the folds."""
    table, columns = TABLES[name], read(name)
    results = []
    for parts in splits(table, columns, folds):
        with tempfile.TemporaryDirectory() as folder:
            found = run_weft(table, columns, parts, budget, Path(folder), jobs)
        found["sklearn"] = run_scikit(table, columns, parts)
        found["test_rows"] = int((parts == "test").sum())
        results.append(found)
        sys.stderr.write(f"{name}: {json.dumps({k: v for k, v in found.items() if k != 'rows'})}\n")
    means = {key: float(np.mean([r[key] for r in results])) for key in ("weft", "sklearn", "seconds")}
    return {"table": name, **means, "kept": [r["kept"] for r in results], "folds": results}


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=[], choices=[[], *TABLES])
    parser.add_argument("--bar", choices=TABLES)
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "tables.json")
    given = parser.parse_args()
    if given.bar:
        found = measure(given.bar, given.budget, 0, given.jobs)
        print(json.dumps({key: found[key] for key in ("weft", "sklearn", "seconds")}))
        return
    results = [measure(name, given.budget, given.folds, given.jobs) for name in given.tables or TABLES]
    given.out.write_text(json.dumps({"budget": given.budget, "tables": results}, indent=2) + "\n")
    for found in results:
        print(json.dumps({key: found[key] for key in ("table", "weft", "sklearn", "seconds", "kept")}))


if __name__ == "__main__":
    main()

"""Tables of several modalities: weft's default command beside AutoGluon, scikit-learn and each modality alone.

    python benchmarks/tables.py --bar reviews        # one table: one JSON line, {"weft", "sklearn", "seconds"}, last
    python benchmarks/tables.py --budget 60s --autogluon autogluon-env/bin/python
    python benchmarks/tables.py --budget 60s --folds 5 reviews pets
    python benchmarks/tables.py --clock 30 120 600   # is the budget kept, and what has been found by then?

The rows are split once, and all sides get the same train, dev and test rows. weft's command gets the table, a budget
and the metric, nothing else. AutoGluon tabular (``tables_autogluon.py``, in an environment of its own) gets train and
dev rows together, best quality, the same time on the same cores. scikit-learn is what a competent person writes first,
fitted on train and dev rows together: TF-IDF of words and pairs of words, one-hot categories, standardised numbers,
logistic or ridge regression, its strength chosen by cross-validation; and histogram gradient boosting, texts as 64
directions of their TF-IDF. "alone" is the model of a single modality that weft found best on dev.

Judged on the test rows by accuracy, or by R2 where the target is a number. An interval is that of the difference,
weft's score less the other's, by bootstrap over the test rows (over their groups, where there are any). With
``--folds`` the test rows are those of all folds. Every result is written as it appears, and is not measured again
unless it is asked for (``--again``); ``--sides`` measures some sides alone. Tables that lie in a package which is not
there are left out, and that is said; ``--data-packages`` is where the wheels of bokeh_sampledata and palmerpenguins are
unpacked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import yaml
from harness import write_result
from tables_known import PACKAGES, ROOT, TABLES, Table, apart

RESULTS = ROOT / "runs" / "tables.json"
DRAWS = 9999
OPPONENTS = ("autogluon", "sklearn linear", "sklearn boosting")


def splits(given: Table, folds: int) -> list[np.ndarray]:
    """One column of "train", "dev", "test" per fold."""
    from weft.data import make_folds, make_splits
    from weft.store import MemoryFeatures

    cells = given.columns[given.target]
    target = np.array(cells, dtype=float) if given.number else np.array([str(v) for v in cells])
    group = None if given.group is None else np.array(given.columns[given.group])
    ids = [str(i) for i in range(len(target))]
    task = "regression" if given.number else "classification"
    rows = MemoryFeatures(ids, {"x": np.zeros((len(ids), 1))}, {"y": target}, group=group, task=task)
    found = []
    for split in make_folds(rows, folds) if folds else [make_splits(rows)]:
        parts = np.full(len(ids), "train", dtype="<U5")
        parts[split.dev], parts[split.test] = "dev", "test"
        found.append(parts)
    return found


def write(given: Table, parts: np.ndarray, folder: Path) -> None:
    """The files that all sides read."""
    used = [name for _, names in given.modalities.values() for name in names]
    content = {name: [None if v is None else v for v in given.columns[name]] for name in [*used, given.target]}
    for name in (*given.categories, *given.dates):
        content[name] = [None if v is None else str(v) for v in content[name]]
    content["split"] = parts.tolist()
    if given.group is not None:
        content["group"] = given.columns[given.group]
    pyarrow.csv.write_csv(pa.table(content), folder / "table.csv")
    task = "regression" if given.number else "classification"
    about = {"texts": given.texts, "categories": given.categories, "dates": given.dates}
    (folder / "about.json").write_text(json.dumps({**about, "target": given.target, "task": task}))
    config = {
        "table": "table.csv",
        "split": "split",
        "group": "group" if given.group else None,
        "target": given.target,
        "task": task,
        "modalities": {
            name: {"kind": kind, "columns": names} if kind != "text" else {"kind": kind, "column": names[0]}
            for name, (kind, names) in given.modalities.items()
        },
    }
    (folder / "weft.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def run_weft(given: Table, parts: np.ndarray, folder: Path, budget: str, jobs: int | None) -> dict[str, Any]:
    """weft's command, and the model that it keeps asked for the test rows."""
    from weft import load_model

    command = [sys.executable, "-c", "from weft.cli import main; main()", "compare", "weft.yaml", "--budget", budget]
    command += [
        "--out",
        "out",
        *(["--jobs", str(jobs)] if jobs else []),
        *([] if given.number else ["--metric", "accuracy"]),
    ]
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    found = json.loads((folder / "out" / "comparison.json").read_text())
    rows = {row["method"]: row for row in found["table"] if row["test"] is not None}
    test = np.flatnonzero(parts == "test")
    frame = pyarrow.csv.read_csv(
        folder / "table.csv",
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True),
    ).take(pa.array(test))
    model = load_model(folder / "out" / "winner")
    guesses = model.predict(frame, progress=False)["prediction"].tolist()
    single = [row for row in rows.values() if row["role"] == "single"]
    best = max if found["higher_is_better"] else min
    alone = best(single, key=lambda row: row["dev"]) if single else None
    outcome: dict[str, Any] = {
        "predictions": guesses,
        "seconds": seconds,
        "kept": found["kept"]["method"],
        "jobs_not_run": len(found["not_run"]),
        "rows": {name: {"dev": row["dev"], "test": row["test"]} for name, row in rows.items()},
    }
    if alone is not None:
        value = 1 - alone["test"] ** 2 if given.number else alone["test"]
        outcome["alone"] = {"method": alone["method"], "score": value}
    return outcome


def run_autogluon(python: str, folder: Path, seconds: float) -> dict[str, Any]:
    """AutoGluon in its own environment."""
    script = Path(__file__).with_name("tables_autogluon.py")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    done = subprocess.run([python, script, folder, str(seconds)], capture_output=True, text=True, env=clean)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
    found: dict[str, Any] = json.loads((folder / "autogluon.json").read_text())
    return found


def _texts(given: Table, name: str) -> np.ndarray:
    return np.array([str(v or "") for v in given.columns[name]], dtype=object)


def _numbers(given: Table) -> np.ndarray:
    """``(N, P)``: numbers, dates as year and day of the year; NaN where missing."""
    found = [np.array([np.nan if v is None else float(v) for v in given.columns[name]]) for name in given.numbers]
    for name in given.dates:
        days = np.array([str(v)[:10] if v is not None else "NaT" for v in given.columns[name]], dtype="datetime64[D]")
        years = days.astype("datetime64[Y]")
        found += [years.astype(float), (days - years).astype(float)]
        for column in found[-2:]:
            column[np.isnat(days)] = np.nan
    return np.array(found).T if found else np.zeros((len(given.columns[given.target]), 0))


def run_linear(given: Table, parts: np.ndarray) -> dict[str, Any]:
    """Ten lines of scikit-learn: linear."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    started, known, test = time.monotonic(), parts != "test", parts == "test"
    blocks = []
    for name in given.texts:
        texts = _texts(given, name)
        blocks.append(
            TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2).fit(texts[known]).transform(texts)
        )
    if given.categories:
        words = np.array([[str(v) for v in given.columns[name]] for name in given.categories]).T
        blocks.append(OneHotEncoder(handle_unknown="ignore").fit(words[known]).transform(words))
    numbers = _numbers(given)
    if numbers.shape[1]:
        numbers = np.where(np.isnan(numbers), np.nanmedian(numbers[known], axis=0), numbers)
        blocks.append(csr_matrix(StandardScaler().fit(numbers[known]).transform(numbers)))
    x = hstack(blocks).tocsr()
    if given.number:
        y, model = (
            np.array(given.columns[given.target], dtype=float),
            GridSearchCV(Ridge(), {"alpha": [0.1, 1, 10, 100]}),
        )
    else:
        y = np.array([str(v) for v in given.columns[given.target]])
        model = GridSearchCV(LogisticRegression(max_iter=300), {"C": [0.1, 1, 10]}, cv=5)
    guesses = model.fit(x[known], y[known]).predict(x[test]).tolist()
    return {"predictions": guesses, "seconds": time.monotonic() - started}


def run_boosting(given: Table, parts: np.ndarray) -> dict[str, Any]:
    """Ten lines of scikit-learn: boosting."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    started, known, test = time.monotonic(), parts != "test", parts == "test"
    blocks = [_numbers(given)]
    for name in given.texts:
        texts = _texts(given, name)
        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2).fit(texts[known])
        svd = make_pipeline(words, TruncatedSVD(min(64, len(words.vocabulary_) - 1), random_state=0))
        blocks.append(svd.fit(texts[known]).transform(texts))
    if given.categories:
        words = np.array([[str(v) for v in given.columns[name]] for name in given.categories]).T
        coder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=200)
        blocks.append(coder.fit(words[known]).transform(words))
    x = np.concatenate(blocks, axis=1)
    if given.number:
        y, model = np.array(given.columns[given.target], dtype=float), HistGradientBoostingRegressor(random_state=0)
    else:
        y = np.array([str(v) for v in given.columns[given.target]])
        model = HistGradientBoostingClassifier(early_stopping=True, random_state=0)
    guesses = model.fit(x[known], y[known]).predict(x[test]).tolist()
    return {"predictions": guesses, "seconds": time.monotonic() - started}


def row_scores(given: Table, parts: np.ndarray, guesses: list[Any]) -> np.ndarray:
    """``(n,)``, whose mean is accuracy, or R2."""
    truth = np.array(given.columns[given.target], dtype=object)[parts == "test"]
    if given.number:
        known = truth.astype(float)
        return 1 - (known - np.array(guesses, dtype=float)) ** 2 / known.var()
    return np.array([_label(a) == _label(b) for a, b in zip(truth, guesses, strict=True)], dtype=float)


def _label(value: Any) -> str:
    """A class, whether it was read as a word or as a number."""
    try:
        return str(float(value))
    except ValueError:
        return str(value)


def difference(ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Mean of the paired differences, its 95 % interval by bootstrap over groups, and a two-sided p."""
    _, place = np.unique(groups, return_inverse=True)
    sums = np.bincount(place, weights=ours - theirs)
    counts = np.bincount(place)
    draws = np.random.default_rng(seed).integers(0, len(sums), (DRAWS, len(sums)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    p = 2 * min((1 + (means <= 0).sum()) / (DRAWS + 1), (1 + (means >= 0).sum()) / (DRAWS + 1))
    return {
        "difference": float((ours - theirs).mean()),
        "low": float(low),
        "high": float(high),
        "p": float(min(1.0, p)),
    }


def measure(name: str, given: Table, parts: np.ndarray, options: argparse.Namespace, old: dict[str, Any]) -> None:
    """What a split lacks yet, put into ``old``, which :func:`save` writes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(given, parts, folder)
        seconds = parse_seconds(options.budget)
        sides: dict[str, Callable[[], dict[str, Any]]] = {
            "sklearn linear": lambda: run_linear(given, parts),
            "sklearn boosting": lambda: run_boosting(given, parts),
            "weft": lambda: run_weft(given, parts, folder, options.budget, options.jobs),
        }
        if options.autogluon:
            sides["autogluon"] = lambda: run_autogluon(options.autogluon, folder, seconds)
        for side, run in sides.items():
            if side not in (options.sides or sides) or (side in old and not options.again):
                continue
            found = run()
            found["load"] = os.getloadavg()[0]
            found["scores"] = row_scores(given, parts, found.pop("predictions")).round(5).tolist()
            found["score"] = float(np.mean(found["scores"]))
            old[side] = found
            said = {key: value for key, value in found.items() if key not in ("scores", "rows", "models")}
            sys.stderr.write(f"{name} {side}: {json.dumps(said)}\n")
            save(options)


STATE: dict[str, Any] = {}


def save(options: argparse.Namespace) -> None:
    """Write what there is."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(STATE, indent=1) + "\n")


def publish() -> None:
    """``results/tables.json``: what is known of every table, without the scores of its rows."""
    found = [entry["summary"] for entry in STATE.get("results", {}).values() if "summary" in entry]
    write_result("tables", {"page": "docs/results/tables.md", "tables": found, "clock": STATE.get("clock", [])})


def summary(name: str, given: Table, every: list[np.ndarray], folds: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table: the means over all test rows, and the paired differences."""
    groups = np.concatenate(
        [
            np.flatnonzero(p == "test") if given.group is None else np.array(given.columns[given.group])[p == "test"]
            for p in every
        ]
    )
    sides = [side for side in ("weft", *OPPONENTS) if all(side in fold for fold in folds)]
    scores = {side: np.concatenate([fold[side]["scores"] for fold in folds]) for side in sides}
    alone = [fold["weft"]["alone"]["score"] for fold in folds if "alone" in fold["weft"]]
    found: dict[str, Any] = {
        "table": name,
        "metric": "R2" if given.number else "accuracy",
        "rows": len(every[0]),
        "test_rows": len(groups),
        "folds": len(folds),
        "modalities": len(given.modalities),
        **{side: float(values.mean()) for side, values in scores.items()},
        "alone": float(np.mean(alone)) if len(alone) == len(folds) else None,
        "seconds": {side: float(np.mean([fold[side]["seconds"] for fold in folds])) for side in sides},
        "kept": [fold["weft"]["kept"] for fold in folds],
        "against": {side: difference(scores["weft"], scores[side], groups) for side in sides if side != "weft"},
    }
    return found


def clock(name: str, given: Table, parts: np.ndarray, budgets: list[str], jobs: int | None) -> list[dict[str, Any]]:
    """Wall time of the command at some budgets, and what was kept."""
    found = []
    for budget in budgets:
        with tempfile.TemporaryDirectory() as place:
            write(given, parts, Path(place))
            result = run_weft(given, parts, Path(place), budget, jobs)
        score = float(row_scores(given, parts, result["predictions"]).mean())
        seconds = parse_seconds(budget)
        line = {"table": name, "budget": seconds, "seconds": result["seconds"], "ratio": result["seconds"] / seconds}
        line |= {"score": score, "kept": result["kept"], "methods": len(result["rows"])}
        found.append(line | {"jobs_not_run": result["jobs_not_run"], "load": os.getloadavg()[0]})
        sys.stderr.write(f"{json.dumps(found[-1])}\n")
    return found


def parse_seconds(budget: str) -> float:
    """Of "60s" or "5m"; of a number."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(budget[-1])
    return float(budget) if unit is None else float(budget[:-1]) * unit


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    head = ["table", "rows", "metric", "weft", *OPPONENTS, "alone", "kept", "seconds, weft", "AutoGluon"]
    out = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["table"], str(row["rows"]), row["metric"], f"{row['weft']:.3f}"]
        for side in OPPONENTS:
            if side not in row:
                cells.append("")
                continue
            d = row["against"][side]
            cells.append(f"{row[side]:.3f} ({d['low']:+.3f} to {d['high']:+.3f})")
        kept = ", ".join(dict.fromkeys(row["kept"]))
        cells += ["" if row["alone"] is None else f"{row['alone']:.3f}", kept, f"{row['seconds']['weft']:.0f}"]
        cells.append(f"{row['seconds'].get('autogluon', float('nan')):.0f}")
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help="which tables (default: all that can be read)")
    parser.add_argument(
        "--bar", help="one table, or tables/NAME.csv, against scikit-learn's linear model; one JSON line"
    )
    parser.add_argument("--target", help="of a table apart (default: as weft init guesses)")
    parser.add_argument("--group", help="of a table apart, likewise")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--jobs", type=int, help="of weft (default: its own)")
    parser.add_argument("--autogluon", help="the Python of an environment with autogluon.tabular")
    parser.add_argument("--data-packages", type=Path, action="append", default=[])
    parser.add_argument("--clock", nargs="+", default=[], help="budgets whose wall time is measured")
    parser.add_argument("--sides", nargs="+", default=[], choices=["weft", *OPPONENTS], help="measure these alone")
    parser.add_argument("--again", action="store_true", help="measure anew what there is")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    PACKAGES.extend(options.data_packages)
    unknown = [name for name in options.tables if name not in TABLES]
    if unknown:
        raise SystemExit(f"no table {unknown[0]!r}; there are {', '.join(TABLES)}")
    if options.bar:
        known = TABLES.get(options.bar)
        given = apart(options.bar, options.target, options.group) if known is None else known()
        parts = splits(given, 0)[0]
        with tempfile.TemporaryDirectory() as place:
            write(given, parts, Path(place))
            ours = run_weft(given, parts, Path(place), options.budget, options.jobs)
        theirs = run_linear(given, parts)
        both = [float(row_scores(given, parts, side["predictions"]).mean()) for side in (ours, theirs)]
        print(json.dumps({"weft": both[0], "sklearn": both[1], "seconds": ours["seconds"]}))
        return
    if options.out.is_file():
        STATE.update(json.loads(options.out.read_text()))
    rows = []
    for name in options.tables or TABLES:
        try:
            given = TABLES[name]()
        except FileNotFoundError as error:
            sys.stderr.write(f"{name} is left out: it needs {error}\n")
            continue
        every = splits(given, 0 if options.clock else options.folds)
        if options.clock:
            new = clock(name, given, every[0], options.clock, options.jobs)
            past = [x for x in STATE.get("clock", []) if (x["table"], x["budget"]) not in _keys(new)]
            STATE["clock"] = [*past, *new]
            save(options)
            continue
        key = f"{name}, {options.budget}, {f'{options.folds} folds' if options.folds else 'one split'}"
        entry = STATE.setdefault("results", {}).setdefault(key, {"folds": [{} for _ in every]})
        for parts, fold in zip(every, entry["folds"], strict=True):
            measure(name, given, parts, options, fold)
        if all("weft" in fold for fold in entry["folds"]):
            entry["summary"] = summary(name, given, every, entry["folds"])
            rows.append(entry["summary"])
        save(options)
    if options.out == RESULTS:
        publish()
    if options.clock:
        print(json.dumps(STATE["clock"]))
        return
    print(markdown(rows))
    print(json.dumps(rows))


def _keys(found: list[dict[str, Any]]) -> set[tuple[str, float]]:
    return {(x["table"], x["budget"]) for x in found}


if __name__ == "__main__":
    main()

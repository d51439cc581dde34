"""D-VSM beside the best fusion of ``weft.compare`` on the published folds of Emotions, all views there and a third of
the rows without one of them; and what a training costs as rows grow. The tables are in ``docs/results/dvsm.md``.

    WEFT_DATA=... python benchmarks/dvsm_compare.py [folds] [rows]

In every fold both sides train on the same rows, and choose on the same dev rows: D-VSM the epoch, the comparison the
operator, its settings and the epoch. Paired tests are over all rows, each in the test part of one fold.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dvsm_emotions import COLUMNS
from harness import fill_page, peak_memory, timed, write_result
from sklearn.metrics import label_ranking_loss

from weft.allocator import keep_freed_memory
from weft.compare import CompareConfig, compare
from weft.compare.statistics import sign_flip_test
from weft.compare.systems import compare_systems
from weft.data import Dataset, Modality, load_dataset, make_splits
from weft.encoders import create_encoder, default_encoder
from weft.store import encode
from weft.systems.dvsm.graph import nearest
from weft.training.config import TrainConfig
from weft.training.system import systems
from weft.training.system_task import make_system

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("WEFT_DATA", ROOT.parent / "shared" / "data"))
PAGE = ROOT / "docs" / "results" / "dvsm.md"
FUSIONS = ["concat", "gated", "linear-sum", "mutan", "tfn", "late"]
SIZES = (500, 2000, 8000, 32000)


def without_views(data: Dataset, share: float) -> Dataset:
    """A share of the rows lacks one of the views."""
    rng = np.random.default_rng(0)
    lost, which = rng.random(len(data)) < share, rng.integers(len(data.modalities), size=len(data))
    columns = {
        name: Modality("vector", [None if lost[i] and which[i] == k else value for i, value in enumerate(m.values)])
        for k, (name, m) in enumerate(data.modalities.items())
    }
    return Dataset(data.name, data.ids, columns, data.targets, data.split, data.group, data.task, data.labels)


def rows_in_order(outputs: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Of each row, its share of right labels and of pairs of labels in the right order."""
    order = [1 - label_ranking_loss(y[None], scores[None]) for y, scores in zip(target, outputs, strict=True)]
    return {"labels": ((outputs > 0) == target).mean(axis=1), "order": np.array(order)}


def fold_of(data: Dataset, folder: Path) -> dict[str, Any]:
    """Metrics and row scores of both on one fold's test rows."""
    split = make_splits(data)
    kinds = {name: m.kind for name, m in data.modalities.items()}
    encoders = {name: create_encoder(default_encoder(kind), kind) for name, kind in kinds.items()}
    store = encode(data, encoders, folder / "store", train_rows=split.train, progress=False)
    config = CompareConfig(
        fusions=FUSIONS, decisions=[], only=[*FUSIONS], ensembles=False, subsets=False, refit=False, seeds=1, trials=2,
        resamples=99,
    )  # fmt: skip
    best = compare(store, config, folder / "fusions", progress=False).kept
    settings = TrainConfig(**systems.get("dvsm").trained_with)
    how: dict[str, Any] = {"options": {}, "seeds": 1, "config": settings, "progress": False}
    ours = compare_systems("dvsm", data, [split], {"dvsm": {}}, folder=folder / "dvsm", **how).kept
    assert best is not None
    assert ours is not None
    np.testing.assert_array_equal(best.target, ours.target)
    task = make_system("dvsm", data, split.train).make_judge()
    sides = {"D-VSM": ours, "fusion": best}
    return {
        "operator": best.method,
        "metrics": {name: task.metrics(side.outputs, side.target) for name, side in sides.items()},
        "scores": {name: rows_in_order(side.outputs, side.target) for name, side in sides.items()},
    }


def folds() -> list[str]:
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "|---" * 7 + "|"]
    kept: dict[str, Any] = {}
    ends = []
    for share, title in ((0.0, "all views"), (0.33, "a third lacks a view")):
        found = []
        for fold in range(1, 6):
            data = without_views(load_dataset("multilabel-views", DATA / "mvml_emotions", fold=fold), share)
            with tempfile.TemporaryDirectory() as folder:
                found.append(fold_of(data, Path(folder)))
            print(title, fold, found[-1]["operator"], found[-1]["metrics"], flush=True)
        for name, shown in (("D-VSM", "D-VSM"), ("fusion", "best fusion")):
            cells = np.array([[one["metrics"][name][metric] for metric in COLUMNS] for one in found])
            values = [f"{mean:.3f} +- {sd:.3f}" for mean, sd in zip(cells.mean(axis=0), cells.std(axis=0), strict=True)]
            lines.append(f"| {shown}, {title} | {' | '.join(values)} |")
        tests = []
        for key in found[0]["scores"]["D-VSM"]:
            ours, theirs = (np.concatenate([one["scores"][n][key] for one in found]) for n in ("D-VSM", "fusion"))
            gain = (ours - theirs)[np.isfinite(ours - theirs)]
            tests.append(f"{key} {gain.mean():+.4f} (p {sign_flip_test(gain, np.arange(len(gain))):.3f})")
        ends.append(f"{title}: the fusions were {', '.join(one['operator'] for one in found)}; {'; '.join(tests)}")
        kept[title] = [{"operator": one["operator"], "metrics": one["metrics"]} for one in found]
    ends[0] = f"Scores of rows (higher is better), D-VSM less the fusion, {ends[0]}."
    write_result("dvsm_compare", {"folds": kept})
    return [*lines, "", ends[0], f"With {ends[1]}."]


def views_of(rows: int) -> Dataset:
    """Gaussian views of Emotions' widths, and six labels."""
    rng = np.random.default_rng(rows)
    views = {f"view{d}": Modality("vector", list(rng.normal(size=(rows, d)).astype(np.float32))) for d in (8, 64)}
    labels = (rng.random((rows, 6)) < 0.3).astype(np.int64)
    names = {"labels": tuple("abcdef")}
    return Dataset("made", [str(k) for k in range(rows)], views, {"labels": labels}, None, None, "multilabel", names)


def step(rows: int) -> Any:
    """Forward and backward of all rows, the graph found before."""
    data = views_of(rows)
    model = make_system("dvsm", data, np.arange(rows))
    batch = model.batch(data, np.arange(rows))
    return lambda: model.loss(batch).mean().backward()


def rows() -> list[str]:
    lines = ["| rows | graph, exact | graph, faiss | a step | peak memory of a step |", "|---|---|---|---|---|"]
    kept = {}
    for size in SIZES:
        views = [np.stack(m.values) for m in views_of(size).modalities.values()]
        same = np.mean(nearest(views, 10) == nearest(views, 10, method="faiss"))
        cost = {method: timed(partial(nearest, views, 10, None, method))[1] for method in ("exact", "faiss")}
        run = step(size)
        run()
        cost["step"] = timed(run, 3)[1]
        cost["memory"] = peak_memory(step, size, threads=1)["peak_bytes"]
        seconds = " | ".join(f"{cost[key]:.2f} s" for key in ("exact", "faiss", "step"))
        lines.append(f"| {size:,} | {seconds} | {cost['memory'] / 2**20:.0f} MiB |")
        kept[str(size)] = {**cost, "same_neighbours": float(same)}
        print(lines[-1], f"{same:.5f} of the neighbours equal", flush=True)
    spans = {key: np.log(kept[str(SIZES[-1])][key] / kept[str(SIZES[0])][key]) for key in ("exact", "faiss", "step")}
    steps = np.log(SIZES[-1] / SIZES[0])
    grown = ", ".join(f"{key} {span / steps:.2f}" for key, span in spans.items())
    write_result("dvsm_rows", {"rows": kept})
    return [*lines, "", f"Processor seconds, one thread, 2 views of 8 and 64, k of 10. Exponents in the rows: {grown}."]


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    for name in sys.argv[1:] or ["folds", "rows"]:
        fill_page(PAGE, {"folds": folds, "rows": rows}[name](), name)


if __name__ == "__main__":
    main()

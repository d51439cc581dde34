"""ARAF's classification and regression on real data: runs the recipes, writes docs/results/araf_*.md and their figures.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/araf_results.py [vqa] [ett] [--pages]

Finished jobs are kept under runs/araf, so a killed run goes on; ``--pages`` runs nothing and writes the pages from
them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
from real_comparisons import RESULTS, ROOT, WEFT, variables

from weft.compare.statistics import holm, sign_flip_test
from weft.data import make_splits
from weft.store import Store
from weft.tasks import create_task

RUNS = ROOT / "runs" / "araf"
SETTINGS = [(file, horizon, "chronological") for file in ("ETTh1", "ETTh2") for horizon in (1, 24)]
LEAKING = ("ETTh1", 1, "random")
ABLATED = ("ETTh1", 24, "chronological")
AGAINST = "Accuracy against that of ARAF paper:"
METRICS = {"accuracy": "accuracy", "f1_macro": "macro F1", "f1_micro": "micro F1", "auc": "AUC"}


def recipe(name: str, **given: Any) -> None:
    """``weft run`` with one thread."""
    filled = [f"--set={key}={value}" for key, value in given.items()]
    command = [WEFT, "run", f"araf/{name}", *filled]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def run_vqa() -> None:
    """The comparison, the ablation, the symmetric model and its view."""
    there = variables()
    images, texts = f"hf:{there['WEFT_MODELS']}/mobilenet_v2_1.0_224", f"hf:{there['MINILM']}"
    recipe("small-vqa", DATA=there["WEFT_DATA"], IMAGE=images, TEXT=texts, OUT=RUNS / "vqa")


def run_ett() -> None:
    """Every setting, and the ablation of one."""
    for file, horizon, split in [*SETTINGS, LEAKING]:
        given = {"FILE": file, "HORIZON": horizon, "SPLIT": split, "OUT": RUNS / "ett"}
        recipe("small-ett", DATA=variables()["WEFT_DATA"], **given)
        if (file, horizon, split) == ABLATED:
            recipe("small-ett-ablation", **given)


def per_seed(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Test metrics of every finished job, ``{method: [of a seed]}``; subsets of the modalities left out."""
    comparison = json.loads((folder / "comparison.json").read_text())
    methods = {row["method"] for row in comparison["table"]}
    found: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for path in sorted((folder / "jobs").glob("*.json")):
        job = json.loads(path.read_text())
        if job["method"] in methods and job["status"] == "done":
            found[job["method"]].setdefault(job["seed"], job["test"])
    return {name: [seeds[k] for k in sorted(seeds)] for name, seeds in found.items()}


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and, where there are several, their standard deviation."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values):.{digits}f}"


def metric_table(folder: Path, metrics: dict[str, str], digits: int = 3) -> list[str]:
    """Methods by the first metric, with the spread between seeds, gain and p of the comparison."""
    rows = json.loads((folder / "comparison.json").read_text())["table"]
    seeds = per_seed(folder)
    head = ["method", *metrics.values(), "p (Holm) against the best single", "weights", "s/trial"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row in rows:
        if row["status"] != "done":
            continue
        cells = [spread([one[key] for one in seeds[row["method"]]], digits) for key in metrics]
        p = "" if row["p_holm"] is None else f"{row['p_holm']:.2g}"
        size = "" if row["parameters"] is None else f"{row['parameters']:,}"
        lines.append(f"| {' | '.join([row['method'], *cells, p, size, format(row['train_seconds'], '.2g')])} |")
    return lines


def paired_rows(folder: Path, store: Path, reference: str, others: tuple[str, ...] = ()) -> list[str]:
    """Paired tests by group of the rows of some networks (default: all) against those of one, mean over seeds.

    A row counts by its squared error in units of the target, or by whether it is right.
    """
    features = Store.open(store)
    split, target = make_splits(features), next(iter(features.targets.values()))
    task = create_task(features.task, target[split.train])
    unit = -(target[split.train].std() ** 2) if features.task == "regression" else 1.0
    methods = {
        row["method"] for row in json.loads((folder / "comparison.json").read_text())["table"] if row["parameters"]
    }
    scores: dict[str, list[np.ndarray]] = defaultdict(list)
    for path in sorted((folder / "jobs").glob("*.json")):
        job = json.loads(path.read_text())
        if job["method"] in methods and job["status"] == "done":
            outputs = load_file(path.with_suffix(".safetensors"))["test"]
            scores[job["method"]].append(unit * task.scores(outputs, target[split.test]))
    averages = {name: np.mean(seeds, axis=0) for name, seeds in scores.items()}
    others = others or tuple(name for name in averages if name != reference)
    gaps = {name: averages[name] - averages[reference] for name in others}
    group = None if features.group is None else features.group[split.test]
    p = holm(np.array([sign_flip_test(gap, group) for gap in gaps.values()]))
    pairs = sorted(zip(gaps.items(), p, strict=True), key=lambda pair: pair[0][1].mean())
    return [f"- {name}: {gap.mean():+.3f}, p = {q:.2g} (Holm)" for (name, gap), q in pairs]


def figure(source: Path, name: str) -> str:
    """Copy a figure to the results and link it."""
    (RESULTS / "figures").mkdir(parents=True, exist_ok=True)
    shutil.copy(source, RESULTS / "figures" / f"{name}.png")
    return f"![{name}](figures/{name}.png)"


def write_section(page: str, name: str, lines: list[str]) -> None:
    """Put lines between the marks ``<!-- name -->`` and ``<!-- /name -->`` of a page; the words around are written."""
    path = RESULTS / page
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = path.read_text() if path.exists() else ""
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    before, rest = text.split(begin, 1)
    path.write_text(before + begin + "\n" + "\n".join(lines) + "\n" + end + rest.split(end, 1)[1])


def vqa_pages() -> None:
    """Tables and figures of the classification, of what was run."""
    folder = RUNS / "vqa" / "alignment"
    if (folder / "alignment.json").exists():
        measured = json.loads((folder / "alignment.json").read_text())
        rows = [f"| {r['stage']} | {r['gap']:.3f} | {r['cka']:.3f} | {r['separability']:.3f} |" for r in measured]
        head = ["| stage | modality gap | linear CKA | separability |", "| --- | ---: | ---: | ---: |"]
        picture = figure(folder / "alignment.png", "araf_alignment")
        write_section("araf_alignment.md", "vqa", [*head, *rows, "", picture])
    folder, store = RUNS / "vqa" / "compare", RUNS / "vqa" / "store"
    if (folder / "comparison.json").exists():
        comparison = json.loads((folder / "comparison.json").read_text())
        counts = ", ".join(f"{value} {key}" for key, value in comparison["counts"].items() if key != "folds")
        lines = [f"Rows: {counts}. {comparison['sentence']}", "", *metric_table(folder, METRICS), "", AGAINST, ""]
        tests = paired_rows(folder, store, "ARAF paper", ("concat", "cross-attention"))
        write_section("araf_vqa.md", "table", [*lines, *tests])
        write_section("araf_vqa.md", "roc", [figure(folder / "figures" / "roc-methods.png", "araf_vqa_roc")])
    if (RUNS / "vqa" / "ablation" / "comparison.json").exists():
        metrics = {key: METRICS[key] for key in ("accuracy", "f1_macro", "auc")}
        folder = RUNS / "vqa" / "ablation"
        tests = paired_rows(folder, store, "ARAF paper")
        write_section("araf_vqa.md", "ablation", [*metric_table(folder, metrics), "", AGAINST, "", *tests])


def ett_pages() -> None:
    """Tables and figures of the regression."""
    for file, horizon, split in [*SETTINGS, LEAKING]:
        folder = RUNS / "ett" / f"{file}-{horizon}-{split}"
        if not (folder / "forecast" / "forecast.json").exists():
            continue
        found = json.loads((folder / "forecast" / "forecast.json").read_text())
        lines = [f"| forecast | MSE | MAE | p (Holm) against {found['best_on_dev']} |", "| --- | ---: | ---: | ---: |"]
        for row in found["rows"]:
            cells = [
                f"{row[key]:.3f}" + (f" ± {row[f'{key}_sd']:.3f}" if row[f"{key}_sd"] is not None else "")
                for key in ("mse", "mae")
            ]
            p = "" if row["p_holm"] is None else f"{row['p_holm']:.2g}"
            lines.append(f"| {row['name']} | {cells[0]} | {cells[1]} | {p} |")
        comparison = json.loads((folder / "comparison.json").read_text())
        counts = ", ".join(f"{value} {key}" for key, value in comparison["counts"].items() if key != "folds")
        write_section("araf_ett.md", f"{file}-{horizon}-{split}", [f"Rows: {counts}.", "", *lines])
    folder = RUNS / "ett" / "-".join(map(str, ABLATED))
    if (folder / "forecast" / "forecast.json").exists():
        views = {name: folder / "forecast" / f"{name}-methods.png" for name in ("predicted", "residuals")}
        write_section("araf_ett.md", "figures", [figure(path, f"araf_ett_{name}") for name, path in views.items()])
    ablation = RUNS / "ett" / f"{'-'.join(map(str, ABLATED))}-ablation"
    if (ablation / "comparison.json").exists():
        lines = metric_table(ablation, {"mse": "MSE", "mae": "MAE"})
        tests = paired_rows(ablation, folder / "store", "ARAF paper")
        write_section("araf_ett.md", "ablation", [*lines, "", "MSE against that of ARAF paper:", "", *tests])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="vqa, ett; both by default")
    parser.add_argument("--pages", action="store_true", help="only write the pages")
    arguments = parser.parse_args()
    for each in arguments.names or ["vqa", "ett"]:
        if not arguments.pages:
            {"vqa": run_vqa, "ett": run_ett}[each]()
        {"vqa": vqa_pages, "ett": ett_pages}[each]()

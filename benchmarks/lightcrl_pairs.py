"""LightCRL on MRPC, STS-B and QQP: two frozen text encoders, as they are and aligned on mined caption pairs.

    WEFT_DATA=... python benchmarks/lightcrl_pairs.py [--seeds 0,1,2] [--rows N] [--pages]

MiniLM and hashed n-grams, aligned by LightCRL (addition) on pairs mined from Flickr8k's captions. Each set's sentences
are encoded once for all seeds. Every aligner and every table of a set leaves its file under runs/lightcrl_pairs, so a
killed run goes on; ``--rows`` draws at most so many pairs of a set; ``--pages`` (with the same ``--rows``) computes
nothing and writes docs/results/lightcrl_pairs.md and its figure. About 15 CPU minutes with all pairs, an estimate.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from araf_results import write_section
from harness import set_threads
from real_comparisons import RESULTS, ROOT, WEFT, variables

from weft.data import Dataset, Modality, load_dataset
from weft.encoders import create_encoder
from weft.models import AlignedModel
from weft.store import Store, encode
from weft.tasks.pairs import pair_metrics, pair_scores
from weft.tasks.plots import PALETTE, canvas
from weft.tasks.similarity import CLASSES, TOLERANCES, similarity_metrics, tolerance_curves

RUNS = ROOT / "runs" / "lightcrl_pairs"
PAGE = "lightcrl_pairs.md"
FIT = (
    "--fusion lightcrl --dim 256 --objective-option temperature=0.1 --set epochs=10 --set batch_size=64 "
    "--set lr=0.001 --set weight_decay=0.001"
)
NAMES = {"first": "MiniLM", "second": "hashed"}


class Set(NamedTuple):
    """A set of pairs, and which of its rows are judged (None: all)."""

    name: str
    folder: str
    title: str
    split: str | None


SETS = (
    Set("mrpc", "MRPC", "MRPC, test", "test"),
    Set("stsb", "STS-B", "STS-B, dev", "dev"),
    Set("qqp", "QQP", "QQP, all", None),
)


def weft(*arguments: object) -> None:
    """One command of the CLI."""
    subprocess.run([WEFT, *map(str, arguments)], check=True)


def train(seeds: list[int]) -> list[Path]:
    """The aligners' folders; what is there is kept."""
    there = variables()
    text, pairs, store = f"hf:{there['MINILM']}", RUNS / "pairs.csv", RUNS / "pairs-store"
    if not pairs.exists():
        weft("mine", "flickr8k", "--root", Path(there["WEFT_DATA"]) / "flickr8k", "--encoder", text, "-o", pairs)
    table = pairs.with_suffix(".yaml")
    weft("encode", table, "--encoder", f"first={text}", "--encoder", "second=hashed-text", "-o", store)
    for seed in seeds:
        weft("fit", store, *FIT.split(), "--set", f"seed={seed}", "-o", folder(seed))
    return [folder(seed) for seed in seeds]


def folder(seed: int) -> Path:
    """Where the aligner of a seed lies."""
    return RUNS / f"aligner-{seed}"


def judged(one: Set, most: int | None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Different sentences, the pairs ``(N, 2)`` of their numbers, and the gold label or score ``(N,)``."""
    data = load_dataset(one.name, Path(variables()["WEFT_DATA"]) / one.folder)
    rows = np.arange(len(data.ids)) if one.split is None else np.flatnonzero(data.split == one.split)
    if most is not None and most < len(rows):
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    sides = [[data.modalities[side].values[row] for row in rows] for side in ("first", "second")]
    sentences = list(dict.fromkeys(text for side in sides for text in side))
    place = {text: i for i, text in enumerate(sentences)}
    pairs = np.array([[place[a], place[b]] for a, b in zip(*sides, strict=True)])
    return sentences, pairs, next(iter(data.targets.values()))[rows]


def sentence_store(one: Set, sentences: list[str]) -> Store:
    """Every sentence's tokens by both encoders, as the two modalities of one row."""
    ids = [str(i) for i in range(len(sentences))]
    both = {name: Modality("text", sentences) for name in NAMES}
    data = Dataset(one.name, ids, both, {}, None, None, "retrieval")
    encoders = {
        "first": create_encoder(f"hf:{variables()['MINILM']}", "text"),
        "second": create_encoder("hashed-text", "text"),
    }
    return encode(data, encoders, RUNS / f"{one.name}-{len(sentences)}")


def judge(one: Set, seeds: list[int], most: int | None) -> None:
    """Figures of the raw encoders and of every aligner on one set; what is there is kept."""
    missing = [seed for seed in (None, *seeds) if not place(one, most, seed).exists()]
    if not missing:
        return
    sentences, pairs, gold = judged(one, most)
    store = sentence_store(one, sentences)
    for seed in missing:
        if seed is None:
            vectors = store.pooled(np.arange(len(sentences)))
            across = []
        else:
            vectors = AlignedModel.from_pretrained(folder(seed)).embed(store)
            across = [("first", "second")]
        figures: dict[str, Any] = {}
        for a, b in [("first", "first"), ("second", "second"), *across]:
            scores = pair_scores(vectors[a][pairs[:, 0]], vectors[b][pairs[:, 1]])
            name = f"{NAMES[a]}, mean" if seed is None else f"LightCRL, {NAMES[a]} x {NAMES[b]}"
            if one.name == "stsb":
                figures[name] = similarity_metrics(scores, gold)
                figures[name]["curves"] = tolerance_curves(scores, gold).tolist()
            else:
                figures[name] = pair_metrics(scores, gold)
        figures["rows"] = len(gold)
        place(one, most, seed).write_text(json.dumps(figures))
        print(one.name, "raw" if seed is None else f"seed {seed}", "done", flush=True)


def place(one: Set, most: int | None, seed: int | str | None) -> Path:
    """Where the figures of a set lie; seed None: those of the raw encoders."""
    return RUNS / f"{one.name}-{most or 'all'}-{'raw' if seed is None else seed}.json"


def found(one: Set, most: int | None) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Number of pairs, and the figures of every system, a list over seeds."""
    systems: dict[str, list[dict[str, Any]]] = {}
    rows = 0
    for path in [place(one, most, None), *sorted(RUNS.glob(place(one, most, "[0-9]").name))]:
        figures = json.loads(path.read_text())
        rows = figures.pop("rows")
        for name, row in figures.items():
            systems.setdefault(name, []).append(row)
    return rows, systems


def table(one: Set, most: int | None) -> list[str]:
    """One row per system: mean and, over several seeds, standard deviation."""
    rows, systems = found(one, most)
    short = {"F1": "F", "average precision": "AP", "precision": "P", "recall": "R", "dissimilar": "0", "similar": "1"}
    names = [name for name in next(iter(systems.values()))[0] if name != "curves"]
    heads = []
    for name in names:
        kind, _, metric = name.partition(" ")
        heads.append(f"{short.get(metric, metric)}{short[kind]}" if kind in short else short.get(name, name))
    lines = [
        f"{one.title}: {rows:,} pairs.",
        "",
        f"| system | {' | '.join(heads)} |",
        "| --- |" + " ---: |" * len(heads),
    ]
    for name, fits in systems.items():
        cells = []
        for metric in names:
            values = np.array([fit[metric] for fit in fits])
            shares = metric == "accuracy" or metric.startswith(("dissimilar ", "similar "))
            values, digits = (100 * values, 1) if shares else (values, 3)
            sd = f" ± {values.std(ddof=1):.{digits}f}" if len(fits) > 1 else ""
            cells.append(f"{values.mean():.{digits}f}{sd}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def curves(most: int | None) -> list[str]:
    """The tolerance curves of STS-B, averaged over seeds."""
    _, systems = found(SETS[1], most)
    with canvas(RESULTS / "figures", "lightcrl_pairs", columns=len(CLASSES), size=(3.4, 3.4)) as panels:
        for k, (name, fits) in enumerate(systems.items()):
            mean = np.mean([fit["curves"] for fit in fits], axis=0)
            for axes, curve in zip(panels, mean, strict=True):
                axes.plot(TOLERANCES, curve, label=name, color=PALETTE[k])
        for axes, name in zip(panels, CLASSES, strict=True):
            axes.set(xlabel="tolerance", title=f"score {name}", ylim=(-0.02, 1.02))
        panels[0].set_ylabel("share of pairs within it")
        panels[-1].legend(fontsize=7)
    return ["![Tolerance curves of STS-B](figures/lightcrl_pairs.png)"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2", help="of the aligners, joined by commas")
    parser.add_argument("--rows", type=int, help="at most so many pairs of a set, drawn with seed 0")
    parser.add_argument("--pages", action="store_true", help="compute nothing, write the page from what is there")
    arguments = parser.parse_args()
    set_threads(1)
    if not arguments.pages:
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        RUNS.mkdir(parents=True, exist_ok=True)
        train(seeds)
        for one in SETS:
            judge(one, seeds, arguments.rows)
    for one in SETS:
        write_section(PAGE, one.name, table(one, arguments.rows))
    write_section(PAGE, "curves", curves(arguments.rows))


if __name__ == "__main__":
    main()

"""Does synergy above its null, measured before training, predict that joint fusion beats late fusion?

For every pair of modalities of real and made sets: the synergy of ``weft inspect --target`` on the training rows, minus
what late fusion explains (its mean where the modalities are independent given the target); and on test rows what joint
fusion gains over late fusion, in bits per row: the difference in log loss, for values half the log of the ratio of
squared errors. Joint is the better on dev of a hidden layer over both (``concat``) and a product of both (``mlb``);
late the better on dev of two rules that combine two networks; both small, of equal budget, the mean of two seeds'
outputs. Features are pooled, of the built-in encoders and, for photos, MobileNetV2.

Written: ``docs/results/synergy.md``, with the rank correlation over all pairs, over the real ones and over the real
sets (pairs of one set are no independent witnesses), each with a permutation p. xor, mixed 0.4, shapes, mosi,
digits_av, mrpc, wikipedia and breast_cancer were measured at 6bcbd94 on an Intel Xeon, the others at b8f9a0b.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/synergy.py [set ...]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import machine, set_threads, write_result
from scipy.io import loadmat
from scipy.stats import spearmanr

from weft.compare.information import inspect_target
from weft.data import Dataset, Split, load_dataset, make_splits, propose_table, read_table
from weft.encoders import create_encoder, default_encoder
from weft.files import write_bytes
from weft.models import FusedModel
from weft.store import MemoryFeatures, encode
from weft.tasks.base import create_task
from weft.training import fit

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
DATA = Path(os.environ.get("WEFT_DATA", SHARED / "data"))
PHOTOS = f"hf:{os.environ.get('WEFT_MODELS', SHARED / 'models')}/mobilenet_v2_1.0_224"
RESULT = ROOT / "benchmarks" / "results" / "synergy.json"
PAGE = ROOT / "docs" / "results" / "synergy.md"
MOST = {"train": 1000, "dev": 400, "test": 1000}
JOINT, SEEDS, DRAWS = ("concat", "mlb"), 2, 9999
LATE = {"classification": ("mean", "product"), "regression": ("mean", "inverse-variance")}
TRAIN = {"epochs": 40, "patience": 8, "lr": 3e-3, "batch_size": 64, "monitor": "loss"}
Maker = Callable[[], MemoryFeatures]


def encoded(dataset: Dataset, **encoders: str) -> MemoryFeatures:
    """Pooled features of a data set by the default encoders, or those given, that learn from training rows alone."""
    made = {
        name: create_encoder(encoders.get(name, default_encoder(modality.kind)), modality.kind)
        for name, modality in dataset.modalities.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        store = encode(dataset, made, folder, dtype="fp32", progress=False)
        values = store.pooled(np.arange(len(store)))
    return MemoryFeatures(
        store.ids, values, store.targets, split=store.split, group=store.group, task=store.task, labels=store.labels
    )


def mixed(share: float) -> MemoryFeatures:
    """A class that is partly a sum and partly a product: the sign of ``(1 - share)(s + t) / sqrt 2 + share s t``."""
    rng = np.random.default_rng(int(100 * share))
    s, t = rng.normal(size=(2, 2400))
    value = (1 - share) * (s + t) / 2**0.5 + share * s * t + 0.4 * rng.normal(size=2400)
    parts = {
        name: np.outer(x, rng.normal(size=6)) + 0.3 * rng.normal(size=(2400, 6)) for name, x in (("a", s), ("b", t))
    }
    return MemoryFeatures([str(i) for i in range(2400)], parts, {"y": (value > 0).astype(int)})


def emotions(label: int) -> MemoryFeatures:
    """One emotion of music from rhythm and timbre."""
    content = loadmat(DATA / "mvml_emotions" / "emotions.mat")
    views = {
        name: np.asarray(v, dtype=np.float64)
        for name, v in zip(("rhythm", "timbre"), content["data"].ravel(), strict=True)
    }
    target = (np.asarray(content["target"])[:, label] > 0).astype(int)
    return MemoryFeatures([str(i) for i in range(len(target))], views, {"y": target})


def table(name: str, target: str, **changes: Any) -> MemoryFeatures:
    """A table as ``weft init`` proposes it."""
    path = DATA / "tables" / f"{name}.csv"
    return encoded(read_table(path, propose_table(path, target=target, **changes).config))


MADE: dict[str, Maker] = {
    **{
        name: (lambda name=name: encoded(load_dataset(name, rows=2400)))
        for name in ("xor", "redundant", "unique", "noise")
    },
    **{f"mixed {share}": (lambda share=share: mixed(share)) for share in (0.0, 0.2, 0.4, 0.6, 0.8)},
    "shapes": lambda: encoded(load_dataset("shapes", rows=1500)),
}
REAL: dict[str, Maker] = {
    "digits_av": lambda: encoded(load_dataset("digits_av", DATA)),
    "mosi": lambda: encoded(load_dataset("mosi", DATA / "mosi")),
    "breast_cancer": lambda: encoded(load_dataset("breast_cancer")),
    "handwritten": lambda: encoded(load_dataset("multiview", DATA / "multiview")).subset(
        ["profile", "fourier", "morphology", "zernike"]
    ),
    "wikipedia": lambda: encoded(load_dataset("multiview", DATA / "multiview", file="Wikipedia")),
    **{f"emotions {k}": (lambda k=k: emotions(k)) for k in range(6)},
    "ett": lambda: encoded(load_dataset("ett", DATA / "ETT-small", change=True, stride=4)),
    "mrpc": lambda: encoded(load_dataset("mrpc", DATA / "MRPC")),
    "stsb": lambda: encoded(load_dataset("stsb", DATA / "STS-B")),
    "vqa": lambda: encoded(
        load_dataset("vqa", DATA / "vqa", answers=["2", "3", "table", "chair", "window"]), image=PHOTOS
    ),
    "reviews": lambda: table("reviews", "Recommended IND", drop=["Rating"]),
    "pets": lambda: table("pets", "AdoptionSpeed", group="RescuerID"),
}


def few(features: MemoryFeatures) -> tuple[MemoryFeatures, Split]:
    """At most ``MOST`` rows of each part of the split, in one block each."""
    rng = np.random.default_rng(0)
    parts = [np.sort(rng.permutation(rows)[: MOST[part]]) for part, rows in make_splits(features)._asdict().items()]
    rows, column = np.concatenate(parts), next(iter(features.targets))
    chosen = MemoryFeatures(
        [features.ids[row] for row in rows],
        features.pooled(rows),
        {column: features.targets[column][rows]},
        group=None if features.group is None else features.group[rows],
        task=features.task,
    )
    return chosen, Split(*np.split(np.arange(len(rows)), np.cumsum([len(part) for part in parts])[:-1]))


def bits(features: MemoryFeatures, split: Split, ways: list[dict[str, Any]]) -> float:
    """Loss on test of the way that is best on dev: bits per row, for values half the log of the squared error."""
    column = next(iter(features.targets))
    target = features.targets[column]
    task, losses = create_task(features.task, target[split.train]), []
    for way in ways:
        outputs = []
        for seed in range(SEEDS):
            model = FusedModel.build(dims=features.dims, task=task, dim=32, seed=seed, target=column, **way)
            fit(model, features, split, {**TRAIN, "seed": seed}, progress=False)
            outputs.append([model.outputs(features, rows) for rows in (split.dev, split.test)])
        means = [task.average(np.stack(part)) for part in zip(*outputs, strict=True)]
        losses.append([_bits(task, *both) for both in zip(means, (target[split.dev], target[split.test]), strict=True)])
    return min(losses)[1]


def _bits(task: Any, outputs: np.ndarray, target: np.ndarray) -> float:
    loss = float(task.loss(torch.from_numpy(outputs), task.encode(target)).mean())
    return loss / np.log(2) if task.estimator == "classifier" else 0.5 * float(np.log2(loss))


def measure(name: str, make: Maker) -> list[dict[str, Any]]:
    """Synergy and gain of every pair of a set."""
    features, split = few(make())
    found = []
    for pair in combinations(features.dims, 2):
        part = features.subset(pair)
        both = part.presence.all(axis=1)
        rows = Split(*(rows[both[rows]] for rows in split))
        known = MemoryFeatures(
            [part.ids[row] for row in rows.train],
            part.pooled(rows.train),
            {key: value[rows.train] for key, value in part.targets.items()},
            group=None if part.group is None else part.group[rows.train],
            task=part.task,
        )
        (said,) = inspect_target(known)
        joint = bits(part, rows, [{"fusion": fusion} for fusion in JOINT])
        late = bits(part, rows, [{"decision": "late", "rule": rule} for rule in LATE[part.task]])
        found.append(
            {
                "set": name,
                "pair": " + ".join(pair),
                "real": name in REAL,
                "rows": len(rows.train),
                "synergy": said.synergy,
                "late": said.late,
                "above": said.synergy - said.late,
                "above_null": said.synergy > said.late_most,
                "may_help": said.joint_may_help,
                "gain": float(late - joint),
            }
        )
        print(found[-1], flush=True)
    return found


def correlation(above: np.ndarray, gain: np.ndarray) -> dict[str, float]:
    """Spearman's, and its one-sided permutation p."""
    rng, rho = np.random.default_rng(0), float(spearmanr(above, gain).statistic)
    null = [float(spearmanr(rng.permutation(above), gain).statistic) for _ in range(DRAWS)]
    return {"n": len(gain), "rho": rho, "p": (1 + sum(r >= rho for r in null)) / (1 + DRAWS)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Correlations, and the mean gain where synergy is above its null and where not."""
    real = [row for row in rows if row["real"]]
    sets = list(dict.fromkeys(row["set"].split()[0] for row in real))
    of = [[row for row in real if row["set"].split()[0] == name] for name in sets]
    mean = [{key: float(np.mean([row[key] for row in part])) for key in ("above", "gain")} for part in of]
    found: dict[str, Any] = {
        name: correlation(*(np.array([row[key] for row in part]) for key in ("above", "gain")))
        for name, part in (("all pairs", rows), ("real pairs", real), ("real sets", mean))
        if len(part) > 3
    }
    for above in (True, False):
        gains = [row["gain"] for row in real if row["above_null"] is above]
        found[f"real pairs {'' if above else 'not '}above their null"] = {
            "n": len(gains),
            "mean gain": float(np.mean(gains)) if gains else float("nan"),
            "share with a gain": float(np.mean(np.array(gains) > 0)) if gains else float("nan"),
        }
    return found


def page(rows: list[dict[str, Any]], found: dict[str, Any]) -> str:
    """The result as Markdown."""
    claim, how = __doc__.split("\n\n")[:2]
    waiting = [name for name in (*MADE, *REAL) if name not in {row["set"] for row in rows}]
    yes = found.get("real pairs", {}).get("p", 1.0) < 0.05
    lines = [
        f"# {claim}",
        "",
        f"On the real pairs measured: {'yes' if yes else 'no'}. Each p is one-sided.",
        *([f"Not measured yet: {', '.join(waiting)}."] if waiting else []),
        "",
        how.replace("\n", " "),
        "",
        "| over | n | rank correlation | p |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {row['n']} | {row['rho']:+.2f} | {row['p']:.4f} |" for name, row in found.items() if "rho" in row
    ]
    lines += ["", "| real pairs | n | mean gain of joint, bits per row | share with a gain |", "|---|---:|---:|---:|"]
    lines += [
        f"| {name[11:]} | {row['n']} | {row['mean gain']:+.3f} | {row['share with a gain']:.2f} |"
        for name, row in found.items()
        if "mean gain" in row
    ]
    lines += [
        "",
        "| set | pair | train rows | synergy | late explains | above | joint gains on test |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['set']} | {row['pair']} | {row['rows']:,} | {row['synergy']:.3f} | {row['late']:.3f} | "
        f"{row['above']:+.3f}{' *' if row['above_null'] else ''} | {row['gain']:+.3f} |"
        for row in sorted(rows, key=lambda row: -row["above"])
    ]
    about = machine()
    lines += [
        "",
        "*: above the 95 % quantile of its null. By .05 and more `weft inspect` says that joint fusion may gain, a",
        "bound taken from this table. Bits throughout.",
        "",
        f"Measured {about['utc'][:10]} at {about['commit'][:7]}, one thread: `python benchmarks/synergy.py`.",
        "",
    ]
    return "\n".join(lines)


def main(names: list[str]) -> None:
    """Measure the sets named, or all; the page is written from all that have been measured."""
    set_threads(1)
    makers, rows = {**MADE, **REAL}, []
    if names and RESULT.exists():
        rows = [row for row in json.loads(RESULT.read_text())["pairs"] if row["set"] not in names]
    for name in names or makers:
        rows += measure(name, makers[name])
        found = summary(rows)
        write_result("synergy", {"most rows": MOST, **found, "pairs": rows})
        write_bytes(PAGE, page(rows, found).encode())


if __name__ == "__main__":
    main(sys.argv[1:])

"""CPU seconds and peak memory against the number of rows, with fitted exponents.

Two modalities of 512 features, a binary target that both know something of. Each part runs in a process of its own,
from a store on disk: ``store`` writes it, ``standardise`` learns means and scales, ``linear`` fits a logistic
regression on all 1,024 columns at one strength, ``network`` trains ``concat`` for an epoch and judges it on dev,
``cca`` aligns the modalities in closed form, ``search`` finds the 10 nearest rows of the second for 256 rows of the
first. Memory is the rise of the resident set over the call, pages of the store that the system maps included (they are
given back when others need them). The exponent is the slope of a line through the logarithms of the last two sizes.

python benchmarks/scaling.py [--rows 1000 10000 100000] [--parts store linear ...] [--folder DIR]

A million rows take 2 GiB of disk and some minutes: ``--rows 1000000``. Sizes that are not run anew keep their figures.

``comparison``, run where it is asked for, is what of a ``weft compare`` holds most: linear and boosted models of both
modalities, in one process, two trials, one seed, to its verdict and kept model; of its work one strength of linear
models and three rounds of boosting, which changes no memory. Networks hold less, see ``network``.

**A million rows fit in 8 GiB**: where the kernel lets the process have no more (a memory cgroup, the store written
before), the comparison ends, takes 6.0 GiB at its most and never asks in vain. Its resident set reaches 8.0 GiB, up to
1.9 of them pages of the store, which the system takes back when others need them. (One process, ``--jobs 1``; the
default starts as many as memory holds.) Before a finished job gave its memory back the call
took 356 MiB more (8,108 for 7,752; the likely cause, not shown: a hole that a linear model's matrix leaves and that the
next one does not fit into). Commit be0882d reached 9.1 GiB in the linear model alone, two
matrices of all features at once, and did not come to boosting.

The store and the comparison of a million rows were run on an AMD EPYC whose other core was busy, all else on an Intel
Xeon, so the exponents of their CPU seconds mix two machines: .32 ms a row here, .29 ms there with the code before. A
comparison of 50,000 rows (linear and boosted models and ``concat``, four trials, three epochs) took be0882d 164 CPU
seconds and this code 114, one run each, every figure the same. Where the target is a value, scikit-learn's ridge copies
the matrix, which at a million rows is 2.7 GiB more.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import RESULTS, peak_memory, set_threads, write_result

from weft.alignment import create_objective
from weft.allocator import keep_freed_memory
from weft.compare import CompareConfig, compare, jobs
from weft.data import make_splits
from weft.data.dataset import Dataset, Modality
from weft.encoders import create_encoder
from weft.models.aligned import AlignedModel
from weft.models.fused import FusedModel
from weft.models.linear import linear_path
from weft.models.pooled import PooledInputs
from weft.models.standardise import Standardiser
from weft.retrieval.search import ExactIndex
from weft.store import Store, encode
from weft.tasks.base import create_task
from weft.training import fit, fit_aligner
from weft.training.batches import Batches

WIDTH, NAMES = 512, ("one", "two")
PIECE = 1 << 14
KINDS = {"exponents of CPU seconds": "cpu_s", "exponents of memory": "peak_bytes"}


def write_values(folder: Path, rows: int) -> None:
    """The values of both modalities and the target as ``.npy`` files, piece by piece."""
    rng, target = np.random.default_rng(0), np.zeros(rows, dtype=np.int64)
    shift = rng.normal(size=(2, WIDTH)).astype(np.float32) / 40
    files = [np.lib.format.open_memmap(folder / f"{n}.npy", "w+", np.float16, (rows, WIDTH)) for n in NAMES]
    for start in range(0, rows, PIECE):
        stop = min(rows, start + PIECE)
        target[start:stop] = rng.integers(0, 2, stop - start)
        shared = rng.standard_normal((stop - start, 8), dtype=np.float32) @ rng.standard_normal((8, WIDTH), np.float32)
        for m, file in enumerate(files):
            noise = rng.standard_normal((stop - start, WIDTH), dtype=np.float32)
            file[start:stop] = noise + shared / 8 + target[start:stop, None] * shift[m]
    np.save(folder / "target.npy", target)


def opened(folder: str) -> tuple[Store, Any]:
    store = Store.open(Path(folder) / "store")
    return store, make_splits(store)


def store(folder: str) -> Callable[[], Any]:
    values = {name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in NAMES}
    target = np.load(Path(folder) / "target.npy")
    ids = [str(i) for i in range(len(target))]
    columns = {name: Modality("vector", v) for name, v in values.items()}
    data = Dataset("scaling", ids, columns, {"y": target}, None, None, "classification")
    encoders = {name: create_encoder("precomputed", "vector") for name in NAMES}
    return lambda: encode(data, encoders, Path(folder) / "store", shard_rows=PIECE, batch_size=1024, progress=False)


def standardise(folder: str) -> Callable[[], Any]:
    features, split = opened(folder)
    batches = Batches(features, split.train, torch.device("cpu"), True, 0)
    return lambda: Standardiser(features.dims).fit(batches.chunks())


def linear(folder: str) -> Callable[[], Any]:
    features, split = opened(folder)
    target = features.targets["y"][split.train]
    task = create_task("classification", target)

    def call() -> Any:
        inputs = PooledInputs.fit(features, split.train)
        return list(linear_path(task, inputs.matrix(features, split.train), target, [0.01]))

    return call


def network(folder: str) -> Callable[[], Any]:
    features, split = opened(folder)
    task = create_task("classification", features.targets["y"][split.train])

    def call() -> Any:
        model = FusedModel.build(dims=features.dims, task=task, fusion="concat", dim=128, target="y")
        return fit(model, features, split, {"epochs": 1}, progress=False)

    return call


def cca(folder: str) -> Callable[[], Any]:
    features, split = opened(folder)

    def call() -> Any:
        model = AlignedModel.build(dims=features.dims, aligner="cca", dim=64)
        return fit_aligner(model, create_objective("infonce"), features, split._replace(dev=split.dev[:1000]), {})

    return call


def search(folder: str) -> Callable[[], Any]:
    features, _ = opened(folder)
    rows = np.arange(len(features))

    def call() -> Any:
        vectors = torch.from_numpy(features.subset(["two"]).pooled(rows)["two"])
        index = ExactIndex(torch.nn.functional.normalize(vectors, dim=1), features.ids, fingerprint="scaling")
        queries = torch.from_numpy(features.subset(["one"]).pooled(rows[:256])["one"])
        return index.search(torch.nn.functional.normalize(queries, dim=1), k=10)

    return call


def comparison(folder: str) -> Callable[[], Any]:
    features, _ = opened(folder)
    keep_freed_memory()  # as the command does
    jobs.STRENGTHS, jobs.ROUNDS = (0.01,), 3
    settings = {"only": ["linear", "boosting"], "without": ["* (*)"], "ensembles": False, "refit": False}
    config = CompareConfig(**settings, seeds=1, trials=2)
    return lambda: compare(features, config, Path(folder) / "compare", progress=False)


PARTS = {f.__name__: f for f in (store, standardise, linear, network, cca, search, comparison)}


def exponents(measured: dict[str, dict[str, Any]], key: str) -> dict[str, float]:
    """Of every part the slope over its last two sizes."""
    found = {}
    for part in PARTS:
        sizes = sorted(m["size"] for name, m in measured.items() if m["part"] == part)
        if len(sizes) > 1:
            few, many = (measured[label(part, size)][key] for size in sizes[-2:])
            found[part] = round(float(np.log(many / max(few, 1e-9)) / np.log(sizes[-1] / sizes[-2])), 2)
    return found


def label(part: str, size: int) -> str:
    return f"{part}, {size:,} rows"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS)[:-1])
    parser.add_argument("--folder", type=Path, help="where the stores lie; default a temporary folder")
    arguments = parser.parse_args()
    set_threads(1)
    path = RESULTS / "scaling.json"
    measured: dict[str, dict[str, Any]] = json.loads(path.read_text())["measured"] if path.exists() else {}
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            write_values(Path(folder), rows)
            for part in dict.fromkeys(["store", *arguments.parts]):
                name = label(part, rows)
                measured[name] = {"part": part, "size": rows, **peak_memory(PARTS[part], folder, threads=1)}
                mebibytes = measured[name]["peak_bytes"] / 2**20
                print(f"{name}: {measured[name]['cpu_s']:.2f} CPU s, {mebibytes:.0f} MiB", flush=True)
                slopes = {kind: exponents(measured, key) for kind, key in KINDS.items()}
                write_result("scaling", {**slopes, "measured": measured})


if __name__ == "__main__":
    main()

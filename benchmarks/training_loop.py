"""Claim: weft's training loop runs at 85 % or more of the speed of a minimal loop written by hand.

The reference is the least that trains the same model: the module's loss, AdamW, gradient clipping, batches by
``index_select`` from tensors in memory, the cosine schedule, dev loss and accuracy once per epoch, best weights kept.
No progress, log, checkpoint, check for a loss that is not finite, or seed per step. Both sides start from the same
weights, see the same batches, and are compared in their losses before anything is timed. One thread: steps this small
gain nothing from more, and on a shared machine threads that wait for each other would be all there is to see.

A run with checkpoints writes its best model and its last state at least at its end: a handful of synced files, a fixed
cost whatever the run. The cases with checkpoints show it for 20 epochs of little work.

Run from the repository root: ``python benchmarks/training_loop.py``.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import compare_ab, set_threads, write_result

from weft.data import Split
from weft.models import FusedModel
from weft.store import MemoryFeatures
from weft.tasks.base import create_task
from weft.tokens import as_tokens
from weft.training import TrainConfig, fit
from weft.training.loop import History, make_optimizer
from weft.training.schedule import learning_rate

CASES = {
    "small": {"rows": 2000, "dims": {"text": 384, "image": 1280}, "fusion": "concat", "dim": 128, "batch_size": 128},
    "large": {"rows": 1500, "dims": {"text": 768, "image": 1280}, "fusion": "concat", "dim": 512, "batch_size": 256},
    "tiny": {"rows": 800, "dims": {"a": 16, "b": 16}, "fusion": "concat", "dim": 32, "batch_size": 32},
}
EPOCHS = 20


def problem(rows: int, dims: dict[str, int], **_: Any) -> tuple[MemoryFeatures, Split]:
    """Random features of the right shape, and labels a linear model can partly tell."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, rows)
    values = {name: rng.normal(size=(rows, d)).astype(np.float32) for name, d in dims.items()}
    for value in values.values():
        value[np.arange(rows), label] += 1
    split = Split(*np.split(np.arange(rows), [int(rows * 0.8), int(rows * 0.9)]))
    return MemoryFeatures([str(i) for i in range(rows)], values, {"label": label}), split


def build(features: MemoryFeatures, split: Split, fusion: str, dim: int, **_: Any) -> FusedModel:
    task = create_task("classification", features.targets["label"][split.train])
    return FusedModel.build(dims=features.dims, task=task, fusion=fusion, dim=dim, dropout=0.0)


def by_hand(model: FusedModel, features: MemoryFeatures, split: Split, config: TrainConfig) -> list[float]:
    """The minimal loop; losses of the epochs."""
    tensors = {name: torch.from_numpy(values) for name, values in features.pooled(np.arange(len(features))).items()}
    target = model.task.encode(features.targets["label"])
    train, dev = torch.from_numpy(split.train), torch.from_numpy(split.dev)
    model.standardise.fit([{name: as_tokens(t.index_select(0, train)) for name, t in tensors.items()}])
    optimizer = make_optimizer(model, config)
    dev_inputs = {name: as_tokens(t.index_select(0, dev)) for name, t in tensors.items()}
    dev_target = target[dev]
    steps = math.ceil(len(train) / config.batch_size)
    history, best_score, best = [], -1.0, {}
    for epoch in range(config.epochs):
        order = torch.from_numpy(np.random.default_rng([config.seed, epoch]).permutation(len(train)))
        total = 0.0
        model.train()
        for step, index in enumerate(order.tensor_split(steps)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, epoch * steps + step, config.epochs * steps)
            rows = train[index]
            inputs = {name: as_tokens(t.index_select(0, rows)) for name, t in tensors.items()}
            loss = model.loss(inputs, target[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            total += loss.item()
        history.append(total / steps)
        model.eval()
        with torch.no_grad():
            outputs = model(dev_inputs)
            torch.nn.functional.cross_entropy(outputs, dev_target)
            score = (outputs.argmax(dim=1) == dev_target).float().mean().item()
        if score > best_score:
            best_score, best = score, {name: t.clone() for name, t in model.state_dict().items()}
    model.load_state_dict(best)
    return history


def sides(case: dict[str, Any], *, folder: bool) -> tuple[Callable[[], History], Callable[[], list[float]]]:
    features, split = problem(**case)
    config = TrainConfig(epochs=EPOCHS, patience=0, batch_size=case["batch_size"])

    def ours() -> History:
        model = build(features, split, **case)
        if not folder:
            return fit(model, features, split, config, progress=False)
        with tempfile.TemporaryDirectory() as path:
            return fit(model, features, split, config, path, progress=False)

    def reference() -> list[float]:
        return by_hand(build(features, split, **case), features, split, config)

    return ours, reference


def main() -> None:
    set_threads(1)
    figures = {}
    for name, case in CASES.items():
        for folder in (False, True):
            ours, reference = sides(case, folder=folder)
            losses = [epoch["loss"] for epoch in ours().epochs]
            np.testing.assert_allclose(losses, reference(), rtol=1e-4)
            label = f"{name}{' with checkpoints' if folder else ''}"
            figures[label] = {"case": case, **compare_ab(label, ours, reference, repeats=5)}
    write_result("training_loop", {"epochs": EPOCHS, "target": 0.85, "figures": figures})


if __name__ == "__main__":
    main()

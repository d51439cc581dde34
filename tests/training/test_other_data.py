"""A folder with the run of a system is no answer for other raw rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from weft.data import Dataset, Modality, Split
from weft.errors import UserError
from weft.tasks.judge import Judge
from weft.training.system import Need, System
from weft.training.system_task import fit_system

SPLIT = Split(np.arange(16), np.arange(16, 20), np.arange(20, 24))
QUICK = {"epochs": 2, "batch_size": 8, "patience": 0}


class Nearness(Judge):
    """Minus the squared error."""

    primary = "error"
    higher_is_better = False

    def metrics(self, outputs: Any, target: Any) -> dict[str, float]:
        return {"error": -float(self.scores(outputs, target).mean())}

    def scores(self, outputs: Any, target: Any) -> np.ndarray:
        return -((np.stack(outputs)[:, 0] - np.asarray(target)) ** 2)


class Line(System):
    """A number from a vector."""

    reads = {"x": Need("vector"), "y": Need("label", target=True)}
    writes, judge, format = "label", "nearness", "Line/1"

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(3, 1)

    def make_judge(self, **options: Any) -> Judge:
        return Nearness()

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> Any:
        x = np.stack([data.modalities["x"].values[row] for row in rows])
        return torch.from_numpy(x).float(), torch.from_numpy(data.targets["y"][rows]).float()

    def loss(self, batch: Any) -> Tensor:
        return (self.network(batch[0])[:, 0] - batch[1]).square()

    def predict(self, data: Dataset, rows: np.ndarray) -> Sequence[Any]:
        return list(self.network(self.batch(data, rows)[0]).numpy())


def data(changed: str = "") -> Dataset:
    rng = np.random.default_rng(0)
    x, y = list(rng.normal(size=(24, 3))), rng.normal(size=24)
    if changed == "values":
        x[3] = x[3] + 1e-3
    if changed == "targets":
        y[3] += 1e-3
    return Dataset("d", [str(i) for i in range(24)], {"x": Modality("vector", x)}, {"y": y}, None, None, "regression")


@pytest.mark.parametrize("changed", ["values", "targets"])
def test_the_same_folder_with_other_rows_is_refused(tmp_path: Path, changed: str) -> None:
    first = fit_system(Line(), data(), SPLIT, QUICK, tmp_path, progress=False)
    assert fit_system(Line(), data(), SPLIT, QUICK, tmp_path, progress=False).epochs == first.epochs
    with pytest.raises(UserError, match=r"another run[\s\S]*data"):
        fit_system(Line(), data(changed), SPLIT, QUICK, tmp_path, progress=False)

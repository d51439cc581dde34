"""METER on two pictures: is a text about them true (NLVR2)? Two passes, the second picture of a type of its own."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from weft.data import Dataset
from weft.systems.meter.system import Meter, show
from weft.training.system import Need, systems

TABLE = "token_type_embeddings.weight"


@systems.register("meter-two")
class MeterTwo(Meter):
    """Is a text about two pictures true? Dou et al. 2022; options as of ``meter``, the loss is that of the task.

    The type of the second picture begins as that of the first, where training begins from ``meter-pairs``.
    """

    reads = {
        "image": Need("image"), "other": Need("image"), "text": Need("text"), "label": Need("label", target=True),
    }  # fmt: skip
    reader = "nlvr2"
    variants = {"co-attention": {"fusion": "co"}, "merged": {"fusion": "merged"}}
    head, types = "nlvr2", 3

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        model = super().fitted(data, rows, **{"loss": "task", **options})
        table = model.network.get_parameter(TABLE)
        with torch.no_grad():
            table[2] = table[1]
        return model

    def inputs(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> Any:
        columns = self.columns(data, target=False)
        words = self.read.vocabulary.padded(self.read.words(data, columns["text"], rows))
        return (*words, *(show(self, data, rows, columns[role]) for role in ("image", "other")))

    def forward(self, ids: Tensor, mask: Tensor, *images: Any) -> Tensor:
        """Logits ``(B, answers)``."""
        return self.network.nlvr2(ids, mask, *images)

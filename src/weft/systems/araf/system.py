"""ARAF's published network as a system: classification or regression of an image with a numeric sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from weft.data import Dataset, read_image
from weft.registry import Count, Learned
from weft.systems.araf.network import MultiModalEnhancer
from weft.training.system import Need, TaskSystem, systems


@systems.register("araf")
class Araf(TaskSystem):
    """An image and a numeric sequence to a class or a value; ARAF 2023.

    Args:
        size: height and width the images are resized to, in pixels.
        width, heads, head_dim: see :class:`~weft.systems.araf.network.MultiModalEnhancer`.
        image: further options of its :class:`~weft.systems.araf.network.ImageEncoder`.
        task: learned: what is asked.
    """

    reads = {"image": Need("image"), "signal": Need("series"), "label": Need("label", target=True)}
    trained_with = {"lr": 1e-4, "batch_size": 32}
    paper = "ARAF: Attention-based cross-modal representation alignment and fusion mechanism for multitasks, 2023"

    def __init__(
        self,
        *,
        size: Count = 256,
        width: Count = 512,
        heads: Count = 8,
        head_dim: Count = 64,
        image: dict[str, Any] | None = None,
        task: Learned[dict[str, Any] | None] = None,
    ) -> None:
        super().__init__(task or {})
        self.size, self.width, self.heads, self.head_dim, self.image = size, width, heads, head_dim, image
        shape: dict[str, Any] = {"width": width, "heads": heads, "head_dim": head_dim}
        self.network = MultiModalEnhancer(self.answers.outputs, image={"size": size, **(image or {})}, **shape)

    def inputs(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Sequences ``(B, L)``, several channels one after the other and zeros after the end, and images."""
        columns = self.columns(data, target=False)
        series = [torch.from_numpy(data.modalities[columns["signal"]].values[row]).float().flatten() for row in rows]
        images = [self._image(data, int(row), columns["image"]) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(series, batch_first=True), torch.stack(images)

    def forward(self, signal: Tensor, image: Tensor) -> Tensor:
        """Outputs ``(B, K)`` of the task."""
        return self.network(signal, image)

    def _image(self, data: Dataset, row: int, column: str) -> Tensor:
        image = read_image(data.modalities[column].values[row], f"image of row {data.ids[row]!r}")
        pixels = np.array(image.resize((self.size, self.size), Image.Resampling.BICUBIC))
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255

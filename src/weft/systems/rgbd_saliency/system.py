r"""RGB-D salient object detection as a system: photo and depth of any size to a map of what stands out.

Training resizes every image to a square and, with ``augment``, flips it and cuts up to an eighth off each side first.
Of frozen backbones the maps of every image and of its mirror image are computed once and kept (:class:`FeatureMaps`),
and ``augment`` only flips. The loss is :func:`~weft.systems.rgbd_saliency.loss.saliency_loss`; the best epoch is that
with the highest mean S-measure of the dev rows, each at the size of its own mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from weft.data import Dataset
from weft.errors import UserError
from weft.models.seen import Seen
from weft.registry import Count
from weft.systems.images import resized
from weft.systems.rgbd_saliency.loss import saliency_loss
from weft.systems.rgbd_saliency.metrics import Masks
from weft.systems.rgbd_saliency.network import RgbdSaliencyNet, SaliencyFusion
from weft.systems.rgbd_saliency.reader import depth, mask, photo
from weft.training.system import Need, System, systems

Levels = list[Tensor]


@systems.register("rgbd-saliency")
class RgbdSaliency(System):
    """What stands out in a photo with depth; MutualFormer, Wang et al. 2024.

    Args:
        backbone, width, fusion, strides, block, freeze, mean, std: see
            :class:`~weft.systems.rgbd_saliency.network.RgbdSaliencyNet`.
        size: side of the square the network sees, in pixels.
        augment: flip and cut training images.
        focal_weight: see :func:`~weft.systems.rgbd_saliency.loss.saliency_loss`.
    """

    reads = {"rgb": Need("image"), "depth": Need("depth"), "mask": Need("image", target=True)}
    writes = "map"
    judge = "saliency"
    reader = "rgbd-saliency"
    trained_with = {"lr": 1e-4, "batch_size": 11}
    variants = {name: {"fusion": name} for name in ("mutualformer", "attention", "concat", "rgb", "depth")}
    rows_at_once = 8
    paper = "Wang et al. 2024, MutualFormer (IJCV, arXiv 2112.01177); Wei et al. 2020, F3Net (AAAI)"

    def __init__(
        self,
        *,
        backbone: str | Path | dict[str, Any],
        size: int = 320,
        width: Count = 64,
        fusion: SaliencyFusion = "mutualformer",
        strides: tuple[int, ...] = (32, 16),
        block: dict[str, Any] | None = None,
        freeze: bool = False,
        mean: tuple[float, ...] | None = None,
        std: tuple[Annotated[float, Field(gt=0)], ...] | None = None,
        augment: bool = True,
        focal_weight: Annotated[float, Field(ge=0)] = 0.3,
    ) -> None:
        super().__init__()
        if size < 32:
            raise UserError("the network sees images of at least 32 pixels", f"size={size}", "the paper has 320")
        self.size, self.augment, self.focal_weight = size, augment, focal_weight
        shape: dict[str, Any] = {"width": width, "fusion": fusion, "strides": strides, "block": block}
        self._hashes: dict[str, str] = {}
        self.network = RgbdSaliencyNet(backbone, **shape, freeze=freeze, mean=mean, std=std)

    def config(self) -> dict[str, Any]:
        own = {"size": self.size, "augment": self.augment, "focal_weight": self.focal_weight}
        return {**self.network.options, **own}

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """``{modality: images or levels, "mask": (B, 1, size, size)}``; torch draws what is augmented."""
        augment = rng is not None and self.augment
        if self.network.freeze:
            return self._kept(data, rows, augment)
        columns = self.columns(data)
        samples = [self._sample(data, int(row), columns, augment) for row in rows]
        return {name: torch.stack(column) for name, column in zip(columns, zip(*samples, strict=True), strict=True)}

    def loss(self, batch: dict[str, Any]) -> Tensor:
        return self._losses(batch)[0]

    def predict(self, data: Dataset, rows: np.ndarray) -> list[np.ndarray]:
        """Maps ``(H, W)`` float32, at the size of the mask, else of the photo."""
        columns = self.columns(data, target=False)
        rgb = torch.stack([as_photo(photo(data, int(row), columns["rgb"]), self.size) for row in rows])
        grey = torch.stack([as_grey(depth(data, int(row), columns["depth"]), self.size) for row in rows])
        logits = self.network(rgb.to(self.device), grey.to(self.device)).final
        return [probabilities(one, shape_of(data, int(r), columns)) for r, one in zip(rows, logits, strict=True)]

    def assess(self, data: Dataset, rows: np.ndarray) -> tuple[Tensor, list[np.ndarray]]:
        losses, logits = self._losses(self.to_device(self.batch(data, rows)))
        columns = self.columns(data)
        return losses, [
            probabilities(one, shape_of(data, int(r), columns)) for r, one in zip(rows, logits, strict=True)
        ]

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Seen | None = None) -> Masks:
        return Masks(data, rows, cls.columns(data))

    def _losses(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Loss of every image ``(B,)``, and the final logits."""
        truth = batch["mask"]
        seen = {name: batch[name] for name in self.network.names} if self.network.freeze else batch
        if self.network.freeze:
            maps = self.network.decode(seen, truth.shape[2:])
        else:
            maps = self.network(batch["rgb"], batch["depth"])
        loss = saliency_loss([maps.final, maps.first], maps.sides, maps.auxiliary, truth, self.focal_weight)
        return loss, maps.final

    def _sample(self, data: Dataset, row: int, columns: dict[str, str], augment: bool) -> tuple[Tensor, ...]:
        images = [read(data, row, columns[role]) for role, read in READ.items()]
        if augment:
            draws = torch.rand(5).tolist()
            images = [cut_and_flip(image, draws) for image in images]
        return as_photo(images[0], self.size), *(as_grey(image, self.size) for image in images[1:])

    def _kept(self, data: Dataset, rows: np.ndarray, augment: bool) -> dict[str, Any]:
        """The batch of frozen backbones: levels instead of images."""
        mirrored = (torch.rand(len(rows)) < 0.5).tolist() if augment else [False] * len(rows)
        columns, names = self.columns(data), (*self.network.names, "mask")
        batch: dict[str, Any] = {}
        for name in names:
            maps = feature_maps(data, self._frozen_key(name), self.cache_mb / len(names))
            kept = [
                maps.of(int(row), flip, partial(self._encode, data, int(row), flip, name, columns))
                for row, flip in zip(rows, mirrored, strict=True)
            ]
            batch[name] = [torch.stack(level) for level in zip(*kept, strict=True)]
        return {**batch, "mask": batch["mask"][0]}

    @torch.no_grad()
    def _encode(self, data: Dataset, row: int, mirrored: bool, name: str, columns: dict[str, str]) -> Levels:
        """The levels of one image, or the one tensor of a mask, without a batch axis."""
        make = as_photo if name == "rgb" else as_grey
        image = make(READ[name](data, row, columns[name]), self.size).to(self.device)
        image = image.flip(2) if mirrored else image
        return [image] if name == "mask" else [m[0] for m in self.network.encode_one(name, image.unsqueeze(0))]

    def _frozen_key(self, name: str) -> str:
        """What decides the maps of a modality: weights, scaling, size, device."""
        key = f"{name} {self.size} {self.device}"
        if name == "mask":
            return key
        if key not in self._hashes:
            tensors = [*self.network.backbones[name].state_dict().values(), self.network.mean, self.network.std]
            content = b"".join(tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in tensors)
            self._hashes[key] = sha256(content).hexdigest()
        return f"{key} {self._hashes[key]}"


class FeatureMaps:
    """What frozen backbones make of images, of a row and of its mirror image: computed when first asked for, and kept.

    Args:
        megabytes: most that is kept; what comes after it is computed every time.
    """

    def __init__(self, megabytes: float) -> None:
        self._free = megabytes * 2**20
        self._rows: dict[tuple[int, bool], Levels] = {}

    def of(self, row: int, mirrored: bool, make: Callable[[], Levels]) -> Levels:
        """The tensors of a row, made where they are not kept."""
        if (row, mirrored) in self._rows:
            return self._rows[row, mirrored]
        found = make()
        self._free -= sum(tensor.nbytes for tensor in found)
        if self._free >= 0:
            self._rows[row, mirrored] = found
        return found


_MAPS: WeakKeyDictionary[Dataset, dict[str, FeatureMaps]] = WeakKeyDictionary()


def feature_maps(data: Dataset, key: str, megabytes: float) -> FeatureMaps:
    """Those of a data set: trainings that differ in what follows the backbones share them; they go with the data."""
    return _MAPS.setdefault(data, {}).setdefault(key, FeatureMaps(megabytes))


READ: dict[str, Callable[[Dataset, int, str], np.ndarray]] = {"rgb": photo, "depth": depth, "mask": mask}


def shape_of(data: Dataset, row: int, columns: Mapping[str, str]) -> tuple[int, int]:
    """``(height, width)`` that a row's map is wanted at: its mask's, or its photo's."""
    known = columns.get("mask")
    if known is not None and data.modalities[known].values[row] is not None:
        height, width = mask(data, row, known).shape
    else:
        height, width, _ = photo(data, row, columns["rgb"]).shape
    return height, width


def cut_and_flip(image: np.ndarray, draws: list[float]) -> np.ndarray:
    """Up to an eighth of an image's height and width cut off, shared between its sides, then mirrored or not.

    Args:
        image: ``(H, W, ...)``.
        draws: five numbers in [0, 1): how much of height and width, the share above and left, mirrored below 1/2. The
            same numbers cut images of different size alike.
    """
    height, width = image.shape[:2]
    off = [draws[0] * height / 8, draws[1] * width / 8]
    top, left = round(off[0] * draws[2]), round(off[1] * draws[3])
    bottom, right = height - round(off[0] * (1 - draws[2])), width - round(off[1] * (1 - draws[3]))
    cut = image[top:bottom, left:right]
    return cut[:, ::-1] if draws[4] < 0.5 else cut


def as_photo(image: np.ndarray, size: int) -> Tensor:
    """``(3, size, size)`` in [0, 1] of an ``(H, W, 3)`` uint8 image."""
    pixels = np.array(resized(np.ascontiguousarray(image), (size, size)))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def as_grey(image: np.ndarray, size: int) -> Tensor:
    """``(1, size, size)`` of an ``(H, W)`` float or bool image."""
    return torch.from_numpy(np.array(resized(np.ascontiguousarray(image), (size, size)))).unsqueeze(0)


def probabilities(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """One image's probabilities ``(H, W)`` float32 at ``size``, from logits ``(1, h, w)``."""
    scaled = F.interpolate(logits.unsqueeze(0).float(), size, mode="bilinear", align_corners=False)
    return torch.sigmoid(scaled)[0, 0].cpu().numpy()

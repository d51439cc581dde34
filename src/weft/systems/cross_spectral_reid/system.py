"""Cross-spectral re-identification as a system: images of an object in several spectra to one embedding.

A batch holds ``P`` identities with ``K`` images each; the loss is identity cross-entropy (with ``smoothing`` ``s``: the
own class has ``1 - s + s / C`` of the target, each other one ``s / C``) plus batch-hard triplet. Dev rows are of
identities that are not trained on: the best epoch is that with the highest mAP among them, every row searching all
others; the dev loss is their triplet loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from weft.data import Dataset, Split, read_image
from weft.errors import UserError, some
from weft.models.seen import Seen
from weft.registry import Count, Learned
from weft.systems.cross_spectral_reid.loss import batch_hard_triplet, identity_order
from weft.systems.cross_spectral_reid.metrics import reid_metrics
from weft.systems.cross_spectral_reid.network import CrossSpectralReIdNet
from weft.training.system import Gather, Need, Scatter, System, alone, systems, whole

COLUMNS = ("identity", "camera", "part")


@systems.register("cross-spectral-reid")
class CrossSpectralReId(System):
    """The same object in other cameras, seen in several spectra at once; MutualFormer, Wang et al. 2024.

    Args:
        encoder, fusion, block: see :class:`~weft.systems.cross_spectral_reid.network.CrossSpectralReIdNet`; ``fusion``
            may also be the name of one spectrum.
        size: ``(height, width)`` the network sees, in pixels.
        per_identity: ``K``.
        margin: of the triplet loss; None: soft.
        smoothing: of the identity labels, in [0, 1).
        augment: mirror, shift by up to 4 % of the height and erase a rectangle, alike in every spectrum.
        spectra: learned: the image columns.
        identities: learned: those of the training rows.
    """

    reads = {
        "spectra": Need("image", several=True),
        **{name: Need("label", target=True) for name in COLUMNS},
    }
    writes = "embedding"
    judge = "re-identification"
    trained_with = {"lr": 1e-4, "batch_size": 44}
    variants = {name: {"fusion": name} for name in ("mutualformer", "attention", "concat", "cam")}
    rows_at_once = 64
    paper = "Wang et al. 2024, MutualFormer (IJCV, arXiv 2112.01177)"

    def __init__(
        self,
        *,
        encoder: str | Path | dict[str, Any],
        size: tuple[Count, Count] = (256, 256),
        fusion: str = "mutualformer",
        block: dict[str, Any] | None = None,
        per_identity: int = 4,
        margin: Annotated[float, Field(ge=0)] | None = None,
        smoothing: float = 0.0,
        augment: bool = True,
        spectra: Learned[tuple[str, ...]] = (),
        identities: Learned[tuple[int | str, ...]] = (),
    ) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise UserError("smoothing is in [0, 1)", f"smoothing={smoothing}", "0.1 is usual")
        self.size, self.per_identity, self.margin = (size[0], size[1]), per_identity, margin
        self.smoothing, self.augment, self.spectra, self.identities = smoothing, augment, spectra, identities
        self.network = CrossSpectralReIdNet(encoder, spectra, len(identities), fusion=fusion, block=block)
        patch = self.network.options["encoder"].get("patch_size", 1)
        if min(size) < patch:
            found = f"size={size}, patches of {patch}"
            raise UserError("an image holds one patch of the encoder or more", found, "choose a larger size")

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        check_columns(data)
        spectra = tuple(name for name, modality in data.modalities.items() if modality.kind == "image")
        identities = tuple(np.unique(data.targets["identity"][rows]).tolist())
        return cls(**{"spectra": spectra, "identities": identities, **options})

    @classmethod
    def arranged(cls, data: Dataset) -> Dataset:
        """Grouped by identity: none crosses a split, whatever a table says of groups."""
        check_columns(data)
        return replace(data, group=data.targets["identity"].astype(str))

    def config(self) -> dict[str, Any]:
        own = ("size", "per_identity", "margin", "smoothing", "augment", "spectra", "identities")
        network = {name: self.network.options[name] for name in ("encoder", "fusion", "block")}
        return {**network, **{name: getattr(self, name) for name in own}}

    def check(self, data: Dataset, rows: np.ndarray, *, target: bool = True) -> None:
        if target:
            check_columns(data)
        check_spectra(data, self.network.names, np.asarray(rows))

    def check_split(self, data: Dataset, split: Split) -> None:
        super().check_split(data, split)
        known = np.unique(data.targets["identity"][split.train]).tolist()
        if known != list(self.identities):
            raise UserError(
                "the network has one class per identity to train on",
                f"{len(self.identities)} classes, {len(known)} identities in the training rows",
                "build it for these rows: make_system(name, data, split.train, ...)",
            )
        self._score(data, split.dev, np.ones((len(split.dev), 1)))  # refuses dev rows that nobody could find

    def order(self, data: Dataset, rows: np.ndarray, batch_size: int, rng: np.random.Generator) -> np.ndarray:
        steps = max(1, len(rows) // batch_size)
        return rows[identity_order(self._classes(data, rows), steps, batch_size, self.per_identity, rng)]

    def batch(
        self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Images ``{spectrum: (B, 3, H, W)}``, and the class ``(B,)`` of each row; torch draws what is augmented."""
        images = self._images(data, rows)
        augment = rng is not None and self.augment
        return augmented(images) if augment else images, torch.from_numpy(self._classes(data, rows))

    def loss(self, batch: tuple[dict[str, Tensor], Tensor]) -> Tensor:
        images, identity = batch
        out = self.network(images)
        named = F.cross_entropy(out.logits, identity, label_smoothing=self.smoothing)
        return named + batch_hard_triplet(out.feature, identity, self.margin)

    def predict(self, data: Dataset, rows: np.ndarray) -> list[np.ndarray]:
        """Embeddings ``(D,)``, after the BNNeck."""
        return list(self.network(self.to_device(self._images(data, rows))).embedding.cpu().numpy())

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Seen | None = None) -> dict[str, np.ndarray]:
        return {name: data.targets[name][rows] for name in COLUMNS}

    def validate(
        self, data: Dataset, rows: np.ndarray, batch_size: int, scatter: Scatter = alone, gather: Gather = whole
    ) -> dict[str, float]:
        mine, size = scatter(np.arange(len(rows))), 4 * batch_size
        parts = [rows[mine[start : start + size]] for start in range(0, len(mine), size)]
        found = [self.network(self.to_device(self._images(data, part))) for part in parts]
        feature, embedding = (
            gather(torch.cat([getattr(out, name) for out in found]), len(rows)) for name in ("feature", "embedding")
        )
        codes = np.unique(data.targets["identity"][rows], return_inverse=True)[1]
        loss = batch_hard_triplet(feature, torch.from_numpy(codes).to(feature.device), self.margin)
        return {"loss": float(loss), "score": self._score(data, rows, embedding)}

    def _score(self, data: Dataset, rows: np.ndarray, embedding: Tensor | np.ndarray) -> float:
        """mAP of rows ``(n, D)``, each searching all."""
        identity, camera = (data.targets[name][rows] for name in ("identity", "camera"))
        return reid_metrics(embedding, embedding, identity, identity, camera, camera)["mAP"]

    def _classes(self, data: Dataset, rows: np.ndarray) -> np.ndarray:
        place = {identity: k for k, identity in enumerate(self.identities)}
        return np.array([place[identity] for identity in data.targets["identity"][rows].tolist()], dtype=np.int64)

    def _images(self, data: Dataset, rows: np.ndarray) -> dict[str, Tensor]:
        """``{name: (n, 3, H, W)}`` in [0, 1]."""
        height, width = self.size

        def read(name: str, row: int) -> Tensor:
            image = read_image(data.modalities[name].values[row], f"modality {name!r}, row {data.ids[row]!r}")
            pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
            return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255

        return {name: torch.stack([read(name, int(row)) for row in rows]) for name in self.network.names}


def check_columns(data: Dataset) -> None:
    """Refuse a set without identity, camera and part.

    Raises:
        UserError: naming the columns that are not there.
    """
    gone = [name for name in COLUMNS if name not in data.targets]
    if gone:
        raise UserError(
            f"{data.name}: re-identification needs the targets identity, camera and part",
            f"no {', '.join(gone)}; there is {some(data.targets) or 'no target'}",
            "read a set of re-identification (weft list --kind dataset: rgbn300, rgbnt100, rgbnt201, spectra)",
        )


def check_spectra(data: Dataset, names: Sequence[str], rows: np.ndarray) -> None:
    """Refuse rows that lack one of the spectra: tokens meet by place, so nothing can stand in for an image.

    Raises:
        UserError: naming the spectrum and the rows.
    """
    for name in names:
        if name not in data.modalities:
            raise UserError(
                f"{data.name}: the network reads the spectrum {name!r}",
                f"the set has {some(data.modalities)}",
                "read a set with that spectrum, or train with the name of one that is there as fusion",
            )
        there = data.modalities[name].presence[rows]
        if not there.all():
            gone = [data.ids[row] for row in rows[~there]]
            raise UserError(
                f"{data.name}: the network reads the spectrum {name!r} of every row",
                f"{len(gone)} rows without: {some(gone)}",
                "drop these rows, or train with the name of another spectrum as fusion",
            )


def augmented(images: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each sample ``(3, H, W)`` mirrored (probability 1/2), shifted, and with a rectangle of noise (1/2), alike in
    every spectrum.
    """
    first = next(iter(images.values()))
    batch, _, height, width = first.shape
    shift = max(1, height // 25)
    out = {name: image.clone() for name, image in images.items()}
    for row in range(batch):
        mirror, erase, area, ratio, place_y, place_x = torch.rand(6).tolist()
        down, right = (int(v) for v in torch.randint(0, 2 * shift + 1, (2,)))
        tall = min(height, max(1, round(((0.02 + 0.38 * area) * height * width * (0.3 + 3 * ratio)) ** 0.5)))
        wide = min(width, max(1, round((0.02 + 0.38 * area) * height * width / tall)))
        top, left = round(place_y * (height - tall)), round(place_x * (width - wide))
        for image in out.values():
            sample = image[row].flip(2) if mirror < 0.5 else image[row]
            padded = F.pad(sample, (shift, shift, shift, shift))
            image[row] = padded[:, down : down + height, right : right + width]
            if erase < 0.5:
                image[row, :, top : top + tall, left : left + wide] = torch.rand(3, tall, wide).to(image)
    return out

"""Re-identification models: the network with its image size, trained by the one loop, kept as a folder without pickle.

A batch holds ``P`` identities with ``K`` images each; the loss is identity cross-entropy (with ``smoothing`` ``s``: the
own class has ``1 - s + s / C`` of the target, each other one ``s / C``) plus batch-hard triplet. Dev rows are of
identities that are not trained on: the best epoch is that with the highest mAP among them, every row searching all
others; the dev loss is their triplet loss. What is augmented depends on the step's seed alone, so a killed run resumes
exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from weft.data import Dataset, Split, read_image
from weft.errors import UserError, some
from weft.systems.cross_spectral_reid import CrossSpectralReIdNet
from weft.tasks.reid import batch_hard_triplet, identity_order, reid_metrics
from weft.training.config import TrainConfig
from weft.training.goal import Collect, Goal, Share, check_rows, ids_of, pieces
from weft.training.loop import History, run
from weft.training.pretrained import Pretrained, models

COLUMNS = ("identity", "camera", "part")


@models.register("ReIdModel")
class ReIdModel(nn.Module, Pretrained):
    """A re-identification network that takes images of any size.

    Args:
        encoder, names, classes: see :class:`~weft.systems.cross_spectral_reid.CrossSpectralReIdNet`.
        size: ``(height, width)`` the network sees.
        seed: of the first weights.
        options: of the network.
    """

    format = "ReIdModel/1"

    def __init__(
        self,
        encoder: str | Path | Mapping[str, Any],
        names: Sequence[str],
        classes: int,
        *,
        size: tuple[int, int] = (256, 256),
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.size = (size[0], size[1])
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            self.network = CrossSpectralReIdNet(encoder, names, classes, **options)

    def config(self) -> dict[str, Any]:
        return {"size": list(self.size), **self.network.options}

    @torch.no_grad()
    def embed(self, data: Dataset, rows: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Embeddings ``(n, D)`` of rows, after the BNNeck.

        Raises:
            UserError: a spectrum is missing, from the set or from a row; an image cannot be read.
        """
        check_spectra(data, self.network.names, rows)
        self.eval()
        device = next(self.parameters()).device
        parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        return np.concatenate([self.network(self.images(data, part, device)).embedding.cpu().numpy() for part in parts])

    def evaluate(self, data: Dataset, batch_size: int = 64) -> dict[str, float]:
        """The metrics of :func:`~weft.tasks.reid.reid_metrics`, and how many ``queries`` and ``gallery`` images.

        Raises:
            UserError: as :meth:`embed`; the set is not one of re-identification, or has no query or gallery.
        """
        check_columns(data)
        part = data.targets["part"]
        rows = [np.flatnonzero(np.isin(part, (name, "both"))) for name in ("query", "gallery")]
        if not all(map(len, rows)):
            raise UserError(
                f"{data.name}: queries search a gallery",
                f"{len(rows[0])} rows of part 'query' or 'both', {len(rows[1])} of part 'gallery' or 'both'",
                "check the part column; rows that are both serve as query and gallery",
            )
        (qi, gi), (qc, gc) = ([data.targets[name][r] for r in rows] for name in ("identity", "camera"))
        queries, gallery = (self.embed(data, r, batch_size) for r in rows)
        sizes = {"queries": float(len(queries)), "gallery": float(len(gallery))}
        return {**reid_metrics(queries, gallery, qi, gi, qc, gc), **sizes}

    def images(self, data: Dataset, rows: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """``{name: (n, 3, H, W)}`` in [0, 1]."""
        height, width = self.size

        def read(name: str, row: int) -> Tensor:
            image = read_image(data.modalities[name].values[row], f"modality {name!r}, row {data.ids[row]!r}")
            pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
            return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255

        return {name: torch.stack([read(name, int(row)) for row in rows]).to(device) for name in self.network.names}


class ReIdGoal(Goal):
    """The loss of a :class:`ReIdModel`, selected by the mAP of dev identities.

    Args:
        per_identity: ``K``.
        margin: of the triplet loss; None: soft.
        smoothing: of the identity labels.
        augment: mirror, shift by up to 4 % of the height and erase a rectangle, alike in every spectrum.
    """

    model: ReIdModel

    def __init__(
        self,
        model: ReIdModel,
        data: Dataset,
        split: Split,
        config: TrainConfig,
        *,
        per_identity: int = 4,
        margin: float | None = None,
        smoothing: float = 0.0,
        augment: bool = True,
    ) -> None:
        super().__init__()
        if config.modality_dropout or not 0 <= smoothing < 1:
            raise UserError(
                "the network needs every spectrum in training, and smoothing is in [0, 1)",
                f"modality_dropout={config.modality_dropout}, smoothing={smoothing}",
                "leave both at 0; the name of a spectrum as fusion is the network of that one alone",
            )
        check_columns(data)
        self.model, self.config = model, config
        self.per_identity, self.margin, self.smoothing, self.augment = per_identity, margin, smoothing, augment
        self._data, self._rows = data, check_rows(data, split)
        check_spectra(data, model.network.names, np.concatenate(self._rows))
        known, self._identity = np.unique(data.targets["identity"][self._rows[0]], return_inverse=True)
        if len(known) != model.network.options["classes"]:
            raise UserError(
                "the network has one class per identity to train on",
                f"{model.network.options['classes']} classes, {len(known)} identities in the training rows",
                "build the model with classes = the number of training identities",
            )
        steps = max(1, len(self._rows[0]) // config.batch_size)
        self.steps_over = steps * config.batch_size
        self.order(np.random.default_rng(0))  # refuses what cannot be dealt
        self._score(np.ones((len(self._rows[1]), 1)))  # refuses dev rows that nobody could find

    def prepare(self, device: torch.device) -> None:
        self._device = device

    def order(self, rng: np.random.Generator) -> np.ndarray:
        size = self.config.batch_size
        return identity_order(self._identity, self.steps_over // size, size, self.per_identity, rng)

    def batch(self, positions: np.ndarray, seed: tuple[int, ...] = ()) -> tuple[Any, ...]:
        images = self.model.images(self._data, self._rows[0][positions], self._device)
        identity = torch.from_numpy(self._identity[positions]).to(self._device)
        return (augmented(images) if self.augment else images), identity

    def forward(self, images: dict[str, Tensor], identity: Tensor) -> Tensor:
        out = self.model.network(images)
        named = F.cross_entropy(out.logits, identity, label_smoothing=self.smoothing)
        return named + batch_hard_triplet(out.feature, identity, self.margin)

    def evaluate(self, share: Share, collect: Collect) -> dict[str, float]:
        rows = self._rows[1]
        parts = pieces(share(np.arange(len(rows))), self.config.batch_size)
        found = [self.model.network(self.model.images(self._data, rows[part], self._device)) for part in parts]
        feature, embedding = (
            collect(torch.cat([getattr(out, name) for out in found]), len(rows)) for name in ("feature", "embedding")
        )
        codes = np.unique(self._data.targets["identity"][rows], return_inverse=True)[1]
        loss = batch_hard_triplet(feature, torch.from_numpy(codes).to(feature.device), self.margin)
        return {"loss": float(loss), "score": self._score(embedding)}

    def _score(self, embedding: Tensor | np.ndarray) -> float:
        """mAP of the dev rows ``(n, D)``, each searching all."""
        identity, camera = (self._data.targets[name][self._rows[1]] for name in ("identity", "camera"))
        return reid_metrics(embedding, embedding, identity, identity, camera, camera)["mAP"]

    def describe(self) -> dict[str, Any]:
        names = ("per_identity", "margin", "smoothing", "augment")
        options = {name: getattr(self, name) for name in names}
        model = {"size": self.model.size, **self.model.network.options}
        return {"model": model, "rows": ids_of(self._data, self._rows), "options": options}


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
    """Each sample mirrored (probability 1/2), shifted, and with a rectangle of noise (1/2), alike in every spectrum."""
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


def fit_reid(
    model: ReIdModel,
    data: Dataset,
    split: Split,
    config: TrainConfig | dict[str, Any] | None = None,
    folder: Path | str | None = None,
    progress: bool = True,
    **options: Any,
) -> History:
    """Train on ``split.train``; the model ends with the weights of the best mAP on ``split.dev``.

    Arguments and errors as for :func:`weft.training.fit`; ``options`` as for :class:`ReIdGoal`. Split by identity, as
    :func:`weft.data.make_splits` does.
    """
    settings = TrainConfig.of(config)
    return run(ReIdGoal(model, data, split, settings, **options), settings, folder, progress)

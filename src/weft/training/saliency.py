"""Saliency models: the network with its image size, trained by the one loop, kept as a folder without pickle.

Training resizes every image to a square and, with ``augment``, flips it and cuts up to an eighth off each side first;
what is drawn depends on the step's seed alone, so a killed run resumes exactly. Of frozen backbones the maps of every
image and of its mirror image are computed once and kept (:class:`FeatureMaps`), and ``augment`` only flips. The loss is
:func:`weft.tasks.saliency.saliency_loss`; the best epoch is that with the highest mean S-measure of the dev rows, each
at the size of its own mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weft.data.rgbd_saliency import RgbdSaliency, resized
from weft.data.splits import Split
from weft.errors import UserError
from weft.systems.rgbd_saliency import RgbdSaliencyNet, SaliencyMaps
from weft.tasks.saliency import Scores, predict_probability, saliency_loss, score_map
from weft.training.config import TrainConfig
from weft.training.goal import Collect, Goal, Share, check_rows, ids_of, pieces
from weft.training.loop import History, run
from weft.training.pretrained import Pretrained, models


@models.register("SaliencyModel")
class SaliencyModel(nn.Module, Pretrained):
    """A saliency network that takes images of any size.

    Args:
        backbone: see :class:`~weft.systems.backbone.Backbone`.
        size: side of the square the network sees, in pixels.
        seed: of the first weights.
        options: of :class:`~weft.systems.rgbd_saliency.RgbdSaliencyNet`.
    """

    format = "SaliencyModel/1"

    def __init__(
        self, backbone: str | Path | Mapping[str, Any], *, size: int = 320, seed: int = 0, **options: Any
    ) -> None:
        super().__init__()
        if size < 32:
            raise UserError("the network sees images of at least 32 pixels", f"size={size}", "the paper has 320")
        self.size = size
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            self.network = RgbdSaliencyNet(backbone, **options)

    def config(self) -> dict[str, Any]:
        return {"size": self.size, **self.network.options}

    @torch.no_grad()
    def predict(self, data: RgbdSaliency, rows: np.ndarray, batch_size: int = 8) -> Iterator[tuple[int, np.ndarray]]:
        """``(row, map)`` one by one; maps ``(H, W)`` float32 in [0, 1], at the size of the mask, else of the photo."""
        self.eval()
        device = next(self.parameters()).device
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            images = [self.images(data, int(row)) for row in part]
            rgb, depth = (torch.stack(column).to(device) for column in zip(*images, strict=True))
            for row, logits in zip(part, self.network(rgb, depth).final, strict=True):
                yield int(row), predict_probability(logits, shape_of(data, int(row)))

    def images(self, data: RgbdSaliency, row: int) -> tuple[Tensor, Tensor]:
        """What the network sees of a row: ``(3, size, size)`` and ``(1, size, size)`` float in [0, 1]."""
        return _photo(data.photo(row), self.size), _grey(data.depth(row), self.size)


def shape_of(data: RgbdSaliency, row: int) -> tuple[int, int]:
    """``(height, width)`` that a row's map is wanted at: its mask's, or its photo's."""
    height, width = (data.photo(row) if data.masks[row] is None else data.mask(row)).shape[:2]
    return height, width


class SaliencyGoal(Goal):
    """The loss of a :class:`SaliencyModel`, selected by the mean S-measure.

    Args:
        augment: flip and cut training images.
        focal_weight: see :func:`~weft.tasks.saliency.saliency_loss`.
    """

    model: SaliencyModel

    def __init__(
        self,
        model: SaliencyModel,
        data: RgbdSaliency,
        split: Split,
        config: TrainConfig,
        *,
        augment: bool = True,
        focal_weight: float = 0.3,
    ) -> None:
        super().__init__()
        if config.modality_dropout:
            raise UserError(
                "the saliency network needs photo and depth, so none can be dropped in training",
                f"modality_dropout={config.modality_dropout}",
                "leave it at 0; fusion='rgb' and fusion='depth' are networks of one modality",
            )
        self.model, self.config = model, config
        self.augment, self.focal_weight = augment, focal_weight
        self._data, self._rows = data, check_rows(data, split)
        self.steps_over = len(self._rows[0])

    def prepare(self, device: torch.device) -> None:
        self._device = device

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(self.steps_over)

    def batch(self, positions: np.ndarray, seed: tuple[int, ...] = ()) -> tuple[Any, ...]:
        return self._stack(self._rows[0][positions], self.augment)

    def forward(self, *batch: Any) -> Tensor:
        return self._losses(*batch)[0].mean()

    def evaluate(self, share: Share, collect: Collect) -> dict[str, float]:
        rows = self._rows[1]
        mine, found = share(np.arange(len(rows))), []
        for part in pieces(mine, self.config.batch_size):
            losses, logits = self._losses(*self._stack(rows[part], False))
            for row, loss, one in zip(rows[part], losses, logits, strict=True):
                found.append(torch.tensor([float(loss), self._score(int(row), one).s], device=self._device))
        loss, score = collect(torch.stack(found), len(rows)).double().mean(dim=0).tolist()
        return {"loss": loss, "score": score}

    def describe(self) -> dict[str, Any]:
        options = {"augment": self.augment, "focal_weight": self.focal_weight}
        model = {"size": self.model.size, **self.model.network.options}
        return {"model": model, "rows": ids_of(self._data, self._rows), "options": options}

    def _losses(self, *batch: Any) -> tuple[Tensor, Tensor]:
        """Loss of every image ``(B,)``, and the final logits."""
        *seen, mask = batch
        maps = self._maps(*seen, size=mask.shape[2:])
        loss = saliency_loss([maps.final, maps.first], maps.sides, maps.auxiliary, mask, self.focal_weight)
        return loss, maps.final

    def _maps(self, *seen: Any, size: tuple[int, int]) -> SaliencyMaps:
        return self.model.network(*seen)

    def _score(self, row: int, logits: Tensor) -> Scores:
        mask = self._data.mask(row)
        return score_map(predict_probability(logits, mask.shape), mask)

    def _stack(self, rows: np.ndarray, augment: bool) -> tuple[Any, ...]:
        """What the network sees of rows, then their masks ``(B, 1, size, size)``."""
        samples = [self._sample(int(row), augment) for row in rows]
        return tuple(torch.stack(column).to(self._device) for column in zip(*samples, strict=True))

    def _sample(self, row: int, augment: bool) -> tuple[Tensor, Tensor, Tensor]:
        images = [self._data.photo(row), self._data.depth(row), self._data.mask(row)]
        if augment:
            draws = torch.rand(5).tolist()
            images = [cut_and_flip(image, draws) for image in images]
        size = self.model.size
        return _photo(images[0], size), _grey(images[1], size), _grey(images[2], size)


class FeatureMaps:
    """What frozen backbones make of images, of a row and of its mirror image: computed when first asked for, and kept.

    Runs with equal backbones and size share one, whatever follows the backbones.

    Args:
        model: a model with frozen backbones; it is not changed, nor are its other parts looked at.
        data: what the rows are of.
        cache_mb: most that is kept; what comes after it is computed every time.
    """

    def __init__(self, model: SaliencyModel, data: RgbdSaliency, cache_mb: float = 2048.0) -> None:
        self._model, self._data, self._free = model, data, cache_mb * 2**20
        self._kept: dict[tuple[int, bool], tuple[dict[str, list[Tensor]], Tensor]] = {}

    def row(self, row: int, mirrored: bool) -> tuple[dict[str, list[Tensor]], Tensor]:
        """Per modality the maps ``(C, h, w)`` of every level, and the mask ``(1, size, size)``."""
        if (row, mirrored) in self._kept:
            return self._kept[row, mirrored]
        maps, mask = self._encode(row, mirrored)
        self._free -= sum(tensor.nbytes for tensor in (mask, *(m for levels in maps.values() for m in levels)))
        if self._free >= 0:
            self._kept[row, mirrored] = maps, mask
        return maps, mask

    @torch.no_grad()
    def _encode(self, row: int, mirrored: bool) -> tuple[dict[str, list[Tensor]], Tensor]:
        images = [*self._model.images(self._data, row), _grey(self._data.mask(row), self._model.size)]
        rgb, depth, mask = (image.flip(2) if mirrored else image for image in images)
        network = self._model.network
        device = next(network.parameters()).device
        maps = network.encode(rgb.unsqueeze(0).to(device), depth.unsqueeze(0).to(device))
        return {name: [m[0] for m in levels] for name, levels in maps.items()}, mask.to(device)

    def refuse_others(self, model: SaliencyModel) -> None:
        """Refuse a model whose maps are others.

        Raises:
            UserError: its backbones, its size or its scaling of images differ, or its backbones are trained.
        """
        mine, theirs = self._model.network, model.network
        pairs = [(getattr(mine, name), getattr(theirs, name)) for name in ("mean", "std")]
        for name, backbone in theirs.backbones.items():
            state = mine.backbones[name].state_dict() if name in mine.names else {}
            pairs += [(state.get(key, tensor[..., None]), tensor) for key, tensor in backbone.state_dict().items()]
        if not theirs.freeze or model.size != self._model.size or any(not torch.equal(a, b) for a, b in pairs):
            raise UserError(
                "kept feature maps serve models with the same frozen backbones and the same size",
                f"size {model.size} and {self._model.size}, freeze={theirs.freeze}, modalities {theirs.names}",
                "make FeatureMaps of a model with these backbones, or pass none",
            )


class FrozenSaliencyGoal(SaliencyGoal):
    """The same goal where the backbones are frozen: it trains what follows them on their kept maps."""

    def __init__(self, *args: Any, maps: FeatureMaps | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._kept = maps or FeatureMaps(self.model, self._data, self.config.cache_mb)
        self._kept.refuse_others(self.model)

    def _maps(self, *seen: Any, size: tuple[int, int]) -> SaliencyMaps:
        return self.model.network.decode(seen[0], size)

    def _stack(self, rows: np.ndarray, augment: bool) -> tuple[Any, ...]:
        mirrored = (torch.rand(len(rows)) < 0.5).tolist() if augment else [False] * len(rows)
        kept = [self._kept.row(int(row), flip) for row, flip in zip(rows, mirrored, strict=True)]
        levels = {
            name: [torch.stack(level).to(self._device) for level in zip(*(maps[name] for maps, _ in kept), strict=True)]
            for name in self.model.network.names
        }
        return levels, torch.stack([mask for _, mask in kept]).to(self._device)


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


def fit_saliency(
    model: SaliencyModel,
    data: RgbdSaliency,
    split: Split,
    config: TrainConfig | dict[str, Any] | None = None,
    folder: Path | str | None = None,
    progress: bool = True,
    *,
    augment: bool = True,
    focal_weight: float = 0.3,
    maps: FeatureMaps | None = None,
) -> History:
    """Train on ``split.train``; the model ends with the weights of the best S-measure on ``split.dev``.

    Arguments and errors as for :func:`weft.training.fit` and :class:`SaliencyGoal`; ``maps`` are those of an earlier
    run with the same frozen backbones.
    """
    settings = TrainConfig.of(config)
    options: dict[str, Any] = {"augment": augment, "focal_weight": focal_weight}
    if model.network.freeze or maps is not None:
        goal: SaliencyGoal = FrozenSaliencyGoal(model, data, split, settings, maps=maps, **options)
    else:
        goal = SaliencyGoal(model, data, split, settings, **options)
    return run(goal, settings, folder, progress)


def _photo(image: np.ndarray, size: int) -> Tensor:
    pixels = np.array(resized(np.ascontiguousarray(image), (size, size)))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _grey(image: np.ndarray, size: int) -> Tensor:
    return torch.from_numpy(np.array(resized(np.ascontiguousarray(image), (size, size)))).unsqueeze(0)

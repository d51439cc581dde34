"""TransMEF as a system: trained on any photos to restore them, it makes one picture of two or more.

Training cuts a square out of every photo, mirrors it or not, and spoils three copies (:mod:`.corruptions`); each goes
through the network, and the losses are summed. Where the rule of fusion is learned, each copy goes through with the
next, so that the fusion learns what to take from which. The best epoch is that with the lowest loss on the dev photos,
cut and spoilt alike in every epoch. Prediction pads pictures of any size by reflection to whole patches, fuses luma,
and joins colours by a closed formula (:mod:`.colour`); the answer is cut to the grey levels there are.

The published code min-max stretches each fused grey picture (``stretch``), and stops dropout for good after its first
validation; here dropout is on in every training step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from weft.data import Dataset
from weft.data.files import read_image
from weft.errors import UserError
from weft.models.seen import Seen
from weft.registry import Count, Dropout
from weft.systems.transmef.colour import fused_chroma, to_rgb, to_ycbcr
from weft.systems.transmef.corruptions import CORRUPTIONS, LARGEST
from weft.systems.transmef.loss import restoring_loss
from weft.systems.transmef.network import TransMefNet
from weft.training.system import Gather, Need, Scatter, System, alone, systems, whole


@systems.register("transmef")
class TransMef(System):
    """One picture of several exposures (or of visible light and infrared, or of several focuses); Qu et al. 2022.

    Args:
        patch, depth, heads, head_width, mlp, dropout, rule: see :class:`~weft.systems.transmef.network.TransMefNet`.
        size: side of the training squares in pixels, a multiple of ``patch``.
        tasks: how copies are spoilt, of gamma, fourier and shuffle; none: a plain auto-encoder.
        largest: the longest side of a spoilt rectangle, as a share of the square's; small squares need more than the
            published tenth.
        mse, ssim, tv: weights of :func:`~weft.systems.transmef.loss.restoring_loss`.
        stretch: bring each fused picture to the full range, as published for grey pictures.
    """

    reads = {"pictures": Need("image", several=True)}
    writes = "image"
    judge = "exposure-fusion"
    reader = "exposures"
    trained_with = {"lr": 1e-4, "weight_decay": 5e-5, "batch_size": 48, "epochs": 100, "schedule": "cosine"}
    variants = {
        "transmef": {},
        "auto-encoder": {"tasks": ()},
        "max": {"rule": "max"},
        "attention": {"rule": "attention"},
    }
    rows_at_once = 1
    paper = "Qu et al. 2022, TransMEF (AAAI, arXiv 2112.01030)"

    def __init__(
        self,
        *,
        size: Count = 256,
        patch: Count = 16,
        depth: Count = 12,
        heads: Count = 16,
        head_width: Count = 64,
        mlp: Count = 1024,
        dropout: Dropout = 0.1,
        rule: str = "mean",
        tasks: tuple[str, ...] = tuple(CORRUPTIONS),
        largest: float = LARGEST,
        mse: Annotated[float, Field(ge=0)] = 20.0,
        ssim: Annotated[float, Field(ge=0)] = 1.0,
        tv: Annotated[float, Field(ge=0)] = 20.0,
        stretch: bool = False,
    ) -> None:
        super().__init__()
        unknown = [task for task in tasks if task not in CORRUPTIONS]
        if unknown or size % patch or size < 11 or not 0 < largest <= 1:
            raise UserError(
                "squares are 11 pixels or more, whole patches, and corrupted in known ways",
                f"size={size}, patch={patch}, tasks={tasks}, largest={largest}",
                f"a multiple of the patch; tasks among {', '.join(CORRUPTIONS)}; largest in (0, 1]",
            )
        self.size, self.patch, self.depth, self.heads, self.head_width = size, patch, depth, heads, head_width
        self.mlp, self.dropout, self.rule, self.tasks, self.largest = mlp, dropout, rule, tuple(tasks), largest
        self.mse, self.ssim, self.tv, self.stretch = mse, ssim, tv, stretch
        self.network = TransMefNet(
            patch=patch, depth=depth, heads=heads, head_width=head_width, mlp=mlp, dropout=dropout, rule=rule
        )

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """``"photo"`` and its spoilt copies, ``(B, 1, size, size)`` each; every picture of a row is a photo."""
        columns, stacks = self.columns(data)["pictures"], dict[str, list[np.ndarray]]()
        for row in rows:
            draws = np.random.default_rng(int(row)) if rng is None else rng
            for column in columns:
                value = data.modalities[column].values[row]
                if value is not None:
                    square = self._square(
                        read_image(value, f"{column} of row {data.ids[row]!r}"), draws, rng is not None
                    )
                    stacks.setdefault("photo", []).append(square)
                    for name in self.tasks:
                        stacks.setdefault(name, []).append(CORRUPTIONS[name](square, draws, self.largest))
        return {name: torch.from_numpy(np.stack(s)).unsqueeze(1).float() / 255 for name, s in stacks.items()}

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        spoilt = [batch[name] for name in self.tasks] or [batch["photo"]]
        following = [*spoilt[1:], spoilt[0]]
        learned = self.network.fusion is not None
        sources = [(x, y) if learned else (x,) for x, y in zip(spoilt, following, strict=True)]
        weights = {"mse": self.mse, "ssim": self.ssim, "tv": self.tv}
        return torch.stack([restoring_loss(batch["photo"], self.network(*x), **weights) for x in sources]).sum(dim=0)

    def validate(
        self,
        data: Dataset,
        rows: np.ndarray,
        batch_size: int,
        scatter: Scatter = alone,
        gather: Gather = whole,
    ) -> dict[str, float]:
        mine = scatter(np.arange(len(rows)))
        losses = [self.loss(self.to_device(self.batch(data, rows[k : k + 1]))).mean() for k in mine]
        loss = float(gather(torch.stack(losses), len(rows)).double().mean())
        return {"loss": loss, "score": -loss}

    def predict(self, data: Dataset, rows: np.ndarray) -> list[np.ndarray]:
        """``(H, W)`` uint8 where every source is grey, else ``(H, W, 3)``."""
        sources = self.truth(data, rows)
        return [self.fuse(one, f"row {data.ids[row]!r}") for row, one in zip(rows, sources, strict=True)]

    def fuse(self, sources: Sequence[np.ndarray], where: str = "given") -> np.ndarray:
        """One picture of sources ``(H, W, 3)`` or ``(H, W)`` uint8 of one size; ``where`` is for errors.

        Raises:
            UserError: fewer than two sources, or of different sizes.
        """
        if len(sources) < 2 or len({source.shape[:2] for source in sources}) > 1:
            raise UserError(
                "fusion takes two or more registered pictures of one size",
                f"{where}: {len(sources)} of sizes {[source.shape[:2] for source in sources]}",
                "register and resize them first; a single picture needs no fusion",
            )
        if all(source.ndim == 2 for source in sources):
            return np.round(self._fuse([source / 255 for source in sources]) * 255).astype(np.uint8)
        colours = [to_ycbcr(s if s.ndim == 3 else np.repeat(s[..., None], 3, axis=2)) for s in sources]
        fused = self._fuse([(c[..., 0] - 16) / 219 for c in colours]) * 219 + 16
        return to_rgb(np.concatenate([fused[..., None], fused_chroma([c[..., 1:] for c in colours])], axis=2))

    def _fuse(self, lumas: Sequence[np.ndarray]) -> np.ndarray:
        """``(H, W)`` in [0, 1] of several."""
        height, width = lumas[0].shape
        below, beside = -height % self.patch, -width % self.patch
        mode: Literal["reflect", "edge"] = "reflect" if min(height, width) > self.patch else "edge"
        padded = [np.pad(luma, ((0, below), (0, beside)), mode=mode) for luma in lumas]
        inputs = [torch.from_numpy(luma).to(self.device, torch.float32)[None, None] for luma in padded]
        with torch.no_grad():
            fused = self.network(*inputs)[0, 0, :height, :width].double().cpu().numpy()
        if self.stretch:
            fused = (fused - fused.min()) / max(float(np.ptp(fused)), 1e-12)
        return np.clip(fused, 0, 1)

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Seen | None = None) -> list[list[np.ndarray]]:
        """The sources of every row: there is no better answer than what they hold."""
        columns = cls.columns(data)["pictures"]
        return [
            [
                _pixels(data.modalities[column].values[row], f"{column} of row {data.ids[row]!r}")
                for column in columns
                if data.modalities[column].values[row] is not None
            ]
            for row in rows
        ]

    def check(self, data: Dataset, rows: np.ndarray, *, target: bool = True) -> None:
        """Rows may lack some pictures; :meth:`fuse` wants two."""
        self.columns(data)

    def _square(self, photo: Image.Image, rng: np.random.Generator, augment: bool) -> np.ndarray:
        """``(size, size)`` uint8: the short side brought to ``size``, then a square cut out, in training anywhere."""
        scale = self.size / min(photo.size)
        width, height = (max(self.size, round(side * scale)) for side in photo.size)
        grey = np.asarray(photo.convert("L").resize((width, height), Image.Resampling.BILINEAR))
        free = height - self.size, width - self.size
        top, left = (int(rng.integers(0, f + 1)) if augment else f // 2 for f in free)
        square = grey[top : top + self.size, left : left + self.size]
        return np.ascontiguousarray(square[:, ::-1] if augment and rng.random() < 0.5 else square)


def _pixels(value: object, where: str) -> np.ndarray:
    """``(H, W)`` of a picture without colour, else ``(H, W, 3)``, uint8."""
    image = np.asarray(read_image(value, where))
    grey = (image == image[..., :1]).all()
    return image[..., 0] if grey else image

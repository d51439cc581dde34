r"""RGB-D salient object detection with MutualFormer: a photo and its depth to a map of what stands out.

For levels of stride ``l = 4, 8, 16, 32``, width ``D``:

.. math::
    r_l &= \mathrm{relu}(\mathrm{BN}(W^r_l R_l)), \quad d_l = \mathrm{relu}(\mathrm{BN}(W^d_l D_l))
        && \text{maps of two backbones, not shared} \\
    f_l &= W_l [r_l ; d_l] && \text{pre-fusion, a 1x1 convolution} \\
    f_l &\leftarrow \mathrm{MutualFormer}(r_l, d_l, f_l), \quad l \in \texttt{strides}
        && \text{coarse 32, fine 16; tokens row-major} \\
    z &= \mathrm{Decoder}(f_4, f_8, f_{16}, f_{32})

The decoder runs top-down through cross-feature modules (two convolutions of each branch, their product as what both
agree on, two more with additive skips), then once more over the refined levels, with the first result fed back into
every one, as in F3Net.
Heads: one map of what reaches the finest level in each cascade, the second being the answer; side maps of the refined
strides 4, 8, 16, 32; one map of each encoder's deepest level, for the focal regularisation
(:func:`weft.systems.rgbd_saliency.loss.saliency_loss`).

Cost: with two ResNet-50 and ``D = 64``, 49.6 M weights (the paper counts 52.05 M; its network is not published, so
widths differ somewhere). At 320 x 320 the blocks see N = 100 and 400 tokens.

When not to use it: without depth (``fusion="rgb"`` is the same network on one backbone); where depth and photo are not
registered, because tokens meet by position.

Source: Wang et al., "MutualFormer: Multi-Modality Representation Learning via Cross-Diffusion Attention", IJCV 2024
(arXiv 2112.01177) for the blocks and their scales; Wei et al., "F3Net", AAAI 2020 (arXiv 1911.11445) for the decoder.
The network around the blocks is our reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError, did_you_mean
from weft.fusion.mutualformer import MutualFormerBlock, to_map
from weft.systems.backbone import STRIDES, Backbone, normalisation

SaliencyFusion = Literal["mutualformer", "attention", "concat", "rgb", "depth"]


class SaliencyMaps(NamedTuple):
    """Logits at the size of the input, ``(B, 1, H, W)`` each.

    Attributes:
        final: the map.
        first: what the first cascade says.
        sides: of the refined strides 4, 8, 16, 32.
        auxiliary: of each encoder's deepest level.
    """

    final: Tensor
    first: Tensor
    sides: list[Tensor]
    auxiliary: list[Tensor]


class RgbdSaliencyNet(nn.Module):
    """The network.

    Args:
        backbone: see :class:`~weft.systems.backbone.Backbone`; two copies, or one for one modality.
        width: ``D``.
        fusion: ``"mutualformer"``, or with all else equal: ``"attention"`` (the block with plain cross-attention in
            place of cross-diffusion), ``"concat"`` (the pre-fusion alone), ``"rgb"``, ``"depth"`` (one modality).
        strides: levels with a block, of 4, 8, 16 and 32; at the others the pre-fusion goes on as it is.
        block: options of :class:`~weft.fusion.mutualformer.MutualFormerBlock` (``heads``, ``alpha``, ``steps``, ...).
        freeze: keep the backbones as they are: only what follows them is trained.
        mean, std: of the channels the backbone was trained with; None: what the backbone says, else ImageNet's.

    Attributes:
        options: the arguments that build this network without its weights, as JSON values.

    Raises:
        UserError: unknown fusion or stride, or what the backbone refuses; from ``forward``, shapes that do not fit.
    """

    def __init__(
        self,
        backbone: str | Path | Mapping[str, Any],
        *,
        width: int = 64,
        fusion: SaliencyFusion = "mutualformer",
        strides: tuple[int, ...] = (32, 16),
        block: Mapping[str, Any] | None = None,
        freeze: bool = False,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        if fusion not in get_args(SaliencyFusion):
            raise UserError(
                "unknown fusion of the saliency network", fusion, did_you_mean(fusion, get_args(SaliencyFusion))
            )
        if any(stride not in STRIDES for stride in strides):
            raise UserError("strides are levels of the backbone", f"strides={strides}", f"choose among {STRIDES}")
        if bool(mean) != bool(std):
            raise UserError("mean and std come together", f"mean={mean}, std={std}", "give both or neither")
        self.fusion, self.names = fusion, ("rgb", "depth") if fusion not in ("rgb", "depth") else (fusion,)
        scale = {"mean": mean, "std": std} if mean and std else normalisation(backbone)
        self.options: dict[str, Any] = {
            "width": width,
            "fusion": fusion,
            "strides": list(strides),
            "block": dict(block or {}),
            "freeze": freeze,
            "mean": list(scale["mean"] or ()),
            "std": list(scale["std"] or ()),
        }
        self.mean: Tensor
        self.std: Tensor
        for name, values in scale.items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        backbones = {name: Backbone(backbone) for name in self.names}
        self.backbones = nn.ModuleDict(backbones).requires_grad_(not freeze)
        self.freeze = freeze
        self.options["backbone"] = backbones[self.names[0]].config
        self.squeeze = nn.ModuleDict(
            {name: nn.ModuleList(_conv(c, width, 1) for c in b.widths) for name, b in backbones.items()}
        )
        pairs = len(self.names) == 2
        self.prefuse = nn.ModuleList(nn.Conv2d(2 * width, width, 1) if pairs else nn.Identity() for _ in STRIDES)
        crossed = {"cross": "diffusion" if fusion == "mutualformer" else "attention", **(block or {})}
        fused = strides if fusion in ("mutualformer", "attention") else ()
        self.blocks = nn.ModuleDict({str(stride): MutualFormerBlock(width, **crossed) for stride in fused})
        self.first, self.second = Cascade(width), Cascade(width)
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for _ in range(6))
        self.auxiliary = nn.ModuleDict({name: nn.Conv2d(width, 1, 3, padding=1) for name in self.names})

    def forward(self, rgb: Tensor, depth: Tensor) -> SaliencyMaps:
        """The maps of a batch.

        Args:
            rgb: ``(B, 3, H, W)`` in [0, 1], each side at least 32.
            depth: ``(B, 1, H, W)`` in [0, 1], near is 1.
        """
        if rgb.ndim != 4 or depth.shape != (len(rgb), 1, *rgb.shape[2:]) or min(rgb.shape[2:]) < max(STRIDES):
            raise UserError(
                f"photo (B, 3, H, W) and depth (B, 1, H, W) have one size, at least {max(STRIDES)}",
                f"{tuple(rgb.shape)} and {tuple(depth.shape)}",
                "resize both to the size of the model",
            )
        return self.decode(self.encode(rgb, depth), (rgb.shape[2], rgb.shape[3]))

    def encode(self, rgb: Tensor, depth: Tensor) -> dict[str, list[Tensor]]:
        """What the backbones make of the modalities in use: per name the maps ``(B, C, h, w)`` of every level, finest
        first.
        """
        images = {"rgb": rgb, "depth": depth}
        return {name: self.encode_one(name, images[name]) for name in self.names}

    def encode_one(self, name: str, image: Tensor) -> list[Tensor]:
        """The maps ``(B, C, h, w)`` of every level of one modality's images ``(B, 3, H, W)``, finest first."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            return self.backbones[name]((image.expand(-1, 3, -1, -1) - self.mean) / self.std)

    def decode(self, maps: Mapping[str, list[Tensor]], size: tuple[int, int]) -> SaliencyMaps:
        """The maps of :meth:`encode` to logits at ``size``."""
        squeezed = {name: [f(m) for f, m in zip(self._squeeze(name), maps[name], strict=True)] for name in self.names}
        levels = [self._fuse(i, *(squeezed[name][i] for name in self.names)) for i in range(len(STRIDES))]
        once, top = self.first(levels)
        refined, final = self.second([f + F.interpolate(top, f.shape[2:], mode="bilinear") for f in once])
        heads = zip(self.heads, [final, top, *refined], strict=True)
        whole = [self._enlarge(head(x), size) for head, x in heads]
        deepest = [self._enlarge(self.auxiliary[name](squeezed[name][-1]), size) for name in self.names]
        return SaliencyMaps(whole[0], whole[1], whole[2:], deepest)

    def train(self, mode: bool = True) -> Self:
        """As of every module; frozen backbones stay in evaluation mode, their statistics too."""
        super().train(mode)
        if self.freeze:
            self.backbones.eval()
        return self

    def _squeeze(self, name: str) -> nn.ModuleList:
        return cast("nn.ModuleList", self.squeeze[name])

    def _fuse(self, level: int, r: Tensor, d: Tensor | None = None) -> Tensor:
        if d is None:
            return r
        fused = self.prefuse[level](torch.cat([r, d], dim=1))
        if str(STRIDES[level]) not in self.blocks:
            return fused
        tokens = (x.flatten(2).mT for x in (r, d, fused))
        return to_map(self.blocks[str(STRIDES[level])](*tokens), r.shape[2])

    @staticmethod
    def _enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)


class Cascade(nn.Module):
    """Top-down through the levels: every finer one meets what came from above, in a cross-feature module."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(CrossFeature(width) for _ in STRIDES[1:])

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Maps ``(B, D, h, w)``, finest first, to the refined ones and what reached the finest."""
        refined, above = [levels[-1]], levels[-1]
        for step, level in zip(self.steps, levels[-2::-1], strict=True):
            fine, above = step(level, above)
            refined.insert(0, fine)
        return refined, above


class CrossFeature(nn.Module):
    """Two branches keep what they agree on: ``c = a2 b2``, ``a4 = f(f(c) + a1)``, ``b4 = f(f(c) + b1)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.ModuleList(_conv(width, width, 3) for _ in range(4))
        self.b = nn.ModuleList(_conv(width, width, 3) for _ in range(4))

    def forward(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, D, h, w)`` twice; ``coarse`` is brought to the size of ``fine``."""
        a1 = self.a[0](fine)
        b1 = self.b[0](F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=False))
        common = self.a[1](a1) * self.b[1](b1)
        return self.a[3](self.a[2](common) + a1), self.b[3](self.b[2](common) + b1)


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

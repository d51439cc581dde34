r"""ARAF's published network ``MultiModalEnhancer``: an image and a numeric sequence to class logits, exactly.

.. math::
    e_I &= \mathrm{ImageEncoder}(image), \quad e_S = \mathrm{ResNet1D}(signal) && (B, 512)\ \text{each} \\
    O &= \mathrm{Align}(e_I \otimes 1,\ e_S \otimes 1), \quad Y = \mathrm{Enhance}(O) && (B, 512, 512),\ (B, 512, 64) \\
    logits &= W_2\,\mathrm{relu}(W_1\,\mathrm{flatten}(Y) + b_1) + b_2 && (B, classes)

with alignment and enhancement as in :mod:`weft.fusion.araf_blocks`. The image encoder is a vision transformer whose
layers run the MLP before the attention: :math:`x_1 = x + \mathrm{MLP}(\mathrm{LN}(x))`,
:math:`x_3 = x_1 + \mathrm{MHSA}(\mathrm{LN}(x_1))`.

What the original computes and throws away is not computed here, the output is the same: every one of its transformer
layers reads the embedding, and only the last one's result is used (5 of 6 layers are dead weight); with
``pool="cls"`` only the class token's query matters; the copied channels stay one number (``copied``).

Cost: 91,798,384 published weights at 256 pixels and 1000 classes, of which 41,984,000 are dead and not kept.

When not to use it: for results. Of the copied channels at most nine directions are left, and the classes come from a
head of 17 million weights. It is here so that the published claim can be checked; the mechanism itself is
:class:`~weft.fusion.araf.ARAF`.

Source: the code of "Attention-based cross-modal representation alignment and fusion mechanism for multitasks" (ARAF,
2023). Its training script cannot run, swaps the two arguments and trains on test data; none of that is taken over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.fusion.araf_blocks import PublishedAlignment, PublishedEnhancement

Pool = Literal["cls", "mean"]
CONVOLUTIONS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {
    1: (nn.Conv1d, nn.BatchNorm1d),
    2: (nn.Conv2d, nn.BatchNorm2d),
}


class MultiModalEnhancer(nn.Module):
    """The published network.

    Args:
        classes: outputs.
        width: of the two embeddings; ``heads * head_dim``.
        heads, head_dim: of the alignment.
        image: options of :class:`ImageEncoder`.

    Raises:
        UserError: ``heads * head_dim`` is not ``width``; from ``forward``, shapes that do not fit or do not pair.
    """

    def __init__(
        self,
        classes: int = 1000,
        *,
        width: int = 512,
        heads: int = 8,
        head_dim: int = 64,
        image: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(outputs=width, **(image or {}))
        self.signal_resnet = ResNet1D(1, width)
        self.multi_modal_fusion = PublishedAlignment(width, heads, head_dim)
        self.feature_enhancement = PublishedEnhancement(width, heads, head_dim)
        hidden = width * self.feature_enhancement.columns
        self.fc = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(hidden, width),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(width, classes),
        )

    def forward(self, signal: Tensor, image: Tensor) -> Tensor:
        """Logits ``(B, classes)``.

        Args:
            signal: ``(B, L)`` float.
            image: ``(B, 3, height, width)`` float.
        """
        if signal.ndim != 2 or image.ndim != 4 or len(signal) != len(image):
            raise UserError(
                "MultiModalEnhancer takes pairs: a signal (B, L) and an image (B, 3, height, width), in this order",
                f"signal {tuple(signal.shape)}, image {tuple(image.shape)}",
                "give row i of both the same sample; a signal of several channels is flattened first",
            )
        fused = self.multi_modal_fusion.copied(self.image_encoder(image), self.signal_resnet(signal.unsqueeze(1)))
        return self.fc(self.feature_enhancement.copied(fused))

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        image_heads: int = 16,
        patch: int | tuple[int, int] = 16,
        pool: Pool = "cls",
    ) -> Self:
        """The published network from its state dict, in evaluation mode; tensors are taken over, not copied.

        Args:
            state: all its tensors. Sizes are read from the shapes; dead transformer layers are left out.
            image_heads, patch, pool: of the image encoder, which no shape shows.
        """
        needed = ("image_encoder.to_fusion.0.weight", "feature_enhancement.residual_block.1.weight", "fc.5.weight")
        missing = [key for key in needed if key not in state]
        if missing:
            raise UserError(
                "not the state dict of the published MultiModalEnhancer",
                f"no {missing[0]!r} among {len(state)} names",
                "pass model.state_dict() of the whole network",
            )
        image = part(state, "image_encoder.")
        heads, width = state["feature_enhancement.residual_block.1.weight"].shape[:2]
        with torch.device("meta"):
            module = cls(
                len(state["fc.5.weight"]),
                width=width,
                heads=heads,
                head_dim=len(state["multi_modal_fusion.signal_projection.weight"]) // 2,
                image=image_options(image, heads=image_heads, patch=patch, pool=pool),
            )
        names = image_names(image)
        own = {f"image_encoder.{ours}": image[theirs] for theirs, ours in names.items()}
        own |= {key: value for key, value in state.items() if not key.startswith("image_encoder.")}
        module.load_state_dict(own, assign=True)
        return module.eval()


class ImageEncoder(nn.Module):
    """The published image encoder, as deep as it works: one layer.

    Args:
        size: height and width of the images, in pixels; one number for both.
        patch: the same of a patch; divides ``size``.
        width: of a token.
        heads, head_dim: of the attention.
        hidden: of the MLP.
        outputs: of the embedding.
        channels: of the images.
        pool: "cls" or "mean", over all tokens including the class token.
        dropout: on the embedded tokens and both branches, in [0, 1].
    """

    def __init__(
        self,
        *,
        size: int | tuple[int, int] = 256,
        patch: int | tuple[int, int] = 16,
        width: int = 1024,
        heads: int = 16,
        head_dim: int = 64,
        hidden: int = 2048,
        outputs: int = 512,
        channels: int = 3,
        pool: Pool = "cls",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        size, self.patch = pair(size), pair(patch)
        if pool not in ("cls", "mean"):
            raise UserError("ImageEncoder: unknown pool", f"pool={pool!r}", "choose 'cls' or 'mean'")
        if any(s % p for s, p in zip(size, self.patch, strict=True)):
            raise UserError(
                "ImageEncoder: the patch divides the image", f"size={size}, patch={self.patch}", "choose another patch"
            )
        self.heads, self.pool, self.channels = heads, pool, channels
        count = (size[0] // self.patch[0]) * (size[1] // self.patch[1])
        self.pos_embedding = nn.Parameter(torch.randn(1, count + 1, width))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.patches = nn.Linear(channels * self.patch[0] * self.patch[1], width)
        self.norm_mlp, self.norm_attention = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
        )
        inner = heads * head_dim
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        alone = heads == 1 and head_dim == width
        self.out = nn.Identity() if alone else nn.Sequential(nn.Linear(inner, width), nn.Dropout(dropout))
        self.to_fusion = nn.Sequential(nn.Linear(width, outputs), nn.ReLU())
        self.dropout = nn.Dropout(dropout)

    def forward(self, image: Tensor) -> Tensor:
        """The embedding ``(B, outputs)`` of ``image`` ``(B, channels, height, width)``."""
        x = self._before_attention(image)
        normed = self.norm_attention(x)
        if self.pool == "cls":
            x = x[:, :1]
        weight_q, weight_kv = self.qkv.weight.tensor_split([len(self.qkv.weight) // 3])
        query = self._split(F.linear(normed[:, : x.shape[1]], weight_q))
        key, value = (self._split(y) for y in F.linear(normed, weight_kv).chunk(2, dim=-1))
        received = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.to_fusion((x + self.out(received)).mean(dim=1))

    def attention(self, image: Tensor) -> Tensor:
        """The attention weights ``(B, heads, N + 1, N + 1)``, class token first."""
        query, key, _ = (
            self._split(y) for y in self.qkv(self.norm_attention(self._before_attention(image))).chunk(3, -1)
        )
        return (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)

    def _before_attention(self, image: Tensor) -> Tensor:
        """Tokens ``(B, N + 1, width)`` after the MLP."""
        x = self.patches(self._cut(image))
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embedding
        x = self.dropout(x)
        return x + self.mlp(self.norm_mlp(x))

    def _cut(self, image: Tensor) -> Tensor:
        """Row-major patches, each flattened with the channel fastest: ``(B, N, patch height * patch width * C)``."""
        (high, wide), count = self.patch, self.pos_embedding.shape[1] - 1
        rows, columns = image.shape[2] // high, image.shape[3] // wide
        exact = (rows * high, columns * wide) == tuple(image.shape[2:])
        if image.shape[1] != self.channels or not exact or rows * columns != count:
            raise UserError(
                f"this image encoder reads {self.channels} channels in {count} patches of {high} x {wide} pixels",
                f"images of shape {tuple(image.shape[1:])}",
                "resize the images to the size the encoder was built for",
            )
        cut = image.unflatten(3, (columns, wide)).unflatten(2, (rows, high))
        return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class ResNet1D(nn.Module):
    """The published encoder of sequences, with its names: a stem, five stages of two units, two linear maps.

    Args:
        channels: of the sequence.
        outputs: of the embedding.
    """

    def __init__(self, channels: int = 1, outputs: int = 512) -> None:
        super().__init__()
        self.net2_1 = nn.Sequential(
            nn.Conv1d(channels, 64, 7, stride=2, padding=3), nn.BatchNorm1d(64), nn.ReLU(), nn.MaxPool1d(3, 2, 1)
        )
        self.net2_2 = stage(64, 64, 2, first=True)
        self.net2_3, self.net2_4, self.net2_5, self.net2_6 = (stage(c, 2 * c, 2) for c in (64, 128, 256, 512))
        self.linear = nn.Sequential(nn.Linear(1024, 4096), nn.Dropout(0.5), nn.Linear(4096, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The embedding ``(B, outputs)`` of ``x`` ``(B, channels, L)``."""
        for block in (self.net2_1, self.net2_2, self.net2_3, self.net2_4, self.net2_5, self.net2_6):
            x = block(x)
        return self.linear(x.mean(dim=2))


class Residual(nn.Module):
    """The published residual unit: ``relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))``.

    Args:
        channels, outputs: of input and result.
        stride: of the first convolution.
        project: a 1x1 convolution as shortcut, with the same stride; otherwise the identity.
        axes: 1 for sequences, 2 for images.
    """

    def __init__(self, channels: int, outputs: int, *, stride: int = 1, project: bool = False, axes: int = 1) -> None:
        super().__init__()
        convolution, norm = CONVOLUTIONS[axes]
        self.conv1 = convolution(channels, outputs, 3, stride=stride, padding=1)
        self.conv2 = convolution(outputs, outputs, 3, padding=1)
        self.conv3 = convolution(channels, outputs, 1, stride=stride) if project else None
        self.bn1, self.bn2 = norm(outputs), norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, ...)`` to ``(B, outputs, ...)``."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.conv3 is None else self.conv3(x)))


def stage(channels: int, outputs: int, units: int, *, first: bool = False, axes: int = 1) -> nn.Sequential:
    """Residual units; the first one halves the length and projects, except in the ``first`` stage."""
    opening = Residual(channels, outputs, stride=1 if first else 2, project=not first, axes=axes)
    return nn.Sequential(opening, *(Residual(outputs, outputs, axes=axes) for _ in range(units - 1)))


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width from one number or two."""
    return (size, size) if isinstance(size, int) else size


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def image_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Published names of the image encoder's living parameters, and ours: ``{theirs: ours}``."""
    last = max(int(key.split(".")[2]) for key in state if key.startswith("transformer.layers."))
    layer = f"transformer.layers.{last}"
    modules = {
        "to_patch_embedding.1": "patches",
        f"{layer}.0.norm": "norm_attention",
        f"{layer}.0.fn.to_qkv": "qkv",
        f"{layer}.0.fn.to_out.0": "out.0",
        f"{layer}.1.norm": "norm_mlp",
        f"{layer}.1.fn.net.0": "mlp.0",
        f"{layer}.1.fn.net.3": "mlp.3",
        "to_fusion.0": "to_fusion.0",
    }
    names = {"pos_embedding": "pos_embedding", "cls_token": "cls_token"}
    names |= {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in modules.items() for kind in ("weight", "bias")}
    return {theirs: ours for theirs, ours in names.items() if theirs in state}


def image_options(
    state: Mapping[str, Tensor], *, heads: int, patch: int | tuple[int, int], pool: Pool
) -> dict[str, Any]:
    """Options of :class:`ImageEncoder` from the published state; the count of patches stands for the image's shape.

    Raises:
        UserError: heads or patch do not fit the published weights.
    """
    ours = {name: state[theirs].shape for theirs, name in image_names(state).items()}
    high, wide = pair(patch)
    if ours["qkv.weight"][0] % (3 * heads) or ours["patches.weight"][1] % (high * wide):
        raise UserError(
            "image_heads and patch do not fit the published weights",
            f"image_heads={heads} of {ours['qkv.weight'][0] // 3}, patch={patch} of {ours['patches.weight'][1]} inputs",
            "give the values the network was built with",
        )
    return {
        "size": (high * (ours["pos_embedding"][1] - 1), wide),
        "patch": (high, wide),
        "width": ours["patches.weight"][0],
        "heads": heads,
        "head_dim": ours["qkv.weight"][0] // (3 * heads),
        "hidden": ours["mlp.0.weight"][0],
        "channels": ours["patches.weight"][1] // (high * wide),
        "pool": pool,
    }

r"""The network: a restorer of grey pictures whose encoder has a convolutional and a transformer branch.

.. math::
    c &= \mathrm{Block}_{1 \to 16}(x), \qquad t = \mathrm{unpatch}(\mathrm{ViT}(\mathrm{patch}(x)))
        && (B, 16, H, W), (B, 1, H, W) \\
    E(x) &= \mathrm{Block}_{32 \to 48}(\mathrm{Block}_{17 \to 32}([c ; t])) && (B, 48, H, W) \\
    D(f) &= W \, \mathrm{Block}_{32 \to 16}(\mathrm{Block}_{48 \to 32}(f)) && (B, 1, H, W), \text{ linear} \\
    \mathrm{fused} &= D\bigl(\mathrm{rule}(E(x_1), \dots, E(x_n))\bigr)
        && \text{rule: mean (published), max, attention}

A block is two 3x3 convolutions with ReLU, nothing normalised. The ViT has no positions, no class token and no final
norm; queries, keys and values have no bias. Its width is the number of pixels of a patch, so tokens are pixels again
by reshaping. The published code fixes 16 rows of patches; here any size that the patch divides.

Rule ``attention`` weighs the encodings pixel by pixel by their activity, ``softmax`` over the pictures of the mean of
``|E|`` over the channels.

Cost: 19.05 M weights at the published size, nearly all of them the ViT's; its attention is quadratic in
``(H / P)(W / P)``.

When not to use it: pictures that are not registered; colour (see ``weft.systems.transmef.colour``: the network sees
luma). Exposures that are wrong everywhere, not in places, are outside what its tasks simulate, and a short training
does worse there than the mean of the pictures.

Source: Qu et al., "TransMEF: A Transformer-Based Multi-Exposure Image Fusion Framework using Self-Supervised
Multi-Task Learning", AAAI 2022 (arXiv 2112.01030). The published code has one convolutional block beside the ViT where
its figure draws three; we follow the code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError, did_you_mean
from weft.fusion import Fusion, create_fusion, fusions
from weft.tokens import Tokens, everywhere

RULES = ("mean", "max", "attention")
CHANNELS = 48


class TransMefNet(nn.Module):
    """The network.

    Args:
        patch: side ``P`` of a patch; the ViT is ``P * P`` wide.
        depth, heads, head_width, mlp: of the ViT.
        dropout: in its attention and its perceptrons.
        rule: how the encodings of several pictures become one: ``"mean"`` as published, ``"max"``, ``"attention"``
            (weights by activity); or a registered fusion of aligned maps (``"aff"``, ``"iaff"``), which is learned, of
            two pictures whose order matters.

    Raises:
        UserError: an unknown rule; from ``forward``, pictures that the patch does not divide, or more than two for a
            learned rule.
    """

    def __init__(
        self,
        *,
        patch: int = 16,
        depth: int = 12,
        heads: int = 16,
        head_width: int = 64,
        mlp: int = 1024,
        dropout: float = 0.1,
        rule: str = "mean",
    ) -> None:
        super().__init__()
        learned = [name for name in fusions.names() if fusions.get(name).wants == "aligned-tokens"]
        if rule not in (*RULES, *learned):
            raise UserError("rule says how encodings become one", repr(rule), did_you_mean(rule, (*RULES, *learned)))
        self.rule = rule
        two = {"first": CHANNELS, "second": CHANNELS}
        self.fusion = None if rule in RULES else create_fusion(rule, two, CHANNELS)
        self.local = _block(1, 16)
        self.vit = PixelTransformer(patch, depth, heads, head_width, mlp, dropout)
        self.enhance = nn.Sequential(_block(17, 32), _block(32, CHANNELS))
        self.decoder = nn.Sequential(_block(CHANNELS, 32), _block(32, 16), nn.Conv2d(16, 1, 1))

    def forward(self, *pictures: Tensor) -> Tensor:
        """One picture ``(B, 1, H, W)``, not clamped, of one or several ``(B, 1, H, W)`` in [0, 1]."""
        return self.decoder(self.merge([self.encode(picture) for picture in pictures]))

    def encode(self, picture: Tensor) -> Tensor:
        """``(B, 48, H, W)`` of a picture ``(B, 1, H, W)``."""
        return self.enhance(torch.cat([self.local(picture), self.vit(picture)], dim=1))

    def merge(self, encodings: Sequence[Tensor]) -> Tensor:
        """One encoding of several ``(B, 48, H, W)``, by the rule."""
        if self.fusion is not None:
            return self._learned(self.fusion, encodings)
        if len(encodings) == 1:
            return encodings[0]
        stacked = torch.stack(list(encodings))
        if self.rule == "max":
            return stacked.amax(dim=0)
        if self.rule == "attention":
            activity = stacked.abs().mean(dim=2, keepdim=True)
            return (activity.softmax(dim=0) * stacked).sum(dim=0)
        return stacked.mean(dim=0)

    def _learned(self, fusion: Fusion, encodings: Sequence[Tensor]) -> Tensor:
        """By a registered fusion; one picture alone stands on both sides."""
        if len(encodings) > 2:
            raise UserError(
                f"rule={self.rule!r} joins two pictures", f"{len(encodings)}", f"give two, or choose {', '.join(RULES)}"
            )
        first, *_, second = (*encodings, encodings[-1])
        batch, _, height, width = first.shape
        mask = everywhere(batch, height * width, device=first.device)
        fused = fusion({n: Tokens(e.flatten(2).mT, mask) for n, e in (("first", first), ("second", second))}).tokens
        if fused is None:
            raise UserError(
                "the rule keeps no map", f"rule={self.rule!r} gives one vector", f"choose {', '.join(RULES)}"
            )
        return fused.values.mT.unflatten(2, (height, width))

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], *, heads: int = 16, rule: str = "mean") -> Self:
        """The network with weights under the original authors' names.

        Parameters that their network never uses (``cls_token``, ``convd1``) are left out; the number of heads is not in
        the weights.

        Raises:
            UserError: names or shapes are not those of the published network.
        """
        weights = {official_name(name): tensor for name, tensor in state.items() if not _unused(name)}
        try:
            width = weights["vit.embed.weight"].shape[0]
            depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("vit.blocks."))
            qkv = weights["vit.blocks.0.attention.qkv.weight"]
            mlp = len(weights["vit.blocks.0.mlp.0.weight"])
            net = cls(
                patch=round(width**0.5),
                depth=depth,
                heads=heads,
                head_width=len(qkv) // (3 * heads),
                mlp=mlp,
                rule=rule,
            )
            net.to(qkv.dtype).load_state_dict(weights)
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(
                "these are not the weights of a TransMEF network", str(error)[:300], "pass the state_dict as published"
            ) from None
        return net


class PixelTransformer(nn.Module):
    """A transformer over patches whose tokens are pixels again: ``(B, 1, H, W)`` to the same."""

    def __init__(self, patch: int, depth: int, heads: int, head_width: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.patch, width = patch, patch * patch
        self.embed = nn.Linear(width, width)
        self.blocks = nn.ModuleList(_Block(width, heads, head_width, mlp, dropout) for _ in range(depth))

    def forward(self, picture: Tensor) -> Tensor:
        tokens = self.tokens(picture)
        for block in self.blocks:
            tokens = block(tokens)
        return F.fold(tokens.mT, picture.shape[2:], self.patch, stride=self.patch)

    def tokens(self, picture: Tensor) -> Tensor:
        """``(B, N, P * P)``, patches row by row.

        Raises:
            UserError: not grey, or a side that is no multiple of the patch.
        """
        if picture.ndim != 4 or picture.shape[1] != 1 or any(side % self.patch for side in picture.shape[2:]):
            raise UserError(
                f"pictures are grey, (B, 1, H, W), their sides multiples of {self.patch}",
                f"{tuple(picture.shape)}",
                "TransMef.predict takes pictures of any size and colour",
            )
        return self.embed(F.unfold(picture, self.patch, stride=self.patch).mT)


class _Block(nn.Module):
    """``z + Attention(LN(z))``, then ``z + MLP(LN(z))``."""

    def __init__(self, width: int, heads: int, head_width: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, heads, head_width, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp, width), nn.Dropout(dropout)
        )

    def forward(self, z: Tensor) -> Tensor:
        z = z + self.attention(self.norm_attention(z))
        return z + self.mlp(self.norm_mlp(z))


class _Attention(nn.Module):
    """Self-attention without biases of query, key, value; not projected where one head is as wide as ``z``."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        alone = heads == 1 and head_width == width
        self.project = nn.Identity() if alone else nn.Sequential(nn.Linear(inner, width), nn.Dropout(dropout))

    def forward(self, z: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(z).chunk(3, dim=2))
        return self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    first, second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))


_NAMES = {
    "encoder.inc.double_conv.": "local.",
    "encoder.layer1.double_conv.": "enhance.0.",
    "encoder.layer2.double_conv.": "enhance.1.",
    "encoder.transformer.to_patch_embedding.1.": "vit.embed.",
    "encoder.transformer.transformer.layers.": "vit.blocks.",
    "decoder.layer1.double_conv.": "decoder.0.",
    "decoder.layer2.double_conv.": "decoder.1.",
    "decoder.outc.conv.": "decoder.2.",
}
_INSIDE = {
    ".0.norm.": ".norm_attention.",
    ".0.fn.to_qkv.": ".attention.qkv.",
    ".0.fn.to_out.": ".attention.project.",
    ".1.norm.": ".norm_mlp.",
    ".1.fn.net.": ".mlp.",
}


def official_name(name: str) -> str:
    """What a weight of the published network is called here."""
    name = name.removeprefix("module.")
    for old, new in _NAMES.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    if name.startswith("vit.blocks."):
        for old, new in _INSIDE.items():
            name = name.replace(old, new, 1) if old in name else name
    return name


def _unused(name: str) -> bool:
    return "cls_token" in name or "convd1" in name

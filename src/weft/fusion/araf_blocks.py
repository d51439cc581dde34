r"""ARAF's published blocks: joint layer normalisation, alignment and enhancement, dense and for copied channels.

Joint layer normalisation has one mean and one (biased) variance per sample, over tokens **and** channels:

.. math:: y_{nc} = \gamma_c\,(x_{nc} - \mu) / \sqrt{\sigma^2 + 10^{-5}} + \beta_c

Alignment of a query :math:`I` ``(B, N, D)`` with a source :math:`T` ``(B, M, D)``; keys and values serve all H heads:

.. math::
    Q &= (\mathrm{JLN}(I) W_q^\top + b_q)\,d^{-1/2} && (B, H, N, d) \\
    [K \mid V] &= \mathrm{JLN}(T) W_{kv}^\top + b_{kv} && (B, M, d)\ \text{each} \\
    O &= \mathrm{concat}_h\ \mathrm{softmax}(Q_h K^\top) V && (B, N, H d)

Enhancement of :math:`O` with as many tokens as channels, ``N = H d``, into S columns:

.. math::
    Z &= \mathrm{JLN}'(O), \qquad R = W_2 (W_1 Z + b_1) + b_2 && (B, H, N)\ \text{over tokens} \\
    E_{oj} &= \textstyle\sum_c (W_3)_{oc} R_{jc} + (b_3)_o, \qquad
    Y = \mathrm{relu}(\mathrm{relu}(\mathrm{up}_{H \to S} E) + \mathrm{down}_{N \to S} Z) && (B, N, S)

with linear interpolation on the last axis (``align_corners=False``).

The published network feeds vectors :math:`e` ``(B, N)`` copied along a channel axis, :math:`x_{nc} = e_n`. All that
follows is then affine in few numbers: with :math:`z` the standardised :math:`e`, a score is
:math:`s_{hn} z'_m` plus what the softmax ignores, :math:`s_{hn} = (z_n\,a_h^\top k + c_h^\top k)\,d^{-1/2}`, and

.. math:: O_{n,(h,j)} = \tau_{hn} u_j + w_j, \qquad \tau_{hn} = \textstyle\sum_m \mathrm{softmax}_m(s_{hn} z'_m) z'_m

of rank H + 1 at most. ``copied`` computes :math:`\tau` ``(B, N, H)`` and never a ``(B, N, N)`` tensor; the enhancement
takes that form and multiplies :math:`W_2 W_1` first. Same values and gradients, ``O(N M H)`` in place of
``O(N M H d + N^2 H d)`` per sample: at the published size about a hundredth.

Source: the code of "Attention-based cross-modal representation alignment and fusion mechanism for multitasks" (ARAF,
2023). Parameters carry its names. The bias of the keys, kept for its weights' sake, never gets a gradient.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.tokens import full

EPS = 1e-5


class LowRank(NamedTuple):
    """``coefficients @ basis + offset``: a ``(B, N, D)`` tensor of rank K + 1 at most.

    Attributes:
        coefficients: ``(B, N, K)``.
        basis: ``(K, D)``.
        offset: ``(B, D)``, the same in every token.
    """

    coefficients: Tensor
    basis: Tensor
    offset: Tensor

    def dense(self) -> Tensor:
        """The tensor itself, ``(B, N, D)``."""
        return self.coefficients @ self.basis + self.offset.unsqueeze(1)


class JointLayerNorm(nn.Module):
    """Normalises tokens and channels of a sample together.

    Args:
        width: most channels; inputs with fewer use the first entries of ``gamma`` and ``beta``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``x`` ``(B, N, C)`` normalised; ``mask`` ``(B, N)``: only these tokens count for mean and variance.

        Raises:
            UserError: more channels ``N`` than the module has weights for.
        """
        channels = x.shape[-1]
        if channels > len(self.gamma):
            raise UserError(
                "joint layer normalisation: more channels than it has weights for",
                f"{channels} channels, width {len(self.gamma)}",
                "build it with the width of its input",
            )
        gamma, beta = self.gamma[:channels], self.beta[:channels]
        if mask is None or full(mask):
            return F.layer_norm(x, x.shape[1:], eps=EPS) * gamma + beta
        real = mask.unsqueeze(-1)
        count = (mask.sum(dim=1).clamp(min=1) * channels).to(x.dtype)[:, None, None]
        centred = x - torch.where(real, x, 0.0).sum(dim=(1, 2), keepdim=True) / count
        variance = torch.where(real, centred, 0.0).square().sum(dim=(1, 2), keepdim=True) / count
        return centred * (variance + EPS).rsqrt() * gamma + beta


class PublishedAlignment(nn.Module):
    """The published ``MultiModalFusionBlock``.

    Args:
        width: ``D``, channels of both inputs.
        heads: ``H``.
        head_dim: ``d``.
    """

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.norm = JointLayerNorm(width)
        self.image_projection = nn.Linear(width, heads * head_dim)
        self.signal_projection = nn.Linear(width, 2 * head_dim)

    def forward(self, query: Tensor, source: Tensor) -> Tensor:
        """``(B, N, H d)`` of a query ``(B, N, D)`` and a source ``(B, M, D)``."""
        q = self.image_projection(self.norm(query)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.signal_projection(self.norm(source)).chunk(2, dim=-1)
        key, value = (x.unsqueeze(1).expand(-1, self.heads, -1, -1) for x in (key, value))
        return F.scaled_dot_product_attention(q, key, value).transpose(1, 2).flatten(2)

    def copied(self, query: Tensor, source: Tensor) -> LowRank:
        """As ``forward`` of ``query`` ``(B, N)`` and ``source`` ``(B, M)``, each copied to D channels."""
        gamma, beta = self.norm.gamma, self.norm.beta
        slope = (self.image_projection.weight @ gamma).unflatten(0, (self.heads, -1))
        start = self.image_projection(beta).unflatten(0, (self.heads, -1))
        key, rise = (self.signal_projection.weight @ gamma).chunk(2)
        offset = self.signal_projection(beta).chunk(2)[1]
        scores = standardise(query).unsqueeze(-1) * (slope @ key) + start @ key
        q, k = (scores * self.head_dim**-0.5).flatten(1)[:, None, :, None], standardise(source)[:, None, :, None]
        received = F.scaled_dot_product_attention(q, k, k, scale=1.0).flatten(1).unflatten(1, (-1, self.heads))
        basis = torch.block_diag(*rise.unsqueeze(0).expand(self.heads, -1).split(1))
        return LowRank(received, basis, offset.repeat(self.heads).expand(query.shape[0], -1))


class PublishedEnhancement(nn.Module):
    """The published ``FeatureEnhancementBlock``.

    Args:
        width: tokens and channels of its input; ``heads * head_dim``.
        heads: rows that the token axis is reduced to.
        head_dim: width of a head.
        columns: ``S``, length of the last axis of the result.

    Raises:
        UserError: ``heads * head_dim`` is not ``width``.
    """

    def __init__(self, width: int, heads: int, head_dim: int, columns: int = 64) -> None:
        super().__init__()
        if heads * head_dim != width:
            raise UserError(
                "ARAF's enhancement needs heads * head_dim = width: its tokens and channels are as many",
                f"heads={heads}, head_dim={head_dim}, width={width}",
                f"choose heads among the divisors of {width} and head_dim = {width} / heads",
            )
        self.width, self.columns = width, columns
        self.norm = JointLayerNorm(width)
        self.residual_block = nn.Sequential(nn.Conv1d(width, width, 1), nn.Conv1d(width, heads, 1))
        self.cnn = nn.Sequential(nn.Conv1d(width, width, 1))

    def forward(self, features: Tensor) -> Tensor:
        """``(B, N, S)`` of ``features`` ``(B, N, N)``."""
        self._check(features.shape[1], features.shape[2])
        z = self.norm(features)
        return self._join(self.residual_block(z), resize(z, self.columns))

    def copied(self, features: LowRank) -> Tensor:
        """As ``forward`` of ``features.dense()``."""
        coefficients, basis, offset = features
        self._check(coefficients.shape[1], basis.shape[1])
        mean = coefficients.mean(dim=1, keepdim=True)
        coefficients = coefficients - mean
        row = (mean @ basis).squeeze(1) + offset
        row = row - row.mean(dim=1, keepdim=True)
        spread = ((coefficients.mT @ coefficients) * (basis @ basis.mT)).sum(dim=(1, 2)) / self.width**2
        scale = (spread + row.square().mean(dim=1) + EPS).rsqrt()[:, None, None]
        basis, row = basis * self.norm.gamma, (row * self.norm.gamma).unsqueeze(1)

        first, second = (cast(nn.Conv1d, layer) for layer in self.residual_block)
        tokens = second.weight[..., 0] @ first.weight[..., 0]
        bias = second(cast(Tensor, first.bias).unsqueeze(-1))
        total = tokens.sum(dim=1, keepdim=True)
        reduced = scale * ((tokens @ coefficients) @ basis + total * row) + total * self.norm.beta + bias
        down_basis, down_beta = (resize(x[None], self.columns)[0] for x in (basis, self.norm.beta.unsqueeze(0)))
        return self._join(reduced, scale * (coefficients @ down_basis + resize(row, self.columns)) + down_beta)

    def _join(self, reduced: Tensor, down: Tensor) -> Tensor:
        return F.relu(F.relu(resize(self.cnn(reduced.mT), self.columns)) + down)

    def _check(self, tokens: int, channels: int) -> None:
        if tokens != self.width or channels != self.width:
            raise UserError(
                f"ARAF's enhancement of width {self.width} needs as many tokens and as many channels",
                f"{tokens} tokens of {channels} channels",
                "choose heads * head_dim equal to the number of tokens",
            )


def standardise(x: Tensor) -> Tensor:
    """Rows of ``(B, N)`` with mean 0 and (biased) variance 1."""
    centred = x - x.mean(dim=1, keepdim=True)
    return centred * (centred.square().mean(dim=1, keepdim=True) + EPS).rsqrt()


def resize(x: Tensor, length: int) -> Tensor:
    """Linear interpolation of the last axis of ``(B, N, L)`` to ``length``."""
    return F.interpolate(x, size=length, mode="linear", align_corners=False)

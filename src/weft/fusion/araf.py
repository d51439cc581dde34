r"""ARAF: one modality asks the others, and an enhancement puts the answer and each modality together.

``variant="paper"``, with :math:`X_m = V_m W_m + b_m` ``(B, T_m, D)`` and a the asking modality (the first, or
``asks``):

.. math::
    Q_a &= S_a + \mathrm{Att}(S_a, \mathrm{LN}(X_a)) && (B, C, D),\ S_a\ \text{C learned queries (resampler)} \\
    A_{ab} &= W_o\,\mathrm{concat}_h\,\mathrm{softmax}(q_h K^\top / \sqrt{d})\,V + b_o
        && q = N_{ab}(Q_a) W_q^\top + b_q,\ [K \mid V] = N_{ab}(X_b) W_{kv}^\top\ (B, T_b, d)\ \text{each} \\
    F &= \textstyle\sum_{b \ne a} A_{ab} && (B, C, D),\ b\ \text{present} \\
    G_m &= F + W^x_m\,\mathrm{mean}_t X_m && \text{the gate: what the enhancement adds depends on m} \\
    E_m &= \mathrm{up}_{H \to C}(W^t_m G_m + b^t_m)\,W^c_m + b^c_m && (B, C, S) \\
    Y &= \textstyle\sum_m \mathrm{relu}(\mathrm{relu}(E_m) + \mathrm{down}_{D \to S} N_m(F)) && m\ \text{present} \\
    z &= s\,(W\,\mathrm{flatten}(Y) + b) + \textstyle\mathrm{mean}_m\,\mathrm{relu}(\mathrm{mean}_t X_m) && (B, dim)

``variant="official"`` is the published arithmetic of :mod:`weft.fusion.araf_blocks`: modalities are mean-pooled and
projected to D features, which are taken for D tokens with D equal channels; the enhancement sees F only, once. Nothing
of the asking modality is left where it is alone. The published size is ``dim=512``, 8 heads.

Cost: paper: ``4 D^2 + C D`` weights per asking modality, ``2 D^2 + 2 D d`` per alignment, ``D^2 + D S + C H`` per
enhancement; the last layer has ``C S dim`` and dominates; time ``C T_b`` per alignment. Official: ``S D dim`` in the
last layer, ``D^2 H`` time per alignment.

When not to use it: pooled vectors with ``variant="paper"`` (attention to one token has nothing to choose; training is
refused); few rows, where ``gated`` or ``lmf`` have a hundredth of the weights.

Source: "Attention-based cross-modal representation alignment and fusion mechanism for multitasks" (ARAF, 2023), of
which the code and figures are public and the text is not. The official variant follows the code, in which the
enhancement adds a channel axis to a token axis and two linear maps in a row; the paper variant follows its Algorithm 2
(enhancement per modality, summed), with axes that agree, padding, absence and more than two modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError, did_you_mean
from weft.fusion.araf_blocks import JointLayerNorm, LowRank, PublishedAlignment, PublishedEnhancement, resize
from weft.fusion.attention import Attention, check_heads
from weft.fusion.base import Fusion, fusions
from weft.fusion.mult import refuse_one_token
from weft.ops.bilinear import check_positive
from weft.registry import Dropout
from weft.tokens import Fused, Tokens, everywhere, keys_of, mean_pool, present, zero_padding

Norm = Literal["joint", "token"]


@fusions.register("araf")
class ARAF(Fusion):
    r"""Alignment of one modality with the others, then enhancement.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`; ``dim`` is also D.
        variant: "paper", or "official": the published arithmetic on pooled vectors, see above.
        heads: ``H``; divides ``dim``.
        columns: ``S``, width of the enhanced tokens.
        asks: the modality that asks; the first by default.
        symmetric: every modality asks, each direction with weights of its own.
        dropout: before the last layer, in [0, 1].
        tokens: ``C``, tokens of the asking side; with 64, the last layer is so wide that it learns no more at the usual
            learning rates. This and the following are options of the paper variant.
        norm: "joint" or "token".
        gates: the enhancement sees the modality it belongs to.
        output_projection: :math:`W_o` after the heads.
        mfe: after the projection, a LayerNorm and two blocks :math:`x + \mathrm{gelu}(\mathrm{Conv}_3(x))\,M + b` over
            tokens, those of :class:`~weft.systems.araf.encoder.ARAFEncoder`.
        align: else nobody asks anybody, and F is :math:`Q_a`.
        enhance: else :math:`Y = \mathrm{down}\,F`, once.
        skip: the mean of the modalities and the scale s; else :math:`z = W\,\mathrm{flatten}(Y) + b`.

    Raises:
        UserError: heads do not divide ``dim``, an unknown ``asks``, ``norm="token"`` in the official variant; from
            ``forward`` in training, a modality of one token (paper variant).

    ``tokens`` of the result is Y; ``per_modality`` what the last layer makes of each modality's term of Y (paper), or
    the pooled projections (official).
    """

    arity = (2, None)
    wants = "tokens"
    absent = "native"
    paper = "ARAF: Attention-based cross-modal representation alignment and fusion mechanism for multitasks, 2023"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        variant: Literal["paper", "official"] = "paper",
        heads: int = 8,
        columns: int = 64,
        asks: str | None = None,
        symmetric: bool = False,
        dropout: Dropout = 0.0,
        tokens: int = 16,
        norm: Norm = "joint",
        gates: bool = True,
        output_projection: bool = True,
        mfe: bool = False,
        align: bool = True,
        enhance: bool = True,
        skip: bool = True,
    ) -> None:
        super().__init__(dims, dim)
        check_positive("araf", heads=heads, columns=columns, tokens=tokens)
        if dim % heads:
            raise UserError(
                "araf: heads * head_dim = dim", f"heads={heads}, dim={dim}", f"choose heads among the divisors of {dim}"
            )
        if variant == "official" and norm != "joint":
            raise UserError(
                "araf: the published normalisation is joint",
                f"variant={variant!r}, norm={norm!r}",
                "choose variant='paper' for normalisation per token",
            )
        self.variant, self.askers = variant, self._askers(asks, symmetric)
        self.pairs = [(a, b) for a in self.askers for b in range(len(self.names)) if b != a]
        self.project = nn.ModuleList(nn.Linear(d, dim) for d in self.dims.values())
        self.dropout = nn.Dropout(dropout)
        if variant == "official":
            self.align = nn.ModuleList(PublishedAlignment(dim, heads, dim // heads) for _ in self.pairs)
            self.enhance = nn.ModuleList([PublishedEnhancement(dim, heads, dim // heads, columns)])
            self.out = nn.Linear(dim * columns, dim)
        else:
            self.columns = columns
            self.extract = nn.ModuleList(Extraction(dim) for _ in self.names) if mfe else None
            self.resample = nn.ModuleList(Resampler(dim, tokens, heads) for _ in self.askers)
            self.align = nn.ModuleList(Alignment(dim, heads, norm, output_projection) for _ in self.pairs if align)
            self.enhance = nn.ModuleList(
                Enhancement(dim, tokens, heads, columns, norm, gates) for _ in self.names if enhance
            )
            self.scale = nn.Parameter(torch.tensor(0.1)) if skip else None
            self.out = nn.Linear(tokens * columns, dim)

    def _askers(self, asks: str | None, symmetric: bool) -> list[int]:
        if asks is not None and (symmetric or asks not in self.dims):
            raise UserError(
                "araf: asks is the name of a modality, where not all ask",
                f"asks={asks!r}, symmetric={symmetric}",
                "leave out one of the two" if symmetric else did_you_mean(asks, self.names, "modalities"),
            )
        return list(range(len(self.names))) if symmetric else [0 if asks is None else self.names.index(asks)]

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        streams = [Tokens(p(t.values), t.mask) for p, t in zip(self.project, inputs.values(), strict=True)]
        there = torch.stack([present(x) for x in streams], dim=1)
        if self.variant == "official":
            return self._official([mean_pool(x) for x in streams], there)
        if self.training:
            refuse_one_token("araf", inputs)
        steps = self._steps(streams, there)
        means = [mean_pool(x) for x in steps.encoded]
        alone = [self.out(y.flatten(1)) for y in steps.enhanced] or means
        enhanced = torch.stack(steps.enhanced).sum(dim=0) if steps.enhanced else resize(steps.fused, self.columns)
        parts = [torch.where(there[:, m, None], x, 0.0) for m, x in enumerate(alone)]
        fused = self._finish(enhanced, parts)
        if self.scale is None:
            return fused
        skipped = F.relu(torch.stack(means)).sum(dim=0) / there.sum(dim=1, keepdim=True).clamp(min=1)
        return fused._replace(vector=self.scale * fused.vector + skipped)

    def stages(self, inputs: dict[str, Tokens]) -> dict[str, dict[str, Tensor]]:
        """What the modalities look like on the way, ``{stage: {modality: (B, width)}}``, each the mean of its tokens.

        ``encoded`` X, ``aligned`` Q with the answers added, and ``enhanced``, the terms of Y; of a paper variant with
        ``symmetric`` and all parts.
        """
        inputs = self._prepare({name: inputs[name] for name in self.names})
        streams = [Tokens(p(t.values), t.mask) for p, t in zip(self.project, inputs.values(), strict=True)]
        steps = self._steps(streams, torch.stack([present(x) for x in streams], dim=1))
        found = {
            "encoded": [mean_pool(x) for x in steps.encoded],
            "aligned": [x.mean(dim=1) for x in steps.aligned],
            "enhanced": [x.mean(dim=1) for x in steps.enhanced],
        }
        return {stage: dict(zip(self.names, values, strict=True)) for stage, values in found.items()}

    def _steps(self, streams: list[Tokens], there: Tensor) -> Steps:
        """The paper variant up to the terms of Y."""
        if self.extract is not None:
            streams = [Tokens(extract(x), x.mask) for extract, x in zip(self.extract, streams, strict=True)]
        queries = {a: resample(streams[a]) for a, resample in zip(self.askers, self.resample, strict=True)}
        if not self.align:
            fused = torch.stack(list(queries.values())).mean(dim=0)
            aligned = list(queries.values())
        else:
            answers = [align(queries[a], streams[b]) for (a, b), align in zip(self.pairs, self.align, strict=True)]
            shares = self._shares(there).to(answers[0].dtype)[:, :, None, None]
            fused = (shares * torch.stack(answers, dim=1)).sum(dim=1)
            aligned = [
                queries[a] + sum(x for (q, _), x in zip(self.pairs, answers, strict=True) if q == a) for a in queries
            ]
        enhanced = [
            torch.where(there[:, m, None, None], enhance(fused, mean_pool(x)), 0.0)
            for m, (enhance, x) in enumerate(zip(self.enhance, streams, strict=False))
        ]
        return Steps(streams, aligned, fused, enhanced)

    def _official(self, vectors: list[Tensor], there: Tensor) -> Fused:
        blocks = [cast(PublishedAlignment, block) for block in self.align]
        parts = [block.copied(vectors[a], vectors[b]) for (a, b), block in zip(self.pairs, blocks, strict=True)]
        shares = self._shares(there).to(vectors[0].dtype)
        coefficients = shares[:, :, None, None] * torch.stack([x.coefficients for x in parts], dim=1)
        offsets = shares.unsqueeze(-1) * torch.stack([x.offset for x in parts], dim=1)
        basis = torch.cat([x.basis for x in parts])
        fused = LowRank(coefficients.transpose(1, 2).flatten(2), basis, offsets.sum(dim=1))
        alone = [torch.where(there[:, m, None], x, 0.0) for m, x in enumerate(vectors)]
        return self._finish(cast(PublishedEnhancement, self.enhance[0]).copied(fused), alone)

    def _shares(self, there: Tensor) -> Tensor:
        """Weight of every pair's alignment in F, ``(B, pairs)``: 0 where b is absent; the present askers' mean."""
        ask, answer = zip(*self.pairs, strict=True)  # stacked: an index made of a list would make a GPU wait
        sent = torch.stack([there[:, b] for b in answer], dim=1).float()
        if len(self.askers) == 1:
            return sent
        asked = torch.stack([there[:, a] for a in ask], dim=1)
        return sent * asked / there.sum(dim=1, keepdim=True).clamp(min=1)

    def _finish(self, enhanced: Tensor, parts: list[Tensor]) -> Fused:
        mask = everywhere(*enhanced.shape[:2], device=enhanced.device)
        vector = self.out(self.dropout(enhanced.flatten(1)))
        return Fused(vector, Tokens(enhanced, mask), dict(zip(self.names, parts, strict=True)), None)


class Steps(NamedTuple):
    """What the paper variant makes on its way.

    Attributes:
        encoded: :math:`X_m`, ``(B, T_m, D)`` each.
        aligned: what each asking modality asked with, and the answers, ``(B, C, D)`` each.
        fused: F, ``(B, C, D)``.
        enhanced: each modality's term of Y, ``(B, C, S)``; none without enhancement.
    """

    encoded: list[Tokens]
    aligned: list[Tensor]
    fused: Tensor
    enhanced: list[Tensor]


class Extraction(nn.Module):
    """Normalisation and two MFE blocks.

    Args:
        width: ``D``, even.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(MFEBlock(width) for _ in range(2))

    def forward(self, x: Tokens) -> Tensor:
        """``(B, T, D)``; of no meaning under the mask."""
        values = self.norm(x.values)
        for block in self.blocks:
            values = values + block(Tokens(values, x.mask))
        return values


class MFEBlock(nn.Module):
    """Convolution over three tokens to half the width, GELU, and back.

    Args:
        width: ``D``, even.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width // 2, 3, padding=1)
        self.mapping = nn.Linear(width // 2, width)

    def forward(self, x: Tokens) -> Tensor:
        """The branch ``(B, N, D)``, without the residual."""
        values = zero_padding(x).values
        return self.mapping(F.gelu(self.convolution(values.mT).mT))


class Resampler(nn.Module):
    """C learned queries, each with what it receives from a sequence of any length.

    Args:
        width: ``D``.
        tokens: ``C``.
        heads: of the attention; divides ``width``.
    """

    def __init__(self, width: int, tokens: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tokens, width))
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)

    def forward(self, x: Tokens) -> Tensor:
        """``(B, C, D)`` of ``(B, T, D)``; the queries alone in rows without any real token."""
        queries = self.queries.expand(x.values.shape[0], -1, -1)
        return queries + self.attention(queries, Tokens(self.norm(x.values), x.mask))


class Alignment(nn.Module):
    """Attention of C tokens to a masked sequence, with keys and values common to all heads.

    Args:
        width: ``D``.
        heads: ``H``; divides ``width``.
        norm: "joint" or "token".
        output_projection: a linear layer after the heads.
    """

    def __init__(self, width: int, heads: int, norm: Norm, output_projection: bool) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.norm = make_norm(width, norm)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * (width // heads), bias=False)
        self.out = nn.Linear(width, width) if output_projection else nn.Identity()

    def forward(self, query: Tensor, source: Tokens) -> Tensor:
        """``(B, C, D)``; of no meaning in rows whose source is absent."""
        q = self.query(self.norm(query)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(self.norm(source.values, source.mask)).chunk(2, dim=-1)
        key, value = (x.unsqueeze(1).expand(-1, self.heads, -1, -1) for x in (key, value))
        keys, _ = keys_of(source.mask)
        return self.out(F.scaled_dot_product_attention(q, key, value, attn_mask=keys).transpose(1, 2).flatten(2))


class Enhancement(nn.Module):
    """A bottleneck over tokens and a map over channels, added to the resized tokens themselves.

    Args:
        width: ``D``.
        tokens: ``C``.
        heads: tokens of the bottleneck.
        columns: ``S``.
        norm: "joint" or "token".
        gates: add a projection of the modality's mean.
    """

    def __init__(self, width: int, tokens: int, heads: int, columns: int, norm: Norm, gates: bool) -> None:
        super().__init__()
        self.norm = make_norm(width, norm)
        self.gate = nn.Linear(width, width, bias=False) if gates else None
        self.mix = nn.Linear(tokens, heads)
        self.channels = nn.Linear(width, columns)

    def forward(self, fused: Tensor, mean: Tensor) -> Tensor:
        """``(B, C, S)`` of F ``(B, C, D)`` and the mean of a modality's tokens ``(B, D)``."""
        x = fused if self.gate is None else fused + self.gate(mean).unsqueeze(1)
        reduced = self.channels(self.mix(x.mT).mT)
        raised = F.relu(resize(reduced.mT, fused.shape[1]).mT)
        return F.relu(raised + resize(self.norm(fused), self.channels.out_features))


class TokenLayerNorm(nn.LayerNorm):
    """Layer normalisation of every token by itself; a mask changes nothing."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(..., D)`` normalised."""
        return super().forward(x)


def make_norm(width: int, norm: Norm) -> nn.Module:
    """The normalisation called "joint" or "token"."""
    return JointLayerNorm(width) if norm == "joint" else TokenLayerNorm(width)

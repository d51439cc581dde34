r"""MulT: directional crossmodal transformers between every ordered pair of sequences, of any lengths.

With :math:`X_m = V_m W_m` ``(B, T_m, d)`` (no projection where the widths agree) and E the width of an encoder:

.. math::
    e(X) &= \sqrt{E}\,X + \mathrm{PE} && \text{positions: sines, then cosines} \\
    n &= \mathrm{LN}_0(x), \quad s = \mathrm{LN}_0(e(X_b)), \quad x \leftarrow x + \mathrm{Att}(n, s, s), \quad
        x \leftarrow x + W_2\,\mathrm{relu}(W_1\,\mathrm{LN}_1(x) + b_1) + b_2 && \text{L times, from } x = e(X_a) \\
    H_{ab} &= \mathrm{LN}(x) && (B, T_a, d) \\
    z_a &= \mathrm{SelfEncoder}_a([H_{ab}]_{b \ne a})\ \text{at the last real step} && (B, (M - 1) d) \\
    z &= [z_1; \dots; z_M], \qquad y = W_o (W_2' \mathrm{relu}(W_1' z + b_1') + b_2' + z) + b_o && (B, dim)

The source is the embedded input in every layer. The self-attention encoders have ``max(L, 3)`` layers; their last layer
is computed for the last step only, since nothing else of it is read.

Padding is no key, has no position, and is never the last step. The original has no padding mask at all: it attends to
padding, drops the position of a step whose first channel is 0, and reads the last step even where it is padding;
``padding="code"`` does the same. Its ``future_mask`` lets step i see source steps :math:`j \le i + |T_a - T_b|`, on in
the original; for unequal sampling rates it has no meaning, so it is off here (the lengths are those of the real steps).
An absent source sends nothing: the target passes its attention unchanged; an absent target has :math:`z_a = 0`.

Cost: an encoder of width E has ``L (12 E^2 + 13 E) + 2 E`` weights. There are ``M (M - 1)`` of width d (one with
``shared``), M of width ``(M - 1) d``, and a head of ``2 (C^2 + C) + C dim + dim`` with ``C = M (M - 1) d``: cubic in M.
Time ``T_a T_b`` per pair and layer; memory is linear in the lengths where the fused attention kernel runs, that is
without ``attention_dropout`` (``future_mask`` adds one mask ``(B, T_a, T_b)`` per layer, whatever the heads).

When not to use it: pooled vectors (with one token nothing is attended to; training is refused); many modalities
(``lmf-mult`` and ``bottleneck`` grow linearly); few rows.

Source: Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences", ACL 2019, arXiv 1906.00295.
Where the code and the paper differ (the residual adds the un-normalised stream) we follow the code. The published
experiments use 4 or 5 layers. Not taken over: extra dropout on raw text, one attention dropout per modality, separate
dropout masks for keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError, did_you_mean
from weft.fusion import mult_weights
from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import check_positive, wide
from weft.registry import Count, Dropout
from weft.tokens import Fused, Tokens, everywhere, full, present, when_read, where_there

MEMORY_LAYERS = 3
"""Fewest layers of a self-attention encoder."""
LANES = 16
"""Heads are padded with zeros to a multiple of this: the fused kernels take 1.6 times as long for 6 as for 16."""


@fusions.register("mult")
class MulT(Fusion):
    """Crossmodal transformers of every ordered pair, then a self-attention encoder for every target.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        width: ``d``, the common width of the sequences, at least 4.
        layers: ``L``, at least 1.
        heads: attention heads; divides ``width``.
        shared: one crossmodal encoder for all pairs instead of one for each.
        targets: the modalities that attend to the others; all by default, one in the original's "only" modes.
        future_mask: the original's band (see above).
        padding: "mask", or "code": padding is data, as in the original.
        dropout: on residual branches and hidden units, in [0, 1].
        embed_dropout: on the embedded sequences, in [0, 1].
        attention_dropout: on the attention weights, in [0, 1].
        output_dropout: in the head, in [0, 1].

    Raises:
        UserError: heads do not divide the width, an unknown target; from ``forward`` in training, one token only.

    ``per_modality`` of the result is what the last layer makes of :math:`z_m` alone, or zeros: m absent or no target.
    """

    arity = (2, None)
    wants = "tokens"
    absent = "native"
    paper = (
        "Tsai et al., Multimodal Transformer for Unaligned Multimodal Language Sequences, ACL 2019, arXiv 1906.00295"
    )

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        width: Count = 30,
        layers: int = 2,
        heads: int = 5,
        shared: bool = False,
        targets: tuple[str, ...] | None = None,
        future_mask: bool = False,
        padding: Literal["mask", "code"] = "mask",
        dropout: Dropout = 0.1,
        embed_dropout: Dropout = 0.25,
        attention_dropout: Dropout = 0.0,
        output_dropout: Dropout = 0.0,
    ) -> None:
        super().__init__(dims, dim)
        check_positive("mult", layers=layers)
        self.targets = self._check_targets(targets)
        self.width, self.padding = width, padding
        drops = (dropout, embed_dropout, attention_dropout)
        wide_width, count = (len(self.dims) - 1) * width, len(self.targets)
        pairs = 1 if shared else count * (len(self.dims) - 1)
        self.project = nn.ModuleList(projection(d, width) for d in self.dims.values())
        self.cross = nn.ModuleList(
            SequenceEncoder(width, heads, layers, *drops, future_mask=future_mask) for _ in range(pairs)
        )
        self.memory = nn.ModuleList(
            SequenceEncoder(wide_width, heads, max(layers, MEMORY_LAYERS), *drops, future_mask=future_mask)
            for _ in self.targets
        )
        self.head = ResidualHead(count * wide_width, dim, output_dropout)

    def _check_targets(self, targets: tuple[str, ...] | None) -> tuple[int, ...]:
        unknown = [t for t in targets or () if t not in self.dims]
        if unknown or targets == ():
            raise UserError(
                "mult: targets are names of modalities",
                f"targets={targets!r}",
                did_you_mean(unknown[0] if unknown else "", self.names, "modalities"),
            )
        return tuple(m for m, name in enumerate(self.names) if targets is None or name in targets)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        if self.training:
            refuse_one_token("mult", inputs)
        streams = [self._embed(p(t.values), t.mask) for p, t in zip(self.project, inputs.values(), strict=True)]
        summaries = []
        for index, (a, memory) in enumerate(zip(self.targets, self.memory, strict=True)):
            sources = [x for b, x in enumerate(streams) if b != a]
            first = index * len(sources)
            encoders = self.cross if len(self.cross) > 1 else [self.cross[0]] * (first + len(sources))
            received = [encoders[first + i](streams[a], x) for i, x in enumerate(sources)]
            joined = self._embed(torch.cat(received, dim=-1), streams[a].mask)
            summary = memory(joined, last=True)[:, 0]
            summaries.append(summary if full(joined.mask) else torch.where(present(joined)[:, None], summary, 0.0))

        def alone() -> list[Tensor]:
            there = [present(t) for t in inputs.values()]
            parts = [summaries[0].new_zeros(there[0].shape[0], self.dim)] * len(there)
            for a, part in zip(self.targets, self.head.parts(summaries), strict=True):
                parts[a] = torch.where(there[a].unsqueeze(1), part, 0.0)
            return parts

        return Fused(self.head(torch.cat(summaries, dim=1)), None, when_read(self.names, alone), None)

    def _embed(self, values: Tensor, mask: Tensor) -> Tokens:
        """A sequence ready for the encoders: scaled, with positions; no padding left where padding is data."""
        if self.padding == "code":
            mask = everywhere(*mask.shape, device=mask.device)
            return Tokens(embed(values, step_numbers(mask) * (values[..., 0] != 0)), mask)
        return Tokens(embed(values, step_numbers(mask)), mask)

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        heads: int,
        names: Sequence[str] = ("text", "audio", "vision"),
        *,
        future_mask: bool = True,
        padding: Literal["mask", "code"] = "code",
    ) -> Self:
        """The published network of three modalities, as it computes there.

        Args:
            state: its parameters (``proj_l``, ``trans_l_with_a``, ``trans_l_mem``, ``proj1``, ``out_layer``, ...). The
                targets, widths and layers are read from their names and shapes; unused ones are left out.
            heads: their number, which no parameter shows.
            names: ours for the original's l, a and v.
            future_mask, padding: see the class; the defaults are the original's.
        """
        return mult_weights.load(cls, state, names, heads=heads, future_mask=future_mask, padding=padding)


class SequenceEncoder(nn.Module):
    """Pre-norm transformer layers of one sequence on another, or on itself. Parameters carry the published names.

    Args:
        width: ``E``, at least 4.
        heads: attention heads; divides ``width``.
        layers: ``L``.
        dropout, embed_dropout, attention_dropout: see :class:`MulT`.
        future_mask: step i sees step j of the source iff ``j <= i + |T - S|``, counted over the real steps.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        dropout: float = 0.0,
        embed_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        *,
        future_mask: bool = False,
    ) -> None:
        super().__init__()
        if width < 4:
            raise UserError("sequence encoders are at least 4 wide", f"width={width}", "choose a larger width")
        self.future_mask = future_mask
        self.layers = nn.ModuleList(SequenceLayer(width, heads, dropout, attention_dropout) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width)
        self.embed_dropout = nn.Dropout(embed_dropout)

    def forward(self, x: Tokens, source: Tokens | None = None, *, last: bool = False) -> Tensor:
        """Encode an embedded sequence.

        Args:
            x: ``(B, T, E)``, see :func:`embed`.
            source: ``(B, S, E)``, embedded too; None: ``x`` attends to itself.
            last: only the last real step is wanted (of self-attention).

        Returns:
            ``(B, T, E)``, or ``(B, 1, E)`` with ``last``; rows without a source pass the attentions unchanged.
        """
        keys = x.mask if source is None else source.mask
        allowed = attendable(x.mask, keys, self.future_mask)
        there = None if full(keys) else keys.any(dim=1)[:, None, None]
        values = self.embed_dropout(x.values)
        context = None if source is None else self.embed_dropout(source.values)
        for layer in self.layers[:-1]:
            values = layer(values, context, allowed, there)
        if last:
            context, values = values, take_last(values, x.mask)
            allowed = attendable(x.mask, keys, future_mask=False)
        return self.layer_norm(self.layers[-1](values, context, allowed, there))


class SequenceLayer(nn.Module):
    """Attention and an MLP of hidden width ``4 E``; the target and the source share the first LayerNorm."""

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.self_attn = SequenceAttention(width, heads, attention_dropout)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.layer_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, source: Tensor | None, allowed: Tensor | None, there: Tensor | None) -> Tensor:
        """``x`` ``(B, T, E)`` after this layer; ``allowed`` as in :func:`attendable`, ``there`` ``(B, 1, 1)``."""
        query = self.layer_norms[0](x)
        key = query if source is None else self.layer_norms[0](source)
        x = x + self.dropout(where_there(there, self.self_attn(query, key, key, allowed)))
        hidden = self.dropout(F.relu(self.fc1(self.layer_norms[1](x))))
        return x + self.dropout(self.fc2(hidden))


class SequenceAttention(nn.Module):
    """Multi-head attention with one packed projection. Parameters carry the published names.

    Args:
        width: ``E``.
        heads: their number; divides ``width``.
        dropout: on the attention weights.
        learned_key: one learned key and value more, at the end.
        zero_key: a key and value of zeros more, after that.
    """

    def __init__(
        self, width: int, heads: int, dropout: float = 0.0, *, learned_key: bool = False, zero_key: bool = False
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UserError(
                "the number of heads divides the width",
                f"heads={heads}, width={width}",
                "choose heads among the divisors of the width",
            )
        self.width, self.heads, self.dropout, self.zero_key = width, heads, dropout, zero_key
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.bias_k = nn.Parameter(torch.empty(1, 1, width)) if learned_key else None
        self.bias_v = nn.Parameter(torch.empty(1, 1, width)) if learned_key else None
        for weight in (self.in_proj_weight, self.out_proj.weight):
            nn.init.xavier_uniform_(weight)
        for learned in (self.bias_k, self.bias_v):
            if learned is not None:
                nn.init.xavier_normal_(learned)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """What the queries ``(B, T, E)`` receive from keys and values ``(B, S, E)``: ``(B, T, E)``.

        ``allowed`` is bool, broadcast to ``(B, heads, T, S)``; every query has a key.
        """
        q, k, v, allowed = self._heads(query, key, value, allowed)
        p, size = self.dropout if self.training else 0.0, q.shape[-1]
        q, k, v = (F.pad(x, (0, -size % LANES)) for x in (q, k, v))
        received = F.scaled_dot_product_attention(q, k, v, allowed, dropout_p=p, scale=size**-0.5)[..., :size]
        return self.out_proj(received.transpose(1, 2).flatten(2))

    def weights(self, query: Tensor, key: Tensor, allowed: Tensor | None = None) -> Tensor:
        """The attention weights, averaged over the heads: ``(B, T, S)``, the additional keys last."""
        q, k, _, allowed = self._heads(query, key, key, allowed)
        scores = q @ k.mT / (self.width // self.heads) ** 0.5
        if allowed is not None:
            scores = scores.masked_fill(~allowed, float("-inf"))
        return scores.softmax(dim=-1).mean(dim=1)

    def _heads(
        self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Projected queries, keys and values ``(B, heads, T, E / heads)``, and the mask of all keys."""
        if query is key and key is value:
            q, k, v = self._project(query, 0, 3)
        elif key is value:
            (q,), (k, v) = self._project(query, 0, 1), self._project(key, 1, 3)
        else:
            (q,), (k,), (v,) = self._project(query, 0, 1), self._project(key, 1, 2), self._project(value, 2, 3)
        more: list[tuple[Tensor, Tensor]] = []
        if self.bias_k is not None and self.bias_v is not None:
            more.append((self.bias_k.expand(k.shape[0], -1, -1), self.bias_v.expand(k.shape[0], -1, -1)))
        if self.zero_key:
            more.append((torch.zeros_like(k[:, :1]), torch.zeros_like(k[:, :1])))
        if more:
            k, v = torch.cat([k, *(m[0] for m in more)], dim=1), torch.cat([v, *(m[1] for m in more)], dim=1)
            allowed = None if allowed is None else F.pad(allowed, (0, len(more)), value=True)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return q, k, v, allowed

    def _project(self, x: Tensor, first: int, stop: int) -> tuple[Tensor, ...]:
        rows = slice(first * self.width, stop * self.width)
        return F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows]).chunk(stop - first, dim=-1)


class ResidualHead(nn.Module):
    """``y = Wo (W2 relu(W1 z + b1) + b2 + z) + bo``, ``(B, C)`` to ``(B, dim)``, with the published names."""

    def __init__(self, width: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.proj1, self.proj2 = nn.Linear(width, width), nn.Linear(width, width)
        self.out_layer = nn.Linear(width, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z: Tensor) -> Tensor:
        return self.out_layer(self.proj2(self.dropout(F.relu(self.proj1(z)))) + z)

    def parts(self, summaries: Sequence[Tensor]) -> list[Tensor]:
        """The output layer on each summary by itself, without the bias of a whole: ``(B, dim)`` each."""
        columns = self.out_layer.weight.split([s.shape[1] for s in summaries], dim=1)
        return [F.linear(s, w, self.out_layer.bias) for s, w in zip(summaries, columns, strict=True)]


class CTCAlignment(nn.Module):
    """Soft alignment of a sequence to the steps of another, as the paper gives it to models that need equal lengths.

    An LSTM of two layers scores, for every source step, the target steps and a blank (column 0):
    ``aligned = softmax(scores)[:, :, 1:]^T x``. Trained beside the model with a CTC loss on the scores.

    Args:
        width: ``D`` of the sequence.
        steps: ``L``, number of target steps.
    """

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, steps + 1, num_layers=2, batch_first=True)

    def forward(self, x: Tokens) -> tuple[Tensor, Tensor]:
        """``(B, L, D)`` aligned values and ``(B, T, L + 1)`` scores of ``(B, T, D)``; padding comes last."""
        scores, _ = self.lstm(x.values)
        shares = torch.where(x.mask.unsqueeze(-1), scores.softmax(dim=-1), 0.0)[:, :, 1:]
        return shares.mT @ x.values, scores

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> Self:
        """The published module: the parameters of its LSTM, under any prefix."""
        weights = {key.rsplit(".", 1)[-1]: value for key, value in state.items()}
        gates, width = weights["weight_ih_l0"].shape
        module = cls(width, gates // 4 - 1).to(weights["weight_ih_l0"].dtype)
        module.lstm.load_state_dict(weights)
        return module


def projection(width: int, common: int) -> nn.Module:
    """A linear layer without bias, or nothing where the widths agree: zeros under the mask stay zeros."""
    return nn.Identity() if width == common else nn.Linear(width, common, bias=False)


def step_numbers(mask: Tensor) -> Tensor:
    """``(B, T)``: 1, 2, ... over the real steps, 0 at padding; one row for all where every step is real."""
    if full(mask):
        return torch.arange(1, mask.shape[1] + 1, device=mask.device).unsqueeze(0)
    return mask.cumsum(dim=1) * mask


def positions(numbers: Tensor, width: int) -> Tensor:
    """Position vectors ``(..., width)`` of step numbers ``(...)``: sines, then cosines; zeros for number 0.

    The frequencies run from 1 to exactly 1e-4; an odd width ends with a zero.
    """
    half = width // 2
    exponents = torch.arange(half, device=numbers.device, dtype=numbers.dtype) / (half - 1)
    angles = numbers.unsqueeze(-1) * 1e-4**exponents
    table = F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, width % 2))
    return torch.where(numbers.unsqueeze(-1) == 0, 0.0, table)


def embed(values: Tensor, numbers: Tensor) -> Tensor:
    """``sqrt(E) X + PE`` of values ``(B, T, E)`` and step numbers ``(B, T)`` or ``(1, T)``."""
    width = values.shape[-1]
    return width**0.5 * values + positions(numbers.to(wide(values).dtype), width).to(values.dtype)


def attendable(target: Tensor, source: Tensor, future_mask: bool) -> Tensor | None:
    """Which source step each target step may attend to, bool ``(B or 1, 1, T or 1, S)``; never none, None: any.

    Args:
        target, source: masks ``(B, T)`` and ``(B, S)``. Where no source step is real all are allowed: the caller drops
            what comes of it.
        future_mask: only real steps with ``j <= i + |difference of the numbers of real steps|``.
    """
    if full(source) and (full(target) or not future_mask):
        steps = (target.shape[1], source.shape[1])
        band = torch.ones(1, 1, *steps, dtype=torch.bool, device=source.device) if future_mask else None
        return None if band is None else band.tril(abs(steps[0] - steps[1]))
    allowed = (source | ~source.any(dim=1, keepdim=True)).unsqueeze(1)
    if future_mask:
        i, j = step_numbers(target).unsqueeze(2), step_numbers(source).unsqueeze(1)
        reach = (target.sum(dim=1) - source.sum(dim=1)).abs()[:, None, None]
        allowed = allowed & ((j <= i + reach) | ~target.unsqueeze(2))
    return allowed.unsqueeze(1)


def take_last(values: Tensor, mask: Tensor) -> Tensor:
    """The last real step of ``(B, T, E)``, ``(B, 1, E)``; the first step of rows without any."""
    if full(mask):
        return values[:, -1:]
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
    return values.gather(1, last[:, None, None].expand(-1, 1, values.shape[2]))


def refuse_one_token(who: str, inputs: Mapping[str, Tokens]) -> None:
    """Refuse to train on a modality of one token, where attention has nothing to choose from."""
    for name, tokens in inputs.items():
        if tokens.mask.shape[1] == 1:
            raise UserError(
                f"{who} cannot learn to attend to {name!r}: it has one token, whose weight is always 1",
                f"token counts { {n: t.mask.shape[1] for n, t in inputs.items()} }",
                f"keep the token sequence of {name!r} (no pooling), or use 'gated', 'lmf' or 'concat'",
            )

r"""Cross-diffusion as an addition to an existing cross-attention model: no new weights, on or off at any time.

A trained layer attends from r to d with the map :math:`C = \mathrm{softmax}(s\,Q_r K_d^\top)`. Its own projections also
give the affinities :math:`A_m = \mathrm{softmax}(s\,Q_m K_m^\top)` of the tokens within each side, and one regularised
diffusion step along them, started at and fitted to the host's map, refines it:

.. math:: C' = \alpha\,S_r\,C\,S_d^\top + (1 - \alpha)\,C, \qquad U = C' V_d, \qquad S_m = A_m^\top \text{ or } A_m

The output projection is affine, so this is ``alpha`` times the projected diffusion plus ``1 - alpha`` times the host's
own output, and ``alpha = 0`` is the host bit for bit. Token counts may differ.

Cost: no weights; three more attention products per layer, memory linear in the tokens.

When not to use it: causal or otherwise structured attention masks (refused); a key projection made for inputs of
another width than the queries' (refused: it cannot be applied to both sides).

Source: Wang et al., "MutualFormer", IJCV 2024 (arXiv 2112.01177) claims it in the abstract and publishes no code; the
equations are our reading of that claim.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.fusion.attention import Block
from weft.ops.cross_diffusion import Heads, Orientation, diffused_cross_attention
from weft.tokens import Tokens

M = TypeVar("M", bound=nn.Module)


def with_cross_diffusion(module: M, alpha: float = 0.6, orientation: Orientation = "code") -> M:
    """A copy of a model whose cross-attentions are refined by one diffusion step.

    Refined are torch's ``nn.MultiheadAttention`` where it is called with a key that is not the query, and the blocks of
    weft's cross-attention fusion where they have a context. Self-attention stays as it is. Parameter names stay too,
    so state dicts fit both ways.

    Args:
        module: such an attention, or any model that holds some; it is not changed.
        alpha: weight of the diffusion, in [0, 1].
        orientation: ``S = A^T`` ("code") or ``S = A`` ("rdp").

    Raises:
        UserError: alpha out of range, or nothing to refine in the model; from the refined layer's ``forward``, an
            attention mask or a key projection it cannot work with.
    """
    if not 0 <= alpha <= 1:
        raise UserError("alpha of cross-diffusion is in [0, 1]", f"alpha={alpha}", "choose alpha in [0, 1]")
    model = copy.deepcopy(module)
    hosts = [part for part in model.modules() if isinstance(part, (nn.MultiheadAttention, Block))]
    if not hosts:
        raise UserError(
            "the model holds no cross-attention that can be refined",
            f"{type(module).__name__} without nn.MultiheadAttention or weft.fusion.attention.Block",
            "pass a model built of one of these",
        )
    for host in hosts:
        host.__class__ = RefinedBlock if isinstance(host, Block) else RefinedMultiheadAttention
        refined = cast("RefinedBlock | RefinedMultiheadAttention", host)
        refined.alpha, refined.orientation = alpha, orientation
    return model


class RefinedMultiheadAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` whose cross-attention is refined; made by :func:`with_cross_diffusion`."""

    alpha: float
    orientation: Orientation

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *args: Any,
        query_padding_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As the host; attention weights, where asked for, are the host's.

        Args:
            query, key, value: as for the host.
            args, kwargs: the host's other arguments.
            query_padding_mask: ``(B, N_r)`` bool, True = padding, as the host's ``key_padding_mask``. The host needs
                none, but here padded queries would send messages to the others.
        """
        host, weights = super().forward(query, key, value, *args, **kwargs)
        if self.alpha == 0 or query is key:
            return host, weights
        names = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")
        options = dict(zip(names, args, strict=False)) | kwargs
        self._check(options)
        first = query.ndim == 2 or self.batch_first
        r, d, v = (t if first else t.transpose(0, 1) for t in (query, key, value))
        r, d, v = (t.unsqueeze(0) if query.ndim == 2 else t for t in (r, d, v))
        masks = [_real(m, query.ndim == 2) for m in (query_padding_mask, options.get("key_padding_mask"))]
        weight_q, weight_k, weight_v = self.in_proj_weight.chunk(3)
        bias_q, bias_k, bias_v = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        queries, keys = [], []
        for side in (r, d):
            queries.append(_heads(F.linear(side, weight_q, bias_q), self.num_heads))
            keys.append(_heads(F.linear(side, weight_k, bias_k), self.num_heads))
        values = _heads(F.linear(v, weight_v, bias_v), self.num_heads)
        received = diffused_cross_attention(
            Heads(queries[0], keys[0], queries[0], masks[0]),
            Heads(queries[1], keys[1], values, masks[1]),
            orientation=self.orientation,
        )
        diffused = self.out_proj(received.transpose(1, 2).flatten(2))
        if query.ndim == 2:
            diffused = diffused.squeeze(0)
        elif not self.batch_first:
            diffused = diffused.transpose(0, 1)
        return self.alpha * diffused + (1 - self.alpha) * host, weights

    def _check(self, options: dict[str, Any]) -> None:
        if options.get("attn_mask") is not None or options.get("is_causal"):
            raise UserError(
                "a cross-attention with an attention mask cannot be refined: the diffusion passes around the mask",
                "attn_mask or is_causal",
                "leave that layer out, or mask padding with key_padding_mask",
            )
        if not self._qkv_same_embed_dim or self.bias_k is not None or self.add_zero_attn:
            raise UserError(
                "cross-diffusion projects both sides to queries and keys with the layer's own weights",
                f"kdim={self.kdim}, vdim={self.vdim}, embed_dim={self.embed_dim}, add_zero_attn={self.add_zero_attn}",
                "use a layer with kdim = vdim = embed_dim, without add_bias_kv and add_zero_attn",
            )


class RefinedBlock(Block):
    """A block of weft's attention whose context is refined; made by :func:`with_cross_diffusion`."""

    alpha: float
    orientation: Orientation

    def forward(self, x: Tokens, context: Tokens | None = None) -> Tokens:
        """As the host."""
        if self.alpha == 0 or context is None:
            return super().forward(x, context)
        normed, host = self.norm_attention(x.values), self.attention
        sides = []
        for values, mask in ((normed, x.mask), context):
            key, value = (_heads(t, host.heads) for t in host.key_value(values).chunk(2, dim=-1))
            sides.append(Heads(_heads(host.query(values), host.heads), key, value, mask))
        received = diffused_cross_attention(sides[0], sides[1], orientation=self.orientation)
        diffused = host.out(received.transpose(1, 2).flatten(2))
        diffused = torch.where(context.mask.any(dim=1)[:, None, None], diffused, 0.0)
        message = self.alpha * diffused + (1 - self.alpha) * host(normed, context)
        values = x.values + self.dropout(message)
        return Tokens(values + self.dropout(self.mlp(self.norm_mlp(values))), x.mask)


def _heads(x: Tensor, count: int) -> Tensor:
    """``(B, N, D)`` to ``(B, H, N, D / H)``."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _real(padding: Tensor | None, single: bool) -> Tensor | None:
    """A padding mask of torch (bool, True = padding, or added to the scores) as ours, True = real token."""
    if padding is None:
        return None
    mask = ~padding if padding.dtype == torch.bool else padding == 0
    return mask.unsqueeze(0) if single else mask

r"""Pre-norm transformer parts that know about masks: attention to a context, and the block around it.

.. math::
    x \leftarrow x + \mathrm{Att}(\mathrm{LN}(x), c), \qquad x \leftarrow x + W_2\,\mathrm{gelu}(W_1 \mathrm{LN}(x))

with queries ``x`` ``(B, N, D)``, context ``c`` ``(B, K, D)`` (normalised, or the normalised ``x`` itself) and its mask
``(B, K)``. A row whose context is masked throughout receives nothing: its ``x`` passes the attention unchanged.
Queries, keys and values have no bias: that of a key cancels in the softmax and would never train.

Cost: ``12 D^2 + 10 D`` weights per block and ``24 N D^2 + 4 N K D`` FLOPs with ``N = K``.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; pre-norm: Xiong et al., "On Layer Normalization in
the Transformer Architecture", ICML 2020.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.tokens import Tokens, keys_of, where_there


def check_heads(dim: int, heads: int) -> None:
    """Refuse heads of unequal width.

    Raises:
        UserError: ``heads`` does not divide ``dim``.
    """
    if heads < 1 or dim % heads:
        raise UserError(
            "the number of heads divides the width", f"heads={heads}, dim={dim}", "choose heads among the divisors"
        )


class Attention(nn.Module):
    """Multi-head attention of ``(B, N, D)`` to a masked context ``(B, K, D)``.

    Args:
        dim: ``D``.
        heads: their number; divides ``dim``.
        dropout: probability of zeroing an attention weight, in [0, 1].
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tokens) -> Tensor:
        """What ``x`` receives, ``(B, N, D)``; zeros in the rows without any real token in the context."""
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(context.values).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        keys, there = keys_of(context.mask)
        p = self.dropout if self.training else 0.0
        received = F.scaled_dot_product_attention(query, key, value, attn_mask=keys, dropout_p=p)
        return where_there(there, self.out(received.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Attention and MLP (hidden width ``4 D``), each after a LayerNorm and around a residual.

    Args:
        dim, heads: see :class:`Attention`.
        dropout: on the attention weights and on both residual branches, in [0, 1].
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tokens, context: Tokens | None = None) -> Tokens:
        """The next ``x``; without a context it attends to itself. Values under the mask mean nothing."""
        normed = self.norm_attention(x.values)
        context = Tokens(normed, x.mask) if context is None else context
        values = x.values + self.dropout(self.attention(normed, context))
        return Tokens(values + self.dropout(self.mlp(self.norm_mlp(values))), x.mask)

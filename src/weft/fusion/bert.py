r"""BERT's post-norm layer, with attention to a second sequence where asked, under its original parameter names.

.. math::
    a = \mathrm{LN}(x + W_o\,\mathrm{Att}(x, x)), \qquad [\,c = \mathrm{LN}(a + W_o'\,\mathrm{Att}(a, y))\,], \qquad
    x' = \mathrm{LN}(c + W_2\,\mathrm{gelu}(W_1 c))

with ``x`` ``(B, N, D)``, ``y`` ``(B, K, D)``. Without the middle step ``c = a``. A row whose keys are masked throughout
receives nothing from them. Keys have no bias: it cancels in the softmax and would never train; the one of a checkpoint
is dropped by :func:`load_official`, which changes no result.

Cost: ``12 D^2`` weights for a hidden width of ``4 D``, ``16 D^2`` with the second attention.

Source: Devlin et al., "BERT", NAACL 2019; with two sequences: Dou et al., METER, CVPR 2022, arXiv 2111.02387.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from weft.fusion.attention import check_heads
from weft.tokens import Tokens, keys_of, where_there

EPS = 1e-12


class Projections(nn.Module):
    """Query, key and value of ``D`` features."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)


class Output(nn.Module):
    """``LN(x + dropout(W h))``: the end of every sub-layer."""

    def __init__(self, inner: int, dim: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inner, dim), nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, x: Tensor, there: Tensor | None = None) -> Tensor:
        """``(B, N, D)``; in the rows where ``there`` ``(B, 1, 1)`` is False nothing is added to ``x``."""
        return self.LayerNorm(x + where_there(there, self.dropout(self.dense(h))))


class BertAttention(nn.Module):
    """Multi-head attention of ``(B, N, D)`` to a masked context ``(B, K, D)``, residual and norm included."""

    def __init__(self, dim: int, heads: int, dropout: float, eps: float) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads, self.dropout = heads, dropout
        self.self = Projections(dim)
        self.output = Output(dim, dim, dropout, eps)

    def forward(self, x: Tensor, context: Tokens) -> Tensor:
        """The next ``x``."""
        query, key, value = (
            project(of).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, of in (
                (self.self.query, x),
                (self.self.key, context.values),
                (self.self.value, context.values),
            )
        )
        keys, there = keys_of(context.mask)
        p = self.dropout if self.training else 0.0
        received = F.scaled_dot_product_attention(query, key, value, attn_mask=keys, dropout_p=p)
        return self.output(received.transpose(1, 2).flatten(2), x, there)


class BertLayer(nn.Module):
    """One layer.

    Args:
        dim, heads: heads divide ``dim``.
        hidden: width inside the feed-forward part; default ``4 dim``.
        dropout: on the attention weights and on what every sub-layer adds, in [0, 1].
        cross: whether it attends to a second sequence.
        eps: of the layer norms.
    """

    def __init__(
        self, dim: int, heads: int, hidden: int | None = None, dropout: float = 0.0, *, cross: bool, eps: float = EPS
    ) -> None:
        super().__init__()
        hidden = hidden or 4 * dim
        self.attention = BertAttention(dim, heads, dropout, eps)
        self.crossattention = BertAttention(dim, heads, dropout, eps) if cross else None
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(dim, hidden)})
        self.output = Output(hidden, dim, dropout, eps)

    def forward(self, x: Tokens, context: Tokens | None = None) -> Tokens:
        """The next ``x``. Values under its mask mean nothing."""
        values = self.attention(x.values, x)
        if self.crossattention is not None and context is not None:
            values = self.crossattention(values, context)
        return Tokens(self.output(F.gelu(self.intermediate["dense"](values)), values), x.mask)


def load_official(module: nn.Module, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Fill a module from the tensors of a checkpoint that begin with ``prefix``; the biases of keys are left out."""
    module.load_state_dict(
        {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if name.startswith(prefix) and not name.endswith("self.key.bias")
        }
    )

r"""Cross-attention: the tokens of every modality attend to the tokens of all others.

.. math::
    X_m^0 &= V_m W_m + b_m && (B, T_m, D) \\
    C_m^l &= [\mathrm{LN}(X_n^l)]_{n \ne m} && (B, \sum_{n \ne m} T_n, D) \\
    Y_m &= X_m^l + \mathrm{Att}(\mathrm{LN}(X_m^l), C_m^l), \qquad X_m^{l+1} = Y_m + \mathrm{MLP}(\mathrm{LN}(Y_m)) \\
    p_m &= \mathrm{mean}_t\, \mathrm{LN}(X_m^L)_t, \qquad z = \mathrm{mean}_{m\ \mathrm{present}}\, p_m && (B, D)

All modalities step at once, each with blocks of its own. :math:`b_m` tells the others' tokens whose they are. An absent
modality is masked as a key and left out of the mean; a token whose row has no other modality passes the attention
unchanged. Tokens carry their positions from the encoder; none are added.

Cost: ``M L (12 D^2 + 12 D)`` weights and the projections; time ``T_m * sum of the other T`` per modality and layer.

When not to use it: pooled vectors. With one key the softmax is 1 whatever the query, so queries and keys get no
gradient at all; training on such inputs is refused. Few rows: ``gated`` or ``lmf`` have a hundredth of the weights.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; across modalities: Lu, Batra, Parikh, Lee, "ViLBERT",
NeurIPS 2019, arXiv 1908.02265 (co-attention). The pre-norm form, the context of all others and the pooling are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from weft.errors import UserError
from weft.fusion.attention import Block
from weft.fusion.base import fusions
from weft.fusion.pooling import read_out
from weft.fusion.streams import Streams
from weft.registry import Dropout
from weft.tokens import Fused, Tokens, concatenate


@fusions.register("cross-attention")
class CrossAttentionFusion(Streams):
    """Blocks of attention from every modality to all others.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        layers: ``L``, at least 1.
        heads: attention heads; divides ``dim``.
        dropout: on the attention weights and the residual branches, in [0, 1].

    Raises:
        UserError: heads do not divide ``dim``; from ``forward`` in training, a modality has one key only.

    ``tokens`` of the result are all modalities' tokens, one after the other.
    """

    who = "cross-attention"
    paper = "Lu et al., ViLBERT, NeurIPS 2019, arXiv 1908.02265 (co-attention); Vaswani et al., NeurIPS 2017"

    def __init__(
        self, dims: Mapping[str, int], dim: int = 256, *, layers: int = 1, heads: int = 4, dropout: Dropout = 0.0
    ) -> None:
        super().__init__(dims, dim, layers)
        self.layers = nn.ModuleList(CrossLayer(len(dims), dim, heads, dropout) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in self.dims)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        if self.training:
            _refuse_one_key({name: t.mask.shape[1] for name, t in inputs.items()})
        streams = self.streams(inputs)
        for layer in self.layers:
            streams = layer(streams)
        return read_out(self.names, self.norms, streams)


class CrossLayer(nn.Module):
    """One step of all modalities, each attending to the others as they were before it.

    Args:
        modalities: their number.
        dim, heads, dropout: see :class:`~weft.fusion.attention.Block`.
    """

    def __init__(self, modalities: int, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(modalities))
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(modalities))

    def forward(self, streams: list[Tokens]) -> list[Tokens]:
        """The next ``(B, T_m, D)`` of every modality."""
        normed = [Tokens(norm(x.values), x.mask) for norm, x in zip(self.norms, streams, strict=True)]
        contexts = [concatenate(normed[:m] + normed[m + 1 :]) for m in range(len(streams))]
        return [block(x, c) for block, x, c in zip(self.blocks, streams, contexts, strict=True)]


def _refuse_one_key(lengths: Mapping[str, int]) -> None:
    total = sum(lengths.values())
    for name, length in lengths.items():
        if total - length == 1:
            raise UserError(
                f"cross-attention cannot learn what {name!r} attends to: there is one key, whose weight is always 1",
                f"token counts {dict(lengths)}",
                "keep the token sequence of the other modality (no pooling), or use 'gated', 'lmf' or 'concat'",
            )

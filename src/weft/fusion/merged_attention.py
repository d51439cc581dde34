r"""Merged attention: the tokens of all modalities as one sequence through the layers of one transformer.

.. math::
    x_m = v_m W_m + b_m \quad (B, T_m, D), \qquad h^0 = [x_1; \dots; x_M] \quad (B, \textstyle\sum_m T_m, D), \\
    h^{l+1} = \mathrm{Layer}^l(h^l), \qquad
    z = \mathrm{mean}_{m\ \mathrm{present}}\, \mathrm{mean}_{t \in m}\, h^L_t \quad (B, D)

with the post-norm layer of :mod:`weft.fusion.bert`, its weights shared by all modalities; the token type in
:math:`b_m` is all that tells them apart. An absent modality is masked as a key and left out of the mean.

Cost: ``12 L D^2`` weights and the projections; time the square of all tokens together.

When not to use it: modalities from encoders of very different kinds, where METER found ``co-attention`` better for
its separate weights; long sequences.

Source: Dou et al., "An Empirical Study of Training End-to-End Vision-and-Language Transformers" (METER), CVPR 2022,
arXiv 2111.02387, from the text of the paper (the authors' code has no merged attention). It compares 12 merged layers
with 6 of co-attention. Reading out the mean of all tokens is ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from weft.fusion.base import fusions
from weft.fusion.bert import BertLayer
from weft.fusion.pooling import read_out
from weft.fusion.streams import Streams
from weft.registry import Count, Dropout
from weft.tokens import Fused, Tokens, concatenate


@fusions.register("merged-attention")
class MergedAttention(Streams):
    """One transformer over the tokens of all modalities.

    Args:
        dims, dim, layers, heads, hidden, dropout: see :class:`~weft.fusion.co_attention.CoAttention`.

    Raises:
        UserError: no layer; heads do not divide ``dim``.

    ``tokens`` of the result are all modalities' tokens, one after the other.
    """

    who = "merged-attention"
    paper = "Dou et al., METER, CVPR 2022, arXiv 2111.02387 (merged attention)"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        layers: int = 1,
        heads: int = 4,
        hidden: Count | None = None,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__(dims, dim, layers)
        self.layers = nn.ModuleList(BertLayer(dim, heads, hidden, dropout, cross=False) for _ in range(layers))

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        h = concatenate(self.streams(inputs))
        for layer in self.layers:
            h = layer(h)
        lengths = [t.mask.shape[1] for t in inputs.values()]
        parts = zip(h.values.split(lengths, dim=1), h.mask.split(lengths, dim=1), strict=True)
        return read_out(self.names, [nn.Identity()] * len(lengths), [Tokens(*part) for part in parts])

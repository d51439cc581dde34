r"""A small transformer over one token per modality: the plain model that complex fusions have to beat.

.. math::
    x_m^0 &= v_m W_m + b_m && (B, D) \\
    x^{l+1} &= \mathrm{Block}^l(x^l), \quad \text{every token attending to the present ones} && (B, M, D) \\
    z &= \mathrm{mean}_{m\ \mathrm{present}}\, \mathrm{LN}(x^L_m) && (B, D)

with :math:`v_m` ``(B, D_m)`` the mean over a modality's tokens and :math:`b_m` its learned vector, which says which
modality a token is. A row with one modality is that token's own path through the blocks.

Cost: ``D sum(D_m) + M D`` weights for the projections and ``L (12 D^2 + 10 D)`` for the blocks; time ``M^2``, which is
nothing.

When not to use it: where single tokens of two modalities have to meet (a word and a region), since each modality is
one vector here.

Source: Rheude, Eils, Wild, "Fusion or Confusion? Multimodal Complexity Is Not All You Need", arXiv 2512.22991 (2025),
who find that complex methods, tuned alike, do not reliably beat it. Reading out the mean of the present tokens is ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from weft.fusion.attention import Block
from weft.fusion.base import fusions
from weft.fusion.pooling import read_out
from weft.fusion.streams import Streams
from weft.registry import Dropout
from weft.tokens import Fused, Tokens, concatenate


@fusions.register("simple-transformer")
class SimpleTransformer(Streams):
    """Transformer blocks over one token per modality.

    Args:
        dims, dim, layers, heads, dropout: see :class:`~weft.fusion.cross_attention.CrossAttentionFusion`.

    Raises:
        UserError: no layer; heads do not divide ``dim``.

    ``tokens`` of the result are one per modality; ``per_modality`` holds them, normalised.
    """

    wants = "vectors"
    who = "simple-transformer"
    paper = "Rheude, Eils, Wild, Fusion or Confusion?, arXiv 2512.22991 (2025)"

    def __init__(
        self, dims: Mapping[str, int], dim: int = 256, *, layers: int = 1, heads: int = 4, dropout: Dropout = 0.0
    ) -> None:
        super().__init__(dims, dim, layers)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        x = concatenate(self.streams(inputs))
        for block in self.blocks:
            x = block(x)
        tokens = [Tokens(*part) for part in zip(x.values.split(1, dim=1), x.mask.split(1, dim=1), strict=True)]
        return read_out(self.names, [self.norm] * len(tokens), tokens)

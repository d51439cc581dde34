r"""Multimodal compact bilinear pooling (MCB): a random sketch of the outer product.

.. math::
    c_m[h_m[i]] \mathrel{+}= s_m[i]\, v_m[i], \qquad
    z = \mathrm{irfft}\Big(\prod_m \mathrm{rfft}(c_m)\Big), \qquad
    y = \mathrm{pnorm}(z)\, W + b

with :math:`v_m` ``(B, D_m)``, :math:`h_m` random in [0, D), :math:`s_m` random signs, :math:`c_m, z` ``(B, D)``, and
pnorm the signed square root followed by unit length. :math:`z` equals the count sketch of the outer product of all
modalities with the hash :math:`\sum_m h_m[i_m] \bmod D` and the sign :math:`\prod_m s_m[i_m]`. Hashes and signs are
buffers, saved with the model.

An absent modality is left out of the product (its spectrum counts as 1, the unit impulse).

Cost: ``D dim + dim`` weights; ``O(sum D_m + M D log D)`` for the sketch, computed in float32 where inputs are half.

When not to use it: few rows (D is large and every entry mixes random pairs), or where the magnitude of the inputs
matters: pnorm removes it.

Source: Fukui et al., "Multimodal Compact Bilinear Pooling for Visual Question Answering and Visual Grounding", EMNLP
2016, arXiv 1606.01847 (D = 16000).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from weft.fusion.base import Fusion, fusions
from weft.ops.bilinear import (
    check_positive,
    circular_convolution,
    count_sketch,
    power_normalize,
    presence,
    unit_variance_,
    vectors,
    wide,
)
from weft.registry import Dropout
from weft.tokens import Fused, Tokens, when_read


class CountSketch(nn.Module):
    """A fixed random sketch of ``(B, width)`` to ``(B, size)``; hash and signs are buffers."""

    index: Tensor
    sign: Tensor

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("index", torch.randint(size, (width,)))
        self.register_buffer("sign", torch.randint(2, (width,)) * 2.0 - 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return count_sketch(x, self.index, self.sign, self.size)


@fusions.register("mcb")
class CompactBilinear(Fusion):
    """Count sketches, convolved.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        sketch: ``D``, width of the sketch; the paper uses 16000.
        dropout: probability of zeroing an entry of the normalised sketch, in [0, 1].
    """

    arity = (2, None)
    wants = "vectors"
    absent = "native"
    symmetric = True
    paper = "Fukui et al., Multimodal Compact Bilinear Pooling, EMNLP 2016, arXiv 1606.01847"

    def __init__(self, dims: Mapping[str, int], dim: int = 256, *, sketch: int = 4096, dropout: Dropout = 0.0) -> None:
        super().__init__(dims, dim)
        check_positive("mcb", sketch=sketch)
        self.sketches = nn.ModuleList(CountSketch(d, sketch) for d in self.dims.values())
        self.out = unit_variance_(nn.Linear(sketch, dim), 1)
        self.dropout = nn.Dropout(dropout)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        values, there = vectors(inputs), presence(inputs)
        sketches = [sketch(wide(v)) for sketch, v in zip(self.sketches, values, strict=True)]

        def read(z: Tensor) -> Tensor:
            return self.out(self.dropout(power_normalize(z.to(values[0].dtype))))

        alone = when_read(self.names, lambda: [read(z) for z in sketches])
        return Fused(read(circular_convolution(sketches, there)), None, alone, None)

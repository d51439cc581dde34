r"""Iterative attentional feature fusion (iAFF): AFF, whose attention sees a first blend instead of the sum.

.. math::
    S = \sum_m X_m, \qquad w^1 = \mathrm{softmax}_m(L^1(S), 0), \qquad I = \sum_m w^1_m \odot X_m, \qquad
    w^2 = \mathrm{softmax}_m(L^2(I), 0), \qquad Z = s \sum_m w^2_m \odot X_m

on maps :math:`X_m` ``(B, T, C)``, with two attentions :math:`L^1, L^2` of their own (``weft.fusion.aff``). The scale s
is 1 in the paper and the code: equal weights give the mean.

The PyTorch port published beside the original runs the *first* global branch in the second stage as well; the second
one is saved and never used. ``port=True`` computes that, for weights that were trained with it.

Cost: twice the attention of ``aff``, ``4 (C C' + (M - 1) C C' + 3 C' + 3 (M - 1) C)`` weights.

When not to use it: as for ``aff``; on clean data the second stage changes little for twice the time.

Source: Dai, Gieseke, Oehmcke, Wu, Barnard, "Attentional Feature Fusion", WACV 2021, arXiv 2009.14082. Three and more
maps and the masks are ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor

from weft.fusion import aff_weights
from weft.fusion.aff import (
    AlignedMaps,
    ChannelAttention,
    Norm,
    blend,
    fused,
    projected,
    total,
)
from weft.fusion.base import fusions
from weft.tokens import Fused, Tokens


@fusions.register("iaff")
class IterativeAttentionalFusion(AlignedMaps):
    """A weighted sum of aligned maps, the weights from a first weighted sum.

    Args:
        dims, dim, reduction, norm: see :class:`~weft.fusion.aff.AttentionalFusion`.
        scale: ``s``.
        port: the second stage uses the first global branch (see above).

    Raises:
        UserError: ``reduction`` leaves too few channels; from ``forward`` in training, BatchNorm over one value.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        reduction: int = 4,
        norm: Norm = "layer",
        scale: float = 1.0,
        port: bool = False,
    ) -> None:
        super().__init__(dims, dim, scale)
        self.port = port
        self.first, self.second = (
            ChannelAttention(dim, reduction, maps=len(self.dims) - 1, norm=norm) for _ in range(2)
        )
        if port:
            self.second.pooled.requires_grad_(False)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        maps = projected(self.project, inputs)
        everything = total(maps)
        first, _ = blend(maps, self.first(everything))
        logits = self.second(Tokens(first, everything.mask), self.first if self.port else None)
        return fused(self.names, maps, logits, self.scale)

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], names: Sequence[str] = ("x", "residual"), *, port: bool | None = None
    ) -> Self:
        """The published module: two maps of equal width and BatchNorm.

        Args:
            state: its parameters, ``local_att.*``, ``global_att.*``, ``local_att2.*`` and ``global_att2.*``.
            names: of the residual branch (weight w) and the skip connection (weight 1 - w).
            port: whether the weights were trained by the PyTorch port, see the class; they do not tell it, so None
                warns and takes the paper's wiring.
        """
        if port is None:
            warnings.warn(
                "the PyTorch port published beside the original iAFF uses the first global branch in both stages: pass "
                "port=True for weights that were trained by it, port=False for any others",
                stacklevel=2,
            )
        width, reduction = aff_weights.shape(state)
        module = cls(dict.fromkeys(names, width), width, reduction=reduction, norm="batch", port=bool(port))
        aff_weights.load(module.first, state)
        aff_weights.load(module.second, state, "2")
        return module

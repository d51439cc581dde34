r"""What the bilinear family shares: projections, a merge that is each method's own, an output map.

.. math:: y = g\Big( \mathrm{merge}\big(\{ q_m(v_m) \}_m\big)\, W + b \Big)

with :math:`v_m` ``(B, D_m)``, factors :math:`q_m` ``(B, n)`` and ``W`` ``(h, dim)``. A method states its
:meth:`~BilinearFusion.factors`, which may come in pieces (chunks, blocks) that are merged one by one, and its
:meth:`~BilinearFusion.merge`. An absent modality's factor is the identity of the merge (1 in a product, 0 in a sum), so
that what a modality contributes alone is the merge of its factor only; it is computed when it is read.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from weft.fusion import bilinear_weights
from weft.fusion.base import Fusion
from weft.ops.bilinear import activation_of, power_normalize, presence, vectors
from weft.tokens import Fused, Tokens, when_read, whole


class BilinearFusion(Fusion):
    """Base of ``mlb``, ``mfb``, ``mfh``, ``mutan``, ``block``, ``tucker`` and ``linear-sum``.

    Class attributes:
        identity: the factor of an absent modality.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        output_activation: g, after the output map.
        dropout: probability of zeroing an entry, in [0, 1]; where, the method's :meth:`merge` says.

    A method builds ``out``, the output map, itself.
    """

    out: nn.Linear

    arity = (2, None)
    wants = "vectors"
    symmetric = True
    identity: ClassVar[float] = 1.0

    def __init__(
        self, dims: Mapping[str, int], dim: int, *, output_activation: str = "none", dropout: float = 0.0
    ) -> None:
        super().__init__(dims, dim)
        self.output_activation = activation_of(output_activation)
        self.dropout, self.drops = nn.Dropout(dropout) if dropout else nn.Identity(), dropout > 0

    @abstractmethod
    def factors(self, values: Sequence[Tensor]) -> Sequence[Sequence[Tensor]]:
        """What of the modalities ``(B, D_m)`` enters the merge: of every piece the factors ``(B, n)`` of all."""

    @abstractmethod
    def merge(self, pieces: Sequence[Sequence[Tensor]]) -> Tensor:
        """``(B, h)`` of the factors of some modalities, piece by piece."""

    @staticmethod
    @abstractmethod
    def published(state: Mapping[str, Tensor], modalities: int) -> bilinear_weights.Layout:
        """Where the weights of the public code go; see :meth:`from_official`."""

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        pieces = kept = self.factors(vectors(inputs))
        if not whole(inputs.values()):
            columns = presence(inputs).split(1, dim=1)
            kept = [[torch.where(c, f, self.identity) for c, f in zip(columns, p, strict=True)] for p in pieces]
        alone = when_read(self.names, lambda: [self.read(self.alone(pieces, m)) for m in range(len(self.names))])
        return Fused(self.read(self.merge(kept)), None, alone, None)

    def alone(self, pieces: Sequence[Sequence[Tensor]], m: int) -> Tensor:
        """``(B, h)`` of modality ``m`` as if the others were absent."""
        return self.merge([piece[m : m + 1] for piece in pieces])

    def read(self, merged: Tensor) -> Tensor:
        """``(B, dim)`` of what was merged."""
        return self.output_activation(self.out(merged))

    def finish(self, merged: Tensor, normalize: bool) -> Tensor:
        """The usual end of a merge ``(B, h)``: signed square root and unit length where wanted, then dropout."""
        merged = power_normalize(merged) if normalize else merged
        return self.dropout(merged) if self.drops else merged

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], names: Sequence[str] = ("first", "second"), **options: Any
    ) -> Self:
        """The module of the public code of BLOCK of the same name, from its parameters.

        Args:
            state: its parameters (``linear0.weight``, ..., ``linear_out.bias``); all sizes are read from them.
            names: names of the two modalities.
            options: what they do not tell: ``normalize`` and, where the class has them, ``activation`` and
                ``output_activation`` (there ``"relu"``). MFB and MFH normalise by default here, not there.

        Raises:
            UserError: the parameters are those of another module.
        """
        return bilinear_weights.load(cls, cls.published, state, names, options)

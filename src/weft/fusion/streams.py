"""What transformers over the modalities' tokens share: a projection of each to one width, and the number of layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from weft.errors import UserError
from weft.fusion.base import Fusion, Wants
from weft.tokens import Tokens


class Streams(Fusion):
    """Base of fusions that keep every modality's tokens in a stream of its own, ``(B, T_m, dim)``.

    Class attributes:
        who: the method's name in messages.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        layers: positive.

    Raises:
        UserError: no layer.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, None)
    wants: ClassVar[Wants] = "tokens"
    absent = "native"
    symmetric = True
    who: ClassVar[str]

    def __init__(self, dims: Mapping[str, int], dim: int, layers: int) -> None:
        super().__init__(dims, dim)
        if layers < 1:
            raise UserError(f"{self.who}: layers is a positive integer", f"layers={layers}", "choose 1 or more")
        self.project = nn.ModuleList(nn.Linear(d, dim) for d in self.dims.values())

    def streams(self, inputs: dict[str, Tokens]) -> list[Tokens]:
        """Every modality's tokens ``(B, T_m, dim)``, projected."""
        return [Tokens(p(t.values), t.mask) for p, t in zip(self.project, inputs.values(), strict=True)]

"""Aligners that are solved, not trained: one pass over the rows, float64 moments, a projection per modality.

What is solved for (means and matrices) are buffers: saved with the weights, out of the optimiser's reach. Until it is
solved, the projection is the identity, cut or padded to ``dim``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from weft.alignment.base import Aligner
from weft.errors import UserError, some
from weft.ops.correlation import Moments
from weft.tokens import Tokens, mean_pool, present

ROUNDING = 1e-7
"""Features whose deviation is below this share of their mean are constant: float32 has no more digits."""


class ClosedForm(Aligner):
    """Base of aligners with a closed form: ``embed(v) = (v - mu_m) A_m``.

    Args:
        dims, dim: see :class:`~weft.alignment.base.Aligner`. ``dim`` may not exceed the narrowest modality (said when
            solving).
        widths: width of ``v`` per modality, where :meth:`represent` changes it; ``dims`` by default.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, None)

    def __init__(self, dims: Mapping[str, int], dim: int = 256, widths: Mapping[str, int] | None = None) -> None:
        super().__init__(dims, dim)
        self.widths = dict(widths or self.dims)
        for index, width in enumerate(self.widths.values()):
            self.register_buffer(f"mean_{index}", torch.zeros(width))
            self.register_buffer(f"matrix_{index}", torch.eye(width, dim))

    @abstractmethod
    def solve(self, moments: Moments) -> list[Tensor]:
        """The matrices ``A_m`` ``(D_m, dim)`` from the moments of the joint rows, in the order of the modalities."""

    def represent(self, name: str, tokens: Tokens) -> Tensor:
        """The vector ``v`` ``(B, D_m)`` of a modality; the mean over the tokens."""
        return mean_pool(tokens)

    def solution(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean ``(D_m,)`` and matrix ``(D_m, dim)`` of a modality."""
        index = self.names.index(name)
        return self.get_buffer(f"mean_{index}"), self.get_buffer(f"matrix_{index}")

    def embed(self, name: str, tokens: Tokens) -> Tensor:
        mean, matrix = self.solution(name)
        return (self.represent(name, tokens) - mean) @ matrix

    @torch.no_grad()
    def fit_closed_form(self, batches: Iterable[dict[str, Tokens]]) -> None:
        """Solve on the rows in which every modality is present, in constant memory.

        Args:
            batches: inputs, in chunks of any size.

        Raises:
            UserError: a value is NaN or infinite, there are no more complete rows than dimensions, every feature of a
                modality is constant, ``dim`` is above a width, or a covariance is singular.
        """
        width = sum(self.widths.values())
        moments = Moments.of(self.get_buffer("mean_0").new_zeros(0, width))
        for inputs in batches:
            complete = torch.stack([present(inputs[name]) for name in self.names]).all(dim=0)
            vectors = {name: self.represent(name, inputs[name])[complete] for name in self.names}
            for name, v in vectors.items():
                _check_finite(name, v)
            moments = moments.merge(Moments.of(torch.cat([v.double() for v in vectors.values()], dim=1)))
        if moments.rows <= self.dim:
            raise UserError(
                f"{type(self).__name__} needs more rows with all of {some(self.names)} than dimensions",
                f"{moments.rows} rows, dim={self.dim}",
                "give more rows, or choose a smaller dim",
            )
        varies = moments.scatter.diagonal() > moments.rows * (ROUNDING * moments.mean).square()
        parts = varies.split(list(self.widths.values()))
        constant = [name for name, part in zip(self.names, parts, strict=True) if not bool(part.any())]
        if constant:
            raise UserError(
                f"{type(self).__name__}: every feature of a modality is constant over the rows",
                some(constant),
                "leave the modality out, or check its encoder",
            )
        means = moments.mean.split(list(self.widths.values()))
        for name, mean, matrix in zip(self.names, means, self.solve(moments), strict=True):
            for buffer, value in zip(self.solution(name), (mean, matrix), strict=True):
                buffer.copy_(value)


def _check_finite(name: str, vectors: Tensor) -> None:
    bad = int((~vectors.isfinite()).any(dim=1).sum())
    if bad:
        raise UserError(
            f"modality {name!r} has values that are NaN or infinite",
            f"{bad} of {len(vectors)} rows of a chunk",
            "encode these rows again, or mark the modality as absent there",
        )


def check_shrinkage(who: str, value: float) -> None:
    """Refuse a negative or non-finite ``shrinkage``."""
    if not 0 <= value < float("inf"):
        raise UserError(f"{who}: shrinkage is a number, 0 or more", f"shrinkage={value}", "1e-4 is usual")

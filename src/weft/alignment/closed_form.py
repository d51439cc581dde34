"""Aligners that are solved, not trained: one pass over the rows, float64 moments, a projection per modality.

What is solved for (means and matrices) are buffers: saved with the weights, out of the optimiser's reach. Until it is
solved, the projection is the identity, cut or padded to ``dim``.

A closed form also predicts one modality from another, by ridge regression from its columns :math:`e_m = (v_m - \\mu_m)
A_m` with the form's own shrinkage: :math:`\\hat v_n = \\mu_n + e_m B_{mn}`, :math:`B_{mn} = (A_m^T (S_{mm} + r_m I)
A_m)^+ A_m^T S_{mn}`. From ``ridge`` this is the ridge regression itself, on its principal directions; from ``cca`` each
canonical variable times its correlation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import permutations
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from weft.alignment.base import Aligner
from weft.errors import UserError, some
from weft.ops.correlation import Moments, relative_ridge, usual_shrinkage
from weft.tokens import Tokens, mean_pool, present

ROUNDING = 1e-7
"""Features whose deviation is below this share of their mean are constant: float32 has no more digits."""


class Judge(NamedTuple):
    """What a closed form that chooses among settings chooses by.

    Attributes:
        score: embeddings ``{name: (n, d)}`` of rows and their groups ``(n,)`` to a number; higher is better.
        group: ``(N,)`` int64, the group of each training row, in the order of the batches.
        dev: batches of dev rows, for a choice on those.
        dev_group: ``(n,)`` int64, their groups.
    """

    score: Callable[[dict[str, Tensor], Tensor], float]
    group: Tensor
    dev: Iterable[dict[str, Tokens]] = ()
    dev_group: Tensor | None = None


class ClosedForm(Aligner):
    """Base of aligners with a closed form: ``embed(v) = (v - mu_m) A_m``.

    Args:
        dims, dim: see :class:`~weft.alignment.base.Aligner`. ``dim`` may not exceed the narrowest modality (said when
            solving).
        widths: width of ``v`` per modality, where :meth:`represent` changes it; ``dims`` by default.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, None)
    scaling: Literal["feature", "modality"] = "modality"

    def __init__(self, dims: Mapping[str, int], dim: int = 256, widths: Mapping[str, int] | None = None) -> None:
        super().__init__(dims, dim)
        self.widths = dict(widths or self.dims)
        for index, width in enumerate(self.widths.values()):
            self.register_buffer(f"mean_{index}", torch.zeros(width))
            self.register_buffer(f"matrix_{index}", torch.eye(width, dim))
        for a, b in permutations(range(len(self.widths)), 2):
            self.register_buffer(f"decoder_{a}_{b}", torch.zeros(dim, list(self.widths.values())[b]))

    @abstractmethod
    def solve(self, moments: Moments) -> list[Tensor]:
        """The matrices ``A_m`` ``(D_m, dim)`` from the moments of the joint rows, in the order of the modalities."""

    def shrinkages(self, moments: Moments) -> list[float]:
        """What is added to the diagonal of each covariance, as a share of its mean."""
        return usual_shrinkage(list(self.widths.values()), moments.rows)

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

    def predict(self, source: str, target: str, tokens: Tokens) -> Tensor:
        """The vector ``v`` ``(B, D_target)`` of one modality that another one, ``source``, lets expect."""
        a, b = self.names.index(source), self.names.index(target)
        known = ClosedForm.embed(self, source, self.readable(tokens))
        return self.solution(target)[0] + known @ self.get_buffer(f"decoder_{a}_{b}")

    @torch.no_grad()
    def fit_closed_form(self, batches: Iterable[dict[str, Tokens]], judge: Judge | None = None) -> None:
        """Solve on the rows in which every modality is present, in constant memory.

        Args:
            batches: inputs, in chunks of any size.
            judge: for those that choose among settings; others need none.

        Raises:
            UserError: a value is NaN or infinite, there are no more complete rows than dimensions, every feature of a
                modality is constant, ``dim`` is above a width, or a covariance is singular.
        """
        moments = Moments.of(self.get_buffer("mean_0").new_zeros(0, sum(self.widths.values())))
        for rows, _ in self.complete(batches):
            moments = moments.merge(Moments.of(rows))
        self.check(moments)
        self.install(moments, self.solve(moments))

    def complete(self, batches: Iterable[dict[str, Tokens]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The vectors of each batch side by side, ``(n, sum D_m)`` float64, in its complete rows; and which those are.

        Raises:
            UserError: a value is NaN or infinite.
        """
        for inputs in batches:
            there = torch.stack([present(inputs[name]) for name in self.names]).all(dim=0)
            vectors = {name: self.represent(name, inputs[name])[there] for name in self.names}
            for name, v in vectors.items():
                _check_finite(name, v)
            yield torch.cat([v.double() for v in vectors.values()], dim=1), there

    def check(self, moments: Moments) -> None:
        """Refuse too few rows, and modalities that do not vary.

        Raises:
            UserError: which.
        """
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

    def install(self, moments: Moments, matrices: Iterable[Tensor]) -> None:
        """Take the matrices ``(D_m, k)``, columns up to ``dim`` being zero, and what belongs to them of the moments."""
        widths = list(self.widths.values())
        for name, part, matrix in zip(self.names, moments.mean.split(widths), matrices, strict=True):
            own_mean, own_matrix = self.solution(name)
            own_mean.copy_(part)
            own_matrix.zero_()[:, : matrix.shape[1]] = matrix
        blocks = [row.split(widths, dim=1) for row in moments.covariance.split(widths)]
        for (a, name), share in zip(enumerate(self.names), self.shrinkages(moments), strict=True):
            matrix, own = self.solution(name)[1].double(), blocks[a][a]
            columns = matrix.T @ own @ matrix + relative_ridge(own, share) * matrix.T @ matrix
            inverse = torch.linalg.pinv(columns, hermitian=True)
            for b in (b for b in range(len(widths)) if b != a):
                self.get_buffer(f"decoder_{a}_{b}").copy_(inverse @ (matrix.T @ blocks[a][b]))


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

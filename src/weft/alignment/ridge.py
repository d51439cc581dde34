r"""Ridge regression: predict one modality from each of the others, and compare in its space; in closed form.

.. math::
    W_m = (S_{mm} + r_m I)^{-1} S_{mt}, \qquad A_m = W_m Q_k, \qquad A_t = Q_k

with the target modality ``t``, the leading ``k`` principal directions :math:`Q_k` of the target, and :math:`r_m` =
``shrinkage`` times the mean variance.

Cost: one pass for the covariance, then ``O(D^3)``.

When not to use it: a target with large variance that no other modality can predict; ``cca`` weighs directions by what
they share. It is a baseline of one second.

Source: Hoerl and Kennard, "Ridge regression", Technometrics 1970.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from weft.alignment.base import aligners
from weft.alignment.closed_form import ClosedForm, check_shrinkage
from weft.errors import UserError, did_you_mean
from weft.ops.correlation import Moments, check_dim, relative_ridge


@aligners.register("ridge")
class Ridge(ClosedForm):
    """Every modality predicts the target.

    Args:
        dims, dim: see :class:`~weft.alignment.closed_form.ClosedForm`; ``dim`` is at most the width of the target.
        target: the modality that is predicted; None: the last.
        shrinkage: added to the diagonal of each covariance, as a share of its mean; above 0. None: ten times width over
            rows.

    Raises:
        UserError: ``target`` is no modality, or ``shrinkage`` is not positive.
    """

    paper = "Hoerl and Kennard, Technometrics 1970"

    def __init__(
        self, dims: Mapping[str, int], dim: int = 256, *, target: str | None = None, shrinkage: float | None = None
    ) -> None:
        super().__init__(dims, dim)
        if shrinkage is not None:
            check_shrinkage("ridge", shrinkage)
        if shrinkage == 0:
            raise UserError("ridge: shrinkage is above 0", "shrinkage=0", "1e-2 is usual")
        self.target, self.shrinkage = self.names[-1] if target is None else target, shrinkage
        if self.target not in self.names:
            remedy = did_you_mean(self.target, self.names, "modalities")
            raise UserError("ridge: the target is a modality", f"target={target!r}", remedy)

    def solve(self, moments: Moments) -> list[Tensor]:
        widths = list(self.widths.values())
        t = self.names.index(self.target)
        check_dim(self.dim, [widths[t]])
        blocks = [row.split(widths, dim=1) for row in moments.covariance.split(widths)]
        directions = torch.linalg.eigh(blocks[t][t]).eigenvectors.flip(1)[:, : self.dim]
        matrices = []
        for m, (row, share) in enumerate(zip(blocks, self.shrinkages(moments), strict=True)):
            eye = torch.eye(widths[m], dtype=directions.dtype, device=directions.device)
            ridged = row[m] + relative_ridge(row[m], share) * eye
            matrices.append(directions if m == t else torch.linalg.solve(ridged, row[t] @ directions))
        return matrices

    def shrinkages(self, moments: Moments) -> list[float]:
        return super().shrinkages(moments) if self.shrinkage is None else [self.shrinkage] * len(self.names)

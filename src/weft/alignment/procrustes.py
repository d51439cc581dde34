r"""Procrustes: rotate one modality onto the other, in closed form.

.. math:: \max_{A_1, A_2} \mathrm{tr}\,(A_1^T S_{12} A_2) \quad\text{with}\quad A_m^T A_m = I
    \quad\Rightarrow\quad S_{12} = U \Sigma V^T,\ A_1 = U_k,\ A_2 = V_k

For equal widths :math:`k = D` the cosines are those of Schönemann's problem :math:`\min_R \|V_1 R - V_2\|`, whose
solution is :math:`R = U V^T`; for unequal ones the leading ``k`` pairs of directions are kept.

Cost: one pass for the covariance, one SVD ``O(D_1 D_2 \min(D_1, D_2))``.

When not to use it: modalities whose features differ by more than a rotation. It is a baseline of one second.

Source: Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.alignment.base import aligners
from weft.alignment.closed_form import ClosedForm
from weft.ops.correlation import Moments, check_dim


@aligners.register("procrustes")
class Procrustes(ClosedForm):
    """Orthogonal directions of largest covariance.

    Args:
        dims, dim: see :class:`~weft.alignment.closed_form.ClosedForm`; two modalities.
    """

    arity = (2, 2)
    paper = "Schönemann, Psychometrika 1966"

    def solve(self, moments: Moments) -> list[Tensor]:
        first, second = self.widths.values()
        check_dim(self.dim, (first, second))
        u, _, vt = torch.linalg.svd(moments.covariance[:first, first:], full_matrices=False)
        return [u[:, : self.dim], vt[: self.dim].T]

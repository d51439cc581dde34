r"""Canonical correlation analysis: linear maps under which the modalities correlate most, in closed form.

.. math::
    \max_{A_1, A_2} \mathrm{tr}\,(A_1^T S_{12} A_2) \quad\text{with}\quad
    A_m^T (S_{mm} + r_m I) A_m = I, \qquad z_m = (v_m - \mu_m) A_m / \|\cdot\|

with mean-pooled, centred features :math:`v_m` and their covariances; :math:`r_m` is ``shrinkage`` times the mean
variance. Two modalities by the Cholesky form, more by MAXVAR; :mod:`weft.ops.correlation` has both, and the streaming
covariance that needs one pass and ``O(D^2)`` memory whatever the number of rows.

Cost: ``O(N D^2 + D^3)`` once, with ``D`` the sum of widths; no epochs, no learning rate, no seed.

When not to use it: few rows, where full whitening is too much whatever the shrinkage (``whitened`` chooses how much),
or a relation between modalities that is not linear: see ``deep-cca``.

Source: Hotelling, "Relations between two sets of variates", Biometrika 1936; Kettenring, "Canonical analysis of several
sets of variables", Biometrika 1971.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from weft.alignment.base import aligners
from weft.alignment.closed_form import ClosedForm, check_shrinkage
from weft.ops.correlation import Moments, cca, maxvar


@aligners.register("cca")
class CCA(ClosedForm):
    """Canonical correlation analysis; MAXVAR for more than two modalities.

    Args:
        dims, dim: see :class:`~weft.alignment.closed_form.ClosedForm`.
        shrinkage: added to the diagonal of each covariance, as a share of its mean; None: ten times width over rows.

    Raises:
        UserError: ``shrinkage`` is negative.
    """

    paper = "Hotelling, Biometrika 1936; Kettenring, Biometrika 1971 (MAXVAR)"

    def __init__(self, dims: Mapping[str, int], dim: int = 256, *, shrinkage: float | None = None) -> None:
        super().__init__(dims, dim)
        if shrinkage is not None:
            check_shrinkage("cca", shrinkage)
        self.shrinkage = shrinkage

    def solve(self, moments: Moments) -> list[Tensor]:
        widths, method = list(self.widths.values()), cca if len(self.names) == 2 else maxvar
        return method(moments.covariance, widths, self.dim, self.shrinkages(moments)).projections

    def shrinkages(self, moments: Moments) -> list[float]:
        return super().shrinkages(moments) if self.shrinkage is None else [self.shrinkage] * len(self.names)

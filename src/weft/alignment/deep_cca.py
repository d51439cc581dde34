r"""Deep CCA: one network per modality, trained so that their outputs correlate most, then linear CCA on top.

.. math::
    f_m(v) = g_m(v) / \|g_m(v)\|, \qquad g_m(v) = \tanh(v W_m + b_m)\, W'_m + b'_m, \qquad
    L = -\sum_i c_i\big(f_1(V_1), f_2(V_2)\big), \qquad z_m = (f_m(v) - \mu_m) A_m / \|\cdot\|

with the canonical correlations :math:`c_i` of a batch (all ``k = dim`` of them; more than two modalities: the mean over
pairs) and the linear CCA :math:`\mu_m, A_m` of the training outputs, solved anew before every evaluation. The loss does
not change under linear maps of either output, so cosines mean nothing before that last step. In training the aligner
returns :math:`f_m`; in evaluation :math:`z_m`. :math:`c` is computed in float64 by Cholesky factors and a nuclear norm
(:func:`weft.ops.correlation.cca_loss`), whose gradient is finite for repeated spectra.

Cost: ``sum(D_m + 1) hidden + M (hidden + 1) dim`` weights; the loss ``O(B dim^2 + dim^3)`` of a batch of all processes.

When not to use it: batches of fewer than ten times ``dim`` rows, where correlations are noise (every one tends to 1);
then a smaller ``dim``, larger batches, or ``cca``.

Source: Andrew, Arora, Bilmes, Livescu, "Deep Canonical Correlation Analysis", ICML 2013. The stable form of the loss,
its relative ridge and the unit length of the outputs are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from weft.alignment.base import Objective, aligners, objectives
from weft.alignment.closed_form import ClosedForm, check_shrinkage
from weft.errors import UserError
from weft.ops.contrastive import gather_with_grad, valid_pairs
from weft.ops.correlation import Moments, cca, cca_loss, maxvar
from weft.tokens import Tokens, mean_pool


@aligners.register("deep-cca")
class DeepCCA(ClosedForm):
    """Two-layer networks under linear CCA; its objective is ``deep-cca`` too.

    Args:
        dims, dim: see :class:`~weft.alignment.base.Aligner`; ``dim`` is the width of outputs and shared space.
        hidden: width of the hidden layer.
        shrinkage: of the linear CCA, see :class:`~weft.alignment.cca.CCA`.

    Raises:
        UserError: ``hidden`` is not positive, or ``shrinkage`` is negative.
    """

    objective = "deep-cca"
    scaling = "feature"
    paper = "Andrew et al., Deep Canonical Correlation Analysis, ICML 2013"

    def __init__(self, dims: Mapping[str, int], dim: int = 256, *, hidden: int = 512, shrinkage: float = 1e-4) -> None:
        super().__init__(dims, dim, dict.fromkeys(dims, dim))
        check_shrinkage("deep-cca", shrinkage)
        if hidden < 1:
            raise UserError("deep-cca: hidden is a positive width", f"hidden={hidden}", "512 is usual")
        self.shrinkage = shrinkage
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, dim)) for d in self.dims.values()
        )

    def represent(self, name: str, tokens: Tokens) -> Tensor:
        return F.normalize(self.towers[self.names.index(name)](mean_pool(tokens)), dim=-1)

    def embed(self, name: str, tokens: Tokens) -> Tensor:
        return self.represent(name, tokens) if self.training else super().embed(name, tokens)

    def solve(self, moments: Moments) -> list[Tensor]:
        method = cca if len(self.names) == 2 else maxvar
        return method(moments.covariance, list(self.widths.values()), self.dim, self.shrinkage).projections

    def shrinkages(self, moments: Moments) -> list[float]:
        return [self.shrinkage] * len(self.names)


@objectives.register("deep-cca")
class CanonicalCorrelation(Objective):
    """Minus the sum of the canonical correlations of a batch, from -dim (perfect) to 0.

    Args:
        shrinkage: added to the diagonal of each covariance, as a share of its mean, above 0.

    Raises:
        UserError: ``shrinkage`` is not positive; from ``forward``, fewer valid pairs than the width plus one (in
            training; two in evaluation), values that are NaN, or embeddings that are all the same.
    """

    paper = "Andrew et al., Deep Canonical Correlation Analysis, ICML 2013"

    def __init__(self, *, shrinkage: float = 1e-4) -> None:
        super().__init__()
        check_shrinkage("deep-cca", shrinkage)
        if shrinkage == 0:
            raise UserError("deep-cca: shrinkage is above 0 in training", "shrinkage=0", "1e-4 is usual")
        self.shrinkage = shrinkage

    def extra_repr(self) -> str:
        return f"shrinkage={self.shrinkage}"

    def forward(self, a: Tensor, b: Tensor, valid: Tensor, group: Tensor | None = None) -> Tensor:
        """As every objective; correlations know no negatives, so ``group`` changes nothing."""
        a, b = valid_pairs(a, b, valid)
        if self.training:
            a, b = gather_with_grad(a)[0], gather_with_grad(b)[0]
        least = a.shape[1] + 1 if self.training else 2
        if len(a) < least:
            raise UserError(
                "deep-cca needs more valid pairs in a batch than the embeddings are wide, better ten times as many",
                f"{len(a)} pairs, width {a.shape[1]}",
                "use larger batches, or a smaller dim",
            )
        r1, r2 = (self.shrinkage * x.double().var(dim=0).mean() for x in (a, b))
        return cca_loss(a, b, r1, r2).to(a.dtype)

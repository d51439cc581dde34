r"""Canonical correlations: streaming moments, closed forms for two and more modalities, a stable loss.

Rows :math:`H_m` ``(N, D_m)``, centred; :math:`S_{mn} = H_m^T H_n / (N - 1)`; ``r_m`` is added to the diagonal of
:math:`S_{mm}`, whose Cholesky factor is then :math:`L_m`.

**Moments.** ``(n, mu, C)`` with the scatter :math:`C = \sum_i (x_i - \mu)(x_i - \mu)^T` of the joint rows
``[h_1, h_2, ...]``, in float64. Two parts merge exactly, in any order and of any size (Chan, Golub, LeVeque 1979):

.. math:: d = \mu' - \mu, \quad C \mathrel{+}= C' + d d^T \tfrac{n k}{n + k}, \quad \mu \mathrel{+}= d \tfrac{k}{n + k}

**CCA**, Cholesky form, from moments: :math:`T = L_1^{-1} S_{12} L_2^{-T} = U\,\mathrm{diag}(c)\,V^T` by two triangular
solves, :math:`A_1 = L_1^{-T} U_k`, :math:`A_2 = L_2^{-T} V_k`; ``c`` are the canonical correlations. Cost
``O(N D^2 + D^3)``, memory ``O(D^2)``.

**CCA**, SVD form, from rows in memory: :math:`H_m = P_m\,\mathrm{diag}(s_m)\,Q_m^T`,
:math:`w_m = s_m / \sqrt{s_m^2 + (N - 1) r_m}`, :math:`T = \mathrm{diag}(w_1) P_1^T P_2\,\mathrm{diag}(w_2)`. The
condition number is not squared; for ill-conditioned features, and for ``D > N``.

**MAXVAR**, any number of modalities: the ``k`` columns of ``G`` (unit variance) that all modalities predict best,
:math:`\min \sum_m \|G - H_m U_m\|^2 + (N - 1) r_m \|U_m\|^2`. With the eigenvectors ``V`` and values :math:`\lambda` of
the blocks :math:`L_m^{-1} S_{mn} L_n^{-T}`, :math:`U_m = L_m^{-T} V_m \lambda^{1/2}`; no ``N x N`` matrix is made.

**The whitened family**, two modalities: exponents ``a, b`` from 0 (Procrustes) to 1/2 (CCA), powers ``p_m`` of the
weights of the columns,

.. math:: T = (S_{11} + r_1 I)^{-a} S_{12} (S_{22} + r_2 I)^{-b} = U\,\mathrm{diag}(c)\,V^T, \quad
    A_1 = (S_{11} + r_1 I)^{-a} U_k\,\mathrm{diag}(c_k)^{p_1}, \quad
    A_2 = (S_{22} + r_2 I)^{-b} V_k\,\mathrm{diag}(c_k)^{p_2}

:class:`Spectra` has both covariances in their principal components, where a power is a power of the eigenvalues and the
components without variance (all beyond ``N - 1``) are left out: one eigendecomposition, then one small SVD for each
setting, whatever its exponents and shrinkage.

**Loss** of Deep CCA: minus the nuclear norm of ``T`` (or the sum of its ``k`` largest singular values), in float64. Its
gradient stays finite where the spectrum of :math:`S_{mm}` repeats, as in whitened features; that of an eigenvector
form does not.

Sources: Hotelling, Biometrika 1936; Bach and Jordan, JMLR 2002 (regularised); Kettenring, Biometrika 1971 (MAXVAR);
Andrew, Arora, Bilmes, Livescu, ICML 2013 (loss); Vinod, Journal of Econometrics 1976 (canonical ridge).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weft.errors import UserError

EXACT = 200
"""Sides of matrices up to which the SVD of the whitened family is computed as such."""


class Moments(NamedTuple):
    """Number, mean and scatter of rows seen so far, in float64.

    Attributes:
        rows: how many.
        mean: ``(D,)``.
        scatter: ``(D, D)``, sum of the centred outer products.
    """

    rows: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Moments of rows ``(n, D)``; ``n`` may be 0."""
        x = x.double()
        mean = x.sum(dim=0) / max(len(x), 1)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of rows together."""
        rows = self.rows + other.rows
        share = other.rows / max(rows, 1)
        gap = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(gap, gap) * (self.rows * share)
        return Moments(rows, self.mean + gap * share, scatter)

    @property
    def covariance(self) -> Tensor:
        """``(D, D)``, unbiased; needs two rows."""
        return self.scatter / (self.rows - 1)


class Canonical(NamedTuple):
    """Projections of centred rows.

    Attributes:
        projections: ``(D_m, k)`` for every modality; the largest entry of each column of the first is positive.
        correlations: ``(k,)``, descending: canonical correlations; of MAXVAR the eigenvalues, 0 to M.
    """

    projections: list[Tensor]
    correlations: Tensor


def relative_ridge(covariance: Tensor, shrinkage: float) -> Tensor:
    """``r``: ``shrinkage`` times the mean of the diagonal, so that the unit of the features does not matter."""
    return shrinkage * covariance.diagonal().mean()


def usual_shrinkage(widths: Sequence[int], rows: int) -> list[float]:
    """A shrinkage for each modality: ten times its width over the rows.

    The sampling error of a covariance's eigenvalues, as a share of their mean, grows with width over rows (Marchenko,
    Pastur 1967); 800 photos of 1,280 features with five captions each (4,000 rows) get 3.2, 2,000 rows of ten features
    0.05.
    """
    return [10 * width / rows for width in widths]


def cca(covariance: Tensor, widths: Sequence[int], dim: int, shrinkage: float | Sequence[float] = 1e-4) -> Canonical:
    """CCA of two modalities by the Cholesky form.

    Args:
        covariance: ``(D_1 + D_2, D_1 + D_2)`` of the joint rows.
        widths: ``(D_1, D_2)``.
        dim: pairs of canonical variables ``k``, at most the smaller width.
        shrinkage: see :func:`relative_ridge`; one number, or one for each modality.

    Raises:
        UserError: ``dim`` is too large, or a covariance is singular.
    """
    check_dim(dim, widths)
    (s11, s12), (_, s22) = _blocks(covariance, widths)
    l1, l2 = (_factor(s, relative_ridge(s, r)) for s, r in zip((s11, s22), _each(shrinkage, widths), strict=True))
    u, correlations, vt = torch.linalg.svd(_whiten(l1, s12, l2), full_matrices=False)
    projections = [_back(l1, u[:, :dim]), _back(l2, vt[:dim].T)]
    return Canonical(_fix_signs(projections), correlations[:dim])


def cca_of_rows(h1: Tensor, h2: Tensor, dim: int, shrinkage: float = 1e-4) -> Canonical:
    """CCA of rows ``(N, D_1)``, ``(N, D_2)`` in memory by the SVD form; arguments and errors as for :func:`cca`."""
    check_dim(dim, (h1.shape[1], h2.shape[1], len(h1) - 1))
    _check_finite(h1, h2)
    left, bases = [], []
    for h in (h1.double(), h2.double()):
        p, s, qt = torch.linalg.svd(h - h.mean(dim=0), full_matrices=False)
        scale = (s.square() + shrinkage * s.square().sum() / h.shape[1]).sqrt()
        rank = scale > scale.max() * torch.finfo(s.dtype).eps * max(h.shape)
        if int(rank.sum()) < dim:
            raise _singular()
        left.append(p[:, rank] * (s / scale)[rank])
        bases.append(qt[rank].T / scale[rank] * (len(h) - 1) ** 0.5)
    u, correlations, vt = torch.linalg.svd(left[0].T @ left[1], full_matrices=False)
    projections = [bases[0] @ u[:, :dim], bases[1] @ vt[:dim].T]
    return Canonical(_fix_signs(projections), correlations[:dim])


class Spectra(NamedTuple):
    """Two modalities in their principal components.

    Attributes:
        values: ``(K_1,)``, ``(K_2,)`` variances of the components, ascending; those that vanish are left out.
        bases: ``(D_m, K_m)``, the components.
        cross: ``(K_1, K_2)`` covariance of the components.
        variances: mean variance of a feature of each modality.
    """

    values: tuple[Tensor, Tensor]
    bases: tuple[Tensor, Tensor]
    cross: Tensor
    variances: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, covariance: Tensor, widths: Sequence[int], features: Sequence[int] | None = None) -> Spectra:
        """Spectra of the covariance ``(D_1 + D_2, D_1 + D_2)`` of the joint rows.

        Args:
            covariance: see above.
            widths: ``D_1, D_2``.
            features: how many the mean variance is over, where the rows are the leading components of more of them.
        """
        (s11, s12), (_, s22) = _blocks(covariance, widths)
        values, bases = [], []
        for s in (s11, s22):
            variances, components = torch.linalg.eigh(s)
            kept = variances > variances[-1] * len(s) * torch.finfo(s.dtype).eps
            values.append(variances[kept])
            bases.append(components[:, kept])
        cross = bases[0].T @ s12 @ bases[1]
        means = [s.trace() / count for s, count in zip((s11, s22), features or widths, strict=True)]
        return cls((values[0], values[1]), (bases[0], bases[1]), cross, (means[0], means[1]))

    def solve(self, exponents: Sequence[float], shrinkage: float) -> tuple[Tensor, Tensor, Tensor]:
        """``(S_11 + r_1)^-a U``, ``c`` and ``(S_22 + r_2)^-b V``: ``(D_1, K)``, ``(K,)``, ``(D_2, K)``.

        Args:
            exponents: ``a`` and ``b``.
            shrinkage: see :func:`relative_ridge`.

        Raises:
            UserError: a covariance that is raised to a power is singular, and ``shrinkage`` is 0.
        """
        for a, base in zip(exponents, self.bases, strict=True):
            if a > 0 and shrinkage == 0 and base.shape[1] < base.shape[0]:
                raise _singular()
        roots = [
            (value + shrinkage * mean) ** -a
            for a, value, mean in zip(exponents, self.values, self.variances, strict=True)
        ]
        u, c, v = _leading_svd(roots[0][:, None] * self.cross * roots[1])
        first, second = _fix_signs([self.bases[0] @ (roots[0][:, None] * u), self.bases[1] @ (roots[1][:, None] * v)])
        return first, c, second


def whitened(
    covariance: Tensor,
    widths: Sequence[int],
    dim: int,
    shrinkage: float = 1.0,
    exponents: Sequence[float] = (0.25, 0.25),
    powers: Sequence[float] = (0.5, 0.5),
) -> Canonical:
    """The member of the whitened family with these settings; arguments and errors as for :func:`cca`."""
    check_dim(dim, widths)
    first, c, second = Spectra.of(covariance, widths).solve(exponents, shrinkage)
    c = c[:dim]
    return Canonical([first[:, :dim] * c ** powers[0], second[:, :dim] * c ** powers[1]], c)


def reweighted(
    rows: tuple[Tensor, Tensor], z: tuple[Tensor, Tensor], group: Tensor, scale: float, chunk: int = 1024
) -> Tensor:
    r"""The cross-covariance that the contrastive loss follows, of pairs that are weighed by their present scores.

    .. math:: M = X_1^T \Big(T - \tfrac{1}{2}\big(P^{row} + P^{col}\big)\Big) X_2 \,/\, N

    with the softmax of the logits :math:`s\,z_i \cdot z_j` over rows and over columns, and
    :math:`T_{ij} = [g_i = g_j] / n_i`: minus the gradient of InfoNCE for the logits, between the features. Logits that
    are all equal give the centred :math:`S_{12}` (of ``N``); hard negatives weigh more.

    Args:
        rows: features ``(N, D_1)`` and ``(N, D_2)``.
        z: their unit vectors now, ``(N, d)`` each.
        group: ``(N,)`` int64; rows of one group are partners.
        scale: of the logits.
        chunk: rows of the matrix of all pairs at a time.

    Returns:
        ``M``, ``(D_1, D_2)``.

    Source: Sui, Wang, Do, UniCon, ICLR 2026, arXiv 2604.16678; with several partners, ours.
    """
    (x, y), (a, b) = rows, z
    code = group.unique(return_inverse=True)[1]
    means = y.new_zeros(int(code.max()) + 1, y.shape[1]).index_add_(0, code, y) / code.bincount()[:, None]
    columns = y.new_full((len(y),), float("-inf"))
    for part in a.split(chunk):
        columns = torch.logaddexp(columns, (scale * part @ b.T).logsumexp(dim=0))
    total = x.T @ means[code]
    for part, features in zip(a.split(chunk), x.split(chunk), strict=True):
        logits = scale * part @ b.T
        weights = logits.softmax(dim=1) + (logits - columns).exp()
        total -= features.T @ (weights @ y) / 2
    return total / len(x)


def maxvar(covariance: Tensor, widths: Sequence[int], dim: int, shrinkage: float | Sequence[float] = 1e-4) -> Canonical:
    """MAXVAR generalised CCA of any number of modalities; arguments and errors as for :func:`cca`."""
    check_dim(dim, widths)
    blocks = _blocks(covariance, widths)
    ridges = _each(shrinkage, widths)
    factors = [_factor(row[m], relative_ridge(row[m], ridges[m])) for m, row in enumerate(blocks)]
    whitened = [[_whiten(factors[m], block, factors[n]) for n, block in enumerate(row)] for m, row in enumerate(blocks)]
    values, vectors = torch.linalg.eigh(torch.cat([torch.cat(row, dim=1) for row in whitened]))
    values, vectors = values.flip(0)[:dim].clamp(min=0), vectors.flip(1)[:, :dim]
    parts = (vectors * values.sqrt()).split(list(widths))
    return Canonical(_fix_signs([_back(f, part) for f, part in zip(factors, parts, strict=True)]), values)


def cca_loss(h1: Tensor, h2: Tensor, r1: Tensor | float, r2: Tensor | float, k: int | None = None) -> Tensor:
    """Minus the sum of the canonical correlations.

    Args:
        h1, h2: ``(N, K)``, not centred.
        r1, r2: added to the diagonals of the covariances.
        k: only the ``k`` largest; None: all. A cut inside a cluster of equal values has no gradient.

    Returns:
        The loss, a scalar in float64.

    Raises:
        UserError: values are NaN or infinite, or a covariance is singular.
    """
    _check_finite(h1, h2)
    s11, s12, s22 = _covariances(h1, h2)
    t = _whiten(_factor(s11, r1), s12, _factor(s22, r2))
    return -torch.linalg.matrix_norm(t, "nuc") if k is None else -torch.linalg.svdvals(t)[:k].sum()


def published_cca_loss(h1: Tensor, h2: Tensor, r: float = 1e-3, k: int | None = None, eps: float = 1e-9) -> Tensor:
    """What public Deep CCA code (MultiBench, Michaelvll) returns, to reproduce its figures; not for new work.

    With all values it sums the column norms of ``T`` (symmetric roots) instead of its singular values; with the ``k``
    largest it adds ``r`` under each root. The gradient is NaN where a covariance has repeated eigenvalues.
    """

    def inverse_root(s: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(s + r * torch.eye(len(s), dtype=s.dtype, device=s.device))
        kept = values > eps
        return vectors[:, kept] * values[kept].rsqrt() @ vectors[:, kept].T

    s11, s12, s22 = _covariances(h1, h2)
    t = inverse_root(s11) @ s12 @ inverse_root(s22)
    if k is None:
        return -(t.T @ t).diagonal().sqrt().sum()
    squares = torch.linalg.eigvalsh(t.T @ t + r * torch.eye(t.shape[1], dtype=t.dtype, device=t.device))
    return -squares.clamp(min=eps).topk(k).values.sqrt().sum()


def check_dim(dim: int, limits: Sequence[int]) -> None:
    """Refuse more dimensions than the narrowest modality (or the rows) can give.

    Raises:
        UserError: ``dim`` is above the smallest of ``limits``.
    """
    if dim > min(limits):
        raise UserError(
            "the shared space of a closed form is no wider than the narrowest modality, nor than rows - 1",
            f"dim={dim}, limits {tuple(limits)}",
            f"choose dim={max(min(limits), 1)} or less",
        )


def _covariances(h1: Tensor, h2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    c1, c2 = (h.double() - h.double().mean(dim=0) for h in (h1, h2))
    rows = len(h1) - 1
    return c1.T @ c1 / rows, c1.T @ c2 / rows, c2.T @ c2 / rows


def _each(shrinkage: float | Sequence[float], widths: Sequence[int]) -> list[float]:
    return [float(shrinkage)] * len(widths) if isinstance(shrinkage, (int, float)) else list(shrinkage)


def _blocks(covariance: Tensor, widths: Sequence[int]) -> list[tuple[Tensor, ...]]:
    return [row.split(list(widths), dim=1) for row in covariance.split(list(widths))]


def _factor(s: Tensor, r: Tensor | float) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(s + r * torch.eye(len(s), dtype=s.dtype, device=s.device))
    if bool(failed):
        raise _singular()
    return factor


def _whiten(l1: Tensor, s12: Tensor, l2: Tensor) -> Tensor:
    """``L_1^{-1} S_12 L_2^{-T}``."""
    half = torch.linalg.solve_triangular(l1, s12, upper=False)
    return torch.linalg.solve_triangular(l2.T, half, upper=True, left=False)


def _back(factor: Tensor, x: Tensor) -> Tensor:
    """``L^{-T} x``."""
    return torch.linalg.solve_triangular(factor.T, x, upper=True)


def _fix_signs(projections: list[Tensor]) -> list[Tensor]:
    first = projections[0]
    largest = first.gather(0, first.abs().argmax(dim=0, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(first.dtype)
    return [p * sign for p in projections]


def _leading_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``u, c, v`` of ``u diag(c) v^T``; of large matrices those with ``c`` above a millionth of the largest, by the
    smaller product with itself, four times as fast and for these as exact as the float32 features are."""
    if min(matrix.shape) <= EXACT:
        u, c, vt = torch.linalg.svd(matrix, full_matrices=False)
        return u, c, vt.T
    if matrix.shape[0] > matrix.shape[1]:
        v, c, u = _leading_svd(matrix.T)
        return u, c, v
    values, u = torch.linalg.eigh(matrix @ matrix.T)
    c = values.clamp(min=0).sqrt()
    kept = c > 1e-6 * c[-1]
    u, c = u[:, kept].flip(1), c[kept].flip(0)
    return u, c, matrix.T @ (u / c)


def _check_finite(h1: Tensor, h2: Tensor) -> None:
    for label, h in (("first", h1), ("second", h2)):
        bad = (~h.isfinite()).any(dim=1)
        if bool(bad.any()):
            raise UserError(
                f"CCA: the {label} side has values that are NaN or infinite",
                f"{int(bad.sum())} of {len(h)} rows",
                "drop those rows; in training, lower the learning rate",
            )


def _singular() -> UserError:
    return UserError(
        "CCA: the covariance of a modality is singular",
        "a constant feature, features that are sums of others, or fewer rows than features",
        "set shrinkage above 0 (1e-4 is usual); if it is, all embeddings are the same: lower the learning rate",
    )

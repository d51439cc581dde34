r"""The whitened family: Procrustes, reduced-rank ridge, CCA and CSA are corners of one closed form.

With mean-pooled, centred features :math:`v_m`, their covariances :math:`S_{mn}` over all rows, and :math:`r_m` =
``shrinkage`` times the mean variance,

.. math::
    T &= (S_{11} + r_1 I)^{-a} S_{12} (S_{22} + r_2 I)^{-b} = U\,\mathrm{diag}(c)\,V^T && (D_1, D_2) \\
    A_1 &= (S_{11} + r_1 I)^{-a} U_k\,\mathrm{diag}(c_k)^{p_1}, \quad
    A_2 = (S_{22} + r_2 I)^{-b} V_k\,\mathrm{diag}(c_k)^{p_2}                      && (D_m, k) \\
    z_m &= (v_m - \mu_m) A_m / \|\cdot\|

=========  =========  ==========  ===================================================================
``a, b``   shrinkage  ``p``       is
=========  =========  ==========  ===================================================================
0, 0                  0, 0        Procrustes
1/2, 1/2   r          0, 0        CCA (canonical ridge)
1/2, 1/2   r          1/2, 1/2    the numerator of CSA, :math:`\sum_i c_i x_i y_i`
1/2, 1/2   r          4, 4        the weighted canonical columns of Gong et al.
1/2, 0     r          1, 0        reduced-rank ridge regression: modality 1 predicts modality 2
=========  =========  ==========  ===================================================================

None is best everywhere. Two-sided whitening fails where the modalities share a correlated nuisance; one-sided fails
where the target has loud noise that nothing predicts; none at all lets the loudest directions decide. So the setting is
chosen: by folds of the training groups (``choose="folds"``; refits of a second, and no row is given away) or on dev
rows (``"dev"``), by whatever :class:`Judge` measures, the mean log rank of partners in ``weft fit`` and ``weft align``;
ties go to the larger shrinkage. The covariances of five captions a photo hold the variance between photos and that
between captions of one; ``within`` weighs the latter (1: all rows as they are, 0: means of the groups).

``score="csa"`` has CSA's exact score :math:`\sum_i c_i x_i y_i / (\|x\| \|y\|)`, whose norms are unweighted, as unit
vectors: with :math:`u = \sqrt{c} * x / \|x\|`, ``(u, sqrt(1 - |u|^2), 0)`` for the first modality and ``(u, 0,
sqrt(1 - |u|^2))`` for the second, two columns of ``dim``.

Cost: ``O(N D^2 + D^3)`` for the solution; settings are compared on the 256 leading principal components of each
modality (of all training rows), with one SVD there for each fold, pair of exponents and shrinkage; the pooled rows are
in memory. No learning rate, no seed.

When not to use it: more than two modalities (``cca``), or so many pairs that a nonlinear map pays.

Source: Vinod, "Canonical ridge and econometrics of joint production", Journal of Econometrics 1976; Gong, Ke, Isard,
Lazebnik, "A Multi-View Embedding Space for Modeling Internet Images, Tags, and their Semantics", IJCV 2014; Li,
Chinchali, Topcu, "CSA: Data-efficient Mapping of Unimodal Features to Multimodal Features", ICLR 2025, arXiv
2410.07610; why no corner is right: Kamai et al., "When to Align, When to Predict", arXiv 2606.11190 (2026).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weft.alignment.base import aligners
from weft.alignment.closed_form import ClosedForm, Judge, check_shrinkage
from weft.errors import UserError
from weft.ops.correlation import Moments, Spectra, reweighted
from weft.tokens import Tokens

Choose = Literal["folds", "dev", "fixed"]
Score = Literal["cosine", "csa"]
EXPONENTS = ((0.0, 0.0), (0.25, 0.25), (0.25, 0.5), (0.5, 0.25), (0.5, 0.5), (0.5, 0.0), (0.0, 0.5))
SHRINKAGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.01)
POWERS = (0.5, 0.0, 1.0, 2.0)
WIDTHS = (32, 48, 64, 128, 256)
WITHIN = (1.0, 0.0)
LEADING = 256
"""Principal components of a modality, at most, on which settings are compared; the solution is on all features."""

REWEIGHT_SCALE = 2.0
"""Of the cosines by which pairs are weighed; from 10 on the steps swing and do not settle."""


class Setting(NamedTuple):
    """One member of the family; the names are those of the options."""

    exponents: tuple[float, float]
    shrinkage: float
    powers: tuple[float, float]
    width: int
    within: float


class Rows(NamedTuple):
    """Joint vectors ``(n, D_1 + D_2)`` of complete rows, and their groups ``(n,)``."""

    vectors: Tensor
    group: Tensor


@aligners.register("whitened")
class Whitened(ClosedForm):
    """One closed form from Procrustes to CCA, its setting chosen by folds of the training groups.

    Args:
        dims, dim: see :class:`~weft.alignment.closed_form.ClosedForm`; two modalities. ``dim`` is the largest width;
            columns beyond the chosen one are zero.
        exponents: ``a`` and ``b`` of the whitening, 0 (none) to 1/2 (full).
        shrinkage: added to the diagonal of each covariance, as a share of its mean.
        powers: ``p_1`` and ``p_2``, of the correlations that weigh the columns.
        width: columns kept; None: ``dim``, or as chosen.
        within: weight of the covariance within groups.
        score: ``"cosine"``, or ``"csa"``: CSA's, with two columns of ``dim`` (``powers`` then have no effect).
        choose: ``"folds"`` of the training groups, ``"dev"`` rows, or ``"fixed"``: the setting is as given. Without a
            judge (``fit_closed_form`` called by hand) it is as given.
        folds: how many.
        reweight: steps in which the pairs are weighed by the scores of the solution so far, hard negatives more
            (:func:`~weft.ops.correlation.reweighted`), and it is solved again; the setting is chosen without. Cost:
            ``O(N^2 D)`` a step. Off by default: on our sets it does not pay (``docs/results/few_pairs.md``).

    Raises:
        UserError: an option is out of its range.
    """

    arity = (2, 2)
    paper = "Vinod, J. Econometrics 1976; Gong et al., IJCV 2014; Li et al., CSA, ICLR 2025, arXiv 2410.07610"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        exponents: tuple[float, float] = (0.25, 0.25),
        shrinkage: float = 1.0,
        powers: tuple[float, float] = (0.5, 0.5),
        width: int | None = None,
        within: float = 1.0,
        score: Score = "cosine",
        choose: Choose = "folds",
        folds: int = 5,
        reweight: int = 0,
    ) -> None:
        super().__init__(dims, dim)
        check_shrinkage("whitened", shrinkage)
        self.columns = dim - 2 if score == "csa" else dim
        limits = {
            "exponents are 0 to 1/2": all(0 <= e <= 0.5 for e in exponents),
            "powers are 0 or more": all(0 <= p < float("inf") for p in powers),
            "within is 0 or more": 0 <= within < float("inf"),
            "there are two folds or more": folds >= 2,
            "reweight is 0 steps or more": reweight >= 0,
            "width is 1 to dim (csa: dim - 2)": 1 <= (width or self.columns) <= self.columns,
        }
        for rule, kept in limits.items():
            if not kept:
                found = (
                    f"exponents={exponents}, powers={powers}, within={within}, folds={folds}, width={width}, "
                    f"dim={dim}, reweight={reweight}"
                )
                raise UserError(f"whitened: {rule}", found, "leave it at its default")
        self.score, self.choose, self.folds, self.reweight = score, choose, folds, reweight
        given = Setting((exponents[0], exponents[1]), shrinkage, (powers[0], powers[1]), width or self.columns, within)
        self.register_buffer("numbers", torch.tensor(_flat(given), dtype=torch.float64))
        self.register_buffer("weights", torch.ones(self.columns))

    @property
    def setting(self) -> Setting:
        """The member of the family: as given until :meth:`fit_closed_form` has chosen."""
        a, b, shrinkage, p1, p2, width, within = self.get_buffer("numbers").tolist()
        return Setting((a, b), shrinkage, (p1, p2), round(width), within)

    def extra_repr(self) -> str:
        return f"{self.setting}, score={self.score!r}, choose={self.choose!r}"

    def embed(self, name: str, tokens: Tokens) -> Tensor:
        outputs = super().embed(name, tokens)
        if self.score == "cosine":
            return outputs
        return csa_vectors(outputs[:, : self.columns], self.get_buffer("weights"), self.names.index(name) == 0)

    def shrinkages(self, moments: Moments) -> list[float]:
        return [self.setting.shrinkage] * 2

    def solve(self, moments: Moments) -> list[Tensor]:
        spectra = Spectra.of(moments.covariance, list(self.widths.values()))
        return self._columns(spectra, self.setting)

    @torch.no_grad()
    def fit_closed_form(self, batches: Iterable[dict[str, Tokens]], judge: Judge | None = None) -> None:
        rows = self._gather(batches, None if judge is None else judge.group)
        moments = Moments.of(rows.vectors)
        self.check(moments)
        if judge is not None and self.choose != "fixed":
            widths, bases = list(self.widths.values()), self._leading(moments)
            parts = [tuple(_project(part, widths, bases) for part in both) for both in self._parts(rows, judge)]
            best = self._best(parts, judge)
            self.get_buffer("numbers").copy_(torch.tensor(_flat(best)))
        spectra = self._spectra(rows, self.setting.within)
        for _ in range(self.reweight):
            spectra = self._reweighted(spectra, rows)
        self.install(moments, self._columns(spectra, self.setting))

    def candidates(self, base: Setting) -> list[tuple[str, list[Setting]]]:
        """What is tried, in stages, each from the best so far: whitening, then columns, then groups."""
        widths = sorted({min(w, self.columns) for w in (*WIDTHS, self.columns)})
        return [
            ("whitening", [base._replace(exponents=e, shrinkage=r) for e, r in product(EXPONENTS, SHRINKAGES)]),
            ("columns", [base._replace(powers=(p, p), width=w) for p, w in product(POWERS, widths)]),
            ("groups", [base._replace(within=w) for w in WITHIN]),
        ]

    def _best(self, parts: list[tuple[Rows, ...]], judge: Judge) -> Setting:
        best = self.setting._replace(width=min(128, self.columns))
        for stage in range(len(self.candidates(best))):
            tried = self.candidates(best)[stage][1]
            scores = np.sum([self._scores(tried, train, held, judge) for train, held in parts], axis=0)
            best = tried[int(scores.argmax())]
        return best

    def _scores(self, settings: list[Setting], train: Rows, held: Rows, judge: Judge) -> list[float]:
        """What the judge gives to each setting, solved on ``train``, for the rows held out."""
        widths = [min(width, LEADING) for width in self.widths.values()]
        spectra = {w: self._spectra(train, w, widths) for w in {s.within for s in settings}}
        solved: dict[tuple[object, ...], tuple[Tensor, Tensor, Tensor]] = {}
        centred = (held.vectors - train.vectors.mean(dim=0)).split(widths, dim=1)
        scores = []
        for s in settings:
            key = (s.within, s.exponents, s.shrinkage)
            if key not in solved:
                first, c, second = spectra[s.within].solve(s.exponents, s.shrinkage)
                solved[key] = centred[0] @ first, c, centred[1] @ second
            z = self._vectors(*solved[key], s)
            scores.append(judge.score(dict(zip(self.names, z, strict=True)), held.group))
        return scores

    def _vectors(self, first: Tensor, c: Tensor, second: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
        """Unit vectors of canonical variables ``(n, K)`` with correlations ``c`` ``(K,)``."""
        first, c, second = first[:, : setting.width], c[: setting.width], second[:, : setting.width]
        if self.score == "csa":
            weights = c / c[0].clamp(min=1)
            return csa_vectors(first, weights, True), csa_vectors(second, weights, False)
        p1, p2 = setting.powers
        return F.normalize(first * c**p1, dim=1), F.normalize(second * c**p2, dim=1)

    def _reweighted(self, spectra: Spectra, rows: Rows) -> Spectra:
        """The same with the cross-covariance of pairs weighed by the scores of the solution."""
        x, y = (rows.vectors - rows.vectors.mean(dim=0)).split(list(self.widths.values()), dim=1)
        first, c, second = spectra.solve(self.setting.exponents, self.setting.shrinkage)
        components = (x @ spectra.bases[0], y @ spectra.bases[1])
        z = self._vectors(x @ first, c, y @ second, self.setting)
        return spectra._replace(cross=reweighted(components, z, rows.group, REWEIGHT_SCALE))

    def _parts(self, rows: Rows, judge: Judge) -> Iterator[tuple[Rows, Rows]]:
        """What is solved on and what is held out: the dev rows, or each fold of the groups."""
        if self.choose == "dev":
            if judge.dev_group is None:
                raise UserError("whitened: choose='dev' needs dev rows", "none", "use choose='folds'")
            yield rows, self._gather(judge.dev, judge.dev_group)
            return
        groups, code = rows.group.unique(return_inverse=True)
        count = min(self.folds, len(groups))
        order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0)).to(code.device)
        fold = (order % count)[code]
        for k in range(count if count > 1 else 0):
            yield Rows(*(part[fold != k] for part in rows)), Rows(*(part[fold == k] for part in rows))

    def _gather(self, batches: Iterable[dict[str, Tokens]], group: Tensor | None) -> Rows:
        parts = list(self.complete(batches))
        vectors, there = (torch.cat(side) for side in zip(*parts, strict=True))
        numbers = torch.arange(len(there), device=there.device) if group is None else group.to(there.device)
        return Rows(vectors, numbers[there])

    def _leading(self, moments: Moments) -> list[Tensor | None]:
        """The leading components ``(D_m, LEADING)`` of each modality that has more; None: as it is."""
        widths = list(self.widths.values())
        blocks = [row.split(widths, dim=1)[m] for m, row in enumerate(moments.covariance.split(widths))]
        return [torch.linalg.eigh(s).eigenvectors[:, -LEADING:] if len(s) > LEADING else None for s in blocks]

    def _spectra(self, rows: Rows, within: float, widths: Sequence[int] | None = None) -> Spectra:
        """Spectra of the covariance between groups plus ``within`` times that within them."""
        moments = Moments.of(rows.vectors)
        if within != 1:
            code = rows.group.unique(return_inverse=True)[1]
            sums = torch.zeros(int(code.max()) + 1, rows.vectors.shape[1], dtype=rows.vectors.dtype, device=code.device)
            sums.index_add_(0, code, rows.vectors)
            inside = Moments.of(rows.vectors - (sums / code.bincount()[:, None])[code])
            moments = moments._replace(scatter=moments.scatter - (1 - within) * inside.scatter)
        features = list(self.widths.values())
        return Spectra.of(moments.covariance, widths or features, features)

    def _columns(self, spectra: Spectra, setting: Setting) -> list[Tensor]:
        """The matrices ``(D_m, k)``; the weights of CSA are kept aside."""
        first, c, second = spectra.solve(setting.exponents, setting.shrinkage)
        first, c, second = first[:, : setting.width], c[: setting.width], second[:, : setting.width]
        if self.score == "csa":
            self.get_buffer("weights").zero_()[: len(c)] = c / c[0].clamp(min=1)
            return [first, second]
        return [first * c ** setting.powers[0], second * c ** setting.powers[1]]


def _project(rows: Rows, widths: Sequence[int], bases: Sequence[Tensor | None]) -> Rows:
    """The rows in the leading components of each modality."""
    parts = zip(rows.vectors.split(list(widths), dim=1), bases, strict=True)
    return rows._replace(vectors=torch.cat([v if base is None else v @ base for v, base in parts], dim=1))


def csa_vectors(x: Tensor, weights: Tensor, first: bool) -> Tensor:
    """Unit vectors ``(n, k + 2)`` whose products are CSA's scores of the canonical variables ``x`` ``(n, k)``.

    Args:
        x: of one modality.
        weights: ``(k,)`` correlations, 0 to 1.
        first: whether it is the first modality.
    """
    u = F.normalize(x, dim=-1) * weights.sqrt()
    rest = (1 - u.square().sum(dim=-1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat([u, *((rest, 0 * rest) if first else (0 * rest, rest))], dim=-1)


def _flat(setting: Setting) -> list[float]:
    return [*setting.exponents, setting.shrinkage, *setting.powers, float(setting.width), setting.within]

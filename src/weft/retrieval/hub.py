r"""Hubs: gallery items that are near to every query, and one number per item that puts them in their place.

A bank of reference queries ``R`` ``(M, d)``, of training and dev rows and never of those that are asked, shows which of
the gallery's items ``g`` are near to everything. All the published corrections are then one bias per item,

.. math::
    s'(q, g) &= q \cdot g - \alpha\, b_g \\
    \text{nnn:}     \quad b_g &= \text{mean of the } k \text{ largest } r_j \cdot g \\
    \text{softmax:} \quad b_g &= \tfrac{1}{\beta} \log \tfrac{1}{M} \textstyle\sum_j e^{\beta\, r_j \cdot g}

* ``nnn`` is Nearest Neighbor Normalization, and with :math:`\alpha = 1/2` it ranks as CSLS does, whose other term
  :math:`r_k(q)` is the same for all items of a query.
* ``softmax`` with :math:`\alpha = 1` is the logarithm of the inverted softmax
  :math:`e^{\beta q \cdot g} / \sum_j e^{\beta r_j \cdot g}`, divided by :math:`\beta`.
* ``gated`` (QB-Norm's dynamic inverted softmax) corrects only a query whose own best item is the best item of some
  bank query. The published code keeps plain cosines in the other rows; rankings are the same.

A corrected score is again a dot product, of ``(q, 1)`` and ``(g, -\alpha b_g)`` (with a gate: of ``(q, 0)`` for queries
that are left alone), so that every index and every metric works on it unchanged. The bias of an item depends on no
other item, and on none of the queries asked. Corrections that use the queries asked (dual softmax, Sinkhorn over the
test set) are transductive: a single query would get another answer. There are none here, and where rows of a data set
ask, a bank that holds some of them is refused (:func:`refuse_asked`).

Cost: ``M n d`` multiply-adds in chunks, once; nothing per query. When not to use it: a strong model whose gallery has
no hubs gains little; :func:`choose_correction` then finds :math:`\alpha = 0` on dev.

Sources: Chowdhury et al., "Nearest Neighbor Normalization Improves Multimodal Retrieval", EMNLP 2024, arXiv 2410.24114;
Conneau et al., "Word Translation Without Parallel Data", ICLR 2018 (CSLS); Smith et al., ICLR 2017 (inverted softmax);
Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation", CVPR 2022, arXiv 2112.12777.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from weft.errors import UserError, did_you_mean, some
from weft.retrieval.metrics import Array, Positives, check_embeddings, rank

Rule = Literal["nnn", "softmax"]
RULES: tuple[Rule, ...] = get_args(Rule)
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
NEIGHBOURS, BETAS = (10, 64), (10.0, 20.0, 50.0)
CHUNK = 4096
"""Gallery items compared with the bank at once."""


@dataclass(frozen=True)
class HubCorrection:
    """How the bias of an item is made from a bank of queries.

    Args:
        alpha: weight of the correction, 0 or more; 0 is none.
        rule: ``"nnn"`` or ``"softmax"``.
        k: nearest bank queries that ``nnn`` averages (all, where the bank is smaller).
        beta: inverse temperature of ``softmax``, above 0.
        gated: only for queries whose best item is the best of a bank query.

    Raises:
        UserError: an unknown rule, or a number out of range.
    """

    alpha: float = 0.5
    rule: Rule = "nnn"
    k: int = 10
    beta: float = 20.0
    gated: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UserError("unknown rule of a hub correction", f"rule={self.rule!r}", did_you_mean(self.rule, RULES))
        if not (self.alpha >= 0 and self.k >= 1 and self.beta > 0):
            found = f"alpha={self.alpha}, k={self.k}, beta={self.beta}"
            raise UserError("a hub correction has alpha >= 0, k >= 1, beta > 0", found, "alpha 0.5 and k 10 are CSLS")

    def __str__(self) -> str:
        how = f"k {self.k}" if self.rule == "nnn" else f"{'gated ' * self.gated}softmax, beta {self.beta:g}"
        return f"{self.alpha:g} ({how})"

    def bias(self, gallery: Array, bank: Array) -> Tensor:
        """What is added to the scores of each item, ``(n,)`` float32: :math:`-\\alpha b_g`; where the gate is open.

        Args:
            gallery: ``(n, d)``.
            bank: ``(M, d)`` queries of training and dev rows.

        Raises:
            UserError: values are NaN or infinite, or the widths differ.
        """
        g, r = _checked(gallery, bank)
        return -self.alpha * torch.cat([self._nearness(part @ r.T) for part in g.split(CHUNK)])

    def apply(self, queries: Array, gallery: Array, bank: Array) -> tuple[Tensor, Tensor]:
        """Queries ``(Nq, d + 1)`` and gallery ``(n, d + 1)`` whose dot products are the corrected scores."""
        g, r = _checked(gallery, bank)
        q, _ = _checked(queries, bank)
        share = torch.ones(len(q), dtype=q.dtype, device=q.device)
        if self.gated:
            hubs = torch.zeros(len(g), dtype=torch.bool, device=g.device)
            hubs[_best(r, g)] = True
            share = hubs[_best(q, g)].to(q.dtype)
        return torch.cat([q, share[:, None]], dim=1), torch.cat([g, self.bias(g, r)[:, None]], dim=1)

    def _nearness(self, similarities: Tensor) -> Tensor:
        """``b`` ``(n,)`` from the similarities of items to the bank ``(n, M)``."""
        count = similarities.shape[1]
        if self.rule == "nnn":
            return similarities.topk(min(self.k, count), dim=1).values.mean(dim=1)
        return (torch.logsumexp(self.beta * similarities, dim=1) - float(np.log(count))) / self.beta


class Hubs(NamedTuple):
    """The corrections of several directions, with their bank.

    Attributes:
        bank: ``{name: (M, d)}``, embeddings of training and dev rows, of each modality that asks.
        corrections: of each direction ``"text->image"``.
    """

    bank: Mapping[str, Array]
    corrections: Mapping[str, HubCorrection]

    def apply(self, by: str, find: str, queries: Array, gallery: Array) -> tuple[Tensor, Tensor]:
        """Queries of ``by`` and gallery of ``find`` whose dot products are the corrected scores."""
        return self.corrections[f"{by}->{find}"].apply(queries, gallery, self.bank[by])


def candidates_of(rule: Rule = "nnn", gated: bool = False) -> list[HubCorrection]:
    """What dev may choose from: a rule at five alphas, and two k or three beta."""
    kind: dict[str, Any] = {"rule": rule, "gated": gated}
    if rule == "nnn":
        return [HubCorrection(alpha, **kind, k=k) for alpha, k in product(ALPHAS, NEIGHBOURS)]
    return [HubCorrection(alpha, **kind, beta=beta) for alpha, beta in product(ALPHAS, BETAS)]


def choose_correction(
    queries: Array,
    gallery: Array,
    positives: Positives | Sequence[Sequence[int]] | np.ndarray,
    bank: Array,
    candidates: Iterable[HubCorrection] | None = None,
    ks: Sequence[int] = (1, 5, 10),
) -> HubCorrection:
    """The correction with the largest sum of recalls on dev queries; the weaker one where several are level.

    Args:
        queries, gallery, positives: of the dev rows, see :func:`~weft.retrieval.metrics.rank`.
        bank: ``(M, d)`` queries of training rows alone.
        candidates: those of ``nnn`` (:func:`candidates_of`), if not given.
        ks: the cuts of the recalls.
    """
    best, found = HubCorrection(0.0), -1.0
    for candidate in sorted(candidates_of() if candidates is None else candidates, key=lambda c: c.alpha):
        score = float(rank(*candidate.apply(queries, gallery, bank), positives, ks).hits.mean(axis=0).sum())
        if score > found + 1e-9:
            best, found = candidate, score
    return best


def refuse_asked(bank: Iterable[Hashable], asked: Iterable[Hashable]) -> None:
    """Refuse a bank that holds queries which are asked: ids, or groups, of both.

    Raises:
        UserError: they have rows in common, which are named.
    """
    both = sorted(set(bank) & set(asked), key=str)
    if both:
        raise UserError(
            "a hub correction by the queries that are asked is transductive: one query alone would get another answer",
            f"{len(both)} of them are in the bank, such as {some(both)}",
            "make the bank from training and dev rows",
        )


def _best(queries: Tensor, gallery: Tensor) -> Tensor:
    """The nearest item of each query ``(Nq,)``."""
    return torch.cat([(part @ gallery.T).argmax(dim=1) for part in queries.split(CHUNK)])


def _checked(vectors: Array, bank: Array) -> tuple[Tensor, Tensor]:
    """Both as float32; a query that stands in the bank several times (a photo with five captions) is in it once."""
    v = check_embeddings(vectors, "vectors").detach().float()
    r = check_embeddings(bank, "bank").detach().float().to(v.device)
    if v.shape[1] != r.shape[1]:
        found = f"widths {v.shape[1]} and {r.shape[1]}"
        raise UserError("the bank lives in the space of the gallery", found, "embed both with the same aligner")
    return v, torch.unique(r, dim=0)

r"""KLOT: rows with one modality teach too, through the transport plan of a linear teacher.

A teacher, solved in closed form on the pairs, and the aligner in training (the student) embed the same ``n`` items of
one modality and ``n`` of another that need not belong together; ``K*``, ``K`` ``(n, n)`` are their cosines:

.. math::
    L = \mathrm{KL}(P^* \| P), \qquad P^* = P_{\epsilon^*}(K^*),\ \epsilon^* = 0.005, \qquad
    P = P_\epsilon(K),\ \epsilon = 0.05, \qquad \frac{\partial L}{\partial K} = (P - P^*) / \epsilon

with the plans of :mod:`weft.ops.sinkhorn`. No gradient goes through the iterations: both plans have the same marginals,
so the potentials' share of it vanishes. The objective gets ``weight`` times the mean over the pairs of modalities.

Of several processes each embeds its share of the items, which all draw alike; the plans are over the items of all.

Cost: one more pass of ``rows`` items per modality, and ``100 rows^2``, a step.

When not to use it: no row lacks a modality (it would be distillation of the teacher, and is refused); above some 30,000
pairs it gains nothing.

Source: Roschmann, Krzakala, Mazelet, Bouniot, Akata, "SOTAlign", ICML 2026, arXiv 2602.23353.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weft.alignment.base import Inputs, Regulariser, aligners, check_weight, create_aligner, regularisers
from weft.alignment.closed_form import ClosedForm
from weft.errors import UserError, did_you_mean
from weft.ops.contrastive import gather_with_grad, process_rank, same_everywhere, world_size
from weft.ops.sinkhorn import sinkhorn


@regularisers.register("klot")
class KLOT(Regulariser):
    """Divergence between the transport plans of a teacher and of the aligner, on unpaired items.

    Args:
        weight: of the divergence, 0 or more.
        rows: items of each modality in a step, at least 2.
        teacher: a registered aligner with a closed form.
        teacher_options: its options; ``{"choose": "fixed"}`` with ``whitened``, which has nobody to choose for it here.
        dim: width of the teacher's space; lower where the modalities or the pairs allow less.
        epsilon, epsilon_teacher: of the two plans, positive.

    Raises:
        UserError: an option is out of its range, or the teacher has no closed form; from ``prepare``, every row has
            every modality, or a modality has fewer items than there are processes.
    """

    paper = "Roschmann et al., SOTAlign, ICML 2026, arXiv 2602.23353"

    def __init__(
        self,
        *,
        weight: float = 1.0,
        rows: int = 256,
        teacher: str = "procrustes",
        teacher_options: dict[str, Any] | None = None,
        dim: int = 128,
        epsilon: float = 0.05,
        epsilon_teacher: float = 0.005,
    ) -> None:
        super().__init__()
        check_weight("klot", weight)
        if rows < 2 or dim < 1 or not (epsilon > 0 and epsilon_teacher > 0):
            found = f"rows={rows}, dim={dim}, epsilon={epsilon}, epsilon_teacher={epsilon_teacher}"
            raise UserError("klot: two rows, one dimension, positive epsilons at least", found, "leave the defaults")
        solved = [n for n in aligners.names() if issubclass(aligners.get(n), ClosedForm) and n != "deep-cca"]
        if teacher not in solved:
            raise UserError("klot: the teacher is solved in closed form", teacher, did_you_mean(teacher, solved))
        self.weight, self.rows, self.teacher, self.dim = weight, rows, teacher, dim
        self.teacher_options = teacher_options or {}
        self.epsilon, self.epsilon_teacher = epsilon, epsilon_teacher

    def extra_repr(self) -> str:
        return (
            f"weight={self.weight}, rows={self.rows}, teacher={self.teacher!r}, {self.teacher_options}, "
            f"dim={self.dim}, epsilon={self.epsilon}, epsilon_teacher={self.epsilon_teacher}"
        )

    def prepare(
        self,
        batch: Callable[[np.ndarray], Inputs],
        presence: Mapping[str, np.ndarray],
        standardise: Callable[[Inputs], Inputs],
    ) -> None:
        there = np.stack(list(presence.values()), axis=1)
        pairs = np.flatnonzero(there.all(axis=1))
        if there.all():
            raise UserError(
                "klot learns from rows that lack a modality",
                f"all {len(there)} training rows have all of {', '.join(presence)}",
                "leave it out, or add rows with one modality",
            )
        widths = {name: tokens.values.shape[2] for name, tokens in batch(pairs[:1]).items()}
        width = min(self.dim, len(pairs) - 1, *widths.values())
        if width < 1:
            raise UserError("klot's teacher needs complete rows", f"{len(pairs)} have every modality", "add some")
        teacher: Any = create_aligner(self.teacher, widths, width, **self.teacher_options)
        device = next(iter(batch(pairs[:1]).values())).values.device
        teacher.to(device).fit_closed_form(
            standardise(batch(pairs[start : start + 512])) for start in range(0, len(pairs), 512)
        )
        self._batch, self._standardise = batch, standardise
        self._rows = {name: np.flatnonzero(rows) for name, rows in presence.items()}
        fewest = min(self.rows, *map(len, self._rows.values()))
        if fewest < world_size():
            found = f"{fewest} items, {world_size()} processes"
            raise UserError("klot: every process embeds an item of every modality", found, "use fewer processes")
        self._teach = [teacher.eval()]  # in a list: no part of what is trained and saved

    def forward(
        self, inputs: Inputs, embeddings: dict[str, Tensor], embed: Callable[[Inputs], dict[str, Tensor]]
    ) -> Tensor:
        ours, theirs = {}, {}
        own = slice(process_rank(), None, world_size())
        for name, rows in self._rows.items():
            drawn = rows[same_everywhere(torch.randperm(len(rows))).numpy()][: self.rows]
            items = {name: self._batch(drawn[own])[name]}
            ours[name] = gather_with_grad(embed(items)[name].float())[0]
            with torch.no_grad():
                theirs[name] = gather_with_grad(self._teach[0](self._standardise(items))[name].float())[0]
        parts = [
            transport_divergence(ours[a] @ ours[b].T, theirs[a] @ theirs[b].T, self.epsilon, self.epsilon_teacher)
            for a, b in combinations(ours, 2)
        ]
        return self.weight * torch.stack(parts).mean()


def transport_divergence(
    student: Tensor, teacher: Tensor, epsilon: float = 0.05, epsilon_teacher: float = 0.005, iterations: int = 100
) -> Tensor:
    """``KL(P* || P)`` of two matrices of similarities ``(n, m)``; the gradient goes to the first."""
    return _TransportDivergence.apply(student, teacher, epsilon, epsilon_teacher, iterations)


class _TransportDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, epsilon: float, epsilon_teacher: float, iterations: int
    ) -> Tensor:
        log_p = sinkhorn(student, epsilon, iterations)
        log_target = sinkhorn(teacher, epsilon_teacher, iterations)
        target = log_target.exp()
        ctx.save_for_backward((log_p.exp() - target) / epsilon)
        return (target * (log_target - log_p)).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        return grad * ctx.saved_tensors[0], None, None, None, None

"""Decision-level fusion: the outputs of several heads become one, for late and hybrid models.

``M`` heads give outputs ``(B, M, K)``, one per modality (a hybrid model adds its joint head as one more). The task
turns them into probabilities ``p_m`` and turns the combined ``q`` back into outputs, so ``task.loss`` and
``task.decide`` apply to the result unchanged. A modality that is absent in a row is left out there and the weights are
renormalised over those present; its outputs may hold anything. A row with one modality present keeps its decision.

Rules for probabilities, with ``n`` modalities present and ``w`` on the simplex over them (multilabel: per label):

* ``mean``: ``q = sum_m p_m / n``.
* ``weighted``: ``q = sum_m w_m p_m``, ``w = softmax(theta)`` over those present, ``theta`` ``(M,)`` learned.
* ``product``: ``log q = sum_m log p_m - (n - 1) log prior + const``, with the class frequencies of the training rows as
  prior: the Bayes combination when the modalities are independent given the class. Overconfident when they are not.
* ``max``: ``q`` proportional to ``max_m p_m``.
* ``vote``: each modality votes for its most probable class and most votes win, ties by the summed probability:
  ``q = (votes + mean_m p_m) / (n + 1)``. Votes carry no gradient, the second term does.
* ``confidence``: ``w_m`` proportional to ``exp(-H(p_m))``, ``H`` the entropy in nats.

Rules for values (regression), in standardised units:

* ``mean`` and ``weighted`` as above, of the outputs themselves.
* ``inverse-variance``: ``w_m`` proportional to ``1 / v_mk``, the mean squared error of modality ``m`` on target ``k``,
  measured by :meth:`DecisionCombiner.fit_variance` on held-out rows; until then all are 1, which is the mean.

Cost O(B M K). Kittler et al. 1998, On Combining Classifiers (TPAMI); Hinton 2002, Products of Experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError, did_you_mean, some
from weft.tasks.base import Task


class DecisionCombiner(nn.Module):
    """Combines the outputs of ``modalities`` heads by ``rule``.

    Args:
        task: says what outputs stand for.
        modalities: ``M``, how many heads.
        rule: ``"mean"``, ``"weighted"``, ``"product"``, ``"max"``, ``"vote"``, ``"confidence"``, or for values
            ``"mean"``, ``"weighted"``, ``"inverse-variance"``.

    Raises:
        UserError: the rule is unknown or does not suit the task.
    """

    prior: Tensor
    variance: Tensor

    def __init__(self, task: Task, modalities: int, rule: str = "mean") -> None:
        super().__init__()
        known = rules(task)
        if rule not in known:
            raise UserError(
                f"{type(task).__name__} cannot combine decisions by {rule!r}",
                f"rule={rule!r}",
                did_you_mean(rule, known, "rules for this task"),
            )
        self.task, self.modalities, self.rule = task, modalities, rule
        if rule == "weighted":
            self.theta = nn.Parameter(torch.zeros(modalities))
        if rule == "product":
            self.register_buffer("prior", task.log_prior())
        if rule == "inverse-variance":
            self.register_buffer("variance", torch.ones(modalities, task.outputs))

    def forward(self, outputs: Tensor, presence: Tensor) -> Tensor:
        """Combine.

        Args:
            outputs: ``(B, M, K)``.
            presence: ``(B, M)`` bool, at least one True in every row.

        Returns:
            ``(B, K)`` outputs for ``task.loss`` and ``task.decide``.

        Raises:
            UserError: a shape does not fit, or a row has no modality.
        """
        self._check(outputs, presence)
        outputs = torch.where(presence.unsqueeze(-1), outputs, 0.0)
        if not self.task.probabilistic:
            return (self._value_weights(outputs, presence) * outputs).sum(dim=1)
        log_p = self.task.log_probabilities(outputs)
        there = presence[:, :, None, None]
        return self.task.from_log_probabilities(F.log_softmax(_RULES[self.rule](self, log_p, there), dim=-1))

    @torch.no_grad()
    def fit_variance(self, outputs: Tensor, target: Tensor, presence: Tensor) -> None:
        """Measure the mean squared error of each modality on held-out rows, for ``"inverse-variance"``.

        Args:
            outputs, presence: as for :meth:`forward`.
            target: ``(B, K)`` encoded.

        Raises:
            UserError: the rule is another one, or a modality is present in no row.
        """
        if self.rule != "inverse-variance":
            raise UserError(
                "variances belong to the rule 'inverse-variance'", f"rule={self.rule!r}", "leave this call out"
            )
        self._check(outputs, presence)
        count = presence.sum(dim=0)
        if (count == 0).any():
            raise UserError(
                "variances need rows of every modality",
                f"modalities {some((count == 0).nonzero().flatten().tolist())} are absent in all {len(outputs)} rows",
                "measure on more held-out rows",
            )
        error = torch.where(presence.unsqueeze(-1), outputs - target.unsqueeze(1), 0.0).square().sum(dim=0)
        self.variance.copy_((error / count.unsqueeze(-1)).clamp(min=torch.finfo(error.dtype).tiny))

    def extra_repr(self) -> str:
        return f"{self.modalities} modalities, rule={self.rule!r}"

    def _value_weights(self, outputs: Tensor, presence: Tensor) -> Tensor:
        """``(B, M, K)`` or ``(B, M, 1)``, zero where absent, sum over ``M`` one."""
        logits = torch.zeros_like(outputs[..., :1])
        if self.rule == "weighted":
            logits = logits + self.theta.unsqueeze(-1)
        if self.rule == "inverse-variance":
            logits = -self.variance.log().expand_as(outputs)
        return logits.masked_fill(~presence.unsqueeze(-1), -torch.inf).softmax(dim=1)

    def _mean(self, log_p: Tensor, there: Tensor) -> Tensor:
        return _mixture(torch.zeros_like(log_p[..., :1]), log_p, there)

    def _weighted(self, log_p: Tensor, there: Tensor) -> Tensor:
        return _mixture(self.theta[:, None, None].expand_as(log_p[..., :1]), log_p, there)

    def _confidence(self, log_p: Tensor, there: Tensor) -> Tensor:
        return _mixture((log_p.exp() * log_p).sum(dim=-1, keepdim=True), log_p, there)

    def _product(self, log_p: Tensor, there: Tensor) -> Tensor:
        return (log_p * there).sum(dim=1) - (there.sum(dim=1) - 1) * self.prior

    def _max(self, log_p: Tensor, there: Tensor) -> Tensor:
        return log_p.masked_fill(~there, -torch.inf).amax(dim=1)

    def _vote(self, log_p: Tensor, there: Tensor) -> Tensor:
        votes = F.one_hot(log_p.argmax(dim=-1), log_p.shape[-1]) * there
        mean = (log_p.exp() * there).sum(dim=1) / there.sum(dim=1)
        return (votes.sum(dim=1) + mean).clamp(min=torch.finfo(mean.dtype).tiny).log()

    def _check(self, outputs: Tensor, presence: Tensor) -> None:
        width = (self.modalities, self.task.outputs)
        if outputs.ndim != 3 or outputs.shape[1:] != width or presence.shape != outputs.shape[:2]:
            raise UserError(
                f"outputs are (B, {width[0]}, {width[1]}) and presence (B, {width[0]})",
                f"outputs {tuple(outputs.shape)}, presence {tuple(presence.shape)}",
                "stack the outputs of the heads along dim 1, in the order the combiner was built for",
            )
        if torch.compiler.is_compiling():
            return
        rows = (~presence.any(dim=1)).nonzero().flatten()
        if len(rows):
            raise UserError(
                "a decision needs at least one modality",
                f"none is present in batch rows {some(rows.tolist())}",
                "drop these rows",
            )


_RULES: dict[str, Callable[[DecisionCombiner, Tensor, Tensor], Tensor]] = {
    "mean": DecisionCombiner._mean,
    "weighted": DecisionCombiner._weighted,
    "product": DecisionCombiner._product,
    "max": DecisionCombiner._max,
    "vote": DecisionCombiner._vote,
    "confidence": DecisionCombiner._confidence,
}


def rules(task: Task) -> tuple[str, ...]:
    """The rules that suit a task."""
    return tuple(_RULES) if task.probabilistic else ("mean", "weighted", "inverse-variance")


def combine(task: Task, outputs: Tensor, presence: Tensor, rule: str = "mean") -> Tensor:
    """Combine outputs ``(B, M, K)`` by a rule with nothing learned; see :class:`DecisionCombiner`."""
    return DecisionCombiner(task, outputs.shape[1], rule).to(outputs)(outputs, presence)


def _mixture(log_weights: Tensor, log_p: Tensor, there: Tensor) -> Tensor:
    """``log sum_m w_m p_m`` from unnormalised log-weights ``(B, M, V, 1)``, those absent left out."""
    log_w = log_weights.masked_fill(~there, -torch.inf).log_softmax(dim=1)
    return torch.logsumexp(log_w + log_p, dim=1)

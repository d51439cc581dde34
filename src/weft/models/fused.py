r"""A complete model: standardiser, fusion, head and task.

.. math:: o = \text{head}(\text{fusion}(\{(x_m - \mu_m) / \sigma_m\}))

``decision`` chooses where modalities meet. ``"joint"``: in the fusion operator, as above. ``"late"``: no operator; each
modality has a tower and a head of its own, trained on its own loss, and a rule combines what they decide. ``"hybrid"``:
a joint head and one head per modality on what the operator says each contributes, combined by the same rules. The loss
of a row (specification of the hybrid: :math:`\lambda = 0.3`), over the modalities that are present in it:

.. math::
    L_\text{joint} = \ell(o), \qquad L_\text{late} = \sum_m \ell(o_m), \qquad
    L_\text{hybrid} = \ell(o) + \lambda \sum_m \ell(o_m)

and the loss of the combination on top where the rule itself has weights to learn. Absent modalities are left out of
the sum and of the rule.

With the setting ``more_vs_fewer`` every row with modalities :math:`A` is also seen with a random strict subset
:math:`B`, and asked to be predicted no worse with more (after SimMLM, Li et al., ICCV 2025, arXiv 2507.19264, as its
paper describes it; the form is ours). :math:`d` is the loss of the decision, :math:`\text{sg}` stops the gradient:

.. math:: L_\text{more} = L(A) + L(B) + w \max(0, d(A) - \text{sg}\, d(B))

A model folder holds ``model.safetensors`` (weights and standardiser) and ``config.json`` (everything else).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.fusion import Fusion, create_fusion
from weft.fusion.base import check_inputs
from weft.models.heads import make_head, make_tower
from weft.models.predictor import Predictor
from weft.models.pretrained import models
from weft.models.rows import refuse_empty_rows, select
from weft.models.standardise import Standardiser
from weft.tasks.base import Task
from weft.tasks.decision import DecisionCombiner
from weft.tokens import Tokens, mean_pool, present

if TYPE_CHECKING:
    from weft.store import Features

Decision = Literal["joint", "late", "hybrid"]
BRANCH_WEIGHT = 0.3


@models.register("FusedModel")
class FusedModel(nn.Module, Predictor):
    """Standardiser, fusion, head(s) and task.

    Args:
        dims: width of each modality, ``{name: D_m}``.
        task: the fitted task.
        fusion: registered name of the operator; not used when ``decision = "late"``.
        dim: width of the fused vector, and of each modality's tower.
        fusion_options: options of the operator.
        decision: ``"joint"``, ``"late"`` or ``"hybrid"``.
        rule: how decisions are combined (late and hybrid).
        hidden: width of the head's hidden layer; 0 for a linear head.
        dropout: dropout before every layer of a head.
        target: column of the targets the task was fitted on.
        encoders: ``{name: specification}`` of what made the features (see ``weft.store``), to read raw rows later.
        table: JSON of the table configuration, to read new tables later.
    """

    format = "FusedModel/1"

    def __init__(
        self,
        dims: Mapping[str, int],
        task: Task,
        fusion: str = "concat",
        *,
        dim: int = 128,
        fusion_options: Mapping[str, Any] | None = None,
        decision: Decision = "joint",
        rule: str = "mean",
        hidden: int = 0,
        dropout: float = 0.1,
        target: str | None = None,
        encoders: dict[str, Any] | None = None,
        table: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if decision not in ("joint", "late", "hybrid"):
            raise UserError("decision is where modalities meet", f"{decision!r}", "use 'joint', 'late' or 'hybrid'")
        self.dims, self.names, self.task, self.decision = dict(dims), tuple(dims), task, decision
        self.target, self.encoders, self.table = target, encoders, table
        self._settings = {
            "fusion": fusion,
            "dim": dim,
            "fusion_options": dict(fusion_options or {}),
            "decision": decision,
            "rule": rule,
            "hidden": hidden,
            "dropout": dropout,
        }
        self.standardise = Standardiser(self.dims)
        head = (task.outputs, hidden, dropout)
        self.fusion: Fusion | None = None
        if decision != "late":
            self.fusion = create_fusion(fusion, self.dims, dim, **(fusion_options or {}))
            self.head = make_head(dim, *head)
        if decision == "late":
            self.branches = nn.ModuleList(make_tower(width, dim, *head) for width in self.dims.values())
        elif decision == "hybrid":
            self.branches = nn.ModuleList(make_head(dim, *head) for _ in self.dims)
        members = len(self.dims) + (decision == "hybrid")
        self.combine = DecisionCombiner(task, members, rule) if decision != "joint" else None

    @classmethod
    def build(cls, *, dims: Mapping[str, int], task: Task, seed: int = 0, **settings: Any) -> Self:
        """The model with initial weights that depend on ``seed`` alone; ``settings`` as for the constructor."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(dims, task, **settings)

    @property
    def needs_all(self) -> bool:
        return self.fusion is not None and self.fusion.absent == "refuse"

    @property
    def wants_tokens(self) -> bool:
        """Whether sequences matter; else pooled vectors give the same outputs."""
        return self.fusion is not None and self.fusion.wants != "vectors"

    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        """Outputs ``(B, K)`` for the task, in float32, from ``{name: Tokens}``."""
        return self.decide(*self.members(inputs))

    def members(self, inputs: dict[str, Tokens]) -> tuple[Tensor, Tensor]:
        """Outputs of every head ``(B, H, K)``, in float32, and whether each has something to say, ``(B, H)`` bool.

        The joint head comes first, where there is one, then one head per modality, where there are any.
        """
        check_inputs(self.dims, inputs)
        inputs = self.standardise({name: inputs[name] for name in self.names})
        there = torch.stack([present(tokens) for tokens in inputs.values()], dim=1)
        if self.fusion is None:
            outputs = [tower(mean_pool(t)) for tower, t in zip(self.branches, inputs.values(), strict=True)]
            return torch.stack(outputs, dim=1).float(), there
        fused = self.fusion(inputs)
        outputs = [self.head(fused.vector)]
        if self.decision == "joint":
            return outputs[0].unsqueeze(1).float(), torch.ones_like(there[:, :1])
        outputs += [head(fused.per_modality[name]) for head, name in zip(self.branches, self.names, strict=True)]
        return torch.stack(outputs, dim=1).float(), torch.cat([torch.ones_like(there[:, :1]), there], dim=1)

    def decide(self, members: Tensor, there: Tensor) -> Tensor:
        """One decision ``(B, K)`` from what :meth:`members` returned."""
        return members[:, 0] if self.combine is None else self.combine(members, there)

    def loss(
        self, inputs: dict[str, Tokens], target: Tensor, fewer: dict[str, Tokens] | None = None, weight: float = 1.0
    ) -> Tensor:
        """Mean loss of a batch, a scalar, in float32.

        Args:
            inputs: ``{name: Tokens}``.
            target: what ``task.encode`` returned for these rows.
            fewer: the same rows with some of their modalities hidden, for the loss of more against fewer; rows that are
                as in ``inputs`` have no such loss.
            weight: of its hinge.
        """
        members, there = self.members(inputs)
        rows = self._row_losses(members, there, target)
        if fewer is None:
            return rows.mean()
        less, left = self.members(fewer)
        before, after = (torch.stack([present(batch[name]) for name in self.names], dim=1) for batch in (inputs, fewer))
        decided, poorer = (self.task.loss(self.decide(*heard), target) for heard in ((members, there), (less, left)))
        hinge = (decided - poorer.detach()).clamp(min=0.0)
        extra = self._row_losses(less, left, target) + weight * hinge
        return (rows + torch.where((before != after).any(dim=1), extra, 0.0)).mean()

    def _row_losses(self, members: Tensor, there: Tensor, target: Tensor) -> Tensor:
        """``(B,)`` the loss of the module docstring."""
        weights = [1.0 if self.decision == "late" or head == 0 else BRANCH_WEIGHT for head in range(members.shape[1])]
        losses = [
            weight * torch.where(there[:, head], self.task.loss(members[:, head], target), 0.0)
            for head, weight in enumerate(weights)
        ]
        if self.combine is not None and any(True for _ in self.combine.parameters()):
            losses.append(self.task.loss(self.combine(members.detach(), there), target))
        return torch.stack(losses).sum(dim=0)

    @torch.no_grad()
    def outputs(self, features: Features, rows: np.ndarray | None = None, *, batch_size: int = 512) -> np.ndarray:
        """Outputs ``(N, K)`` of rows (default: all), batch by batch, without gradient, in evaluation mode.

        Raises:
            UserError: a modality is missing in the features, or a row has none (its id is named).
        """
        rows = np.arange(len(features)) if rows is None else np.asarray(rows)
        features = select(features, self.names)
        refuse_empty_rows(features, rows)
        starts = range(0, len(rows), batch_size)
        return self.outputs_of(features.gather(rows[start : start + batch_size]) for start in starts)

    @torch.no_grad()
    def outputs_of(self, batches: Iterable[dict[str, Tokens]]) -> np.ndarray:
        """Outputs ``(N, K)`` of the rows of all batches, on whatever device they are; as :meth:`outputs`."""
        device, training = self.standardise.get_buffer("_fitted").device, self.training
        if training:
            self.eval()
        parts = [np.zeros((0, self.task.outputs), dtype=np.float32)]
        for batch in batches:
            outputs = self({name: Tokens(*(t.to(device) for t in tokens)) for name, tokens in batch.items()})
            parts.append(outputs.cpu().numpy())
        if training:
            self.train()
        return np.concatenate(parts)

    def config(self) -> dict[str, Any]:
        """Everything but the weights, as JSON."""
        return {
            "dims": self.dims,
            "task": self.task.config(),
            **self._settings,
            "target": self.target,
            "encoders": self.encoders,
            "table": self.table,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        return cls(config.pop("dims"), Task.from_config(config.pop("task")), config.pop("fusion"), **config)

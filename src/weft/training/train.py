"""From features to a trained model in a folder, in one call: what ``weft fit`` does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.alignment import aligners, create_objective
from weft.data import make_splits
from weft.errors import UserError
from weft.files import write_json
from weft.models.aligned import AlignedModel
from weft.models.fused import Decision, FusedModel
from weft.models.predictor import CONFORMAL
from weft.models.raw import encoder_specs, table_of
from weft.models.rows import choose_target
from weft.models.seen import Seen
from weft.tasks.base import create_task
from weft.training.config import TrainConfig
from weft.training.loop import fit, fit_aligner
from weft.training.towers import RawRows, TowerModel

if TYPE_CHECKING:
    from weft.store import Features

DROPOUT = 0.1
"""Before every layer of a head, by default."""


def train_model(
    features: Features,
    name: str,
    folder: Path | str,
    *,
    dim: int = 128,
    options: Mapping[str, Any] | None = None,
    decision: Decision = "joint",
    rule: str = "mean",
    dropout: float = DROPOUT,
    target: str | None = None,
    metric: str | None = None,
    class_weights: str | None = None,
    objective: str | None = None,
    objective_options: Mapping[str, Any] | None = None,
    config: TrainConfig | dict[str, Any] | None = None,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Train one fusion, or one aligner, with its checkpoints and log in ``folder``.

    Args:
        features: a store, or features in memory, or :class:`~weft.training.towers.RawRows`, whose towers train along
            with an aligner; split as :func:`weft.data.make_splits` does by default.
        name: the fusion, or the aligner; where ``features.task`` is ``"retrieval"``, always an aligner.
        dim: width of the fused vector, or of the shared space.
        options: of the operator.
        decision: ``"joint"``, ``"late"`` or ``"hybrid"`` (fusions only).
        rule: how the decisions are combined (late and hybrid).
        dropout: before every layer of a head (fusions only); operators have their own among their options.
        target: target column; the first if not given.
        metric, class_weights: of the task; see :meth:`weft.tasks.Task.fit`.
        objective, objective_options: of the aligner; by default the one that suits it.
        config: settings, or keywords of :class:`TrainConfig`.

    Returns:
        ``{"dev": metrics, "test": metrics}``; without test rows, dev alone. The model is in ``folder/best``, which
        ``from_pretrained(folder)`` finds, with the thresholds of its sets or intervals, measured on dev rows.
    """
    settings, split, names = TrainConfig.of(config), make_splits(features), list(features.dims)
    features = features.fitted(split.train)
    common: dict[str, Any] = {"dims": features.dims, "dim": dim, "seed": settings.seed, "table": table_of(features)}
    common["encoders"] = encoder_specs(features, names)
    model: FusedModel | AlignedModel
    if isinstance(features, RawRows) or features.task == "retrieval" or name in aligners.names():
        _refuse(
            f"the aligner {name!r}",
            decision=decision != "joint",
            rule=rule != "mean",
            dropout=dropout != DROPOUT,
            target=target,
            metric=metric,
            class_weights=class_weights,
        )
        common |= {"aligner": name, "aligner_options": options}
        if isinstance(features, RawRows):
            model = TowerModel.build(towers=features.towers, **{**common, "table": features.dataset.table})
        else:
            model = AlignedModel.build(**common)
        model.seen = Seen.of(features, split)
        loss = create_objective(objective or aligners.get(name).objective, **(objective_options or {}))
        fit_aligner(model, loss, features, split, settings, folder, progress)
    else:
        _refuse(f"the fusion {name!r}", objective=objective, objective_options=objective_options)
        _refuse("a joint decision", rule=decision == "joint" and rule != "mean")
        column, values = choose_target(features, target)
        asked = {"metric": metric, "class_weights": class_weights}
        task = create_task(features.task, values[split.train], labels=features.labels.get(column), **asked)
        model = FusedModel.build(
            task=task,
            fusion=name,
            fusion_options=options,
            decision=decision,
            rule=rule,
            dropout=dropout,
            target=column,
            **common,
        )
        model.seen = Seen.of(features, split)
        fit(model, features, split, settings, folder, progress)
        _measure_sets(model, features, split.dev, Path(folder))
    parts = {"dev": split.dev, "test": split.test}
    found = {part: model.evaluate(features, rows) for part, rows in parts.items() if len(rows)}
    write_json(Path(folder) / "metrics.json", found)
    return found


def _refuse(who: str, **given: object) -> None:
    for name, value in given.items():
        if value:
            raise UserError(f"{who} has no {name}", f"{name} was given", f"leave {name} out")


def _measure_sets(model: FusedModel, features: Features, rows: np.ndarray, folder: Path) -> None:
    """Thresholds of sets or intervals, from the dev rows, kept beside the best weights."""
    with suppress(UserError):  # such as survival, which has neither classes nor values
        model.calibrate(features, rows)
    if model.conformal is not None:
        write_json(folder / "best" / CONFORMAL, model.conformal.to_dict())

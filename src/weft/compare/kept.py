"""The model that is kept: the best on dev, whatever its family, as a folder that ``load_model`` reads.

A method's model is that of its job (the seed and fold that do best on dev), not trained again. An ensemble is put
together from its members' models. Once everything is chosen, what is kept is fitted on train and dev rows
(:mod:`weft.compare.crossfit`), as is usual; the figures of the table stay those of models that have not seen the dev
rows. The thresholds of its sets or intervals come from rows that a model has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.compare.crossfit import Again
from weft.compare.ensembles import Plan, members_of
from weft.compare.jobs import Setup, run_job
from weft.compare.ledger import Job
from weft.data import Split
from weft.errors import UserError
from weft.files import lock, read_json, replacing, write_json
from weft.models.ensemble import EnsembleModel
from weft.models.predictor import Predictor
from weft.models.pretrained import load_model
from weft.tasks.conformal import Conformal

MARK = "compare.json"


@dataclass(frozen=True)
class Kept:
    """The model in ``winner/``.

    Attributes:
        method: its row of the table.
        modalities: what it looks at.
        refitted: whether it (or its classical members) saw the dev rows too.
        outputs: ``(n, K)`` on the test rows of its fold.
        target: of these rows.
        metrics: on these rows.
    """

    method: str
    modalities: tuple[str, ...]
    refitted: bool
    outputs: np.ndarray
    target: np.ndarray
    metrics: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON values of everything but arrays."""
        return {
            "method": self.method,
            "modalities": list(self.modalities),
            "refitted": self.refitted,
            "metrics": self.metrics,
        }


def keep(setup: Setup, job: Job, plan: Plan, about: dict[str, Any], again: Again | None = None) -> Kept:
    """Put the model of a job into ``winner/``, replacing what is there in one step.

    Args:
        setup: of the comparison.
        job: the best job.
        plan: the jobs of each method, by name; members of ensembles are among them.
        about: what else the folder should say (the sentence).
        again: the same fitted on train and dev rows; it takes the place of the job's model.
    """
    folder, fold = setup.ledger.folder / "winner", job.fold
    split = setup.splits[fold]
    place, parts = setup, members_of(setup, job, plan) if job.method.family == "ensemble" else [(job, 1.0)]
    if again is not None:
        place, parts = again.setup, list(again.parts)
    mark = [[place.ledger.key(part), weight] for part, weight in parts]
    with lock(setup.ledger.folder / ".winner.lock"):
        if _mark(folder) != mark:
            models = [_model(place, part) for part, _ in parts]
            modalities = tuple(n for n in setup.features.dims if any(n in model.names for model in models))
            model: Predictor = models[0]
            whole = setup.features.presence[:, [n in modalities for n in setup.features.dims]].any(axis=1).all()
            if len(models) > 1 or job.method.family == "ensemble" or not whole:
                names = modalities if whole else tuple(setup.features.dims)
                facts = {**setup.about(), "answer": setup.answer(fold)}
                dims = {name: setup.features_at(fold).dims[name] for name in names}
                model = EnsembleModel(setup.tasks[fold], dims, models, [w for _, w in parts], **facts)
            rows, outputs = (
                (split.dev, setup.ledger.outputs(job)["dev"]) if again is None else (again.rows, again.outputs)
            )
            model.seen = setup.seen(fold, None if again is None else Split(rows, split.dev[:0], split.test))
            model.encoders = setup.encoders(fold, model.names)
            model.conformal = _conformal(setup, fold, model.names, rows, outputs)
            with replacing(folder) as fresh:
                model.save_pretrained(fresh)
                write_json(fresh / MARK, {"jobs": mark})
        write_json(folder / MARK, {"jobs": mark, "refitted": again is not None, "method": job.method.name, **about})
        model = load_model(folder)
    outputs, target = model.outputs(setup.features_at(fold), split.test), setup.target[split.test]
    metrics = setup.tasks[fold].metrics(outputs, target)
    return Kept(job.method.name, model.names, again is not None, outputs, target, metrics)


def _conformal(
    setup: Setup, fold: int, names: tuple[str, ...], rows: np.ndarray, outputs: np.ndarray
) -> Conformal | None:
    """Thresholds from outputs on rows that no model has seen; None where the task has none."""
    features = setup.features
    presence = features.presence[rows][:, [list(features.dims).index(name) for name in names]]
    try:
        return Conformal.fit(setup.tasks[fold], outputs, setup.target[rows], presence, names)
    except UserError:  # such as survival
        return None


def _mark(folder: Path) -> list[Any] | None:
    """The jobs and weights of the model that is there."""
    try:
        found: list[Any] = read_json(folder / MARK)["jobs"]
        return found
    except (UserError, KeyError, TypeError):
        return None


def _model(setup: Setup, job: Job) -> Predictor:
    """The model of a job, which is done again if its folder is gone."""
    folder = setup.ledger.model(job)
    if folder is not None:
        try:
            model: Predictor = load_model(folder)
            return model
        except UserError:  # damaged: done again below
            pass
    setup.ledger.forget(job)
    run_job(setup, job)
    folder = setup.ledger.model(job)
    if folder is None:
        raise UserError("the model of a job is gone and could not be made again", job.label, "see the table's errors")
    again: Predictor = load_model(folder)
    return again

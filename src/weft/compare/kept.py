"""The model that is kept: the best on dev, whatever its family, as a folder that ``load_model`` reads.

A method's model is that of its job (the seed and fold that do best on dev), not trained again. An ensemble is put
together from its members' models. Once everything is chosen, classical models and the classical members of an ensemble
may be fitted on train and dev rows together, with the settings they were chosen with (rounds of boosting grow with the
rows), as is usual, and boosting ``DRAWS`` times, averaged, since every fit draws rows and columns; the figures of the
table stay those of the models that have not seen the dev rows. The thresholds of its sets or intervals come from dev
rows that a model has not seen: of a model fitted on them too, from ``FOLDS`` models each fitted without a part of them.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from weft.compare.ensembles import Plan, members_of
from weft.compare.jobs import Setup, candidates, outputs_for, run_job
from weft.compare.ledger import Job
from weft.data import Split
from weft.errors import UserError
from weft.files import lock, read_json, write_json
from weft.models.ensemble import EnsembleModel
from weft.models.predictor import Predictor
from weft.models.pretrained import load_model
from weft.tasks.conformal import Conformal

MARK = "compare.json"
CLASSICAL = ("linear", "boosting")
FOLDS, DRAWS = 2, 4


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


def keep(setup: Setup, job: Job, plan: Plan, about: dict[str, Any], refit: bool = False) -> Kept:
    """Put the model of a job into ``winner/``, replacing what is there in one step.

    Args:
        setup: of the comparison.
        job: the best job.
        plan: the jobs of each method, by name; members of ensembles are among them.
        about: what else the folder should say (the sentence).
        refit: fit classical models on train and dev rows together.
    """
    folder, fold = setup.ledger.folder / "winner", job.fold
    split, key = setup.splits[fold], setup.ledger.key(job)
    parts = members_of(setup, job, plan) if job.method.family == "ensemble" else [(job, 1.0)]
    refit = refit and len(setup.splits) == 1 and any(part.method.family in CLASSICAL for part, _ in parts)
    seen = setup.seen(fold, Split(np.union1d(split.train, split.dev), split.dev[:0], split.test) if refit else None)
    with lock(setup.ledger.folder / ".winner.lock"):
        if _mark(folder) != (key, refit):
            found = [(model, w) for part, w in parts for model, w in _models(setup, part, w, refit)]
            models = [model for model, _ in found]
            modalities = tuple(n for n in setup.features.dims if any(n in model.names for model in models))
            model: Predictor = models[0]
            whole = setup.features.presence[:, [n in modalities for n in setup.features.dims]].any(axis=1).all()
            if len(models) > 1 or job.method.family == "ensemble" or not whole:
                names = modalities if whole else tuple(setup.features.dims)
                facts = {**setup.about(), "answer": setup.answer(fold)}
                dims = {name: setup.features_at(fold).dims[name] for name in names}
                model = EnsembleModel(setup.tasks[fold], dims, models, [w for _, w in found], **facts)
            model.seen, model.encoders = seen, setup.encoders(fold, model.names)
            outputs = _unseen(setup, parts) if refit else setup.ledger.outputs(job)["dev"]
            model.conformal = _conformal(setup, job, model.names, outputs)
            fresh = folder.with_name(".winner.new")
            shutil.rmtree(fresh, ignore_errors=True)
            model.save_pretrained(fresh)
            write_json(fresh / MARK, {"job": key, "refitted": refit})
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
        write_json(folder / MARK, {"job": key, "refitted": refit, "method": job.method.name, **about})
        model = load_model(folder)
    outputs, target = model.outputs(setup.features_at(fold), split.test), setup.target[split.test]
    metrics = setup.tasks[fold].metrics(outputs, target)
    return Kept(job.method.name, model.names, refit, outputs, target, metrics)


def refit_seconds(setup: Setup, job: Job, plan: Plan) -> float:
    """About how long it takes to fit a job's classical models once more, and for the thresholds of their sets."""
    parts = members_of(setup, job, plan) if job.method.family == "ensemble" else [(job, 1.0)]
    total = 0.0
    for part, _ in parts:
        result = setup.ledger.get(part) if part.method.family in CLASSICAL else None
        if result is not None:
            fits = FOLDS + (DRAWS if part.method.family == "boosting" else 1)
            total += fits * result["seconds"] / len(result["trials"])
    return total


def _unseen(setup: Setup, parts: list[tuple[Job, float]]) -> np.ndarray:
    """Outputs on the dev rows of models like the ones kept that have not seen them, groups apart; averaged."""
    fold = parts[0][0].fold
    split, group = setup.splits[fold], setup.features.group
    units = np.arange(len(split.dev)) if group is None else np.unique(group[split.dev], return_inverse=True)[1]
    place = np.random.default_rng(0).permutation(units.max() + 1)[units.reshape(-1)] % FOLDS
    found = []
    for job, _ in parts:
        outputs = setup.ledger.outputs(job)["dev"].copy()
        result = setup.ledger.get(job)
        if result is not None and job.method.family in CLASSICAL:
            for part in np.unique(place).tolist():
                left = place == part
                model = _refitted(setup, job, result["settings"], np.union1d(split.train, split.dev[~left]))
                outputs[left] = outputs_for(setup, job, model, split.dev[left])
        found.append(outputs)
    return setup.tasks[fold].average(np.stack(found), np.array([w for _, w in parts]))


def _conformal(setup: Setup, job: Job, names: tuple[str, ...], outputs: np.ndarray) -> Conformal | None:
    """Thresholds from outputs on the dev rows; None where the task has none."""
    features, dev = setup.features, setup.splits[job.fold].dev
    presence = features.presence[dev][:, [list(features.dims).index(name) for name in names]]
    try:
        return Conformal.fit(setup.tasks[job.fold], outputs, setup.target[dev], presence, names)
    except UserError:  # such as survival
        return None


def _mark(folder: Path) -> tuple[str, bool] | None:
    """Job and refit of the model that is there."""
    try:
        found = read_json(folder / MARK)
        return found["job"], found["refitted"]
    except (UserError, KeyError, TypeError):
        return None


def _models(setup: Setup, job: Job, weight: float, refit: bool) -> list[tuple[Predictor, float]]:
    """The model of a job with its weight; or those fitted on train and dev rows, which share it."""
    found, split = setup.ledger.get(job), setup.splits[job.fold]
    if not refit or found is None or job.method.family not in CLASSICAL:
        return [(_model(setup, job), weight)]
    rows, draws = np.union1d(split.train, split.dev), DRAWS if job.method.family == "boosting" else 1
    fitted = [_refitted(setup, replace(job, seed=seed), found["settings"], rows) for seed in range(draws)]
    return [(model, weight / draws) for model in fitted]


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


def _refitted(setup: Setup, job: Job, settings: dict[str, Any], rows: np.ndarray) -> Predictor:
    """The model of a job's settings, fitted on these rows."""
    split = setup.splits[job.fold]
    if "rounds" in settings:
        settings = {**settings, "rounds": max(1, round(settings["rounds"] * len(rows) / len(split.train)))}
    splits = list(setup.splits)
    splits[job.fold] = Split(rows, split.dev[:0], split.test)
    found = next(candidates(replace(setup, splits=splits), replace(job, settings=settings)))
    return found.model

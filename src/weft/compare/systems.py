"""Variants of a system side by side: every one at every seed in every fold, judged on rows it never trained on.

A job is one variant at one seed in one fold; the :class:`~weft.compare.ledger.Ledger` keeps its predictions of the
fold's test rows, so a killed comparison goes on with the job it was at, variants and seeds may be added later, other
data or settings in the same folder find no old jobs, and a damaged job is done again. Seeds run one after the other, so
a comparison that is stopped has whole ones. All judgement reads what is kept: over all folds, every test row has one
prediction per variant and seed. Of each variant the model that is best on its dev rows is kept too.

The first variant is compared with each other one on the scores that the judge gives a row: each row's score is averaged
over the seeds, and the mean difference has the sign-flip p-value, adjusted by Holm's method over the variants, and the
bootstrap interval of :mod:`weft.compare.statistics`; rows of one group stay together in both. The answer is a
:class:`~weft.compare.comparison.Comparison` like any other, so the sentence, the table and the report are the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from weft.compare.comparison import Comparison
from weft.compare.config import CompareConfig
from weft.compare.evidence import Row
from weft.compare.kept import Kept
from weft.compare.ledger import Job, Ledger
from weft.compare.methods import Method
from weft.compare.statistics import (
    Gain,
    bootstrap_means,
    holm,
    interval,
    mean_of_seeds,
    not_told_apart,
    paired_gain,
    sign_flip_test,
)
from weft.compare.verdict import Said, Verdict, decide_variants, notes_of
from weft.data import Dataset, Split
from weft.errors import UserError
from weft.files import replacing
from weft.models.outputs import from_array, to_array
from weft.models.pretrained import load_model
from weft.models.seen import Seen
from weft.store.unique import raw_fingerprint
from weft.tasks.judge import Judge
from weft.training.config import TrainConfig
from weft.training.system import System, systems
from weft.training.system_task import fit_system, make_system
from weft.training.training_task import ids_of

Scores = dict[str, np.ndarray]
"""By the name of a score, ``(S, N)``, higher is better; NaN where a row has none."""


@dataclass(frozen=True, repr=False)
class SystemComparison(Comparison):
    """What was found.

    Attributes:
        system: its name.
        metrics: per variant and metric, the value of every seed.
        gains: per variant but the first, per score of a row: what it gains over the first, ``p`` as it is, with
            ``p_holm`` beside it. Empty where rows have no scores.
        ids: of the test rows in order.
        outputs: per variant and seed, the prediction of every row as it is kept (maps as uint8).
    """

    system: str = ""
    metrics: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    gains: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    outputs: dict[str, list[list[Any]]] = field(repr=False, default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values of everything but the predictions."""
        return {**super().to_dict(), "system": self.system, "metrics": self.metrics, "gains": self.gains}


def compare_systems(
    name: str,
    data: Dataset,
    splits: Sequence[Split],
    variants: Mapping[str, Mapping[str, Any]],
    *,
    options: Mapping[str, Any],
    seeds: int,
    config: TrainConfig,
    folder: Path,
    judge: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> SystemComparison:
    """Train what has not been trained, then judge.

    Args:
        name: of the system.
        data: raw rows; rows of one group stay together in the tests.
        splits: one per fold; a test row is in one of them.
        variants: per name the options that make it; the others are tested against the first. The option ``system``
            makes it one of another system that reads the same columns and answers alike.
        options: what all variants share.
        seeds: trainings of every variant in every fold.
        config: of the trainings; its seed is added to.
        folder: jobs go here, and the best model on dev into ``winner/``.
        judge: options of the judge.
        progress: show a bar over the jobs.

    Raises:
        UserError: no variant, or what training refuses.
    """
    if not variants:
        raise UserError("a comparison needs variants", "none", "name one or more")
    from rich.progress import track

    cls = systems.get(name)
    parts = [ids_of(data, (split.train, split.dev)) + ids_of(data, (split.test, split.test))[:1] for split in splits]
    identity = {"system": name, "version": cls.version, "options": dict(options), "splits": parts}
    ledger = Ledger(folder, {**identity, "data": raw_fingerprint(data)}, CompareConfig(train=config))
    seen = tuple(role for role in cls.columns(data) if not cls.reads[role].target)
    methods = [Method(variant, "system", seen, options=dict(own)) for variant, own in variants.items()]
    jobs = [Job(method, seed, fold) for seed in range(seeds) for fold in range(len(splits)) for method in methods]
    trials = _Trials(name, data, list(splits), dict(options), config, ledger, jobs)
    for job in track(jobs, "jobs", disable=not progress):
        if not ledger.finished(job):
            trials.train(job)
    return _judge(trials, methods, trials.keep(methods), judge or {})


@dataclass(frozen=True)
class _Trials:
    """The trainings of a comparison: what they share, and all of them in order."""

    name: str
    data: Dataset
    splits: list[Split]
    options: dict[str, Any]
    config: TrainConfig
    ledger: Ledger
    jobs: list[Job]

    def train(self, job: Job) -> None:
        """Do a job; its model is kept as long as no other of its variant is better on its dev rows."""
        split, settings = self.splits[job.fold], self.config.model_copy(update={"seed": self.config.seed + job.seed})
        options = {**self.options, **job.method.options}
        system = make_system(options.pop("system", self.name), self.data, split.train, seed=settings.seed, **options)
        history = fit_system(system, self.data, split, settings, progress=False)
        values = zip(split.test, system.predictions(self.data, split.test), strict=True)
        outputs = {self.data.ids[row]: to_array(system.writes, value) for row, value in values}
        weights = sum(p.numel() for p in system.parameters() if p.requires_grad)
        found = {"best": history.best, "seconds": history.seconds, "weights": weights}
        others = [other for other in self.of(job.method) if other != job and self.ledger.finished(other)]
        better = all(self._rank(job, found) > self._rank(other, self.found(other)) for other in others)
        self.ledger.put(job, found, outputs, system if better else None)
        for folder in filter(None, map(self.ledger.model, others if better else ())):
            shutil.rmtree(folder)

    def of(self, method: Method) -> list[Job]:
        """The jobs of a variant, seed by seed and fold by fold."""
        return [job for job in self.jobs if job.method == method]

    def found(self, job: Job) -> dict[str, Any]:
        """What a job that is done found."""
        return self.ledger.get(job) or {}

    def dev(self, method: Method) -> float | None:
        """The mean score on dev of a variant; None where a row has none."""
        mean = float(np.mean([_dev_score(self.found(job)) for job in self.of(method)]))
        return mean if np.isfinite(mean) else None

    def keep(self, methods: Sequence[Method]) -> Job:
        """Put the model of the variant that is best on dev into ``winner/``: that of its best job."""
        best = max(methods, key=lambda method: -np.inf if (dev := self.dev(method)) is None else dev)
        job = max(self.of(best), key=lambda job: self._rank(job, self.found(job)))
        folder = self.ledger.model(job)
        if folder is None:  # gone: done again
            self.ledger.forget(job)
            self.train(job)
            return self.keep(methods)
        with replacing(self.ledger.folder / "winner") as fresh:
            shutil.copytree(folder, fresh, dirs_exist_ok=True)
        return job

    def _rank(self, job: Job, found: Mapping[str, Any]) -> tuple[float, int]:
        """By the dev score; the earlier of equals."""
        return _dev_score(found), -self.jobs.index(job)

    def outputs(self, job: Job) -> dict[str, Any]:
        """Predictions of a job's test rows, by id."""
        writes = systems.get(self.name).writes
        return {row: from_array(writes, value) for row, value in self.ledger.outputs(job).items()}

    def truth(self, rows: np.ndarray) -> Any:
        """What the predictions of rows should be."""
        seen = Seen.of(self.data, self.splits[0]) if len(self.splits) == 1 else None
        return systems.get(self.name).truth(self.data, rows, seen)


def _dev_score(found: Mapping[str, Any]) -> float:
    """Of a job; minus infinity where its dev rows have none (JSON knows no NaN)."""
    score = found.get("best", {}).get("dev_score")
    return float(score) if score is not None and np.isfinite(score) else -np.inf


def _judge(trials: _Trials, methods: Sequence[Method], best: Job, options: Mapping[str, Any]) -> SystemComparison:
    """Judge what is kept."""
    cls, data, splits, variants = systems.get(trials.name), trials.data, trials.splits, [m.name for m in methods]
    winner: Any = load_model(trials.ledger.folder / "winner")
    judge: Judge = winner.make_judge(**options)
    rows = np.sort(np.concatenate([split.test for split in splits]))
    ids, truth = [data.ids[row] for row in rows], trials.truth(rows)
    outputs: dict[str, list[list[Any]]] = {}
    metrics: dict[str, dict[str, list[float]]] = {variant: {} for variant in variants}
    found: dict[str, dict[str, list[np.ndarray]]] = {variant: {} for variant in variants}
    for method in methods:
        of_seeds: dict[int, dict[str, Any]] = {}
        for job in trials.of(method):
            of_seeds.setdefault(job.seed, {}).update(trials.outputs(job))
        outputs[method.name] = [[values[row] for row in ids] for values in of_seeds.values()]
        for values in outputs[method.name]:
            judged = _together(cls, values)
            for key, value in judge.metrics(judged, truth).items():
                metrics[method.name].setdefault(key, []).append(value)
            for key, of_rows in _row_scores(judge, judged, truth).items():
                found[method.name].setdefault(key, []).append(of_rows)
    scores = {variant: {key: np.stack(one) for key, one in of.items()} for variant, of in found.items()}
    group = None if data.group is None else data.group[rows]
    gains, same = _gains(scores, group), _is_mean(judge, metrics, scores)
    table = _table(trials, methods, judge, metrics, gains)
    if judge.primary in scores[variants[0]]:
        table = _sure(table, *_known(scores, judge.primary, group), 1.0 if judge.higher_is_better else -1.0, same)
    chosen = trials.dev(best.method) is not None
    verdict = decide_variants(
        variants[0],
        {v: Gain(g["gain"], g["low"], g["high"], g["p_holm"]) for v in gains if (g := gains[v].get(judge.primary))},
        primary=judge.primary,
        higher_is_better=judge.higher_is_better,
        rows=len(rows),
        folds=len(splits),
        modalities=methods[0].modalities,
        winner=best.method.name if chosen else None,
        said={
            row.method: Said(
                *(row.method, row.role, "system", row.modalities, float(row.test or 0.0), row.low, row.high, row.seeds),
                lucky=row.seeds == 1,
            )
            for row in table
        },
    )
    test, kept = splits[best.fold].test, trials.outputs(best)
    values = [kept[data.ids[row]] for row in test]
    values = [value.astype(np.float32) / 255 for value in values] if cls.writes == "map" else values
    shown, truth = _together(cls, values), trials.truth(test)
    counts = {part: len(numbers) for part, numbers in splits[0]._asdict().items()}
    config = {"system": trials.name, "options": trials.options, "train": trials.config.model_dump(mode="json")}
    return SystemComparison(
        folder=trials.ledger.folder,
        primary=judge.primary,
        higher_is_better=judge.higher_is_better,
        modalities=methods[0].modalities,
        counts={**counts, "test": len(rows), "folds": len(splits)},
        rows=table,
        verdict=verdict,
        notes=_notes(verdict, table, best, chosen, not gains or same),
        contributions=None,
        left_out={},
        not_run=[],
        config={**config, "variants": {method.name: method.options for method in methods}},
        task=judge,
        kept=Kept(best.method.name, best.method.modalities, False, shown, truth, judge.metrics(shown, truth)),
        system=trials.name,
        metrics=metrics,
        gains=gains,
        ids=ids,
        outputs=outputs,
    )


def _together(cls: type[System], values: list[Any]) -> Any:
    """Predictions as the judge wants them."""
    return np.stack(values) if cls.writes in ("label", "embedding") else values


def _row_scores(judge: Judge, outputs: Any, truth: Any) -> dict[str, np.ndarray]:
    """Scores ``(N,)`` by name; none where the judge looks at all rows together."""
    try:
        return judge.row_scores(outputs, truth)
    except UserError:
        return {}


def _known(
    scores: dict[str, Scores], key: str, group: np.ndarray | None
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """One score of each variant ``(S, n)``, and the groups, of the rows that have it in all of them."""
    there = ~np.any([np.isnan(of[key]).any(axis=0) for of in scores.values()], axis=0)
    known = {variant: np.ascontiguousarray(of[key][:, there]) for variant, of in scores.items()}
    return known, None if group is None else group[there]


def _gains(scores: dict[str, Scores], group: np.ndarray | None) -> dict[str, dict[str, dict[str, float]]]:
    """Of each other variant over the first."""
    first, *others = scores
    gains: dict[str, dict[str, dict[str, float]]] = {variant: {} for variant in others}
    for key in scores[first] if others else ():
        known, kin = _known(scores, key, group)
        tests = [-paired_gain(known[first], known[variant], kin) for variant in others]
        for variant, test, p in zip(others, tests, holm(np.array([t.p for t in tests])), strict=True):
            gains[variant][key] = {**asdict(test), "p_holm": float(p)}
    return gains


def _is_mean(judge: Judge, metrics: dict[str, dict[str, list[float]]], scores: dict[str, Scores]) -> bool:
    """Whether the primary metric is the mean of the scores of rows, up to its sign."""
    if any(judge.primary not in of for of in scores.values()):
        return False
    sign = 1.0 if judge.higher_is_better else -1.0
    pairs = [(sign * np.nanmean(of[judge.primary], axis=1), metrics[v][judge.primary]) for v, of in scores.items()]
    return all(np.allclose(mean, values) for mean, values in pairs)


def _table(
    trials: _Trials,
    methods: Sequence[Method],
    judge: Judge,
    metrics: dict[str, dict[str, list[float]]],
    gains: dict[str, dict[str, dict[str, float]]],
) -> list[Row]:
    """A line per variant, the best on test first."""
    sign, lines = 1.0 if judge.higher_is_better else -1.0, []
    for method in methods:
        found = [trials.found(job) for job in trials.of(method)]
        values, gain = metrics[method.name][judge.primary], gains.get(method.name, {}).get(judge.primary, {})
        means = {key: float(np.mean(of)) for key, of in metrics[method.name].items()}
        dev = trials.dev(method)
        lines.append(
            Row(
                *(method.name, method.role, method.modalities, "done"),
                seeds=len(values),
                dev=None if dev is None else sign * dev,
                test=float(np.mean(values)),
                spread=tuple(values),
                gain=gain.get("gain"),
                gain_low=gain.get("low"),
                gain_high=gain.get("high"),
                p=gain.get("p"),
                p_holm=gain.get("p_holm"),
                metrics={key: mean if np.isfinite(mean) else None for key, mean in means.items()},
                parameters=int(np.mean([one["weights"] for one in found])),
                train_seconds=float(np.mean([one["seconds"] for one in found])),
                settings=method.options,
            )
        )
    return sorted(lines, key=lambda row: -sign * (row.test or 0.0))


def _sure(
    table: list[Row], scores: dict[str, np.ndarray], group: np.ndarray | None, sign: float, same: bool
) -> list[Row]:
    """With what is tied, and where the metric is the mean of the rows' scores, with its interval."""
    tied = not_told_apart(
        [row.method for row in table],
        lambda a, b: sign_flip_test(scores[a].mean(axis=0) - scores[b].mean(axis=0), group),
    )
    table = [replace(row, tied=row.method in tied) for row in table]
    if not same:
        return table
    draws = dict(zip(scores, bootstrap_means(list(scores.values()), group), strict=True))
    spans = {variant: interval(sign * mean_of_seeds(means, seed=0)) for variant, means in draws.items()}
    return [replace(row, low=spans[row.method][0], high=spans[row.method][1]) for row in table]


def _notes(verdict: Verdict, table: list[Row], best: Job, chosen: bool, same: bool) -> list[str]:
    where = f"seed {best.seed}" + (f" of fold {best.fold}" if verdict.folds > 1 else "")
    why = "the best on dev" if chosen else "as its dev rows have no score to choose by"
    found = [f"The model kept is {best.method.name}, {where}, {why}."]
    if not same:
        found.append(f"Gains and tests are about the judge's score of each row, whose mean is not {verdict.primary}.")
    return found + notes_of(verdict, [row.method for row in table if row.tied])

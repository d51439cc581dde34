"""Variants of a system side by side: every one at every seed in every fold, judged on rows it never trained on.

A job is one variant at one seed in one fold; the :class:`~weft.compare.ledger.Ledger` keeps its predictions of the
fold's test rows, so a killed comparison goes on with the job it was at, variants and seeds may be added later, other
data or settings in the same folder find no old jobs, and a damaged job is done again. Seeds run one after the other, so
a comparison that is stopped has whole ones. All judgement reads what is kept: over all folds, every test row has one
prediction per variant and seed. The model of the job with the best dev score is ``winner/``.

The first variant is compared with each other one on the scores that the judge gives a row: each row's score is averaged
over the seeds, and the mean difference has the sign-flip p-value, adjusted by Holm's method over the variants, and the
bootstrap interval of :mod:`weft.compare.statistics`; rows of one group stay together in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from weft.compare.config import CompareConfig
from weft.compare.ledger import Job, Ledger
from weft.compare.methods import Method
from weft.compare.statistics import LEVEL, holm, paired_gain
from weft.data import Dataset, Split
from weft.errors import UserError
from weft.files import read_json, write_json
from weft.models.outputs import from_array, to_array
from weft.models.pretrained import load_model
from weft.models.seen import Seen
from weft.store.encode import raw_fingerprint
from weft.tasks.judge import Judge
from weft.training.config import TrainConfig
from weft.training.system import System, systems
from weft.training.system_task import fit_system, make_system
from weft.training.training_task import ids_of

KEPT = "job.json"


@dataclass(frozen=True)
class SystemComparison:
    """What was found.

    Attributes:
        system: its name.
        metrics: per variant and metric, the value of every seed.
        gains: per variant but the first, per score of a row: ``{"gain", "low", "high", "p", "p_holm"}``; the gain is
            that of the first variant, positive where it is better. Empty where rows have no scores.
        jobs: per variant, mean training seconds and trained weights.
        rows: ids of the test rows in order.
        primary: the metric that counts most.
        higher_is_better: whether more of it is better.
        outputs: per variant and seed, the prediction of every row as it is kept (maps as uint8).
    """

    system: str
    metrics: dict[str, dict[str, list[float]]]
    gains: dict[str, dict[str, dict[str, float]]]
    jobs: dict[str, dict[str, float]]
    rows: list[str]
    primary: str
    higher_is_better: bool
    outputs: dict[str, list[list[Any]]] = field(repr=False, default_factory=dict)

    @property
    def sentence(self) -> str:
        """The verdict in plain words."""
        first, *others = self.metrics
        mean = {name: float(np.mean(found[self.primary])) for name, found in self.metrics.items()}
        best = (max if self.higher_is_better else min)(mean, key=lambda name: mean[name])
        said = f"{best} has the best {self.primary}, {mean[best]:.4f}."
        tested = [name for name in others if self.primary in self.gains.get(name, {})]
        shown = [name for name in tested if self.gains[name][self.primary]["p_holm"] < LEVEL]
        ahead = [name for name in shown if self.gains[name][self.primary]["gain"] > 0]
        for words, names in (
            ("is shown to be better than", ahead),
            ("is shown to be worse than", [name for name in shown if name not in ahead]),
            ("is not shown to differ from", [name for name in tested if name not in shown]),
        ):
            said += f" {first} {words} {', '.join(names)}." if names else ""
        return said

    def to_dict(self) -> dict[str, Any]:
        """JSON values of everything but the predictions."""
        found = {"sentence": self.sentence, **asdict(replace(self, outputs={}))}
        return {key: value for key, value in found.items() if key != "outputs"}


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
        variants: per name the options that make it; the first is compared with the others.
        options: what all variants share.
        seeds: trainings of every variant in every fold.
        config: of the trainings; its seed is added to.
        folder: see above.
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
    seen = tuple(str(column) for column in cls.columns(data).values())
    methods = [Method(variant, "system", seen, options=dict(own)) for variant, own in variants.items()]
    jobs = [Job(method, seed, fold) for seed in range(seeds) for fold in range(len(splits)) for method in methods]
    for job in track(jobs, "jobs", disable=not progress):
        if not ledger.finished(job):
            _train(name, data, splits[job.fold], {**options, **job.method.options}, config, ledger, job)
    judged = load_model(folder / "winner").make_judge(**(judge or {}))
    return _judge(name, data, splits, ledger, jobs, judged)


def _train(
    name: str, data: Dataset, split: Split, options: dict[str, Any], config: TrainConfig, ledger: Ledger, job: Job
) -> None:
    settings = config.model_copy(update={"seed": config.seed + job.seed})
    system = make_system(name, data, split.train, seed=settings.seed, **options)
    history = fit_system(system, data, split, settings, progress=False)
    values = zip(split.test, system.predictions(data, split.test), strict=True)
    outputs = {data.ids[row]: to_array(system.writes, value) for row, value in values}
    weights = sum(p.numel() for p in system.parameters() if p.requires_grad)
    found = {"best": history.best, "seconds": history.seconds, "weights": weights}
    _keep_best(system, found, ledger.folder / "winner")
    ledger.put(job, found, outputs, None)


def _keep_best(system: System, found: dict[str, Any], place: Path) -> None:
    """Put a model into a folder, if none lies there that did better on its dev rows."""
    try:
        before = read_json(place / KEPT)["best"].get("dev_score")
    except (UserError, KeyError, TypeError, AttributeError):
        before = None
    if before is None or found["best"].get("dev_score", -np.inf) > before:
        system.save_pretrained(place)
        write_json(place / KEPT, found)


def _judge(
    name: str, data: Dataset, splits: Sequence[Split], ledger: Ledger, jobs: list[Job], judge: Judge
) -> SystemComparison:
    cls = systems.get(name)
    rows = np.sort(np.concatenate([split.test for split in splits]))
    ids = [data.ids[row] for row in rows]
    truth = cls.truth(data, rows, Seen.of(data, splits[0]) if len(splits) == 1 else None)
    arrays: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    cost: dict[str, list[list[float]]] = {}
    for job in jobs:
        arrays.setdefault(job.method.name, {}).setdefault(job.seed, {}).update(ledger.outputs(job))
        kept = ledger.get(job) or {}
        cost.setdefault(job.method.name, []).append([kept["seconds"], kept["weights"]])
    outputs = {
        variant: [[from_array(cls.writes, found[row]) for row in ids] for found in seeds.values()]
        for variant, seeds in arrays.items()
    }
    metrics: dict[str, dict[str, list[float]]] = {variant: {} for variant in outputs}
    scores: dict[str, dict[str, list[np.ndarray]]] = {variant: {} for variant in outputs}
    for variant, found in outputs.items():
        for values in found:
            judged: Any = np.stack(values) if cls.writes in ("label", "embedding") else values
            for key, value in judge.metrics(judged, truth).items():
                metrics[variant].setdefault(key, []).append(value)
            for key, of_rows in _row_scores(judge, judged, truth).items():
                scores[variant].setdefault(key, []).append(of_rows)
    means = {variant: np.mean(found, axis=0).tolist() for variant, found in cost.items()}
    spent = {variant: dict(zip(("seconds", "weights"), found, strict=True)) for variant, found in means.items()}
    group = None if data.group is None else data.group[rows]
    gains = _gains({v: {key: np.stack(found) for key, found in scores[v].items()} for v in scores}, group)
    return SystemComparison(name, metrics, gains, spent, ids, judge.primary, judge.higher_is_better, outputs)


def _row_scores(judge: Judge, outputs: Any, truth: Any) -> dict[str, np.ndarray]:
    """Scores ``(N,)`` by name; none where the judge looks at all rows together."""
    try:
        return judge.row_scores(outputs, truth)
    except UserError:
        return {}


def _gains(
    scores: dict[str, dict[str, np.ndarray]], group: np.ndarray | None
) -> dict[str, dict[str, dict[str, float]]]:
    """Of the first variant over each other one, scores ``(S, N)``; rows that have none in a variant are left out."""
    first, *others = scores
    gains: dict[str, dict[str, dict[str, float]]] = {variant: {} for variant in others}
    for key in scores[first] if others else ():
        there = ~np.any([np.isnan(scores[variant][key]).any(axis=0) for variant in scores], axis=0)
        kin = None if group is None else group[there]
        known = {variant: np.ascontiguousarray(scores[variant][key][:, there]) for variant in scores}
        tests = [asdict(paired_gain(known[first], known[variant], kin)) for variant in others]
        for variant, test, p in zip(others, tests, holm(np.array([t["p"] for t in tests])), strict=True):
            gains[variant][key] = {**test, "p_holm": float(p)}
    return gains

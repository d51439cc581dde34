"""Variants of a system side by side: every one at every seed in every fold, judged on rows it never trained on.

A job is one variant at one seed in one fold. Its folder ``jobs/<key>`` is named by a hash of all that decides its
result and holds its predictions of the fold's test rows, as :mod:`weft.training.outputs` keeps them, then ``job.json``:
a killed comparison goes on with the job it was at, variants and seeds may be added later, other data or settings in the
same folder find no old jobs, and a damaged job is done again. Seeds run one after the other, so a comparison that is
stopped has whole ones. All judgement reads what is kept: over all folds, every test row has one prediction per variant
and seed. The model of the job with the best dev score is ``winner/``.

The first variant is compared with each other one on the scores that the judge gives a row: each row's score is averaged
over the seeds, and the mean difference has the sign-flip p-value, adjusted by Holm's method over the variants, and the
bootstrap interval of :mod:`weft.compare.statistics`; rows of one group stay together in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.compare.statistics import LEVEL, holm, paired_gain
from weft.data import Dataset, Split
from weft.errors import UserError
from weft.files import canonical, read_json, sha256, write_json
from weft.store.encode import raw_fingerprint
from weft.tasks.judge import Judge
from weft.training.config import TrainConfig
from weft.training.goal import ids_of
from weft.training.outputs import keep, kept
from weft.training.pretrained import load_model
from weft.training.seen import Seen
from weft.training.system import systems
from weft.training.system_goal import fit_system, make_system

JOB = "job.json"


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
    """

    system: str
    metrics: dict[str, dict[str, list[float]]]
    gains: dict[str, dict[str, dict[str, float]]]
    jobs: dict[str, dict[str, float]]
    rows: list[str]
    primary: str
    higher_is_better: bool

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
        """JSON values."""
        return {"sentence": self.sentence, **asdict(self)}


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

    content = raw_fingerprint(data)
    jobs = [(fold, variant, seed) for seed in range(seeds) for fold in range(len(splits)) for variant in variants]
    places: dict[tuple[str, int, int], Path] = {}
    for fold, variant, seed in track(jobs, "jobs", disable=not progress):
        settings = config.model_copy(update={"seed": config.seed + seed})
        mine = {**options, **variants[variant]}
        parts = [*ids_of(data, (splits[fold].train, splits[fold].dev)), *ids_of(data, (splits[fold].test,) * 2)]
        key = sha256(canonical([name, systems.get(name).version, mine, settings.model_dump(), content, parts]))[:24]
        place = folder / "jobs" / key
        if _found(place) is None:
            _train(name, data, splits[fold], mine, settings, seed, place, folder / "winner")
        places[variant, seed, fold] = place
    judged = load_model(folder / "winner").make_judge(**(judge or {}))
    return _judge(name, data, splits, list(variants), seeds, places, judged)


def _found(place: Path) -> dict[str, Any] | None:
    """What a job found; None where it has to be done."""
    try:
        found: dict[str, Any] = read_json(place / JOB)
    except UserError:
        return None
    return found if isinstance(found, dict) else None


def _train(
    name: str,
    data: Dataset,
    split: Split,
    options: dict[str, Any],
    config: TrainConfig,
    seed: int,
    place: Path,
    winner: Path,
) -> None:
    system = make_system(name, data, split.train, seed=config.seed, **options)
    history = fit_system(system, data, split, config, progress=False)
    keep(system.writes, place, [data.ids[row] for row in split.test], system.predictions(data, split.test))
    score = history.best.get("dev_score", -np.inf)
    try:
        before = read_json(winner / JOB)["best"].get("dev_score", -np.inf)
    except (UserError, KeyError, AttributeError):
        before = None
    weights = sum(p.numel() for p in system.parameters() if p.requires_grad)
    found = {"best": history.best, "seconds": history.seconds, "weights": weights}
    found |= {"options": options, "seed": seed}
    if before is None or score > before:
        system.save_pretrained(winner)
        write_json(winner / JOB, found)
    write_json(place / JOB, found)


def _judge(
    name: str,
    data: Dataset,
    splits: Sequence[Split],
    variants: list[str],
    seeds: int,
    places: dict[tuple[str, int, int], Path],
    judge: Judge,
) -> SystemComparison:
    cls, folds = systems.get(name), range(len(splits))
    order = np.argsort(np.concatenate([split.test for split in splits]), kind="stable")
    rows = np.concatenate([split.test for split in splits])[order]
    truth = cls.truth(data, rows, Seen.of(data, splits[0]) if len(splits) == 1 else None)
    metrics: dict[str, dict[str, list[float]]] = {variant: {} for variant in variants}
    scores: dict[str, dict[str, list[np.ndarray]]] = {variant: {} for variant in variants}
    for variant in variants:
        for seed in range(seeds):
            parts = [
                kept(cls.writes, places[variant, seed, fold], [data.ids[row] for row in splits[fold].test])
                for fold in folds
            ]
            values = [value for part in parts for value in part]
            outputs: Any = [values[place] for place in order]
            outputs = np.stack(outputs) if cls.writes in ("label", "embedding") else outputs
            for key, value in judge.metrics(outputs, truth).items():
                metrics[variant].setdefault(key, []).append(value)
            for key, of_rows in _row_scores(judge, outputs, truth).items():
                scores[variant].setdefault(key, []).append(of_rows)
    jobs = {
        variant: [read_json(places[variant, seed, fold] / JOB) for seed in range(seeds) for fold in folds]
        for variant in variants
    }
    cost = {v: {key: float(np.mean([job[key] for job in jobs[v]])) for key in ("seconds", "weights")} for v in variants}
    group = None if data.group is None else data.group[rows]
    gains = _gains({v: {key: np.stack(found) for key, found in scores[v].items()} for v in variants}, group)
    ids = [data.ids[row] for row in rows]
    return SystemComparison(name, metrics, gains, cost, ids, judge.primary, judge.higher_is_better)


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

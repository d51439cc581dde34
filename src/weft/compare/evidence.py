"""From finished jobs to the table: figures of every method, paired tests, intervals, and who is best on dev.

Statistics read only the job files. A method counts with the seeds that ran in every fold. Its test rows are those of
all folds, one below the other (with folds: each row once, out of fold), and its scores are averaged over its seeds.

Where the primary metric is a mean over rows, or the root of one, paired tests compare the rows and the bootstrap
redraws means, which is exact. The others (AUC, kappa, average precision) are tested by exchanging whole answers by row,
and the bootstrap redraws jackknife values of blocks of rows; there, a figure over folds is the mean of the folds'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from weft.compare.jobs import Setup, finished, outputs_of
from weft.compare.ledger import Job
from weft.compare.methods import Method
from weft.compare.signal import DRAWS, Signal, measure_signal, signal_everywhere
from weft.compare.statistics import (
    Gain,
    block_values,
    bootstrap_means,
    exchange_test,
    holm,
    interval,
    mean_of_seeds,
    not_told_apart,
    sign_flip_test,
)
from weft.data.giveaway import why_given_away
from weft.tasks.metrics import mean_ranks

WORK, FEWEST = 30_000_000, 199
"""Values that one exchange test may look at, and the fewest draws it makes."""
Answers = list[tuple[np.ndarray, ...]]
"""Of one seed, what the metrics look at, fold by fold."""


@dataclass(frozen=True)
class Row:
    """One method in the table. Figures are means over seeds (and folds); None where there is none.

    Attributes:
        method: its name.
        role: "fusion", "single", "classical" (on several modalities), "ensemble", "ensemble of singles", "system" or
            "chance".
        modalities: what it sees.
        status: "done", "failed" or "not run".
        error: why it failed.
        seeds: how many seeds count.
        dev, test: the primary metric.
        low, high: 95 % interval of ``test``, over rows and seeds.
        spread: the primary metric on test of each seed.
        gain: better than the best single modality (a variant of a system: than the first variant) by this much in the
            primary metric (positive is better).
        gain_low, gain_high: 95 % interval of ``gain``.
        p, p_holm: paired test against the same, alone and corrected for all methods of the table.
        tied: not told apart from the method that is best on test, by paired tests (means over the seeds) corrected for
            all methods (Holm) at the level of 5 %; the best itself is. The tests speak of new rows, not of new training
            runs: see ``spread`` for those.
        metrics: all metrics on test.
        missing: ``{modality: {"rows", "full", "hidden"} or None}``, primary metric with it hidden at test time, over
            the rows that keep another one; "a+b" where several are hidden.
        parameters, flops: of the network, for one sample.
        train_seconds: of one trial, testing included (median).
        latency: seconds per test sample.
        settings: chosen on dev.
    """

    method: str
    role: str
    modalities: tuple[str, ...]
    status: str
    error: str | None = None
    seeds: int = 0
    dev: float | None = None
    test: float | None = None
    low: float | None = None
    high: float | None = None
    spread: tuple[float, ...] = ()
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    tied: bool = False
    metrics: dict[str, float | None] = field(default_factory=dict)
    missing: dict[str, dict[str, float] | None] = field(default_factory=dict)
    parameters: int | None = None
    flops: int | None = None
    train_seconds: float | None = None
    latency: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def interval(self) -> str:
        """That of ``test`` in words; nothing where there is none."""
        return "" if self.low is None or self.high is None else f"{self.low:.3f} to {self.high:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Degraded:
    """A method where modalities are missing: the primary metric over all patterns.

    Attributes:
        name: of the method.
        full, hidden: mean over the patterns, with nothing hidden and with it hidden.
        worst: of the patterns.
        pattern: the worst one, what is hidden.
    """

    name: str
    full: float
    hidden: float
    worst: float
    pattern: str

    @classmethod
    def of(cls, name: str, missing: dict[str, dict[str, float] | None], sign: float) -> Degraded | None:
        """From the scores of all patterns; None where one is not known."""
        if not missing or any(entry is None for entry in missing.values()):
            return None
        found = {pattern: entry for pattern, entry in missing.items() if entry is not None}
        worst = min(found, key=lambda pattern: sign * found[pattern]["hidden"])
        full, hidden = (float(np.mean([entry[key] for entry in found.values()])) for key in ("full", "hidden"))
        return cls(name, full, hidden, found[worst]["hidden"], worst)


class Evidence:
    """What the finished jobs of some methods say.

    Args:
        setup: of the comparison.
        methods: all methods, in order.
        plan: the jobs of each method, by name.
    """

    def __init__(self, setup: Setup, methods: Sequence[Method], plan: dict[str, list[Job]]) -> None:
        self.setup, self.methods, self.plan = setup, list(methods), plan
        self.task = setup.tasks[0]
        self.sign = 1.0 if self.task.higher_is_better else -1.0
        self.primary = self.task.primary
        self.rows = np.concatenate([split.test for split in setup.splits])
        self.group = None if setup.features.group is None else setup.features.group[self.rows]
        self._fold_of = np.repeat(np.arange(len(setup.splits)), [len(split.test) for split in setup.splits])
        self.results: dict[str, list[list[tuple[Job, dict[str, Any]]]]] = {}
        self.errors: dict[str, str] = {}
        for method in self.methods:
            self._collect(method)
        self.outputs = {name: [self._outputs(seed) for seed in seeds] for name, seeds in self.results.items()}
        self.truth, self.answers = self._judge()
        self.by_rows = self.task.metric.rows is not None
        self.values = {name: np.stack([self._rows_of(a) for a in s]) for name, s in self.answers.items()}
        self._tested: dict[tuple[str, str], float] = {}
        self._blocks: dict[str, np.ndarray] = {}
        self._bootstrap = self._redraw()

    def done(self, role: str) -> list[str]:
        """Names of the methods of a role that have results."""
        return [m.name for m in self.methods if m.role == role and m.name in self.results]

    def cut(self) -> list[str]:
        """Names of the methods whose tuning the budget cut short."""
        able = [m.name for m in self.methods if m.family != "chance" and m.name in self.results]
        return [name for name in able if any(r.get("cut") for seed in self.results[name] for _, r in seed)]

    def dev(self, name: str) -> float:
        """Primary metric on dev, mean over seeds and folds; -inf or inf (the worst) where it is not defined."""
        values = [_number(result["dev"][self.primary]) for seed in self.results[name] for _, result in seed]
        mean = float(np.mean(values))
        return mean if np.isfinite(mean) else -self.sign * np.inf

    def best(self, names: Sequence[str]) -> str | None:
        """The best on dev; the first of equals."""
        return max(names, key=lambda name: self.sign * self.dev(name), default=None)

    def best_job(self, name: str) -> Job:
        """Of a method, the job that is best on its dev rows."""
        pairs = [pair for seed in self.results[name] for pair in seed]
        worst = -self.sign * np.inf
        rank = [self.sign * np.nan_to_num(_number(result["dev"][self.primary]), nan=worst) for _, result in pairs]
        return pairs[int(np.argmax(rank))][0]

    def test(self, name: str) -> np.ndarray:
        """Primary metric on the test rows of each seed, ``(S,)``."""
        return self._metric(name, np.arange(len(self.rows)))

    def compare(self, a: str, b: str) -> Gain:
        """Method ``a`` against ``b``."""
        gain = self.sign * float(self.test(a).mean() - self.test(b).mean())
        draws = [mean_of_seeds(self._bootstrap[name], seed=k) for k, name in enumerate((a, b), start=1)]
        low, high = interval(self.sign * (draws[0] - draws[1]))
        return Gain(gain, low, high, self.p_value(a, b))

    def p_value(self, a: str, b: str) -> float:
        """Two-sided, of the paired test of two methods on the test rows."""
        resamples = self.setup.config.resamples
        if self.by_rows:
            difference = self.values[a].mean(axis=0) - self.values[b].mean(axis=0)
            return sign_flip_test(difference, self.group, resamples=resamples)
        if (a, b) in self._tested:
            return self._tested[a, b]
        ours, theirs = (self._comparable(self.answers[name]) for name in (a, b))
        pairs = [(ours[k % len(ours)], theirs[k % len(theirs)]) for k in range(max(len(ours), len(theirs)))]

        def difference_of(swap: np.ndarray) -> float:
            found = []
            for first, second in pairs:
                parts = []
                for fold in range(len(self.truth)):
                    here = swap[self._fold_of == fold]
                    mixed = [_exchanged(x, y, here) for x, y in zip(first[fold], second[fold], strict=True)]
                    parts.append(self._whole(fold, [m[0] for m in mixed]) - self._whole(fold, [m[1] for m in mixed]))
                found.append(np.average(parts, weights=[len(truth) for truth in self.truth]))
            return float(np.mean(found))

        draws = WORK // (len(self.rows) * self.task.outputs * len(pairs))
        draws = min(resamples, max(FEWEST, draws))
        self._tested[a, b] = exchange_test(difference_of, len(self.rows), self.group, resamples=draws)
        return self._tested[a, b]

    def _comparable(self, answers: list[Answers]) -> list[Answers]:
        """Answers as they may change places with those of another method: ranks, where a metric sees the order alone.

        Two methods' scores may differ in scale; mixed as they are, the order would say whose a row's score is.
        """
        if not self.task.metric.ordering:
            return answers
        return [[tuple(_ranked(part) for part in fold) for fold in seed] for seed in answers]

    def _told_apart(self, a: str, b: str) -> float:
        """As :meth:`p_value`; where that takes many evaluations, a sign-flip test of the blocks' jackknife values."""
        if self.by_rows:
            return self.p_value(a, b)
        difference = self._blocks[a].mean(axis=0) - self._blocks[b].mean(axis=0)
        return sign_flip_test(difference, resamples=self.setup.config.resamples)

    def table(self, single: str | None) -> list[Row]:
        """All methods, the best on test first, then those without result.

        What sees several modalities is tested against ``single``.
        """
        joint = [m.name for m in self.methods if m.role not in ("single", "chance") and m.name in self.results]
        tested = [] if single is None else joint
        gains = {name: self.compare(name, single) for name in tested if single is not None}
        adjusted = dict(zip(gains, holm(np.array([g.p for g in gains.values()])).tolist(), strict=True))
        rows = [self._row(method, gains.get(method.name), adjusted.get(method.name)) for method in self.methods]
        tied = self.tied()
        rows = [replace(row, tied=row.method in tied) for row in rows]
        return sorted(rows, key=lambda r: (r.test is None, 0.0 if r.test is None else -self.sign * r.test))

    def figure(self, name: str) -> tuple[float, float, float]:
        """Primary metric on test, mean over seeds, and its 95 % interval."""
        return float(self.test(name).mean()), *interval(mean_of_seeds(self._bootstrap[name], seed=0))

    @property
    def _draws(self) -> int:
        """Permutations of a test whether there is a signal."""
        return min(DRAWS, self.setup.config.resamples)

    def missing(self, name: str) -> dict[str, dict[str, float] | None]:
        """Of :class:`Row`, for one method."""
        return _mean_missing([r["missing"] for seed in self.results[name] for _, r in seed if "missing" in r])

    def degraded(self, name: str) -> Degraded | None:
        """What is left of a method where modalities are missing; None where that was not measured."""
        return Degraded.of(name, self.missing(name), self.sign)

    def signal(self, name: str) -> Signal:
        """What a method shows of the target on the test rows, its outputs averaged over seeds."""
        parts = []
        for fold, (task, split) in enumerate(zip(self.setup.tasks, self.setup.splits, strict=True)):
            outputs = task.average(np.stack([seed[fold] for seed in self.outputs[name]]))
            group = None if self.setup.features.group is None else self.setup.features.group[split.test]
            parts.append((*task.judged(outputs, self.setup.target[split.test]), group))
        return measure_signal(self.task, name, parts, self._draws)

    def signal_everywhere(self) -> Signal | None:
        """The clearest signal of a modality over all rows; see :func:`weft.compare.signal.signal_everywhere`."""
        return signal_everywhere(self.setup.features, self.task, self.setup.target, self._draws)

    def suspect(self) -> str | None:
        """What is to be said of columns that give the target away; see :mod:`weft.data.giveaway`."""
        return why_given_away(self.setup.features.cells(), self.setup.column, self.setup.target)

    def tied(self) -> list[str]:
        """The method that is best on test, and those that paired tests do not tell apart from it (Holm, 5 %)."""
        names = sorted(self.results, key=lambda name: -self.sign * self.test(name).mean())
        return not_told_apart(names, self._told_apart)

    def _row(self, method: Method, gain: Gain | None, p_holm: float | None) -> Row:
        name = method.name
        if name not in self.results:
            error = self.errors.get(name)
            status = "not run" if error is None else "failed"
            return Row(name, method.role, method.modalities, status, error)
        done = [result for seed in self.results[name] for _, result in seed]
        value, low, high = self.figure(name)
        return Row(
            name,
            method.role,
            method.modalities,
            "done",
            error=self.errors.get(name),
            seeds=len(self.results[name]),
            dev=self.dev(name),
            test=value,
            low=low,
            high=high,
            spread=tuple(self.test(name).tolist()),
            gain=None if gain is None else gain.gain,
            gain_low=None if gain is None else gain.low,
            gain_high=None if gain is None else gain.high,
            p=None if gain is None else gain.p,
            p_holm=p_holm,
            metrics={key: _mean([r["test"][key] for r in done]) for key in done[0]["test"]},
            missing=self.missing(name),
            parameters=done[0].get("parameters"),
            flops=done[0].get("flops"),
            train_seconds=float(np.median([r["seconds"] / len(r["trials"]) for r in done])),
            latency=float(np.median([r["latency"] for r in done])),
            settings=done[0]["settings"],
        )

    def _collect(self, method: Method) -> None:
        """Keep the seeds that are done in every fold, and the first error."""
        folds = len(self.setup.splits)
        by_seed: dict[int, list[tuple[Job, dict[str, Any]]]] = {}
        for job in self.plan[method.name]:
            result = finished(self.setup, job)
            if result is None:
                continue
            if result["status"] == "failed":
                self.errors.setdefault(method.name, f"seed {job.seed}: {result['error']}")
            else:
                by_seed.setdefault(job.seed, []).append((job, result))
        complete = [sorted(jobs, key=lambda pair: pair[0].fold) for jobs in by_seed.values() if len(jobs) == folds]
        if complete:
            self.results[method.name] = complete

    def _outputs(self, seed: list[tuple[Job, dict[str, Any]]]) -> list[np.ndarray]:
        """Test outputs of one seed, fold by fold."""
        return [outputs_of(self.setup, job)["test"] for job, _ in seed]

    def _judge(self) -> tuple[list[np.ndarray], dict[str, list[Answers]]]:
        """The truth of the test rows, fold by fold, and what every seed of every method answers, ready for metrics."""
        parts = [
            (task, self.setup.target[split.test])
            for task, split in zip(self.setup.tasks, self.setup.splits, strict=True)
        ]
        truth: dict[int, np.ndarray] = {}
        answers: dict[str, list[Answers]] = {}
        for name, seeds in self.outputs.items():
            answers[name] = []
            for outputs in seeds:
                found = [task.judged(o, target) for (task, target), o in zip(parts, outputs, strict=True)]
                truth.update({fold: true for fold, (true, _) in enumerate(found)})
                answers[name].append([answer for _, answer in found])
        return [truth[fold] for fold in sorted(truth)], answers

    def _rows_of(self, answers: Answers) -> np.ndarray:
        """``(N,)`` what the rows add to the metric, for one seed; nothing, where the metric is no mean over rows."""
        rows = self.task.metric.rows
        if rows is None:
            return np.zeros(0)
        return np.concatenate([rows(truth, *part) for truth, part in zip(self.truth, answers, strict=True)])

    def _whole(self, fold: int, answers: Sequence[np.ndarray], rows: np.ndarray | slice = slice(None)) -> float:
        return self.task.metric.whole(self.truth[fold][rows], *(part[rows] for part in answers))

    def _metric(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Primary metric of each seed ``(S,)`` over rows of the test rows, repeats allowed."""
        if self.by_rows:
            return self.task.metric.of_mean(self.values[name][:, rows].mean(axis=1))
        starts, fold_of = np.searchsorted(self._fold_of, range(len(self.truth))), self._fold_of[rows]
        chosen = {fold: rows[fold_of == fold] - starts[fold] for fold in np.unique(fold_of).tolist()}
        values = [[self._whole(fold, seed[fold], part) for fold, part in chosen.items()] for seed in self.answers[name]]
        return np.average(np.array(values), axis=1, weights=[len(part) for part in chosen.values()])

    def _redraw(self) -> dict[str, np.ndarray]:
        """Bootstrapped primary metric ``(R, S)`` of every method; row ``r`` of all of them is of the same test rows."""
        names, resamples = list(self.results), self.setup.config.resamples
        if not names:
            return {}
        if self.by_rows:
            means = bootstrap_means([self.values[name] for name in names], self.group, resamples=resamples)
            return {name: self.task.metric.of_mean(mean) for name, mean in zip(names, means, strict=True)}
        values = [block_values(partial(self._metric, name), self.group, len(self.rows)) for name in names]
        self._blocks = dict(zip(names, values, strict=True))
        return dict(zip(names, bootstrap_means(values, resamples=resamples), strict=True))


def _ranked(answers: np.ndarray) -> np.ndarray:
    """Ranks within each column of ``(n, ...)``."""
    return np.apply_along_axis(mean_ranks, 0, answers)


def _exchanged(first: np.ndarray, second: np.ndarray, swap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays ``(n, ...)`` whose rows have changed places where ``swap`` ``(n,)`` is True."""
    swap = swap.reshape(-1, *[1] * (first.ndim - 1))
    return np.where(swap, second, first), np.where(swap, first, second)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return float(np.mean(there)) if there else None


def _mean_missing(found: list[dict[str, dict[str, float] | None]]) -> dict[str, dict[str, float] | None]:
    """Mean over seeds and folds of the figures with each modality hidden."""
    means: dict[str, dict[str, float] | None] = {}
    for name in found[0] if found else ():
        there = [entry for each in found if (entry := each[name]) is not None]
        means[name] = {key: float(np.mean([_number(e[key]) for e in there])) for key in there[0]} if there else None
    return means

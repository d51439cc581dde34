"""The order of a comparison: cheap answers first, then what they suggest, then what costs most; an answer at all times.

1. Chance and linear on all modalities and on each alone, however late it is, then the cheapest of concat and gated on
   all, after boosting on one that costs less, as long as the report is still in time: the least that a verdict needs.
   Then the other boosting, on all and on each alone, and the other of the two, the cheapest first.
2. Simple-transformer, late and hybrid on all, each modality alone by a network; classical models on subsets. With many
   modalities the subset is found by leaving out one after the other as long as the loss on dev falls.
3. The plain fusions on the subset that is best on dev; all other methods and seeds, the cheapest first.
4. Ensembles of what there is; contributions; the best fitted on train and dev rows; the tests; the model that is kept.

After 45 seconds, and whenever the time has doubled since, steps of 4 are done with what there is: a verdict and a kept
model exist early and get better.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from weft.compare import contributions as shares
from weft.compare import crossfit, ensembles
from weft.compare.comparison import Comparison
from weft.compare.contributions import Contributions
from weft.compare.costs import Costs
from weft.compare.crossfit import Again
from weft.compare.evidence import Evidence
from weft.compare.jobs import Setup, choose
from weft.compare.kept import Kept, keep
from weft.compare.ledger import Job
from weft.compare.methods import (
    FIRST_FUSIONS,
    MOST_SUBSETS,
    Method,
    chosen,
    classical_on,
    ensemble_methods,
    fusions_on,
    plan_methods,
    refuse_unknown,
    subset_methods,
    unique,
)
from weft.compare.progress import Display
from weft.compare.schedule import Busy, Clock, crew
from weft.compare.verdict import decide, notes
from weft.errors import UserError, did_you_mean, some
from weft.files import write_bytes

FIRST_ANSWER = 45.0
"""Seconds until the first verdict."""
QUICK = 499
"""Random draws of the tests of an early verdict."""
FIGURES, TESTS = 7.0, 1e-4
"""CPU seconds of the figures and the report, and of the tests of one method per test row."""
LEAST = 3.0
"""CPU seconds of the figures and the report where few methods have finished."""
SHARE = 0.1
"""Of the budget that contributions may take."""
AGAIN = 0.3
"""Of the budget that fitting the kept model on train and dev rows may take."""
LATER = 5


class Rounds:
    """One comparison from its first job to its last figure.

    Args:
        setup: what is compared on what.
        clock: the budget.
        progress: show a bar, or lines.
    """

    def __init__(self, setup: Setup, clock: Clock, progress: bool) -> None:
        self.setup, self.clock, config = setup, clock, setup.config
        self.busy = Busy()
        planned, self.left_out = plan_methods(setup.features, config)
        later = [*subset_methods(setup.features, config), *ensemble_methods(setup.features, config)]
        refuse_unknown([*planned, *later], config)
        self.methods: list[Method] = []
        self.plan: dict[str, list[Job]] = {}
        self.add(planned)
        self.busy.stop()
        unknown = [name for name in config.show if name not in {m.name for m in [*planned, *later]}]
        if unknown:
            remedy = did_you_mean(unknown[0], [m.name for m in [*planned, *later]], "methods")
            raise UserError("a method to show is not compared", unknown[0], remedy)
        self.costs = Costs(setup)
        self.display = Display(clock, self.costs, progress, self._look)
        self._next_answer = FIRST_ANSWER

    def run(self) -> Comparison:
        """All rounds."""
        setup, config = self.setup, self.setup.config
        last = AGAIN * (config.budget or 0.0) if config.refit and len(setup.splits) == 1 else 0.0
        with self.display:
            with crew(setup, self.display) as self.crew:
                limit = self.clock.deadline(self._finish() + last + SHARE * (config.budget or 0.0))
                self.crew.run([job for job in self.jobs() if self._turn(job) < 2], self.clock.deadline(), always=True)
                self._do(self._first(), self.clock.deadline(LEAST * self.busy.factor))
                self.add(subset_methods(setup.features, config))
                self._do([job for job in self.jobs() if self._turn(job) < LATER], limit)
                best = self._best_subset(limit)
                if best is not None and len(best) > 1:
                    self.add(fusions_on(best, setup.features, config))
                self._do(self.jobs(), limit)
                found, missed = self._contributions(self._evidence(QUICK))
                self._ensembles()
                not_run = self._do(self.jobs(), self.clock.deadline(self._finish() + self._last(last)))
                self._ensembles()
                again = self._again() if config.refit and len(setup.splits) == 1 else None
            evidence = self._evidence(config.resamples if self._in_time(self._finish() / 2) else QUICK)
        return self._answer(evidence, found, [job.label for job in [*not_run, *missed]], again)

    def _evidence(self, resamples: int) -> Evidence:
        config = self.setup.config.model_copy(update={"resamples": resamples})
        return Evidence(replace(self.setup, config=config), self.methods, self.plan)

    def _in_time(self, seconds: float) -> bool:
        """Whether so much time is left."""
        return time.monotonic() <= self.clock.deadline(seconds)

    def add(self, methods: Iterable[Method]) -> None:
        """Plan further methods, as far as they are wanted and new."""
        config = self.setup.config
        for method in chosen(list(methods), config):
            if any(m.describe() | {"name": ""} == method.describe() | {"name": ""} for m in self.methods):
                continue
            method = replace(method, name=unique(method.name, set(self.plan)))
            seeds = config.seeds_of(method.reads_tokens) if method.random else 1
            self.methods.append(method)
            self.plan[method.name] = [Job(method, s, f) for s in range(seeds) for f in range(len(self.setup.splits))]

    def jobs(self) -> list[Job]:
        """All jobs that are planned, in the order of the module docstring."""
        jobs = [job for jobs in self.plan.values() for job in jobs if job.method.family != "ensemble"]
        whole = tuple(self.setup.features.dims)

        def order(job: Job) -> tuple[float, ...]:
            turn = self._turn(job)
            return (turn, job.seed, turn < 2 and job.method.modalities != whole, self._cost(job))

        return sorted(jobs, key=order)

    def _turn(self, job: Job) -> int:
        """When a job runs; see the module docstring."""
        method, whole = job.method, job.method.modalities == tuple(self.setup.features.dims)
        if job.seed:
            return LATER
        if method.family == "chance" or (method.family == "linear" and whole):
            return 0
        if method.family == "linear":
            return 1 if method.role == "single" else 3
        first = method.decision == "joint" and method.fusion in FIRST_FUSIONS and len(method.modalities) > 1
        if (whole and first) or (method.family == "boosting" and (whole or method.role == "single")):
            return 2
        plain = method.decision != "joint" or method.fusion == "simple-transformer"
        return 4 if method.family != "network" or method.role == "single" or (whole and plain) else LATER

    def _first(self) -> list[Job]:
        """The jobs of the cheapest network that a verdict can be about, after boosting on one that costs less."""
        able = [job for job in self.jobs() if self._turn(job) == 2]
        network = next((job for job in able if job.method.family == "network"), None)
        if network is None:
            return []
        trees = [job for job in able if job.method.family == "boosting" and job.method.role == "single"]
        cheap = [job for job in trees if self._cost(job) < self._cost(network)]
        return [*cheap, *(job for job in able if job.method == network.method)]

    def _cost(self, job: Job) -> float:
        """By which jobs of one round are ordered: what they cost, a later seed of a method after its first."""
        return self.costs.seconds(job) * (1 + job.seed)

    def _do(self, jobs: list[Job], limit: float) -> list[Job]:
        later = sorted((job for job in jobs if self._turn(job) == LATER), key=self._cost)
        order = [*(job for job in jobs if self._turn(job) < LATER), *later]
        return self.crew.run(order, limit)

    def _best_subset(self, limit: float) -> tuple[str, ...] | None:
        """The modalities whose classical models have the smallest loss on dev; None where that is all of them."""
        names, config = tuple(self.setup.features.dims), self.setup.config
        if len(names) < 3 or not config.subsets:
            return None
        if len(names) > MOST_SUBSETS:
            return self._leave_out(names, limit)
        losses = {m.modalities: self._loss(m) for m in self.methods if m.family in ("linear", "boosting")}
        for method in self.methods:
            if method.family in ("linear", "boosting"):
                losses[method.modalities] = min(losses[method.modalities], self._loss(method))
        best = min(losses, key=lambda part: (losses[part], -len(part)), default=names)
        return None if best == names or math.isinf(losses[best]) else best

    def _leave_out(self, names: tuple[str, ...], limit: float) -> tuple[str, ...] | None:
        """Leave out one modality after the other as long as the loss of a linear model on dev falls."""
        current, loss = names, min((self._loss(m) for m in self.methods if _linear_on(m, names)), default=math.inf)
        while len(current) > 2 and time.monotonic() < limit:
            parts = [tuple(n for n in current if n != name) for name in current]
            self.add(m for part in parts for m in classical_on(part, self.setup.config) if m.family == "linear")
            tried = {m.modalities: m for m in self.methods if m.family == "linear" and m.modalities in parts}
            self.crew.run([job for m in tried.values() for job in self.plan[m.name]], limit)
            losses = {part: self._loss(m) for part, m in tried.items()}
            best = min(losses, key=losses.__getitem__, default=None)
            if best is None or not losses[best] < loss:
                break
            current, loss = best, losses[best]
        if current == names:
            return None
        self.add(classical_on(current, self.setup.config))
        return current

    def _loss(self, method: Method) -> float:
        """Mean loss on dev over the folds at the first seed; infinite where one has not finished."""
        found = [self.setup.ledger.get(job) for job in self.plan[method.name] if job.seed == 0]
        return float(np.mean([math.inf if f is None else f.get("dev_loss", math.inf) for f in found]))

    def _ensembles(self) -> None:
        """Put ensembles together from what has finished; each call plans them anew."""
        self.methods = [method for method in self.methods if method.family != "ensemble"]
        self.plan = {method.name: self.plan[method.name] for method in self.methods}
        able = [method for method in self.methods if method.family != "chance"]
        for method in chosen(ensemble_methods(self.setup.features, self.setup.config), self.setup.config):
            members = [m for m in able if m.role == "single"] if "singles" in method.name else able
            folds = range(len(self.setup.splits))
            jobs = [ensembles.build(self.setup, method, members, self.plan, fold) for fold in folds]
            if all(job is not None for job in jobs):
                self.methods.append(method)
                self.plan[method.name] = [job for job in jobs if job is not None]

    def _contributions(self, evidence: Evidence) -> tuple[Contributions | None, list[Job]]:
        """Of the best fusion of all modalities, if there is time."""
        names = tuple(self.setup.features.dims)
        whole = [m.name for m in self.methods if m.role == "fusion" and m.modalities == names]
        fusion = evidence.best([name for name in whole if name in evidence.results])
        if fusion is None:
            return None, []
        model, jobs = shares.subset_jobs(self.setup, evidence, fusion)
        limit = self.clock.deadline(self._finish())
        if time.monotonic() + self.costs.total(jobs.values()) > limit:
            return None, list(jobs.values())
        missed = self.crew.run(list(jobs.values()), limit)
        if missed:
            return None, missed
        found = {part: self.setup.ledger.get(job) for part, job in jobs.items()}
        results = {part: result for part, result in found.items() if result is not None}
        return shares.measure(self.setup, evidence, model, results), []

    def _again(self) -> Again | None:
        """The best on dev fitted on train and dev rows, as far as there is time; None where there is not."""
        setup, job = self.setup, self._best_job(self._evidence(QUICK))
        inner = None if job is None else crossfit.inside(setup, job.fold)
        if job is None or inner is None or job.method.family == "chance":
            return None
        wanted = [job]
        if job.method.family == "ensemble":
            weights = {part.method.name: w for part, w in ensembles.members_of(setup, job, self.plan)}
            losses = {m: self._loss(m) for m in self.methods if m.family not in ("ensemble", "chance")}
            order = sorted(losses, key=lambda m: (-weights.get(m.name, 0.0), losses[m]))
            wanted = [self.plan[m.name][0] for m in order]
        limit, jobs = self.clock.deadline(self._finish()), list[Job]()
        self._next_answer, self.display.costs = math.inf, self.costs.at(inner)
        self.crew.move(inner)
        while further := crossfit.again(setup, wanted, (limit - time.monotonic()) * setup.config.jobs, jobs):
            self.crew.run(further, limit)
            jobs += further
        return crossfit.weighed(inner, jobs)

    def _last(self, share: float) -> float:
        """What of its share of the budget the last fits may need: all for an ensemble, which takes what there is."""
        job = self._best_job(self._evidence(QUICK)) if share else None
        found = None if job is None or job.method.family == "ensemble" else self.setup.ledger.get(job)
        return share if found is None else min(share, 2 * crossfit.seconds_of(found))

    @staticmethod
    def _best_job(evidence: Evidence) -> Job | None:
        """What would be kept now."""
        best = _best(evidence)
        return None if best is None else evidence.best_job(best)

    def _look(self) -> None:
        """Between two jobs: an early answer, when its time has come."""
        if self.clock.elapsed < self._next_answer or not any(job.seed == 0 for job in self.jobs()):
            return
        before = self.clock.elapsed
        self.busy.start()
        self._ensembles()
        found = self._answer(self._evidence(QUICK), None, [])
        write_bytes(self.setup.ledger.folder / "comparison.json", found.to_json().encode())
        self.busy.stop()
        took = self.clock.elapsed - before
        self._next_answer = max(2 * self.clock.elapsed, self.clock.elapsed + 20 * took)

    def _answer(
        self, evidence: Evidence, found: Contributions | None, not_run: list[str], again: Again | None = None
    ) -> Comparison:
        setup, config, features = self.setup, self.setup.config, self.setup.features
        kept, best = None, _best(evidence)
        verdict = decide(evidence, best)
        if best is not None:
            about = {"sentence": verdict.sentence, "settings": evidence.results[best][0][0][1]["settings"]}
            job = evidence.best_job(best)
            kept = keep(setup, job, self.plan, about, again)
        shown = [name for name in config.show if name in evidence.outputs]
        unfinished = _unfinished(not_run, evidence.cut(), config.budget)
        said = [*_about_kept(evidence, kept), *notes(evidence, verdict), *unfinished]
        counts = {part: len(rows) for part, rows in setup.splits[0]._asdict().items()}
        return Comparison(
            folder=setup.ledger.folder,
            primary=evidence.primary,
            higher_is_better=evidence.task.higher_is_better,
            modalities=tuple(features.dims),
            counts={**counts, "test": len(evidence.rows), "folds": len(setup.splits)},
            rows=evidence.table(verdict.single),
            verdict=verdict,
            notes=said,
            contributions=found,
            left_out=self.left_out,
            not_run=not_run,
            config=config.model_dump(mode="json"),
            task=evidence.task,
            kept=kept,
            shown={name: np.stack([seed[0] for seed in evidence.outputs[name]]) for name in shown},
            shown_target=setup.target[setup.splits[0].test],
            shown_ids=[features.ids[row] for row in setup.splits[0].test],
        )

    def _finish(self) -> float:
        """Seconds that the tests, the last fits, the figures and the report will take on a machine as busy as now."""
        rows = sum(len(split.test) for split in self.setup.splits)
        return self.busy.factor * (FIGURES + TESTS * len(self.methods) * rows)


def _linear_on(method: Method, names: Sequence[str]) -> bool:
    return method.family == "linear" and method.modalities == tuple(names)


def _best(evidence: Evidence) -> str | None:
    """The best on dev of all that finished, whatever its family; the earlier of equals."""
    rows = min(len(split.dev) for split in evidence.setup.splits)

    names = list(evidence.results)
    if not names:
        return None
    losses = [[r["dev_loss"] for seed in evidence.results[name] for _, r in seed] for name in names]
    ranks = [(evidence.sign * evidence.dev(n), -float(np.mean(loss))) for n, loss in zip(names, losses, strict=True)]
    return names[choose(evidence.task, ranks, rows)[0]]


def _about_kept(evidence: Evidence, kept: Kept | None) -> list[str]:
    if kept is None:
        return []
    sees = f" of {', '.join(kept.modalities)}" if len(kept.modalities) < len(evidence.setup.features.dims) else ""
    again = ", then fitted on train and dev rows together" if kept.refitted else ""
    figure = f"{evidence.primary} {kept.metrics[evidence.primary]:.3f} on the test rows"
    if next(m for m in evidence.methods if m.name == kept.method).family == "chance":
        return [f"No method is better than chance on dev, so the model kept answers like chance: {figure}."]
    return [f"The model kept is {kept.method}{sees}, the best on dev{again}: {figure}."]


def _unfinished(not_run: list[str], cut: list[str], budget: float | None) -> list[str]:
    said = []
    if not_run and budget is not None:
        said.append(f"The budget of {budget:g} s ended before {len(not_run)} jobs: {some(not_run, 8)}.")
    if cut and budget is not None:
        said.append(f"Within the budget of {budget:g} s tuning was cut short: {some(cut, 8)}.")
    return said

"""One job: one method, one seed, one fold; trained, tuned on dev, measured, and kept in the ledger.

A job that fails keeps its message and is tried again by the next run. A job that the budget cuts off keeps the best of
what it had by then, marked as cut, or nothing.

Every job answers for *all* dev and test rows: where none of a method's modalities is there, it answers like chance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, cast

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from weft.allocator import return_much_freed_memory
from weft.compare.config import CompareConfig
from weft.compare.ledger import Job, Ledger
from weft.compare.methods import PROTECTIONS, STRENGTHS, Method
from weft.data import Split
from weft.errors import UserError
from weft.files import plain
from weft.models import FusedModel
from weft.models.boosted import ROUNDS, BoostedModel, Boosting, boosting
from weft.models.explain import Rearranged
from weft.models.fused import Decision
from weft.models.linear import ChanceModel, LinearModel, chance, linear_path
from weft.models.missing import Pattern, Scores, patterns_of, rows_for, score
from weft.models.pooled import PooledInputs, many_valued
from weft.models.predictor import Predictor, answers
from weft.models.raw import encoder_specs, table_of
from weft.models.seen import Seen
from weft.store import Features, MemoryFeatures
from weft.tasks.base import Task
from weft.tokens import Tokens
from weft.training import fit
from weft.training.loop import OutOfTime

__all__ = ["Job", "Setup", "failed_job", "finished", "outputs_of", "run_job"]

BATCH = 512
POOL_BYTES = 2 << 30
"""Pooled features are kept in memory up to this size."""
LOOKED = 1000
"""Rows that tell how many values a column has."""
FEW, MANY = 200, 2000
"""With fewer dev rows than this, what is chosen is chosen by the loss, which says more with few rows than a metric; a
count of right answers needs the second number (its standard error is a point at 2,000 rows)."""
SAME = 0.15
"""Metrics that differ by less than this share of the best, over the root of the rows, are the same: half a standard
error or less."""


@dataclass(frozen=True)
class Setup:
    """What all jobs of a comparison share.

    Attributes:
        features: all rows; a fold looks at them through :meth:`features_at`.
        target: values of the target column, ``(N,)`` or ``(N, K)``.
        column: its name.
        splits: one per fold.
        tasks: the task fitted on the training rows of each fold.
        config: the settings.
        ledger: where jobs are kept.
        teachers: the rows that encoders may learn from, one array per fold: its training rows.
    """

    features: Features
    target: np.ndarray
    column: str
    splits: list[Split]
    tasks: list[Task]
    config: CompareConfig
    ledger: Ledger
    teachers: list[np.ndarray]

    @cached_property
    def _made(self) -> dict[tuple[str, int], Features]:
        """What :meth:`features_at` and :meth:`pooled_at` have made."""
        return {}

    def _taught_alike(self, fold: int) -> int:
        """The first fold whose encoders learn from the same rows."""
        return next(k for k, rows in enumerate(self.teachers) if np.array_equal(rows, self.teachers[fold]))

    def features_at(self, fold: int) -> Features:
        """The rows under encoders that learned from the training rows of a fold alone."""
        key = ("features", self._taught_alike(fold))
        if key not in self._made:
            self._made[key] = self.features.fitted(self.teachers[fold])
        return self._made[key]

    def pooled_at(self, fold: int) -> Features:
        """The same with one token per row and modality: read once, for all that looks at no sequence."""
        key, features = ("pooled", self._taught_alike(fold)), self.features_at(fold)
        longest = max(int(lengths.max(initial=0)) for lengths in features.lengths.values())
        if longest <= 1 or 4 * len(features) * sum(features.dims.values()) > POOL_BYTES:
            return features
        if key not in self._made:
            values = features.pooled(np.arange(len(features)))
            self._made[key] = MemoryFeatures(features.ids, values, {self.column: self.target}, task=features.task)
        return self._made[key]

    def features_of(self, method: Method, fold: int) -> Features:
        """What a method looks at in a fold."""
        return (self.features_at(fold) if method.reads_tokens else self.pooled_at(fold)).subset(method.modalities)

    def hidden(self, fold: int) -> list[tuple[Pattern, np.ndarray]]:
        """What is hidden to see what it is worth, each with the places of the test rows that this touches.

        Every modality; where missing modalities are asked about, also what dev rows lack.
        """
        names, presence = list(self.features.dims), self.features.presence
        seen = np.concatenate([presence[split.dev] for split in self.splits]) if self.config.missing else None
        test = presence[self.splits[fold].test]
        return [(p, np.flatnonzero(rows_for(names, test, p))) for p in patterns_of(names, seen)]

    def answer(self, fold: int) -> np.ndarray:
        """Outputs ``(K,)`` of chance."""
        return chance(self.tasks[fold], self.target[self.splits[fold].train])

    def about(self) -> dict[str, Any]:
        """What a job's model keeps of where it comes from; the model that is kept knows its encoders too."""
        return {"target": self.column, "table": table_of(self.features)}

    def encoders(self, fold: int, names: Sequence[str]) -> dict[str, Any] | None:
        """What a model needs to read raw rows."""
        return encoder_specs(self.features_at(fold), names)

    def seen(self, fold: int, split: Split | None = None) -> Seen:
        """The rows that the models of a fold look at."""
        if split is not None:
            return Seen.of(self.features, split, self.features.fingerprint)
        if fold not in self._seen:  # the ids are hashed once, not in every job
            self._seen[fold] = Seen.of(self.features, self.splits[fold], self.features.fingerprint)
        return self._seen[fold]

    @cached_property
    def many_valued(self) -> dict[str, int]:
        """Columns of each modality with more than two values, of some training rows: what makes trees slow."""
        return many_valued(self.features_at(0), self.splits[0].train[:LOOKED])

    def trials(self, method: Method) -> list[dict[str, Any]]:
        """The settings that a method's first seed tries."""
        widths = self.many_valued if method.family == "boosting" else self.features.dims
        return method.trials(self.config, max(widths[name] for name in method.modalities))

    @cached_property
    def _seen(self) -> dict[int, Seen]:
        """What :meth:`seen` has made."""
        return {}

    @cached_property
    def scales(self) -> dict[tuple[Any, ...], dict[str, Tensor]]:
        """Of the networks so far, the standardisers' states, by what they learned from."""
        return {}


@dataclass
class Found:
    """A fitted model with the settings that made it.

    Attributes:
        model: the model.
        settings: chosen ones and those that fitting found (rounds of boosting).
        extra: further figures of the job (epochs).
        cut: the deadline ended it.
    """

    model: Predictor
    settings: dict[str, Any]
    extra: dict[str, Any]
    cut: bool = False


def finished(setup: Setup, job: Job) -> dict[str, Any] | None:
    """What a job found, if it has run before, failed ones included."""
    return setup.ledger.get(job)


def outputs_of(setup: Setup, job: Job) -> dict[str, np.ndarray]:
    """``{"dev": (n, K), "test": (n, K)}`` of a job that is done."""
    return setup.ledger.outputs(job)


def failed_job(setup: Setup, job: Job, error: str, seconds: float) -> dict[str, Any]:
    """Keep why a job failed."""
    return setup.ledger.fail(job, error, seconds)


def run_job(setup: Setup, job: Job, deadline: float | None = None) -> dict[str, Any] | None:
    """Do a job, or read it where it is done already. A failure is a result: ``{"status": "failed", "error": ...}``.

    Args:
        setup: of the comparison.
        job: what to do.
        deadline: of ``time.monotonic()``; a job that has nothing by then gives None and leaves nothing behind.
    """
    if setup.ledger.finished(job):
        return setup.ledger.get(job)
    started = time.monotonic()
    try:
        with threadpool_limits(limits=setup.config.threads):
            found, outputs, model = _measure(setup, job, deadline)
        return setup.ledger.put(job, {**found, "seconds": time.monotonic() - started}, outputs, model)
    except OutOfTime:
        return None
    except Exception as error:  # a method that cannot run is a row of the table, whatever stopped it
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return setup.ledger.fail(job, message, time.monotonic() - started)
    finally:
        return_much_freed_memory()


def _measure(setup: Setup, job: Job, deadline: float | None) -> tuple[dict[str, Any], dict[str, np.ndarray], Predictor]:
    """Tune on dev, keep the best trial, and measure it."""
    task, split = setup.tasks[job.fold], setup.splits[job.fold]
    made: list[tuple[tuple[float, float], Found, np.ndarray]] = []
    trials: list[dict[str, Any]] = []
    cut = False
    try:
        for found in chain(candidates(setup, job, deadline), _protected(setup, job, made, deadline)):
            dev = outputs_for(setup, job, found.model, split.dev)
            rank = _rank_of_mix(setup, job, found.model, dev)
            trials.append({**found.settings, "dev": rank[0] if task.higher_is_better else -rank[0], "loss": -rank[1]})
            cut = cut or found.cut
            made.append((rank, found, dev))
    except OutOfTime:
        cut = True
    if not made:
        raise OutOfTime
    _, found, dev = made[_best(task, made, len(split.dev))]
    started = time.perf_counter()
    test = outputs_for(setup, job, found.model, split.test)
    latency = (time.perf_counter() - started) / len(split.test)
    result = {
        "settings": found.settings,
        "trials": trials,
        "dev": task.metrics(dev, setup.target[split.dev]),
        "test": task.metrics(test, setup.target[split.test]),
        "dev_loss": _loss(task, dev, setup.target[split.dev]),
        "latency": latency,
        **found.extra,
        **({"cut": True} if cut else {}),
    }
    if isinstance(found.model, FusedModel):
        result |= _cost(found.model, setup.features_of(job.method, job.fold), split.train)
    outputs = {"dev": dev, "test": test, **with_hidden(setup, job, found.model, test)}
    result["missing"] = missing_scores(setup, job.fold, outputs)
    found.model.seen = setup.seen(job.fold)
    return plain(result), outputs, found.model


def _best(task: Task, made: Sequence[tuple[tuple[float, float], Found, np.ndarray]], rows: int) -> int:
    """Which of the trials is best on so many dev rows."""
    return choose(task, [rank for rank, _, _ in made], rows)[0]


def _protected(
    setup: Setup, job: Job, made: Sequence[tuple[tuple[float, float], Found, np.ndarray]], deadline: float | None
) -> Iterator[Found]:
    """Where missing modalities are asked about: the best network so far, trained with each way of hiding some."""
    able = setup.config.missing and job.method.family == "network" and len(job.method.modalities) > 1
    if not able or not made or job.seed or job.settings is not None or made[0][1].model.needs_all:
        return
    best = made[_best(setup.tasks[job.fold], made, len(setup.splits[job.fold].dev))][1].settings
    for way in PROTECTIONS:
        yield from candidates(setup, replace(job, settings={**best, **way}), deadline)


def _rank_of_mix(setup: Setup, job: Job, model: Predictor, dev: np.ndarray) -> tuple[float, float]:
    """:func:`rank_on_dev`; where missing modalities are asked about and no dev row lacks any, the mean with each hidden
    in turn and with none."""
    task, rows = setup.tasks[job.fold], setup.splits[job.fold].dev
    ranks = [rank_on_dev(task, dev, setup.target[rows])]
    if setup.config.missing and not model.needs_all and setup.features.presence[rows].all():
        for hidden in patterns_of(list(setup.features.dims)):
            ranks.append(rank_on_dev(task, outputs_for(setup, job, model, rows, hidden), setup.target[rows]))
    metric, loss = np.mean(ranks, axis=0)
    return float(metric), float(loss)


def candidates(setup: Setup, job: Job, deadline: float | None = None) -> Iterator[Found]:
    """Models to choose from on dev, one after the other.

    Raises:
        OutOfTime: the deadline passed.
    """
    makers = {"network": _networks, "linear": _linear, "boosting": _boosted, "chance": _chance}
    for found in makers[job.method.family](setup, job, deadline):
        yield found
        if found.cut or (deadline is not None and time.monotonic() > deadline):
            raise OutOfTime


def to_try(setup: Setup, job: Job) -> list[dict[str, Any]]:
    """The settings of a job: those it fixes; those the first seed was tuned to; at the first seed, all trials."""
    if job.settings is not None:
        return [job.settings]
    first = setup.ledger.get(Job(job.method, 0, job.fold)) if job.seed else None
    if first is not None and first["status"] == "done":
        return [first["settings"]]
    return setup.trials(job.method)


def _networks(setup: Setup, job: Job, deadline: float | None) -> Iterator[Found]:
    method, split, config = job.method, setup.splits[job.fold], setup.config
    features = setup.features_of(method, job.fold)
    rows = Split(*(_answerable(features, part) for part in split))
    for settings in to_try(setup, job):
        model = FusedModel.build(
            dims=features.dims,
            task=setup.tasks[job.fold],
            fusion=method.fusion,
            fusion_options=method.options,
            decision=cast("Decision", method.decision),
            rule=method.rule,
            dim=config.dim,
            dropout=settings["dropout"],
            seed=job.seed,
            **setup.about(),
        )
        changes = {key: value for key, value in settings.items() if key != "dropout"} | {"seed": job.seed}
        if setup.tasks[job.fold].metric.rows is None and "monitor" not in config.train.model_fields_set:
            changes["monitor"] = "loss"  # an epoch that orders the rows well may have probabilities of no use
        train = config.train.model_copy(update=changes)
        read = (job.fold, method.modalities, method.reads_tokens, model.wants_tokens)
        if read in setup.scales:
            model.standardise.load_state_dict(setup.scales[read])
        history = fit(model, features, rows, train, progress=False, deadline=deadline)
        setup.scales.setdefault(read, model.standardise.state_dict())
        yield Found(model, settings, {"epochs": len(history.epochs)}, cut=history.cut)


def _linear(setup: Setup, job: Job, deadline: float | None) -> Iterator[Found]:
    """Every input at the usual strength, then from strong to weak regularisation while the loss on dev still falls."""
    task, split, features = setup.tasks[job.fold], setup.splits[job.fold], setup.features_of(job.method, job.fold)
    rows, dev = _answerable(features, split.train), _answerable(features, split.dev)
    for settings in to_try(setup, job):
        strengths = [settings["strength"]] if "strength" in settings else STRENGTHS
        inputs = PooledInputs.fit(features, rows, settings["scaling"], settings["components"])
        best, worse = math.inf, 0
        # the matrix belongs to the path alone: the next one is not made beside it
        for strength, weight, bias in linear_path(task, inputs.matrix(features, rows), setup.target[rows], strengths):
            model = LinearModel(task, inputs, **setup.about()).set(weight, bias)
            yield Found(model, {**settings, "strength": strength}, {})
            if len(dev) and strength != STRENGTHS[0]:
                loss = _loss(task, model.outputs(features, dev), setup.target[dev])
                best, worse = min(best, loss), worse + 1 if loss > best else 0
            if worse == 2:
                break


def _boosted(setup: Setup, job: Job, deadline: float | None) -> Iterator[Found]:
    task, split, features = setup.tasks[job.fold], setup.splits[job.fold], setup.features_of(job.method, job.fold)
    rows, dev = _answerable(features, split.train), _answerable(features, split.dev)
    made: dict[int | None, tuple[PooledInputs, Boosting]] = {}
    for settings in to_try(setup, job):
        k = settings["components"]
        if k not in made:
            whole = [name for name in features.dims if k is not None and setup.many_valued[name] <= k]
            inputs = PooledInputs.fit(features, rows, "none" if k is None else "columns", k, nan=True, whole=whole)
            bound = boosting(
                task,
                (inputs.blocks(features, rows), setup.target[rows]),
                (inputs.matrix(features, dev), setup.target[dev]) if len(dev) else None,
                library=job.method.options["library"],
                seed=job.seed,
                threads=setup.config.threads,
            )
            made[k] = inputs, bound
        inputs, bound = made[k]
        trees, rounds = bound.grow(
            leaves=settings["leaves"],
            rate=settings["rate"],
            columns=settings["columns"],
            share=settings["share"],
            rounds=settings.get("rounds", ROUNDS),
            deadline=deadline,
        )
        cut = deadline is not None and time.monotonic() > deadline
        model = BoostedModel(task, inputs, trees, **setup.about())
        yield Found(model, {**settings, "rounds": rounds}, {}, cut=cut)


def _chance(setup: Setup, job: Job, deadline: float | None) -> Iterator[Found]:
    model = ChanceModel(setup.tasks[job.fold], setup.features_at(job.fold).dims, **setup.about())
    yield Found(model.fit(setup.target[setup.splits[job.fold].train]), {}, {})


def outputs_for(setup: Setup, job: Job, model: Predictor, rows: np.ndarray, hidden: Pattern = ()) -> np.ndarray:
    """``(n, K)`` float32; rows without any of the method's modalities are answered like chance."""
    features = setup.features_of(job.method, job.fold)
    shown = Rearranged.without(features, hidden) if hidden else features
    return answers(model, shown, rows, setup.answer(job.fold))


def rank_on_dev(task: Task, outputs: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """The primary metric, then minus the loss, of outputs ``(n, K)``: larger is better in both."""
    return (task.quality(outputs, target), -_loss(task, outputs, target))


def by_loss(task: Task, rows: int) -> bool:
    """Whether so many dev rows choose better by the loss than by the primary metric."""
    return rows < (FEW if task.metric.rows is None else MANY)


def choose(task: Task, ranks: Sequence[tuple[float, float]], rows: int, loss_alone: bool | None = None) -> list[int]:
    """Numbers of the ranks of :func:`rank_on_dev`, the best first, as far as they are in the running.

    By the loss alone, or among those whose metric is not clearly below the best: a metric that looks at the order of
    the rows alone (AUC) would else take a model whose probabilities are of no use.
    """
    able = list(range(len(ranks)))
    top = max(metric for metric, _ in ranks)
    if not (by_loss(task, rows) if loss_alone is None else loss_alone) and math.isfinite(top):
        able = [i for i in able if ranks[i][0] >= top - SAME * abs(top) / math.sqrt(rows)]
    return sorted(able, key=lambda i: -ranks[i][1])


def _loss(task: Task, outputs: np.ndarray, target: np.ndarray) -> float:
    return float(task.loss(torch.from_numpy(outputs), task.encode(target)).mean())


def with_hidden(setup: Setup, job: Job, model: Predictor, test: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of the rows of every pattern with it hidden, ``{"hidden-0": (n, K), ...}``; none if the model refuses."""
    if model.needs_all or job.method.family == "chance":
        return {}
    rows, found = setup.splits[job.fold].test, {}
    for number, (hidden, chosen) in enumerate(setup.hidden(job.fold)):
        touched = set(hidden) & set(job.method.modalities)
        found[f"hidden-{number}"] = outputs_for(setup, job, model, rows[chosen], hidden) if touched else test[chosen]
    return found


def missing_scores(setup: Setup, fold: int, outputs: dict[str, np.ndarray]) -> Scores:
    """The score of every pattern, from the outputs of a job on test rows and on those of :func:`with_hidden`."""
    task, target = setup.tasks[fold], setup.target[setup.splits[fold].test]
    return {
        "+".join(hidden): score(task, target[chosen], outputs["test"][chosen], outputs[f"hidden-{number}"])
        for number, (hidden, chosen) in enumerate(setup.hidden(fold))
        if f"hidden-{number}" in outputs
    }


def _cost(model: FusedModel, features: Features, rows: np.ndarray) -> dict[str, float]:
    """Trainable weights, and FLOPs of one sample of median length (a multiply-add counts as two)."""
    device, sample = next(model.parameters()).device, {}
    for name, lengths in features.lengths.items():
        shape = (1, max(1, int(np.median(lengths[rows]))))
        values = torch.zeros(*shape, features.dims[name], device=device)
        sample[name] = Tokens(values, torch.ones(shape, dtype=torch.bool, device=device))
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:  # its module tracker needs gradients
        model.eval()(sample)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"parameters": parameters, "flops": counter.get_total_flops()}


def _answerable(features: Features, rows: np.ndarray) -> np.ndarray:
    """The rows that have any of these modalities."""
    return rows[features.presence[rows].any(axis=1)]

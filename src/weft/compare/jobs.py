"""One job: one method, one seed, one fold; trained, tuned on dev, measured, and kept in two files.

``jobs/<key>.safetensors`` has the outputs on the dev and test rows, ``jobs/<key>.json`` everything else. The JSON is
written last and in one step, so a job is either there or not, and a killed comparison goes on with the next one. The
key ends in a hash of all that decides the result (method, settings, rows, features): other settings in the same folder
find no old jobs. A job that fails keeps its message and is tried again by the next run.

Every job answers for *all* dev and test rows: where none of a method's modalities is there, it answers like chance.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from weft.compare.baselines import Baseline, pooled_matrix
from weft.compare.config import CompareConfig
from weft.compare.methods import Method
from weft.data import Split
from weft.errors import UserError
from weft.files import read_json, read_tensors, write_json, write_tensors
from weft.store import Features
from weft.tasks.base import Task
from weft.tokens import Tokens
from weft.training import FusedModel, fit
from weft.training.checkpoint import fingerprint
from weft.training.model import Decision
from weft.training.raw import encoder_specs, table_of

BATCH = 512


@dataclass(frozen=True)
class Setup:
    """What all jobs of a comparison share.

    Attributes:
        features: all rows.
        target: values of the target column, ``(N,)`` or ``(N, K)``.
        column: its name.
        splits: one per fold.
        tasks: the task fitted on the training rows of each fold.
        config: the settings.
        folder: where jobs are kept.
        identity: what the rows are, for the keys.
    """

    features: Features
    target: np.ndarray
    column: str
    splits: list[Split]
    tasks: list[Task]
    config: CompareConfig
    folder: Path
    identity: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Job:
    """One method at one seed in one fold; ``settings`` fixes what would be tuned (None: tune)."""

    method: Method
    seed: int
    fold: int
    settings: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """For progress and for the list of what did not run."""
        return f"{self.method.name}, seed {self.seed}" + (f", fold {self.fold}" if self.fold else "")


def job_path(setup: Setup, job: Job) -> Path:
    """The JSON of a job."""
    config = setup.config.model_dump(include={"trials", "dim", "train"}, mode="json")
    what = {**setup.identity, **config, "method": job.method.describe(), "settings": job.settings}
    slug = re.sub(r"[^A-Za-z0-9_.+-]+", "-", job.method.name).strip("-")
    return setup.folder / "jobs" / f"{slug}-s{job.seed}-f{job.fold}-{fingerprint(what)}.json"


def finished(setup: Setup, job: Job) -> dict[str, Any] | None:
    """What a job found, if it has run before, failed ones included."""
    path = job_path(setup, job)
    return cast("dict[str, Any]", read_json(path)) if path.exists() else None


def outputs_of(setup: Setup, job: Job) -> dict[str, np.ndarray]:
    """``{"dev": (n, K), "test": (n, K)}`` of a job that is done."""
    return {part: t.numpy() for part, t in read_tensors(job_path(setup, job).with_suffix(".safetensors"))[0].items()}


def run_job(setup: Setup, job: Job) -> dict[str, Any]:
    """Do a job, or read it where it is done already. A failure is a result: ``{"status": "failed", "error": ...}``."""
    found = finished(setup, job)
    if found is not None and found["status"] == "done":
        return found
    started = time.monotonic()
    path = job_path(setup, job)
    try:
        result, outputs = _measure(setup, job)
    except Exception as error:  # a method that cannot run is a row of the table, whatever stopped it
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return failed_job(setup, job, message, time.monotonic() - started)
    write_tensors(path.with_suffix(".safetensors"), {part: torch.from_numpy(o) for part, o in outputs.items()})
    write_json(path, {**_head(job), "status": "done", **result, "seconds": time.monotonic() - started})
    return cast("dict[str, Any]", read_json(path))


def failed_job(setup: Setup, job: Job, error: str, seconds: float) -> dict[str, Any]:
    """Keep why a job failed."""
    failed = {**_head(job), "status": "failed", "error": error, "seconds": seconds}
    write_json(job_path(setup, job), failed)
    return failed


def _head(job: Job) -> dict[str, Any]:
    return {"method": job.method.name, "seed": job.seed, "fold": job.fold}


def train_network(setup: Setup, job: Job, settings: dict[str, Any]) -> tuple[FusedModel, int]:
    """The network of a job with these settings, and how many epochs it took."""
    method, split, config = job.method, setup.splits[job.fold], setup.config
    features = setup.features.subset(method.modalities)
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
        target=setup.column,
        encoders=encoder_specs(setup.features, list(method.modalities)),
        table=table_of(setup.features),
    )
    train = config.train.model_copy(
        update={"lr": settings["lr"], "weight_decay": settings["weight_decay"], "seed": job.seed}
    )
    history = fit(model, features, Split(*(_answerable(features, rows) for rows in split)), train, progress=False)
    return model, len(history.epochs)


def _measure(setup: Setup, job: Job) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Tune on dev, keep the best trial, and measure it."""
    task, split = setup.tasks[job.fold], setup.splits[job.fold]
    best: tuple[tuple[float, float], dict[str, Any], Any, dict[str, Any]] | None = None
    trials = []
    for settings in _to_try(setup, job):
        model, extra = _fit(setup, job, settings)
        dev = _outputs(setup, job, model, split.dev)
        rank = _rank(task, dev, setup.target[split.dev])
        trials.append({**settings, "dev": rank[0] if task.higher_is_better else -rank[0]})
        if best is None or rank > best[0]:
            best = (rank, settings, model, extra)
    if best is None:
        raise UserError("a method has settings to try", "none", "give trials >= 1")
    _, settings, model, extra = best
    dev = _outputs(setup, job, model, split.dev)
    started = time.perf_counter()
    test = _outputs(setup, job, model, split.test)
    latency = (time.perf_counter() - started) / len(split.test)
    result = {
        "settings": settings,
        "trials": _plain(trials),
        "dev": _plain(task.metrics(dev, setup.target[split.dev])),
        "test": _plain(task.metrics(test, setup.target[split.test])),
        "latency": latency,
        **extra,
    }
    if isinstance(model, FusedModel) and len(job.method.modalities) > 1:
        result["missing"] = _plain(_missing(setup, job, model))
    return result, {"dev": dev, "test": test}


def _to_try(setup: Setup, job: Job) -> list[dict[str, Any]]:
    """The settings of a job: those it fixes; those the first seed was tuned to; at the first seed, all trials."""
    if job.settings is not None:
        return [job.settings]
    first = finished(setup, Job(job.method, 0, job.fold)) if job.seed else None
    if first is not None and first["status"] == "done":
        return [first["settings"]]
    return job.method.trials(setup.config)


def _fit(setup: Setup, job: Job, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A fitted model and its cost columns."""
    features, split = setup.features.subset(job.method.modalities), setup.splits[job.fold]
    if job.method.family == "network":
        model, epochs = train_network(setup, job, settings)
        return model, {"epochs": epochs, **_cost(model, features, split.train)}
    rows = _answerable(features, split.train)
    baseline = Baseline(job.method.family, setup.tasks[job.fold], job.seed, **settings)
    return baseline.fit(pooled_matrix(features, rows), setup.target[rows]), {}


def _outputs(setup: Setup, job: Job, model: Any, rows: np.ndarray) -> np.ndarray:
    """``(n, K)`` float32; rows without any of the method's modalities are answered like chance."""
    features, split = setup.features.subset(job.method.modalities), setup.splits[job.fold]
    there = features.presence[rows].any(axis=1)
    known = rows[there]
    if isinstance(model, FusedModel):
        found = model.outputs(features, known, batch_size=BATCH)
    else:
        found = model.outputs(pooled_matrix(features, known)) if len(known) else np.zeros((0, 0))
    if there.all():
        return found
    chance = Baseline("chance", setup.tasks[job.fold]).fit(np.zeros((len(split.train), 1)), setup.target[split.train])
    outputs = chance.outputs(np.zeros((len(rows), 1)))
    if len(known):
        outputs[there] = found
    return outputs


def _rank(task: Task, outputs: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """For choosing on dev: the primary metric, then the loss; larger is better."""
    primary = task.metrics(outputs, target)[task.primary]
    loss = float(task.loss(torch.from_numpy(outputs), task.encode(target)).mean())
    gain = primary if task.higher_is_better else -primary
    return (gain if math.isfinite(gain) else -math.inf, -loss)


def _missing(setup: Setup, job: Job, model: FusedModel) -> dict[str, dict[str, float] | None]:
    """Primary metric on test with each modality hidden, over the rows that keep another one.

    ``{modality: {"rows", "full", "hidden"}}``; ``full`` is the same rows with nothing hidden. None: the operator
    refuses, or no row keeps another modality.
    """
    task, test = setup.tasks[job.fold], setup.splits[job.fold].test
    features = setup.features
    found: dict[str, dict[str, float] | None] = {}
    for index, name in enumerate(job.method.modalities):
        column = list(features.dims).index(name)
        others = [list(features.dims).index(n) for k, n in enumerate(job.method.modalities) if k != index]
        rows = test[features.presence[test][:, others].any(axis=1) & features.presence[test, column]]
        if not len(rows) or (model.fusion is not None and model.fusion.absent == "refuse"):
            found[name] = None
            continue
        part = features.subset(job.method.modalities)
        full, hidden = (model.outputs(part, rows, batch_size=BATCH), outputs_without(model, part, rows, name))
        metric = [task.metrics(outputs, setup.target[rows])[task.primary] for outputs in (full, hidden)]
        found[name] = {"rows": len(rows), "full": metric[0], "hidden": metric[1]}
    return found


@torch.no_grad()
def outputs_without(model: FusedModel, features: Features, rows: np.ndarray, name: str) -> np.ndarray:
    """Outputs ``(n, K)`` with one modality hidden in every row."""
    device, parts = next(model.parameters()).device, []
    model.eval()
    for start in range(0, len(rows), BATCH):
        batch = features.gather(rows[start : start + BATCH])
        batch[name] = Tokens(batch[name].values, torch.zeros_like(batch[name].mask))
        parts.append(
            model({key: Tokens(*(t.to(device) for t in tokens)) for key, tokens in batch.items()}).cpu().numpy()
        )
    return np.concatenate(parts)


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


def _plain(value: Any) -> Any:
    """JSON without NaN: an undefined figure is null."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The one training loop: fused models, aligners and systems, one process or many, resumable at any step.

An epoch deals its rows, in an order drawn from ``(seed, epoch)``, to ``ceil(N / batch_size)`` batches of even size;
each process takes its part of every batch and gradients are averaged, so ``P`` processes do what one does. Each step
seeds dropout by ``(seed, epoch, step, process)``: a run killed anywhere goes on from its last checkpoint with the very
numbers of a run that was not. After every epoch the dev rows are scored; the best weights so far are those the model
ends with, and training stops after ``patience`` epochs without better ones.

With a folder: ``best/`` (a model folder), ``last/checkpoint.safetensors`` (to resume from), ``log.jsonl``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast
from torch import Tensor, nn

from weft.alignment import Objective
from weft.data import Split
from weft.errors import UserError
from weft.models.aligned import AlignedModel
from weft.models.fused import FusedModel
from weft.store.files import DTYPES
from weft.training.aligned_task import AlignedTask
from weft.training.checkpoint import Position, fingerprint, load_checkpoint, save_checkpoint
from weft.training.config import TrainConfig
from weft.training.fused_task import FusedTask
from weft.training.log import RunLog
from weft.training.phase import Average, Optimizer
from weft.training.schedule import learning_rate, make_schedule
from weft.training.shares import first_has, share, together, unite, wanted
from weft.training.towers import TowerModel, TowerTask
from weft.training.training_task import FOR_ALIGNERS, TrainingTask

if TYPE_CHECKING:
    from weft.store import Features

NO_EFFECT = {"log_every", "checkpoint_seconds", "cache_mb", "log_to"}
"""Settings that do not change the numbers, so a run may resume with others."""


class OutOfTime(Exception):
    """The deadline passed before there was anything to keep."""


@dataclass(frozen=True)
class History:
    """What happened.

    Attributes:
        epochs: per epoch ``epoch`` (from 0), ``loss``, ``lr``, ``dev_loss``, ``dev_score``, ``seconds``.
        best_epoch: the epoch whose weights the model has now.
        seconds: training time, of all processes that worked on it one after the other.
        stopped_early: patience ended it, or the deadline.
        cut: the deadline ended it.
    """

    epochs: list[dict[str, float]]
    best_epoch: int
    seconds: float
    stopped_early: bool
    cut: bool = False

    @property
    def best(self) -> dict[str, float]:
        """Figures of the best epoch."""
        return self.epochs[self.best_epoch]


def fit(
    model: FusedModel,
    features: Features,
    split: Split,
    config: TrainConfig | dict[str, Any] | None = None,
    folder: Path | str | None = None,
    progress: bool = True,
    deadline: float | None = None,
) -> History:
    """Train a fused model on ``split.train``; it ends with the weights that were best on ``split.dev``.

    Args:
        model: its standardiser is fitted on the training rows if it is not yet.
        features: a store, or features in memory.
        split: rows of train and dev.
        config: settings, or keywords of :class:`TrainConfig`.
        folder: where checkpoints and the log go; a run killed there goes on from its last checkpoint.
        progress: show a progress bar.
        deadline: of ``time.monotonic()``: training stops there with the best weights of the epochs so far; for one
            process.

    Raises:
        UserError: a split is empty, a row has no modality, the loss is not finite, or the folder holds another run.
        OutOfTime: the deadline passed in the first epoch.
    """
    settings = TrainConfig.of(config)
    return run(FusedTask(model, features, split, settings), settings, folder, progress, deadline)


def fit_aligner(
    model: AlignedModel,
    objective: Objective,
    features: Features,
    split: Split,
    config: TrainConfig | dict[str, Any] | None = None,
    folder: Path | str | None = None,
    progress: bool = True,
) -> History:
    """Train an aligner under an objective; it ends with the weights of the best sum of recalls on ``split.dev``.

    Arguments and errors as for :func:`fit`. The objective's own weights (a temperature) are trained along. An aligner
    without weights to train is solved in closed form: one epoch, without ``loss`` and ``lr``.
    """
    settings = TrainConfig.of(config)
    kind = TowerTask if isinstance(model, TowerModel) else AlignedTask
    task = kind(model, objective, features, split, settings)
    if not any(p.requires_grad for p in model.parameters()):
        return _solve(task, folder)
    return run(task, settings, folder, progress)


@torch.no_grad()
def _solve(task: AlignedTask, folder: Path | str | None = None) -> History:
    """Solve the closed form of an aligner on the training rows, on the device it is on."""
    if folder is not None and (Path(folder) / "last").exists():
        raise UserError("the folder holds a training run", str(folder), "choose another folder for the closed form")
    started = time.monotonic()
    task.prepare(next(task.model.buffers()).device)
    task.eval()
    figures = task.evaluate(lambda positions: positions, lambda part, rows: part[:rows])
    if folder is not None:
        task.model.save_pretrained(Path(folder) / "best")
    seconds = time.monotonic() - started
    entry = {"epoch": 0, **{f"dev_{name}": value for name, value in figures.items()}, "seconds": seconds}
    return History([entry], 0, seconds, False)


def run(
    task: TrainingTask,
    config: TrainConfig,
    folder: Path | str | None = None,
    progress: bool = True,
    deadline: float | None = None,
) -> History:
    """Minimise a training task; see :func:`fit`.

    Raises:
        UserError: a setting that the task has no use for, or rows or a folder that do not fit.
    """
    for name in () if task.aligns else FOR_ALIGNERS:
        if getattr(config, name) != getattr(TrainConfig(), name):
            raise UserError(
                f"{name} is for aligners, whose loss is over pairs of rows",
                f"{name}={getattr(config, name)}",
                "leave it out" if name != "chunk" else "choose a smaller batch_size",
            )
    loop = _Loop(task, config, None if folder is None else Path(folder), progress, deadline)
    kind = loop.device.type
    with torch.random.fork_rng([] if kind == "cpu" else [loop.device], device_type="cuda" if kind == "cpu" else kind):
        return loop.run()


class _Loop:
    def __init__(
        self,
        task: TrainingTask,
        config: TrainConfig,
        folder: Path | None,
        progress: bool,
        deadline: float | None = None,
    ) -> None:
        handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
        self.accelerator = Accelerator(kwargs_handlers=handlers)
        self.task, self.config, self.folder, self.deadline = task, config, folder, deadline
        self.main, self.processes = self.accelerator.is_main_process, self.accelerator.num_processes
        self.device = self.accelerator.device
        self.progress = progress and self.main
        task.to(self.device)
        task.prepare(self.device)
        self.steps = math.ceil(task.steps_over / config.batch_size)
        if task.steps_over < self.processes * self.steps:
            raise UserError(
                "every process needs a row of every batch",
                f"{task.steps_over} rows, batches of {config.batch_size}, {self.processes} processes",
                "use fewer processes or larger batches",
            )
        self.phases = list(task.phases)
        self.averages = [module for module in task.modules() if isinstance(module, Average)]
        self.shares = self.processes > 1 and wanted()
        if self.shares:
            self.phases = task.phases = share(task, self.device, self.phases)  # nobody is to keep the whole weights
        self.by_hand = self.processes > 1 and len(self.phases) > 1
        self.network: nn.Module = task if self.by_hand or self.shares else self.accelerator.prepare_model(task)
        moves = [phase.optimizer for phase in self.phases] or [Optimizer(list(task.parameters()))]
        self.moves = {id(one): one for one in moves}
        self.optimizers = {key: one.build(config) for key, one in self.moves.items()}
        self.weights = list(task.parameters())  # to walk the modules in every step takes as long as a small layer
        self.schedule = make_schedule(config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.position = Position()
        self.best: dict[str, Tensor] = {}
        self.run_identity = {
            "settings": fingerprint(config.model_dump(exclude=NO_EFFECT)),
            "processes": str(self.processes),
            **{key: fingerprint(value) for key, value in (task.describe() if folder else {}).items()},
        }
        self._saved_at, self._saved_best = time.monotonic(), -1

    def run(self) -> History:
        position, config = self.position, self.config
        if self.folder is not None:
            found = load_checkpoint(
                self.folder / "last", self.task, list(self.optimizers.values()), self.scaler, self.run_identity
            )
            if found is not None:
                self.position, self.best = found
                position = self.position
        started, before = time.monotonic(), position.seconds
        total = config.epochs * self.steps
        with RunLog(self._log_folder, total, progress=self.progress, log_to=config.log_to) as log:
            log.resume(position.epochs)
            cut = False
            while not position.finished and not cut:
                try:
                    self._epoch(log, lambda: before + time.monotonic() - started)
                except OutOfTime:
                    if not position.epochs:
                        raise
                    cut = True
        if self.best:
            self._put(self.best)
        unite(self.task)
        self.task.eval()
        early = len(position.epochs) < config.epochs
        return History(position.epochs, position.best_epoch, position.seconds, early, cut)

    @property
    def _log_folder(self) -> Path | None:
        return self.folder if self.main else None

    def _epoch(self, log: RunLog, clock: Callable[[], float]) -> None:
        position, config = self.position, self.config
        rank = self.accelerator.process_index
        order = self.task.order(np.random.default_rng([config.seed, position.epoch]))
        mine = order[: len(order) - len(order) % self.processes].reshape(-1, self.processes)[:, rank]
        batches = np.array_split(mine, self.steps)
        seeds = np.random.SeedSequence([config.seed, position.epoch, rank]).generate_state(self.steps)
        losses: list[Tensor] = []
        self.work = self._at_work(position.epoch)
        self.network.train()
        for step in range(position.step, self.steps):
            if self.deadline is not None and time.monotonic() > self.deadline:
                raise OutOfTime
            self._seed(int(seeds[step]))
            drawn = (config.seed, position.epoch, step, rank) if rank else (config.seed, position.epoch, step)
            losses += self._step(batches[step], position.epoch * self.steps + step, drawn)
            if (step + 1) % config.log_every == 0:
                losses = self._take(losses)
                log.step(position.epoch * self.steps + step + 1)
                if step + 1 < self.steps and self._due():
                    position.seconds = clock()
                    self._save()
        self._take(losses)
        figures = self._evaluate()
        position.seconds = clock()
        entry = {
            "epoch": position.epoch,
            **self._means(),
            "lr": self.rate,
            **{f"dev_{name}": value for name, value in figures.items()},
            "seconds": position.seconds,
        }
        self._judge(entry)
        log.epoch(entry)
        log.step(position.epoch * self.steps)
        if position.finished or self._due():
            self._save()

    def _seed(self, value: int) -> None:
        """Seed this process's device alone: ``torch.manual_seed`` also queues work for devices that are not there."""
        torch.default_generator.manual_seed(value)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(value)

    def _at_work(self, epoch: int) -> list[int]:
        """The phases of an epoch, by number; 0 where there is but one thing to do."""
        found = [k for k, phase in enumerate(self.phases) if phase.at_work(epoch, self.config.epochs)]
        if self.phases and not found:
            raise UserError(
                "every step of training needs a phase",
                f"none of {', '.join(phase.name for phase in self.phases)} is at work in epoch {epoch}",
                "train for more epochs, or let the phases meet",
            )
        return found or [0]

    def _means(self) -> dict[str, float]:
        """The mean loss of the epoch, of each phase by its name where there are several."""
        losses = self.position.losses
        if len(self.phases) < 2:
            return {"loss": float(np.mean(losses))}
        means = np.array(losses).reshape(-1, len(self.work)).mean(axis=0).tolist()
        return dict(zip([self.phases[k].name for k in self.work], means, strict=True))

    def _step(self, positions: np.ndarray, step: int, seed: tuple[int, ...]) -> list[Tensor]:
        """One phase after the other; their losses."""
        total = self.config.epochs * self.steps
        self.rate = learning_rate(self.config, step, total, self.position.reductions, self.schedule)
        batch, losses = self.task.batch(positions, seed), []
        for key, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.moves[key].rate * self.rate * group["factor"]
        for k in self.work:
            key = id(self.phases[k].optimizer) if self.phases else next(iter(self.optimizers))
            losses.append(self._move(self.optimizers[key], batch, k))
        for average in self.averages:
            average.follow(step)
        return losses

    def _move(self, optimizer: torch.optim.Optimizer, batch: tuple[Any, ...], phase: int) -> Tensor:
        with self._autocast():
            loss = self.network(*batch, phase=phase) if self.phases else self.network(*batch)
        several = len(self.phases) > 1
        weights = [p for group in optimizer.param_groups for p in group["params"]] if several else None
        optimizer.zero_grad()
        self.scaler.scale(loss).backward(inputs=weights)
        if self.by_hand:
            for weight in weights or ():
                weight.grad = None if weight.grad is None else self.accelerator.reduce(weight.grad, "mean")
        if self.config.clip:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(weights or self.weights, self.config.clip)
        self.scaler.step(optimizer)
        self.scaler.update()
        return loss.detach()

    def _take(self, losses: list[Tensor]) -> list[Tensor]:
        """Move losses, as means over the processes, to the position; an empty list for the next ones.

        Raises:
            UserError: one of them is not finite.
        """
        position = self.position
        if not losses:
            return []
        for value in self.accelerator.reduce(torch.stack(losses), "mean").tolist():
            if not math.isfinite(value):
                raise UserError(
                    "the training loss is not finite",
                    f"{value} in epoch {position.epoch}, step {len(position.losses) // len(self.work)}",
                    f"lower lr (now {self.config.lr}), clip gradients (clip=1.0), or train in fp32 "
                    f"(precision is {self.config.precision})",
                )
            position.losses.append(value)
        position.step = len(position.losses) // len(self.work)
        return []

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        self.network.eval()
        with self._autocast(), together(self.task):
            return self.task.evaluate(self._scatter, self._gather)

    def _judge(self, entry: dict[str, float]) -> None:
        """Close the epoch: keep the best weights of the last stage, lower the learning rate, stop."""
        position, config = self.position, self.config
        position.epochs.append(entry)
        stop = False
        if "dev_loss" not in entry:
            position.best_epoch = position.epoch
        elif self.work == self._at_work(config.epochs - 1):
            best = position.best_epoch
            if best < 0 or self._rank(entry) > self._rank(position.epochs[best]):
                position.best_epoch = best = position.epoch
                self.best = self._state()
            position.reductions, stop = self.schedule.judge(position.epochs, best, config.patience, position.reductions)
        position.epoch, position.step, position.losses = position.epoch + 1, 0, []
        position.finished = position.epoch >= config.epochs or stop

    def _rank(self, entry: dict[str, float]) -> tuple[float, float]:
        """By what is monitored, then by the other; what is not defined, NaN, is below all."""
        score, loss = (-math.inf if math.isnan(v) else v for v in (entry["dev_score"], -entry["dev_loss"]))
        return (score, loss) if self.config.monitor == "score" else (loss, score)

    def _due(self) -> bool:
        """Whether it is time for a checkpoint; the main process decides for all."""
        due = self.folder is not None and time.monotonic() - self._saved_at >= self.config.checkpoint_seconds
        if self.processes == 1:
            return due
        return bool(broadcast(torch.tensor(float(due), device=self.device)))

    def _save(self) -> None:
        """``best/`` first, then ``last/``: what ``last/`` knows of is always there."""
        if self.folder is None or not (self.main or self.shares):
            return
        if self.position.best_epoch != self._saved_best:
            now = self._state()
            self._put(self.best or now)
            with together(self.task, first_has):
                if self.main:
                    self.task.model.save_pretrained(self.folder / "best")
            self._put(now)
            self._saved_best = self.position.best_epoch
        optimizers, now = list(self.optimizers.values()), self.task.state_dict()
        save_checkpoint(
            self.folder / "last", now, self.best, optimizers, self.scaler, self.position, self.run_identity, self.main
        )
        self._saved_at = time.monotonic()

    def _state(self) -> dict[str, Tensor]:
        """A copy of all weights and buffers, of shares where they are that."""
        return {name: tensor.detach().clone() for name, tensor in self.task.state_dict().items()}

    def _put(self, state: dict[str, Tensor]) -> None:
        """Give the task these weights and buffers."""
        self.task.load_state_dict(state)

    def _autocast(self) -> AbstractContextManager[Any]:
        precision = self.config.precision
        return nullcontext() if precision == "fp32" else torch.autocast(self.device.type, DTYPES[precision])

    def _scatter(self, positions: np.ndarray) -> np.ndarray:
        if self.processes == 1:
            return positions
        padded = np.resize(positions, self.processes * math.ceil(len(positions) / self.processes))
        return padded[self.accelerator.process_index :: self.processes]

    def _gather(self, part: Tensor, rows: int) -> Tensor:
        if self.processes == 1:
            return part
        parts = self.accelerator.gather(part).unflatten(0, (self.processes, -1))
        return parts.transpose(0, 1).flatten(0, 1)[:rows]


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all weights of a module, see :class:`~weft.training.phase.Optimizer`."""
    return Optimizer(list(module.parameters())).build(config)

r"""The interface of a system: a published whole network, from raw rows to predictions, trained by the one loop.

A :class:`~weft.fusion.Fusion` joins frozen features; a system reads raw rows itself and may answer with anything: a
label, a map, an image, a text, a sound, a vector. Each is one folder of :mod:`weft.systems` (reader, network, loss,
judge, page), found by its name; ``weft fit | predict | evaluate | compare`` and ``weft list --kind system`` serve it
with no word written for it. It says

* what it reads of a row (:attr:`System.reads`) and what a prediction is (:attr:`System.writes`);
* who judges (:attr:`System.judge`), a registered :class:`~weft.tasks.judge.Judge` or task;
* its options, in its constructor: the settings of the network, of its loss and of its augmentation. Each is kept as an
  attribute of the same name, so that :meth:`System.config` is known;

and what the loop, the verbs and the comparison then call: :meth:`System.fitted`, :meth:`System.batch`,
:meth:`System.loss` (or :meth:`System.phases`, where a step has several), :meth:`System.predict`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from weft.data import Dataset, Split
from weft.errors import UserError, did_you_mean, some
from weft.models.pretrained import Pretrained, models
from weft.models.seen import Seen
from weft.registry import Registry, check_options, option_schema
from weft.tasks.base import Task, create_task, tasks
from weft.tasks.judge import Judge
from weft.training.phase import Optimizer, Phase

Scatter = Callable[[np.ndarray], np.ndarray]
Gather = Callable[[Tensor, int], Tensor]


def alone(positions: np.ndarray) -> np.ndarray:
    """What the only process computes: all positions ``(n,)``."""
    return positions


def whole(part: Tensor, count: int) -> Tensor:
    """What the only process computed, ``(n, ...)``, is all of it."""
    return part


Output = Literal["label", "map", "image", "text", "audio", "embedding"]
"""What a prediction is, and so how it is kept, see :mod:`weft.models.outputs`:

``label`` outputs ``(K,)`` of a task's head; ``map`` an ``(H, W)`` float array in [0, 1]; ``image`` an ``(H, W, 3)`` or
``(H, W)`` uint8 array; ``text`` a str; ``audio`` ``(samples, rate)``; ``embedding`` a ``(D,)`` float array.
"""


@dataclass(frozen=True)
class Need:
    """One thing that a system reads of a row.

    Attributes:
        kind: of the column: a kind of modality (``"image"``, ``"text"``, ``"audio"``, ``"vector"``, ...), or
            ``"label"`` for a column of the targets.
        target: it is the answer: read in training and by the judge, not needed to predict.
        several: all columns of that kind, in their order, not one.
        optional: rows may lack it.
    """

    kind: str
    target: bool = False
    several: bool = False
    optional: bool = False


class System(Pretrained, nn.Module, ABC):
    """Base of every system.

    Class attributes:
        reads: ``{role: Need}``. A role is played by the column of its name, or by the only one of its kind; the only
            label by the first target.
        writes: what :meth:`predict` gives.
        judge: name of a registered judge or task.
        reader: name of the data set that reads the folders this system was published with, if it has one.
        trained_with: settings of :class:`~weft.training.TrainConfig` that its paper has otherwise than the defaults.
        variants: ``{name: options}`` that a comparison puts beside it: its baselines and ablations.
        rows_at_once: how many rows :meth:`predict` gets at most.
        paper: citation.
        version: of its weights' names and options, see :class:`~weft.models.pretrained.Pretrained`.

    Example, the whole of one: pixels to a map of where it is bright, judged by the mean error.

        >>> import numpy as np, torch
        >>> from torch.nn import functional as F
        >>> from weft.data import Dataset, Modality, make_splits
        >>> from weft.tasks.base import Task, create_task, tasks
        >>> from weft.tasks.judge import Judge
        >>> from weft.training.system import Need, System, systems
        >>> from weft.training.system_task import fit_system, make_system
        >>> @tasks.register("mean error")
        ... class MeanError(Judge):
        ...     primary, higher_is_better = "error", False
        ...     def metrics(self, outputs, target):
        ...         return {"error": -float(self.scores(outputs, target).mean())}
        ...     def scores(self, outputs, target):
        ...         return np.array([-np.abs(o - t / 255).mean() for o, t in zip(outputs, target)])
        >>> @systems.register("bright")
        ... class Bright(System):
        ...     reads = {"photo": Need("image"), "mask": Need("image", target=True)}
        ...     writes, judge = "map", "mean error"
        ...     def __init__(self, *, width: int = 4):
        ...         super().__init__()
        ...         self.width = width
        ...         self.network = torch.nn.Sequential(
        ...             torch.nn.Conv2d(1, width, 1), torch.nn.ReLU(), torch.nn.Conv2d(width, 1, 1))
        ...     def batch(self, data, rows, rng=None):
        ...         columns = self.columns(data)
        ...         stacks = [np.stack([data.modalities[c].values[r] for r in rows]) for c in columns.values()]
        ...         return [torch.from_numpy(stack).unsqueeze(1).float() / 255 for stack in stacks]
        ...     def loss(self, batch):
        ...         photo, mask = batch
        ...         loss = F.binary_cross_entropy_with_logits(self.network(photo), mask, reduction="none")
        ...         return loss.mean(dim=(1, 2, 3))
        ...     def predict(self, data, rows):
        ...         return list(self.network(self.batch(data, rows)[0]).sigmoid()[:, 0].numpy())
        >>> photos = list(np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
        >>> masks = [np.where(p > 128, 255, 0).astype(np.uint8) for p in photos]
        >>> columns = {"photo": Modality("image", photos), "mask": Modality("image", masks)}
        >>> data = Dataset("toy", [f"r{i}" for i in range(40)], columns, {}, None, None, "regression")
        >>> split = make_splits(data)
        >>> bright = make_system("bright", data, split.train, width=8)
        >>> history = fit_system(bright, data, split, {"epochs": 40, "batch_size": 4, "lr": 0.1}, progress=False)
        >>> bright.evaluate(data, split.test)["error"] < 0.1
        True
    """

    reads: ClassVar[Mapping[str, Need]]
    writes: ClassVar[Output]
    judge: ClassVar[str]
    reader: ClassVar[str] = ""
    trained_with: ClassVar[Mapping[str, Any]] = {}
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    rows_at_once: ClassVar[int] = 32
    paper: ClassVar[str] = ""
    version: ClassVar[int] = 1
    cache_mb: float = 2048.0
    """Most that is kept in memory of what is computed once; the training setting of that name."""

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        """The system before training, with what is learned of the training rows ``(n,)`` first: classes, a vocabulary,
        means.

        Args:
            data: raw rows.
            rows: of the training part; nothing is learned from others.
            options: of the constructor, checked, without those that are learned (:data:`~weft.registry.Learned`), which
                have defaults there and are set here.
        """
        return cls(**options)

    @classmethod
    def arranged(cls, data: Dataset) -> Dataset:
        """The data as this system splits them, e.g. grouped by identity. Default: as they are."""
        return data

    @abstractmethod
    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> Any:
        """Tensors ``(B, ...)`` of raw rows, on any device, in any nesting of dict, list, tuple and dataclass.

        Args:
            data: raw rows.
            rows: their numbers.
            rng: seeded by the step, for what is augmented or drawn; torch's own generators are seeded then too. None:
                evaluation, no augmentation.
        """

    def loss(self, batch: Any) -> Tensor:
        """Loss of each row ``(B,)``, or of the batch as a whole, a scalar; of a batch on the device of the weights."""
        raise NotImplementedError(f"{type(self).__name__} needs a loss, or phases of its own")

    def phases(self) -> list[Phase]:
        """What a step does. Default: all weights under :meth:`loss`."""
        return [Phase("loss", self.loss, Optimizer(list(self.parameters())))]

    @abstractmethod
    def predict(self, data: Dataset, rows: np.ndarray) -> Sequence[Any]:
        """One value of :attr:`writes` per row, :attr:`rows_at_once` rows at most; evaluation mode, no gradient."""

    def order(self, data: Dataset, rows: np.ndarray, batch_size: int, rng: np.random.Generator) -> np.ndarray:
        """The rows ``(n,)`` of an epoch in the order they are trained on; as many in every epoch. Default: all,
        shuffled.
        """
        return rows[rng.permutation(len(rows))]

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Seen | None = None) -> Any:
        """What the judge compares with. Default: the values ``(n,)`` of the one column that is a target.

        Args:
            data: raw rows.
            rows: their numbers.
            seen: the rows the model was trained on, where predictions are compared with those too.
        """
        (role,) = (name for name, need in cls.reads.items() if need.target)
        column = cls.columns(data)[role]
        return data.targets[column][rows] if cls.reads[role].kind == "label" else take(data, column, rows)

    def make_judge(self, **options: Any) -> Judge:
        """The judge; ``options`` are its own. Systems that learn their task from the rows give that one."""
        judge: Any = tasks.create(self.judge, **options)
        return judge

    def validate(
        self, data: Dataset, rows: np.ndarray, batch_size: int, scatter: Scatter = alone, gather: Gather = whole
    ) -> dict[str, float]:
        """``loss`` and ``score`` of the dev rows, higher is better, by which the epoch is chosen.

        Default: mean loss, and mean score of the judge. Nothing, ``{}``: the last weights are kept.

        Args:
            data, rows: the dev rows.
            batch_size: of training.
            scatter: positions of all rows -> those this process computes.
            gather: what all processes computed ``(n, ...)``, in the order of all rows.
        """
        judge, found = self.make_judge(), []
        mine, size = scatter(np.arange(len(rows))), 4 * batch_size
        for start in range(0, len(mine), size):
            part = rows[mine[start : start + size]]
            losses, values = self.assess(data, part)
            scores = torch.from_numpy(np.asarray(judge.scores(values, self.truth(data, part)), dtype=np.float32))
            found.append(torch.stack([losses.float(), scores.to(losses.device)], dim=1))
        loss, score = gather(torch.cat(found), len(rows)).double().mean(dim=0).tolist()
        return {"loss": loss, "score": score}

    def assess(self, data: Dataset, rows: np.ndarray) -> tuple[Tensor, Sequence[Any]]:
        """Losses ``(n,)`` and predictions of rows; to be overridden where one pass gives both."""
        return self.loss(self.to_device(self.batch(data, rows))), self.predict(data, rows)

    @torch.no_grad()
    def predictions(
        self, data: Dataset, rows: np.ndarray, *, batch_size: int | None = None, seed: int = 0
    ) -> Iterator[Any]:
        """The prediction of every row ``(n,)``, one by one.

        Args:
            data: raw rows; targets need not be there.
            rows: their numbers.
            batch_size: rows of a forward pass.
            seed: of what is drawn, where predictions are samples.

        Raises:
            UserError: the data lack something the system reads; the rows are named.
        """
        self.check(data, rows, target=False)
        self.eval()
        size = batch_size or self.rows_at_once
        for start in range(0, len(rows), size):
            with torch.no_grad(), torch.random.fork_rng([]):
                torch.default_generator.manual_seed(seed + start)
                values = self.predict(data, np.asarray(rows[start : start + size]))
            yield from values

    def evaluate(
        self,
        data: Dataset,
        rows: np.ndarray,
        figures: Path | str | None = None,
        *,
        batch_size: int | None = None,
        **options: Any,
    ) -> dict[str, float]:
        """Metrics of rows, of predictions as they are kept; ``figures`` is a folder; ``options`` are the judge's."""
        from weft.models.outputs import rounded

        self.check(data, rows)
        judge, truth = self.make_judge(**options), self.truth(data, rows, self.seen)
        values = [rounded(self.writes, value) for value in self.predictions(data, rows, batch_size=batch_size)]
        outputs = np.stack(values) if self.writes in ("label", "embedding") else values
        if figures is not None:
            Path(figures).mkdir(parents=True, exist_ok=True)
            judge.figures(outputs, truth, Path(figures))
        return judge.metrics(outputs, truth)

    @classmethod
    def columns(cls, data: Dataset, *, target: bool = True) -> dict[str, Any]:
        """The column, or columns, that play each role; a target that is not there is left out where it is not needed.

        Raises:
            UserError: no column of the name, and none or several of the kind.
        """
        found: dict[str, Any] = {}
        for role, need in cls.reads.items():
            kinds = {name: modality.kind for name, modality in data.modalities.items()}
            if need.kind == "label":
                kinds = dict.fromkeys(data.targets, "label")
            able = [
                name for name, kind in kinds.items() if kind == need.kind and (name == role or name not in cls.reads)
            ]
            if need.kind == "label" and sum(other.kind == "label" for other in cls.reads.values()) == 1:
                able = able if role in able else able[:1]
            if need.several:
                found[role] = able
            elif role in able or len(able) == 1:
                found[role] = role if role in able else able[0]
            if not found.get(role) and (target or not need.target):
                raise UserError(
                    f"{cls.__name__} reads a column {role!r} of kind {need.kind!r}",
                    f"{data.name} has {some(f'{name} ({kind})' for name, kind in kinds.items()) or 'none'}",
                    f"{did_you_mean(role, kinds, 'columns')}; name it {role!r} if several could be meant",
                )
        return {role: names for role, names in found.items() if names}

    def check(self, data: Dataset, rows: np.ndarray, *, target: bool = True) -> None:
        """Refuse rows that lack something.

        Raises:
            UserError: as :meth:`columns`; or a row is empty in one of them, by id.
        """
        columns = self.columns(data, target=target)
        for role, need in self.reads.items():
            names = columns.get(role, []) if need.several else [columns[role]] if role in columns else []
            for name in names:
                if need.kind == "label" or need.optional or (need.target and not target):
                    continue
                gone = np.asarray(rows)[~data.modalities[name].presence[rows]]
                if len(gone):
                    raise UserError(
                        f"{data.name}: {type(self).__name__} reads {name!r} of every row",
                        f"{len(gone)} rows without: {some(data.ids[row] for row in gone)}",
                        "leave these rows out, or bring the values",
                    )

    def check_split(self, data: Dataset, split: Split) -> None:
        """Refuse rows to train on and to choose by, before anything is trained. Default: :meth:`check` of both."""
        self.check(data, np.concatenate([split.train, split.dev]))

    def config(self) -> dict[str, Any]:
        """The options of the constructor, as they are kept in attributes of their names."""
        return {name: getattr(self, name) for name in option_schema(type(self), type(self).__name__).model_fields}

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        return cls(**check_options(cls, cls.format.partition("/")[0], config))

    @property
    def device(self) -> torch.device:
        """That of the weights."""
        return next(self.parameters()).device

    def to_device(self, batch: Any) -> Any:
        """A batch on the device of the weights."""
        return moved(batch, self.device)


class TaskSystem(System):
    """Base of systems that end in the head of a task, whichever the data ask for: classification, regression, ...

    A subclass reads a ``label``, has the option ``task`` (learned, JSON), which it passes on here, and writes
    :meth:`inputs` and ``forward``, outputs ``(B, K)`` of them.
    """

    writes: ClassVar[Output] = "label"
    judge = "classification"

    def __init__(self, task: dict[str, Any]) -> None:
        super().__init__()
        self.task, self.answers = task, Task.from_config(task)

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        if options.get("task"):
            return cls(**options)
        target = data.targets[cls.columns(data)["label"]]
        return cls(**{**options, "task": create_task(data.task, target[rows]).config()})

    @abstractmethod
    def inputs(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> tuple[Any, ...]:
        """The arguments of ``forward``, see :meth:`System.batch`."""

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> tuple[Any, Tensor]:
        target = data.targets[self.columns(data)["label"]]
        return self.inputs(data, rows, rng), self.answers.encode(target[rows])

    def loss(self, batch: tuple[Any, Tensor]) -> Tensor:
        return self.answers.loss(self(*batch[0]), batch[1])

    def predict(self, data: Dataset, rows: np.ndarray) -> list[np.ndarray]:
        """Outputs ``(K,)``."""
        return list(self(*self.to_device(self.inputs(data, rows))).float().cpu().numpy())

    def validate(
        self, data: Dataset, rows: np.ndarray, batch_size: int, scatter: Scatter = alone, gather: Gather = whole
    ) -> dict[str, float]:
        """Mean loss, and the task's primary metric of all dev rows, larger is better."""
        target = data.targets[self.columns(data)["label"]][rows]
        mine, size = scatter(np.arange(len(rows))), 4 * batch_size
        batches = [self.inputs(data, rows[mine[start : start + size]]) for start in range(0, len(mine), size)]
        outputs = gather(torch.cat([self(*self.to_device(batch)).float() for batch in batches]), len(rows))
        loss = self.answers.loss(outputs, self.answers.encode(target).to(outputs.device)).mean()
        return {"loss": float(loss), "score": self.answers.quality(outputs.cpu().numpy(), target)}

    def make_judge(self, **options: Any) -> Judge:
        return self.answers


class Systems(Registry[System]):
    """Systems by name; each is a model too, so that :func:`~weft.models.pretrained.load_model` reads its folder."""

    def register(self, name: str, *, formerly: Sequence[str] = ()) -> Callable[[type[System]], type[System]]:
        """Class decorator: make the class known as ``name``; earlier names go on working, with a warning."""
        add, known = super().register(name, formerly=formerly), models.register(name, formerly=formerly)

        def both(cls: type[System]) -> type[System]:
            cls.format = f"{name}/{cls.version}"
            known(cls)
            return add(cls)

        return both


systems = Systems("system", "weft.systems")


def take(data: Dataset, column: str, rows: np.ndarray) -> list[Any]:
    """The raw values of rows ``(n,)``."""
    return [data.modalities[column].values[row] for row in rows]


def moved(batch: Any, device: torch.device) -> Any:
    """Tensors in any nesting of mappings, lists, tuples, named tuples and dataclasses on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(moved(value, device) for value in batch)
    if hasattr(batch, "__dataclass_fields__"):
        for name in batch.__dataclass_fields__:
            setattr(batch, name, moved(getattr(batch, name), device))
    return batch

"""What answers for rows: a network, a classical model, an ensemble. They share how raw rows are read and judged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict

import numpy as np
from torch import nn

from weft.data import Dataset, Failure
from weft.errors import UserError, some, warn_of
from weft.files import read_json, write_json
from weft.models.outputs import flat_columns
from weft.models.pooled import PooledInputs
from weft.models.pretrained import Pretrained
from weft.models.raw import encode_rows, read_frame
from weft.models.rows import choose_target, select
from weft.places import here
from weft.tasks.base import Task
from weft.tasks.conformal import Conformal

if TYPE_CHECKING:
    from weft.store import Features, MemoryFeatures

CONFORMAL = "conformal.json"


class Predictor(Pretrained):
    """A model that gives a task's outputs for rows of features.

    Attributes:
        names: the modalities it sees.
        task: the fitted task.
        target: column of the targets the task was fitted on; None: the first.
        encoders: ``{name: specification}`` of what made the features, to read raw rows; None where that is not known.
        table: how the table behind the features is read, as JSON.
        conformal: thresholds for sets or intervals that hold the truth as often as they say; None: not measured.
    """

    names: tuple[str, ...]
    task: Task
    target: str | None
    encoders: dict[str, Any] | None
    table: dict[str, Any] | None
    conformal: Conformal | None = None

    @property
    def needs_all(self) -> bool:
        """Whether it cannot do without a modality."""
        return False

    @abstractmethod
    def outputs(self, features: Features, rows: np.ndarray | None = None, *, batch_size: int = 512) -> np.ndarray:
        """Outputs ``(N, K)`` float32 of rows (default: all)."""

    def prior(self) -> np.ndarray:
        """``(K,)`` outputs for a row of which nothing is known: the class frequencies, or the mean."""
        if not self.task.probabilistic:
            return np.zeros(self.task.outputs, dtype=np.float32)
        found: np.ndarray = self.task.from_log_probabilities(self.task.log_prior()).numpy()
        return found

    def target_of(self, features: Features) -> np.ndarray:
        """The column of targets this model is about: ``target``, or the first.

        Raises:
            UserError: there is no such column.
        """
        return choose_target(features, self.target)[1]

    def predict(
        self, source: Any, rows: np.ndarray | None = None, *, sets: float | None = None, progress: bool = True
    ) -> dict[str, np.ndarray]:
        """Answers for raw rows or features.

        Args:
            source: features, or raw rows that the model's own encoders read: a data set, or a table (a path, a
                DataFrame, ``{column: cells}``) with the columns of the training table. Its target is not needed; a
                modality may lack all its columns; a row of which nothing is known gets the average answer.
            rows: which rows; all by default.
            sets: also ``"set"``, or ``"low"`` and ``"high"``, that hold the truth in this share of rows: 0.8, .9, .95.
            progress: show a bar while encoding.

        Returns:
            ``"id"`` ``(N,)`` and what the task decides: ``"prediction"``, and where it has one ``"probability"``: of
            classes ``(N, C)``, in the order of ``model.task.labels``. :meth:`predict_frame` gives a DataFrame.

        Raises:
            UserError: a modality lacks some of its columns, or the model does not know its encoders.
        """
        features = source if hasattr(source, "dims") else self.encode(source, progress=progress)
        rows = np.arange(len(features)) if rows is None else np.asarray(rows)
        ids = np.array([features.ids[row] for row in rows.tolist()])
        outputs = answers(self, features, rows)
        found = {"id": ids, **self.task.decide(outputs)}
        if sets is None:
            return found
        if self.conformal is None:
            raise UserError(
                "the model has no sets or intervals",
                f"sets={sets:g}, and no thresholds were measured",
                "measure them on rows it was not trained on: model.calibrate(features, rows)",
            )
        return {**found, **self.conformal.predict(self.task, outputs, self._presence(features)[rows], sets)}

    def predict_frame(self, frame: Any, *, sets: float | None = None, progress: bool = True) -> Any:
        """Answers for a table in its own form, one column for each class's probability: ``probability_yes``.

        A DataFrame of pandas gives one with the same index, one of polars another, ``{column: cells}`` a dictionary.
        Arguments and errors are those of :meth:`predict`.
        """
        if not (isinstance(frame, dict) or hasattr(frame, "to_dict")):
            what = "a frame is a pandas or polars DataFrame, or {column: cells}"
            raise UserError(what, type(frame).__name__, "use predict()")
        found = self.predict(frame, sets=sets, progress=progress)
        columns = flat_columns({name: cells for name, cells in found.items() if name != "id"}, self.task.labels)
        return type(frame)(columns, **({"index": frame.index} if hasattr(frame, "iloc") else {}))

    def calibrate(self, features: Features, rows: np.ndarray) -> None:
        """Measure the thresholds of sets or intervals on rows ``(n,)`` the model was not trained on.

        Raises:
            UserError: the task has neither classes, labels nor values.
        """
        target, presence = self.target_of(features)[rows], self._presence(features)[rows]
        self.conformal = Conformal.fit(self.task, self.outputs(features, rows), target, presence, self.names)

    def _presence(self, features: Features) -> np.ndarray:
        """``(N, M)`` of the modalities it sees."""
        presence: np.ndarray = features.presence[:, [list(features.dims).index(name) for name in self.names]]
        return presence

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the files into a folder, each in one step."""
        super().save_pretrained(folder)
        if self.conformal is not None:
            write_json(Path(folder) / CONFORMAL, self.conformal.to_dict())

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Self:
        """The model in a folder, with its thresholds where it has some; see :meth:`Pretrained.from_pretrained`."""
        model = super().from_pretrained(folder)
        places = [place / CONFORMAL for place in (here(folder), model.folder) if place is not None]
        found = next((place for place in places if place.is_file()), None)
        model.conformal = None if found is None else Conformal.from_dict(read_json(found))
        return model

    def encode(self, rows: Any, *, progress: bool = True, failures: list[Failure] | None = None) -> MemoryFeatures:
        """Features of raw rows, a data set or a table in memory, by the encoders the model was trained with.

        Of a table it warns where cells cannot be read or hold what training did not meet; of a data set the caller has
        the notes, here and in those of the features.

        Args:
            rows: see above.
            progress: show a bar.
            failures: values that cannot be read are put here and count as absent; None: they are an error.

        Raises:
            UserError: the model does not know its encoders, a modality is missing, or values cannot be read; all rows
                that hold such are named.
        """
        raw = isinstance(rows, Dataset)
        dataset = rows if raw else read_frame(rows, self.table)
        try:
            found = encode_rows(self.encoders, dataset, progress=progress, failures=failures)
        except UserError as error:
            bad: list[Failure] = []
            encode_rows(self.encoders, dataset, progress=False, failures=bad)
            raise naming_all(error, bad) from None
        warn_of(() if raw else found.notes)
        return found

    def evaluate(self, features: Features, rows: np.ndarray, figures: Path | str | None = None) -> dict[str, float]:
        """Metrics of the task on rows; ``figures`` is a folder for the task's figures."""
        outputs, target = answers(self, features, rows), self.target_of(features)[rows]
        if figures is not None:
            folder = Path(figures)
            folder.mkdir(parents=True, exist_ok=True)
            self.task.figures(outputs, target, folder)
        return self.task.metrics(outputs, target)


def naming_all(error: UserError, failures: Sequence[Failure]) -> UserError:
    """The error of the first cell that cannot be read, with the rows of all of them."""
    if len(failures) < 2:
        return error
    cells = some([f"{failure.row} ({failure.modality})" for failure in failures], 20)
    return UserError(error.what, f"{error.found}; {len(failures)} such cells: {cells}", error.remedy)


def answers(model: Predictor, features: Features, rows: np.ndarray, answer: np.ndarray | None = None) -> np.ndarray:
    """Outputs ``(n, K)`` float32; rows without any modality of the model get ``answer`` ``(K,)``; None: its prior."""
    features = select(features, model.names)
    there = features.presence[rows].any(axis=1)
    answer = model.prior() if answer is None else answer
    found = np.tile(np.asarray(answer, dtype=np.float32), (len(rows), 1))
    if there.any():
        found[there] = model.outputs(features, rows[there])
    return found


class About(TypedDict, total=False):
    """What a model keeps of where it comes from, see :class:`Predictor`."""

    target: str | None
    encoders: dict[str, Any] | None
    table: dict[str, Any] | None


class Fitted(nn.Module, Predictor):
    """Base of models that are fitted, not trained by steps: classical ones, and averages.

    Args:
        task: the fitted task, or its JSON.
        dims: width of each modality it sees.
        about: see :class:`About`.
    """

    def __init__(self, task: Task | dict[str, Any], dims: Mapping[str, int], about: About) -> None:
        super().__init__()
        self.task = task if isinstance(task, Task) else Task.from_config(task)
        self.dims, self.names = dict(dims), tuple(dims)
        self.target, self.encoders, self.table = about.get("target"), about.get("encoders"), about.get("table")

    def config(self) -> dict[str, Any]:
        origin = {"target": self.target, "encoders": self.encoders, "table": self.table}
        return {"task": self.task.config(), "dims": self.dims, **origin}


class OnPooled(Fitted):
    """A fitted model of pooled features.

    Args:
        task, about: see :class:`Fitted`.
        inputs: arguments of :class:`~weft.models.pooled.PooledInputs`, or one that is fitted.
    """

    def __init__(self, task: Task | dict[str, Any], inputs: PooledInputs | dict[str, Any], about: About) -> None:
        made = inputs if isinstance(inputs, PooledInputs) else PooledInputs(**inputs)
        super().__init__(task, made.dims, about)
        self.inputs = made

    def config(self) -> dict[str, Any]:
        found = super().config()
        del found["dims"]
        return {**found, "inputs": self.inputs.settings()}

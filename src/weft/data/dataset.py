"""Raw samples: :class:`Modality`, :class:`Dataset`, and the readers that make them from published sets.

``N`` rows; a row may lack modalities, but not all of them. A data set is one file: a class that derives from
:class:`FolderReader` or :class:`BuiltIn` and registers itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from weft.data.failure import Failure
from weft.data.files import require_files
from weft.data.kinds import kind_named
from weft.errors import UserError, did_you_mean, some
from weft.registry import Registry

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, eq=False)
class Modality:
    """One column of a data set, raw.

    Attributes:
        kind: decides what a value is, see :mod:`weft.data.kinds`:
            ``text`` a non-empty str; ``texts`` a tuple of str or None; ``image`` a path, PIL image or ``(H, W[, C])``
            uint8 array; ``depth`` a path or ``(H, W)`` array; ``audio`` a path or ``(samples, rate)``; ``video`` a path
            or ``(T, H, W, 3)`` array; ``series`` a ``(T, C)`` array; ``tabular`` a tuple of cells (float, str, datetime
            or None); ``date`` a tuple of datetimes or None; ``vector`` a ``(D,)`` array; ``tokens`` a ``(T, D)`` array.
        values: one per row; None where absent.
        fields: names of the cells of ``tabular`` and ``date``.
    """

    kind: str
    values: Sequence[Any]
    fields: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def presence(self) -> np.ndarray:
        """``(N,)`` bool: the rows in which the modality is there."""
        return np.array([value is not None for value in self.values], dtype=bool)

    def take(self, rows: np.ndarray) -> Self:
        """The values of ``rows`` ``(n,)``, in that order."""
        return replace(self, values=[self.values[i] for i in rows])

    def cells(self) -> dict[str, tuple[Any, ...]]:
        """``{field: its cells}``, None where the modality is absent; nothing where values have no fields."""
        gone = (None,) * len(self.fields)
        rows = [gone if value is None else value for value in self.values] if self.fields else []
        return dict(zip(self.fields, zip(*rows, strict=True), strict=False))

    def check(self, name: str, ids: Sequence[str]) -> None:
        """Refuse values that are not of the kind; files are not opened.

        Raises:
            UserError: unknown kind, a value of the wrong type or shape, NaN or infinite numbers; the rows are named.
        """
        there = [(row, value) for row, value in zip(ids, self.values, strict=True) if value is not None]
        kind_named(self.kind).check(name, [row for row, _ in there], [value for _, value in there], self.fields)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples whose columns are modalities, checked when made.

    Attributes:
        name: what reports call it.
        ids: one per row, unique.
        modalities: ``{name: Modality}``; their order is the order of the modalities everywhere.
        targets: ``{column: (N,) or (N, K)}`` strings, ints or floats. The first is the one asked for by default.
        split: ``(N,)`` "train" | "dev" | "test", or None.
        group: ``(N,)``; rows of one group never cross a split and are resampled together. None: every row is its own.
        task: registered name of what is asked (``weft list --kind task``).
        labels: ``{column: K names}`` of targets ``(N, K)`` of zeros and ones.
        table: JSON of the :class:`~weft.data.table_config.TableConfig` it was read by; models keep it to read new ones.
        time: ``(N,)`` seconds, for a ``temporal`` split; None where rows have no order.
        notes: what reading the data found and a person should know.
        failures: cells that could not be read and count as absent; their rows may be left out.
        blank: rows may lack every modality, as rows to predict may.

    Raises:
        UserError: no rows or modalities, unequal lengths, duplicate ids, a row without any modality, an unknown split,
            or values that are not of their kind.
    """

    name: str
    ids: list[str]
    modalities: dict[str, Modality]
    targets: dict[str, np.ndarray]
    split: np.ndarray | None
    group: np.ndarray | None
    task: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    table: dict[str, Any] | None = None
    time: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    blank: bool = False

    def __post_init__(self) -> None:
        if not self.ids or not self.modalities:
            found = f"{len(self.ids)} rows, {len(self.modalities)} modalities"
            raise UserError(f"{self.name}: a data set has rows and modalities", found, "check the file and its options")
        self._check_lengths()
        twice = [row for row, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise UserError(
                f"{self.name}: ids are unique", f"more than once: {some(twice)}", "give every row its own id"
            )
        for name, modality in self.modalities.items():
            modality.check(name, self.ids)
        if not self.blank:
            self._check_presence()
        if self.split is not None:
            unknown = [f"{i}: {s}" for i, s in zip(self.ids, self.split, strict=True) if s not in SPLITS]
            if unknown:
                raise UserError(
                    f"{self.name}: a split is train, dev or test", some(unknown), "rename or drop these rows"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def _check_lengths(self) -> None:
        columns = {f"modality {n!r}": len(m) for n, m in self.modalities.items()}
        columns |= {f"target {n!r}": len(t) for n, t in self.targets.items()}
        columns |= {
            n: len(c) for n, c in (("split", self.split), ("group", self.group), ("time", self.time)) if c is not None
        }
        odd = {name: length for name, length in columns.items() if length != len(self)}
        if odd:
            found = f"{len(self)} ids, but {', '.join(f'{n}: {length}' for n, length in odd.items())}"
            raise UserError(f"{self.name}: every column has one value per row", found, "use None where one is absent")

    def _check_presence(self) -> None:
        presence = np.stack([m.presence for m in self.modalities.values()])
        gone = [self.ids[i] for i in np.flatnonzero(~presence.any(axis=0))]
        if gone:
            raise UserError(
                f"{self.name}: every row has at least one modality",
                f"none of {', '.join(self.modalities)} in {len(gone)} rows: {some(gone)}",
                "drop these rows, or add a modality that they have",
            )

    def cells(self) -> dict[str, tuple[Any, ...]]:
        """``{column: its cells}`` of all modalities that are columns side by side."""
        return {field: cells for modality in self.modalities.values() for field, cells in modality.cells().items()}

    def take(self, rows: Sequence[int] | np.ndarray) -> Dataset:
        """The samples ``rows`` ``(n,)``, in that order, with their targets, split and groups.

        Raises:
            UserError: a row is outside the data set, or comes twice (ids are unique).
        """
        chosen = np.asarray(rows, dtype=np.int64)
        outside = chosen[(chosen < 0) | (chosen >= len(self))]
        if len(outside):
            raise UserError(f"rows of {self.name} are 0..{len(self) - 1}", some(outside.tolist()), "choose other rows")
        return replace(
            self,
            ids=[self.ids[i] for i in chosen],
            modalities={name: modality.take(chosen) for name, modality in self.modalities.items()},
            targets={name: target[chosen] for name, target in self.targets.items()},
            split=None if self.split is None else self.split[chosen],
            group=None if self.group is None else self.group[chosen],
            time=None if self.time is None else self.time[chosen],
        )

    def verify(self, name: str) -> None:
        """Read every sample of one modality, files included.

        Raises:
            UserError: the first sample that cannot be read, by row and path.
        """
        if name not in self.modalities:
            raise UserError("unknown modality", name, did_you_mean(name, self.modalities, "modalities"))
        modality = self.modalities[name]
        modality.check(name, self.ids)
        kind = kind_named(modality.kind)
        for row, value in zip(self.ids, modality.values, strict=True):
            if value is not None:
                kind.read(value, f"modality {name!r}, row {row!r}")


class Reader(ABC):
    """Base of every data set. Its keyword-only constructor arguments are its options.

    Class attributes:
        paper: where the data come from.
    """

    paper: ClassVar[str] = ""

    @abstractmethod
    def load(self, root: Path | None) -> Dataset:
        """Read or make the data set."""


class FolderReader(Reader):
    """A published set in its official layout on disk.

    Class attributes:
        layout: what the folder holds, for messages.
    """

    layout: ClassVar[str]

    @abstractmethod
    def read(self, root: Path) -> Dataset:
        """Read the folder."""

    def load(self, root: Path | None) -> Dataset:
        """Read ``root``; images and audio files must exist.

        Raises:
            UserError: no folder, a file of the layout is missing, or the content is not as it should be.
        """
        name = type(self).__name__
        if root is None or not root.exists():
            found = "no root" if root is None else f"no such folder: {root}"
            raise UserError(f"{name} is read from a folder", found, f"give root=, a folder with {self.layout}")
        dataset = self.read(root)
        for column, modality in dataset.modalities.items():
            require_files(column, dataset.ids, modality.values)
        return dataset

    def file(self, root: Path, *names: str) -> Path:
        """The first of ``names`` that exists under ``root``.

        Raises:
            UserError: none does.
        """
        for name in names:
            if (root / name).is_file():
                return root / name
        found = f"{root} has no {' or '.join(names)}"
        raise UserError(
            f"{type(self).__name__}: a file of the official layout is missing", found, f"expected {self.layout}"
        )


class BuiltIn(Reader):
    """A set that needs no files: generated, or part of scikit-learn."""

    @abstractmethod
    def make(self) -> Dataset:
        """Make the data set; the same options give the same bytes."""

    def load(self, root: Path | None) -> Dataset:
        """Make the data set.

        Raises:
            UserError: a root is given.
        """
        if root is not None:
            raise UserError(f"{type(self).__name__} needs no files", f"root={root}", "leave root out")
        return self.make()


datasets: Registry[Reader] = Registry("dataset", "weft.data", "weft.systems")


def load_dataset(name: str, root: str | Path | None = None, **options: Any) -> Dataset:
    """A registered data set: ``load_dataset("flickr8k", "data/flickr8k")``, ``load_dataset("xor", rows=500)``.

    Args:
        name: a name of ``datasets.names()``.
        root: folder of a published set, in its official layout; built-in sets take none.
        options: keyword arguments of the reader.

    Raises:
        UserError: unknown name or option, or the folder is not in the official layout.
    """
    return datasets.create(name, **options).load(None if root is None else Path(root))


def numbered(prefix: str, count: int) -> list[str]:
    """Ids ``prefix0 ... prefix{count - 1}``, padded with zeros so that they sort by number."""
    width = len(str(max(count - 1, 0)))
    return [f"{prefix}{i:0{width}d}" for i in range(count)]

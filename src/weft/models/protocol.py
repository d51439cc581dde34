"""Published ways to evaluate a model: ``weft evaluate MODEL SOURCE --protocol NAME``.

A protocol is one class of a system's folder. Its options are the keyword-only arguments of its constructor, its answer
a :class:`Report`; the verb does the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.data import Dataset
    from weft.store import Store


@dataclass(frozen=True)
class Report:
    """What a protocol found.

    Attributes:
        title: of the table.
        table: rows of equal keys, for people.
        values: everything, for programs; written as JSON.
        files: what it wrote besides.
    """

    title: str
    table: list[dict[str, Any]]
    values: Any
    files: list[Path] = field(default_factory=list)


class Protocol(ABC):
    """Base of every protocol.

    Class attributes:
        paper: where it is from.
    """

    paper: ClassVar[str] = ""

    @abstractmethod
    def run(self, model: Any, rows: Store | Dataset, split: str, folder: Path | None, *, progress: bool) -> Report:
        """Evaluate a model.

        Args:
            model: a loaded model.
            rows: a store, or raw rows.
            split: which rows, by what they were to the model, see :func:`weft.models.asked.rows_of`.
            folder: for figures and what is encoded on the way; None: no figures.
            progress: show bars.

        Raises:
            UserError: the model or the rows are not what the protocol is for.
        """


protocols: Registry[Protocol] = Registry("protocol", "weft.systems")

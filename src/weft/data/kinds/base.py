"""What a column can be: :class:`Kind` and the registry ``kinds``. A new kind is one file here that registers itself.

A kind knows everything about its values that is not encoding: how cells become values, what a value must be, how a file
behind one is read, how a column of that kind is recognised, which encoder is the default, and how a value is kept as
JSON where an encoder has to see it again. The command line, the store and the YAML know kinds by this registry alone.

Example:
    A kind of one's own, colours written as ``#ff8800``, with the default encoder of ready-made vectors::

        @kinds.register("colour")
        class Colour(Kind):
            encoder = "precomputed"

            def convert(self, columns, place):
                return [None if c is None else np.array(list(bytes.fromhex(c[1:])), float) / 255 for c in columns[0]]

            def looks(self, cells, folder):
                return share(cells, lambda cell: isinstance(cell, str) and bool(re.fullmatch("#[0-9a-f]{6}", cell)))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from weft.errors import UserError, short, some
from weft.registry import Registry


@dataclass(frozen=True)
class Place:
    """Where cells come from.

    Attributes:
        modality: its name.
        columns: names of the columns.
        ids: one per row.
        folder: of the table; paths in cells are relative to it.
        types: ``{column: type}`` of cells, see :mod:`weft.data.cells`; complete for kinds with ``typed``.
        notes: what a reader of the table should be told; kinds append to it.
        teaches: whether the rows are to be learned from, not asked about.
    """

    modality: str
    columns: Sequence[str]
    ids: Sequence[str]
    folder: Path
    types: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    teaches: bool = False


class Kind(ABC):
    """Base of every kind; it has no state and takes no options.

    Class attributes:
        encoder: registered name of the default encoder, which needs no weights.
        better: encoders worth trying instead, for the YAML of ``weft init``.
        better_for: what they are better for.
        transformers: registered encoder that reads ``hf:`` models; None where there is none.
        several: whether a modality may have several columns.
        typed: whether the type of its cells is learned from training rows.
        files: whether values may be paths.
    """

    encoder: ClassVar[str]
    better: ClassVar[tuple[str, ...]] = ()
    better_for: ClassVar[str] = "Models that usually encode better"
    transformers: ClassVar[str | None] = None
    several: ClassVar[bool] = False
    typed: ClassVar[bool] = False
    files: ClassVar[bool] = False

    @abstractmethod
    def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
        """Cells, one list per column, as values; None where the modality is absent.

        Raises:
            UserError: a cell cannot be a value; row and column are named.
        """

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """How sure a column of these present cells is of this kind, 0 to 1; the surest kind is proposed."""
        return 0.0

    def check(self, name: str, ids: Sequence[str], values: Sequence[Any], fields: Sequence[str]) -> None:
        """Refuse present values that are not of the kind, by row; files are not opened. Default: nothing."""
        return

    def read(self, value: Any, where: str) -> Any:
        """A value with its file read. Default: the value.

        Raises:
            UserError: the file is missing or damaged; ``where`` says whose it is.
        """
        return value

    def pack(self, value: Any) -> Any:
        """A value as JSON, for encoders that are fitted again on other rows.

        Raises:
            UserError: this kind has no such form.
        """
        raise UserError(
            "an encoder that is fitted again needs values that JSON can keep",
            f"kind {kinds.name_of(type(self))!r}",
            "write pack() and unpack() of the kind, or give the encoder refits = False",
        )

    def unpack(self, packed: Any) -> Any:
        """The inverse of :meth:`pack`."""
        return packed


class FileKind(Kind):
    """What lies in files of its own, named in the cells.

    Class attributes:
        suffixes: endings of such files, lower case.
    """

    files = True
    suffixes: ClassVar[frozenset[str]]

    def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
        """Paths relative to the table, addresses, and what cells hold themselves."""
        return paths(columns[0], place, self.held)

    def held(self, cell: Any, where: str) -> Any:
        """The value that a cell holds itself, as bytes of a file or as a picture. Default: there is none.

        Raises:
            UserError: it holds none.
        """
        raise UserError(f"{where}: a file is named by its path", short(repr(cell), 80), "give a path")

    def looks(self, cells: Sequence[Any], folder: Path) -> float:
        """The share of the cells that are names of such files."""
        return share(cells, lambda cell: has_suffix(cell, self.suffixes))


kinds: Registry[Kind] = Registry("kind of modality", "weft.data.kinds")


def kind_named(name: str) -> Kind:
    """The kind registered as ``name``.

    Raises:
        UserError: there is no such kind.
    """
    return kinds.get(name)()


def share(cells: Sequence[Any], looks: Callable[[Any], bool]) -> float:
    """The part of the cells that look so."""
    return sum(map(looks, cells)) / len(cells) if len(cells) else 0.0


def refuse(rows: Sequence[str], what: str, remedy: str) -> None:
    """Raise a UserError that names the rows, if there are any."""
    if rows:
        raise UserError(what, f"{len(rows)} wrong rows: {some(rows)}", remedy)


def check_arrays(name: str, ids: Sequence[str], values: Sequence[Any], kind: str, shape: str) -> None:
    """Refuse values that are no finite numeric arrays of ``shape``, such as ``(T, C)``, with one last axis."""
    axes, what = shape.count(",") + (not shape.endswith(",)")), f"modality {name!r}"
    there = list(zip(ids, values, strict=True))
    wrong = [row for row, v in there if not isinstance(v, np.ndarray) or v.ndim != axes or v.dtype.kind not in "fiu"]
    refuse(wrong, f"{what}: a {kind} is a numeric array {shape}", "reshape, or choose another kind")
    empty = [row for row, v in there if v.size == 0]
    refuse(
        empty, f"{what}: an array without values", "leave the cell empty (in Python: None) where the modality is absent"
    )
    widths = Counter(v.shape[-1] for _, v in there)
    if len(widths) > 1:
        usual = widths.most_common(1)[0][0]
        odd = [(row, v.shape[-1]) for row, v in there if v.shape[-1] != usual]
        raise UserError(
            f"{what}: every {kind} {shape} has the same last axis",
            f"mostly {usual}, but {some(f'{row}: {width}' for row, width in odd)}",
            "cut or pad these rows, or empty their cells; arrays of unequal length along T are a series or tokens, "
            "not a vector (in a YAML: kind: series)",
        )
    bad = [row for row, v in there if not np.isfinite(v).all()]
    remedy = "fill the gaps, drop these rows, or leave the whole cell empty (in Python: None): absent"
    refuse(bad, f"{what}: NaN or infinite values", remedy)


def paths(cells: Sequence[Any], place: Place, held: Callable[[Any, str], Any]) -> list[Any]:
    """Cells as paths relative to the table, or addresses; other cells, and structs with ``bytes`` as Hugging Face
    writes images, as what ``held`` makes of them.

    Raises:
        UserError: a cell that names no file and holds none that can be read, or files that do not exist.
    """
    from weft.data.files import located, require_files
    from weft.data.remote import Remote, is_address

    values: list[Any] = []
    for row, cell in zip(place.ids, cells, strict=True):
        where = f"modality {place.modality!r}, row {row!r}"
        if isinstance(cell, dict) and cell.get("bytes") is not None:
            values.append(held(cell, where))
        elif cell is None or isinstance(cell, str | dict):
            path = (cell.get("path") if isinstance(cell, dict) else cell) or ""
            values.append(Remote(path.strip()) if is_address(path) else located(place.folder, path) if path else None)
        else:
            values.append(held(cell, where))
    require_files(place.modality, place.ids, values)
    return values


def has_suffix(cell: Any, suffixes: frozenset[str]) -> bool:
    """Whether a cell is the name or address of a file with one of these endings."""
    if not isinstance(cell, str) or len(cell) >= 1024:
        return False
    name = cell.partition("?")[0].partition("#")[0] if cell.strip().lower().startswith("http") else cell
    return Path(name.strip()).suffix.lower() in suffixes

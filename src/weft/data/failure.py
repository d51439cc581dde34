"""A cell that could not be read and was left out instead of ending the work: what ``--on-error skip`` reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

OnError = Literal["stop", "skip"]
"""What a cell that cannot be read does: end the work, or count as absent and be reported."""


@dataclass(frozen=True)
class Failure:
    """One cell.

    Attributes:
        row: id of its row.
        modality: which is absent there now.
        value: the path, the address or the beginning of what the cell holds.
        why: what reading it met.
    """

    row: str
    modality: str
    value: str
    why: str

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return asdict(self)

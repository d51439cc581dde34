"""What encoding did: how many values, how fast, what was there already and what failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from weft.data.failure import Failure


@dataclass
class ModalityReport:
    """What encoding did for one modality.

    Attributes:
        rows: rows in which it is present.
        values: different values among them.
        encoded: values that were encoded now; the others were there already.
        seconds: wall time of that.
    """

    rows: int
    values: int
    encoded: int = 0
    seconds: float = 0.0

    @property
    def reused(self) -> int:
        """Values that were in the store already."""
        return self.values - self.encoded

    @property
    def per_second(self) -> float:
        """Encoded values per second; 0 when nothing was encoded."""
        return self.encoded / self.seconds if self.seconds > 0 else 0.0


@dataclass
class EncodeReport:
    """What :func:`~weft.store.encode.encode` did.

    Attributes:
        modalities: by modality.
        failures: the cells that could not be read, those of rows that are in the store from before included.
        left_out: ids of rows that are not in the store, as no modality of theirs could be read.
    """

    modalities: dict[str, ModalityReport] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            name: {**vars(report), "reused": report.reused, "per_second": report.per_second}
            for name, report in self.modalities.items()
        }

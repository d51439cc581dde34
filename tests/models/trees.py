"""Trees of given rows and settings, for tests."""

from __future__ import annotations

from typing import Any

from weft.models.boosted import ROUNDS, Rows, Trees, boosting
from weft.tasks.base import Task


def boost(
    task: Task, train: Rows, dev: Rows | None, *, library: str = "lightgbm", threads: int = 1, **settings: Any
) -> tuple[Trees, int]:
    """Bin and grow; settings are those of ``Boosting.grow``, if not given those of LightGBM itself."""
    chosen = {"leaves": 31, "rate": 0.1, "columns": 1.0, "share": 0.8, "rounds": ROUNDS, "deadline": None, **settings}
    return boosting(task, ([train[0]], train[1]), dev, library=library, threads=threads).grow(**chosen)

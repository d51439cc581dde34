"""What the reader of a table has to know about tasks: how the target of each is read.

The registry stands here, below the tasks, because tables are read by it; the tasks themselves stand in ``weft.tasks``
and are found by discovery, so that a new one needs no line here.
"""

from __future__ import annotations

from typing import Any, Literal

from weft.registry import Registry

Reads = Literal["classes", "numbers", "sets", "columns"]
tasks: Registry[Any] = Registry("task", "weft.tasks", "weft.systems")
RETRIEVAL = "retrieval"
"""What is asked where there is no target."""


def reads_of(task: str) -> Reads | None:
    """How the target of a task is read; None for retrieval, which has none.

    Raises:
        UserError: no such task.
    """
    return None if task == RETRIEVAL else tasks.get(task).reads

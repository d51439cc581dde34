"""How far a long piece of work is: a bar on a terminal, elsewhere a line now and then. Both go to standard error."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn

EVERY = 30.0
"""Seconds between two lines."""


class Lines(Progress):
    """Progress where no bar can be drawn: one line for every task that moved, at most every ``EVERY`` seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, disable=True)
        self._next = time.monotonic() + EVERY

    def update(self, task_id: TaskID, *args: Any, **changes: Any) -> None:
        """As of :class:`rich.progress.Progress`; tells when it is time."""
        super().update(task_id, *args, **changes)
        self._tell(self._tasks[task_id])

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As of :class:`rich.progress.Progress`; tells when it is time."""
        super().advance(task_id, advance)
        self._tell(self._tasks[task_id])

    def _tell(self, task: Task) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY
        of = "" if task.total is None else f"/{task.total:.0f}"
        left = "" if task.time_remaining is None else f", about {task.time_remaining:.0f} s left"
        self.console.print(f"{task.description}  {task.completed:.0f}{of}{left}", markup=False, highlight=False)


class Silent(Progress):
    """Progress that nobody sees; it costs nothing to make, so every request to a server can have one."""

    def __init__(self) -> None:
        pass

    def start(self) -> None:
        """Nothing."""

    stop = start

    def add_task(self, *args: Any, **options: Any) -> TaskID:
        """A task that is not kept."""
        return TaskID(0)

    def update(self, task_id: TaskID, *args: Any, **changes: Any) -> None:
        """Nothing."""

    advance = update


def progress_bar(wanted: bool = True) -> Progress:
    """A context manager: ``task = bar.add_task(name, total=n)``, then ``bar.advance(task)``; silent unless wanted."""
    if not wanted:
        return Silent()
    console = Console(stderr=True)
    if not console.is_terminal:
        return Lines(console)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)

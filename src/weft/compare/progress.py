"""What a person sees while a comparison runs: a bar over its seconds; without a terminal, a line now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from weft.compare.costs import Costs
from weft.compare.ledger import Job
from weft.compare.schedule import Clock
from weft.progress import progress_bar


class Display:
    """Watches jobs: shows them, and learns what they cost.

    Args:
        clock: the budget.
        costs: estimates, which learn from every job.
        wanted: show anything at all.
        look: called between two jobs.
    """

    def __init__(self, clock: Clock, costs: Costs, wanted: bool, look: Callable[[], None]) -> None:
        self.clock, self.costs, self.look = clock, costs, look
        self.bar = progress_bar(wanted)
        self.task = self.bar.add_task("comparing")
        self.done, self._begun = 0, dict[str, float]()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def least(self, job: Job) -> float:
        """How long it will probably take until a job has something to keep."""
        return self.costs.least(job)

    def begins(self, job: Job, waiting: list[Job]) -> None:
        """A job starts; ``waiting`` have not begun."""
        self._begun[job.label] = self.clock.elapsed
        count = self.done + len(self._begun) + len(waiting)
        self._show(f"job {self.done + 1} of {count}: {job.label}", [job, *waiting])

    def ended(self, job: Job, waiting: list[Job]) -> None:
        """A job is over."""
        took = self.clock.elapsed - self._begun.pop(job.label)
        found = self.costs.setup.ledger.get(job)
        if found is not None and found["status"] == "done" and not found.get("cut"):
            self.costs.learn(job, took)
        self.done += 1
        self.look()

    def _show(self, text: str, jobs: list[Job]) -> None:
        """The bar is over seconds: what has passed, and what the jobs will take or the budget allows."""
        now, left = self.clock.elapsed, self.costs.total(jobs)
        if self.clock.budget is not None:
            left = min(left, max(0.0, self.clock.budget - now))
        self.bar.update(self.task, description=text, completed=now, total=now + left)

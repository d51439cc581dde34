"""The jobs of a comparison as tasks of Ray, on one machine or on many; the ledger lies in a folder that all can see.

Ray starts a task where a core is free, and again where its process or host dies; a job writes its own files and draws
its own seeds, so the verdict is that of one process. Features, ledger and the working folder have the same path
everywhere (a shared file system); figures come back through the ledger alone.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import ExitStack, suppress
from typing import Any

from weft.compare.jobs import Setup, failed_job, finished, run_job
from weft.compare.ledger import Job
from weft.compare.schedule import Crew, Watch, threads
from weft.store.ray import AGAIN, connected


def _do(setup: Setup, job: Job, seconds: float | None, where: str) -> None:
    """A job, by a process of Ray; ``seconds`` are left for it."""
    with suppress(OSError):
        os.chdir(where)
    with threads(setup.config.threads):
        run_job(setup, job, None if seconds is None else time.monotonic() + seconds)


class RayCrew(Crew):
    """:class:`~weft.compare.schedule.Crew` whose processes are Ray's.

    Args:
        setup, watch: as of the crew; ``setup.config.on`` says where.
    """

    def __init__(self, setup: Setup, watch: Watch) -> None:
        super().__init__(setup, watch)
        self.open = ExitStack()
        self.ray = self.open.enter_context(connected(setup.config.on or "ray", setup.config.jobs))
        self.count = max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        self.task = self.ray.remote(num_cpus=1, max_retries=AGAIN)(_do)
        self.tasks: dict[Any, Job] = {}
        self.shared = self.ray.put(setup)

    def __exit__(self, *_: object) -> None:
        self.open.close()

    def move(self, setup: Setup) -> None:
        self.setup, self.shared = setup, self.ray.put(setup)

    @property
    def running(self) -> list[Job]:
        return list(self.tasks.values())

    def run(self, jobs: list[Job], deadline: float = math.inf, always: bool = False) -> list[Job]:
        waiting = [job for job in jobs if not self.setup.ledger.finished(job)]
        todo = list(waiting)
        while True:
            while len(self.tasks) < self.count and (job := self._take(waiting, deadline, always)):
                left = None if math.isinf(deadline) else deadline - time.monotonic()
                self.tasks[self.task.remote(self.shared, job, left, os.getcwd())] = job
            if not self.tasks:
                return [job for job in todo if finished(self.setup, job) is None]
            for done in self.ray.wait(list(self.tasks), num_returns=1)[0]:
                job = self.tasks.pop(done)
                try:
                    self.ray.get(done)
                except self.ray.exceptions.RayError as error:
                    failed_job(self.setup, job, f"Ray gave it up: {type(error).__name__}", 0.0)
                self.watch.ended(job, waiting)

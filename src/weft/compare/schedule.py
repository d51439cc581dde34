"""Do the jobs of a comparison, one after the other or several at a time, while the budget lasts.

A later seed of a method needs the settings that its first seed was tuned to, so it starts after that one; everything
else is independent. Jobs write their own files and draw their own seeds: figures do not depend on how many processes
did them. A process that dies takes one job with it, which becomes a failed row; another process takes its place.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from rich.progress import Progress

from weft.allocator import keep_freed_memory
from weft.compare.jobs import Job, Setup, failed_job, finished, run_job
from weft.errors import UserError


class Clock:
    """Time since the comparison began, against the budget."""

    def __init__(self, budget: float | None) -> None:
        self._budget, self._started = budget, time.monotonic()

    @property
    def over(self) -> bool:
        return self._budget is not None and time.monotonic() - self._started >= self._budget


def run_jobs(setup: Setup, jobs: list[Job], clock: Clock, bar: Progress, what: str) -> list[str]:
    """Do what is not done yet, in order, while there is time; labels of what never ran."""
    waiting = [job for job in jobs if not _done(setup, job)]
    task = bar.add_task(what, total=len(jobs), completed=len(jobs) - len(waiting))
    count = min(setup.config.jobs, len(waiting))
    doing = _alone(setup, waiting, clock) if count < 2 else _together(setup, waiting, clock, count)
    for job, ended in doing:
        bar.update(task, description=f"{what}: {job.label}", advance=int(ended))
    return [job.label for job in waiting if finished(setup, job) is None]


def _done(setup: Setup, job: Job) -> bool:
    found = finished(setup, job)
    return found is not None and found["status"] == "done"


def _alone(setup: Setup, jobs: list[Job], clock: Clock) -> Iterator[tuple[Job, bool]]:
    """Jobs as they start and (True) end, in this process."""
    with threads(setup.config.threads):
        for job in jobs:
            if clock.over:
                return
            yield job, False
            run_job(setup, job)
            yield job, True


def _together(setup: Setup, jobs: list[Job], clock: Clock, count: int) -> Iterator[tuple[Job, bool]]:
    """Jobs as they start and (True) end, in ``count`` processes."""
    idle, running, waiting = [_Worker(setup) for _ in range(count)], dict[_Worker, Job](), list(jobs)
    try:
        for worker in idle:
            worker.wait()
        while True:
            while idle and not clock.over and (job := _next(waiting, list(running.values()))):
                worker = idle.pop()
                waiting.remove(job)
                worker.start(job)
                running[worker] = job
                yield job, False
            if not running:
                return
            ended = wait([worker.pipe for worker in running])
            for worker in [worker for worker in running if worker.pipe in ended]:
                job = running.pop(worker)
                worker.end(job)
                idle.append(worker)
                yield job, True
    finally:
        for worker in running:
            worker.process.kill()
        for worker in idle:
            with suppress(OSError):
                worker.pipe.send(None)
        for worker in (*running, *idle):
            worker.process.join()


def _next(waiting: list[Job], running: list[Job]) -> Job | None:
    """The first job whose tuning neither runs nor waits."""
    open_tunings = {(job.method, job.fold) for job in (*running, *waiting) if not job.seed}
    return next((job for job in waiting if not job.seed or (job.method, job.fold) not in open_tunings), None)


class _Worker:
    """A process that does one job after the other."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._open()

    def _open(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(self.setup, other), daemon=True)
        self.process.start()
        other.close()

    def wait(self) -> None:
        """Until the process can work.

        Raises:
            UserError: it never could.
        """
        try:
            self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise UserError(
                "a process of the comparison cannot start",
                f"it ended with exit code {self.process.exitcode}; what it said is above",
                "jobs=1 (--jobs 1) does without; in a script, call compare under `if __name__ == '__main__'`",
            ) from None

    def start(self, job: Job) -> None:
        """Hand a job over; to another process, where this one died since its last."""
        try:
            self.pipe.send(job)
        except BrokenPipeError:
            self._open()
            self.wait()
            self.pipe.send(job)

    def end(self, job: Job) -> None:
        """Take note that a job ended, or that its process did."""
        try:
            self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            failed_job(self.setup, job, f"its process ended with exit code {self.process.exitcode}", 0.0)
            self._open()
            self.wait()


def _work(setup: Setup, pipe: Connection[Any, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    keep_freed_memory()
    torch.set_num_threads(setup.config.threads)
    pipe.send(None)
    with suppress(EOFError):
        while (job := pipe.recv()) is not None:
            run_job(setup, job)
            pipe.send(None)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch with ``count`` threads, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

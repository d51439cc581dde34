"""Do the jobs of a comparison, here or in several processes, while there is time.

A later seed of a method needs the settings that its first seed was tuned to, so it starts after that one; everything
else is independent. Jobs write their own files and draw their own seeds: figures do not depend on how many processes
did them. A process that dies takes one job with it, which becomes a failed row; another process takes its place. While
the processes start, this one works.

A job starts only if it will probably have something to keep before the deadline (one of its trials), and all of them
look at the deadline while they run.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar, Protocol, Self

import torch

from weft.allocator import keep_freed_memory
from weft.compare.jobs import Setup, failed_job, finished, run_job
from weft.compare.ledger import Job
from weft.errors import UserError
from weft.store import Features


class Clock:
    """Time since the comparison began, against the budget.

    Args:
        budget: seconds; None: no limit.
        started: of ``time.monotonic()``; now, if not given.
    """

    def __init__(self, budget: float | None, started: float | None = None) -> None:
        self.budget, self.started = budget, time.monotonic() if started is None else started

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def deadline(self, reserve: float = 0.0) -> float:
        """When ``reserve`` seconds of the budget are left, on ``time.monotonic()``; infinity without a budget."""
        return math.inf if self.budget is None else self.started + self.budget - reserve


MOST_BUSY = 4.0
"""A machine is not believed to stay busier than this: what is kept back for the end would eat the budget."""


PROCESS_BYTES = 1 << 30
"""What a process of a comparison takes beside its features."""


class Busy:
    """How many seconds a second of this process's work takes, by the last stretch of work that was timed."""

    def __init__(self) -> None:
        self.factor = 1.0
        self.start()

    def start(self) -> None:
        """A stretch of work begins."""
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def stop(self) -> None:
        """It ends; one that took next to nothing says nothing."""
        wall, cpu = time.monotonic() - self._wall, time.process_time() - self._cpu
        if cpu > 0.1:
            self.factor = min(max(1.0, wall / cpu), MOST_BUSY)


class Watch(Protocol):
    """Who is told what happens."""

    def begins(self, job: Job, waiting: list[Job]) -> None: ...
    def ended(self, job: Job, waiting: list[Job]) -> None: ...
    def least(self, job: Job) -> float: ...


class Crew:
    """The processes of a comparison; a context that ends them.

    Args:
        setup: what they share.
        watch: is told what happens, and guesses how long a job takes until it has something.

    Class attributes:
        helps: this process does jobs while the others start.
    """

    helps: ClassVar[bool] = True

    def __init__(self, setup: Setup, watch: Watch) -> None:
        self.setup, self.watch = setup, watch
        self.count = setup.config.jobs if setup.config.jobs > 1 else 0
        self.workers: list[_Worker] = []
        self.ready = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.close()

    @property
    def running(self) -> list[Job]:
        """What is being done by the processes."""
        return [worker.job for worker in self.workers if worker.job is not None]

    def move(self, setup: Setup) -> None:
        """Work for another setup from now on, in the same processes; only between two calls of :meth:`run`."""
        self.setup = setup
        for worker in self.workers:
            worker.move(setup)

    def run(self, jobs: list[Job], deadline: float = math.inf, always: bool = False) -> list[Job]:
        """Do what is not done yet, in order, while there is time; the jobs that never ran.

        Args:
            jobs: what to do.
            deadline: of ``time.monotonic()``.
            always: start every job, however late it is; one that is late ends as soon as it has anything.
        """
        waiting = [job for job in jobs if not self.setup.ledger.finished(job)]
        if len(waiting) > 1 and not self.workers:
            self.workers = [_Worker(self.setup) for _ in range(self.count)]
        todo = list(waiting)
        limit = None if math.isinf(deadline) else deadline
        with threads(self.setup.config.threads):
            while True:
                for worker in self.workers:
                    if worker.ready and worker.job is None and (job := self._take(waiting, deadline, always)):
                        worker.start(job, limit)
                helping = self.helps and not self.ready and not all(worker.ready for worker in self.workers)
                self.ready = self.ready or not helping
                job = self._take(waiting, deadline, always) if helping or not self.workers else None
                if job is not None:
                    run_job(self.setup, job, limit)
                    self.watch.ended(job, waiting)
                elif not any(worker.job is not None for worker in self.workers) and not self._restarts(waiting):
                    return [job for job in todo if finished(self.setup, job) is None]
                open_pipes = [worker.pipe for worker in self.workers if worker.job is not None or not worker.ready]
                for pipe in wait(open_pipes, timeout=None if job is None else 0):
                    worker = next(worker for worker in self.workers if worker.pipe is pipe)
                    if (ended := worker.hear()) is not None:
                        self.watch.ended(ended, waiting)

    def _restarts(self, waiting: list[Job]) -> bool:
        """Whether a process that takes the place of a dead one is to be waited for."""
        return self.ready and bool(waiting) and any(not worker.ready for worker in self.workers)

    def _take(self, waiting: list[Job], deadline: float, always: bool) -> Job | None:
        """The next job that will probably have something in time."""
        left = math.inf if always else deadline - time.monotonic()
        job = next_job([job for job in waiting if self.watch.least(job) <= left], self.running, waiting)
        if job is not None:
            waiting.remove(job)
            self.watch.begins(job, waiting)
        return job


def crew(setup: Setup, watch: Watch) -> Crew:
    """The processes of a comparison, where its settings want them."""
    if setup.config.on is None:
        return Crew(setup, watch)
    from weft.compare.ray import RayCrew

    return RayCrew(setup, watch)


def next_job(able: list[Job], running: list[Job], waiting: list[Job]) -> Job | None:
    """The first able job whose tuning neither runs nor waits."""
    open_tunings = {(job.method, job.fold) for job in (*running, *waiting) if not job.seed}
    return next((job for job in able if not job.seed or (job.method, job.fold) not in open_tunings), None)


class _Worker:
    """A process that does one job after the other."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.job: Job | None = None
        self._open()

    def _open(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(self.setup, other), daemon=True)
        self.ready = False
        self.process.start()
        other.close()

    def start(self, job: Job, deadline: float | None) -> None:
        """Hand a job over."""
        self.job = job
        self._tell((job, deadline))

    def move(self, setup: Setup) -> None:
        """Work for another setup."""
        self.setup = setup
        self._tell(setup)

    def _tell(self, message: Any) -> None:
        """Say something to the process; to another one, where this one died since its last job."""
        try:
            self.pipe.send(message)
        except BrokenPipeError:
            self._open()
            self.pipe.send(message)

    def hear(self) -> Job | None:
        """What the process says: that it is ready, or (the job) that its job ended, or by its end that both did.

        Raises:
            UserError: it could not start.
        """
        try:
            self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            if not self.ready:
                raise UserError(
                    "a process of the comparison cannot start",
                    f"it ended with exit code {self.process.exitcode}; what it said is above",
                    "jobs=1 (--jobs 1) does without; in a script, call compare under `if __name__ == '__main__'`",
                ) from None
            if self.job is not None:
                failed_job(self.setup, self.job, f"its process ended with exit code {self.process.exitcode}", 0.0)
            self._open()
            return self._done()
        if not self.ready:
            self.ready = True
            return None
        return self._done()

    def _done(self) -> Job | None:
        job, self.job = self.job, None
        return job

    def close(self) -> None:
        """End the process: at once if it works, else when it hears of it."""
        if self.job is not None or not self.ready:
            self.process.kill()
        else:
            with suppress(OSError):
                self.pipe.send(None)
        self.process.join()


def _work(setup: Setup, pipe: Connection[Any, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    keep_freed_memory()
    torch.set_num_threads(setup.config.threads)
    pipe.send(None)
    with suppress(EOFError):
        while (message := pipe.recv()) is not None:
            if isinstance(message, Setup):
                setup = message
            else:
                run_job(setup, *message)
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


def processes(features: Features) -> int:
    """How many jobs at a time: one per core, as far as the machine's memory holds the features of each, pooled."""
    each = PROCESS_BYTES + 4 * len(features) * sum(features.dims.values())
    return max(1, min(cores(), memory() // each))


def memory() -> int:
    """Bytes of the machine's memory; as good as endless where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def cores() -> int:
    """Cores this process may use; one where a GPU does the work."""
    if torch.cuda.is_available():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

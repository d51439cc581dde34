"""Requests that wait at the same time are answered by one forward pass.

Nothing waits for company: while a batch is worked on the next one gathers, so batches are as large as the server is
busy, and a lone request is answered at once. Work goes to a thread, so that the server answers for its health and
keeps its time limit while a model thinks; a lone row after a batch that took next to nothing is worked on where it is,
since queue and thread would take as long.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from weft.errors import UserError

Work = Callable[[list[Any]], Sequence[Any]]
QUICK = 0.005
"""CPU seconds of work that the server may be deaf for."""


class Batcher:
    """A queue in front of one worker thread.

    Args:
        work: rows to answers, one each.
        most: rows of a batch; a request is never cut.
        limit: seconds until whoever asked hears that it took too long; None: never. A thread cannot be stopped, so what
            is being worked on is finished, for nobody.
    """

    def __init__(self, work: Work, most: int = 64, limit: float | None = None) -> None:
        self.work, self.most, self.limit = work, most, limit
        self.batches = self.rows = 0
        self._last = math.inf  # CPU seconds of the last batch
        self._here = 0  # requests that have no answer yet
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[list[Any], asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None  # answers as long as anybody waits

    async def ask(self, rows: list[Any]) -> list[Any]:
        """Answers of rows, in their order; what ``work`` raised for them is raised here.

        Raises:
            TimeoutError: it took longer than the limit, waiting included.
        """
        self._here += 1
        try:
            await asyncio.sleep(0)  # whoever came at the same time is here now
            if self._here == 1 and len(rows) == 1 and self._last < QUICK:
                self.batches, self.rows = self.batches + 1, self.rows + 1
                return self._timed(rows)
            return await self._queued(rows)
        finally:
            self._here -= 1

    async def _queued(self, rows: list[Any]) -> list[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        async with asyncio.timeout(self.limit):
            return list(await answer)

    async def alone(self, work: Callable[[], Any]) -> Any:
        """Something else, by the same thread; raises as :meth:`ask`."""
        return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(self._thread, work), self.limit)

    def _timed(self, rows: list[Any]) -> list[Any]:
        began = time.thread_time()
        answers = list(self.work(rows))
        self._last = time.thread_time() - began
        return answers

    async def stop(self) -> None:
        """After what is waiting has been answered."""
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        while self._waiting:
            batch, count = [], 0
            while self._waiting and count < self.most:
                batch.append(self._waiting.popleft())
                count += len(batch[-1][0])
            await self._answer([(rows, future) for rows, future in batch if not future.done()])

    async def _answer(self, batch: list[tuple[list[Any], asyncio.Future[Any]]]) -> None:
        """All at once; where that fails, each request for itself, so that nobody pays for another's row."""
        if not batch:
            return
        rows = [row for part, _ in batch for row in part]
        self.batches, self.rows = self.batches + 1, self.rows + len(rows)
        try:
            answers = await self.alone(lambda: self._timed(rows))
        except Exception as error:
            if len(batch) > 1 and isinstance(error, UserError):
                for one in batch:
                    await self._answer([one])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        start = 0
        for part, future in batch:
            if not future.done():
                future.set_result(answers[start : start + len(part)])
            start += len(part)

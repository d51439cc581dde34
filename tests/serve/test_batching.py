"""Requests that share a batch: one that fails spoils no other, and a lone one is answered at once where quick."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from weft.errors import UserError
from weft.serve.batching import Batcher


def test_a_batch_that_fails_is_asked_row_by_row() -> None:
    def work(rows: list[int]) -> list[int]:
        if -1 in rows:
            raise UserError("no", "-1", "yes")
        return [row * 2 for row in rows]

    async def run() -> list[Any]:
        batcher = Batcher(work, most=8)
        found = await asyncio.gather(*(batcher.ask([n]) for n in (1, -1, 3)), return_exceptions=True)
        await batcher.stop()
        return found

    first, second, third = asyncio.run(run())
    assert (first, third) == ([2], [6])
    assert isinstance(second, UserError)


def test_a_lone_request_leaves_the_server_deaf_only_where_the_last_was_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads_of(quick: float) -> list[bool]:
        monkeypatch.setattr("weft.serve.batching.QUICK", quick)

        async def run() -> list[bool]:
            batcher = Batcher(lambda rows: [threading.current_thread() is threading.main_thread()] * len(rows))
            found = [(await batcher.ask([n]))[0] for n in range(3)]
            found.append((await batcher.ask([1, 2]))[0])
            await batcher.stop()
            return found

        return asyncio.run(run())

    assert threads_of(60.0) == [False, True, True, False]
    assert threads_of(0.0) == [False] * 4

"""Shards encoded by processes of Ray, on one machine or on many; this process writes them, in order, once.

Every process has the encoder and reads its own values, batched by length as here, so the bytes are those of one
process. One that dies is started again, and its shard with it. Files that rows name have the same path everywhere (a
shared file system); the store is written by this process alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, TaskID

from weft.data.failure import Failure
from weft.errors import UserError
from weft.progress import progress_bar
from weft.store.run import Run

AGAIN = 3
"""Times that what a dead process was at is done again."""


def connect(on: str, processes: int | None = None) -> Any:
    """Ray, connected: to a cluster's address (``"ray://host:10001"``, ``"auto"``), or, for ``"ray"``, to the cluster of
    ``RAY_ADDRESS`` or to a new one of this machine with so many processes (None: one per core).

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    if find_spec("ray") is None:
        raise UserError("Ray is not installed", f"on={on!r}", "pip install 'weft[ray]', or do without it")
    if on.startswith("ray://"):
        show_token()
    import ray

    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if on != "ray":
            ray.init(address=on, **quiet)
        elif "RAY_ADDRESS" in os.environ:
            ray.init(**quiet)
        else:
            os.environ.setdefault("RAY_worker_niceness", "0")  # by Ray's own rule, 15, what else runs would starve them
            ray.init(address="local", num_cpus=processes, include_dashboard=False, **quiet)
    except Exception as error:  # Ray raises whatever it likes where a cluster does not answer or start
        found = f"on={on!r}: {(str(error).splitlines() or [''])[0][:200]}"
        remedy = "give ray, auto, or ray://HOST:PORT of one, and RAY_AUTH_TOKEN where it asks for a token"
        raise UserError("no Ray cluster answers", found, remedy) from error
    return ray


def show_token() -> None:
    """Have Ray's client show the token that there is, as Ray's other connections do by themselves; a cluster that asks
    for one does not answer without.

    Ray reads this when it is imported. Where it was before, it is left alone: what it then starts would ask for a token
    that it does not show itself.
    """
    if "ray" in sys.modules:
        return
    places = [os.environ.get("RAY_AUTH_TOKEN_PATH"), Path.home() / ".ray" / "auth_token"]
    if "RAY_AUTH_TOKEN" in os.environ or any(place and Path(place).is_file() for place in places):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def connected(on: str, processes: int | None = None) -> Iterator[Any]:
    """:func:`connect` for a while; a connection that was there before stays."""
    before = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    ray = connect(on, processes)
    try:
        yield ray
    finally:
        if not before:
            ray.shutdown()


class Encoding:
    """What a process of Ray does: shards, one after the other.

    Args:
        run: of the modality.
        dtype: of the store.
        threads: of torch, as in the process that writes: figures could depend on it.
        where: the working folder.
    """

    def __init__(self, run: Run, dtype: str, threads: int, where: str) -> None:
        with suppress(OSError):
            os.chdir(where)
        torch.set_num_threads(threads)
        self.run, self.dtype = run, dtype

    def shard(self, places: list[int]) -> tuple[list[np.ndarray | None], list[Failure], tuple[str, str, str] | None]:
        """Arrays of the values at ``places``, what failed, and the error that ends it all."""
        run = replace(self.run, failures=None if self.run.failures is None else [])
        with progress_bar(False) as bar:
            try:
                return run.encode(places, self.dtype, bar, TaskID(0)), run.failures or [], None
            except UserError as error:
                return [], [], (error.what, error.found, error.remedy)


def encoded(
    run: Run, work: list[list[int]], dtype: str, bar: Progress, task: TaskID, on: str
) -> Iterator[list[np.ndarray | None]]:
    """The values of every shard in ``work``, in order; see :meth:`Run.encode`."""
    with connected(on) as ray:
        made = ray.remote(num_cpus=1, max_restarts=AGAIN, max_task_retries=AGAIN)(Encoding)
        count = min(len(work), max(1, int(ray.cluster_resources().get("CPU", 1))))
        shared, about = ray.put(run), (dtype, torch.get_num_threads(), os.getcwd())
        pool = ray.util.ActorPool([made.remote(shared, *about) for _ in range(count)])
        for places, (arrays, failures, error) in zip(work, pool.map(lambda a, v: a.shard.remote(v), work), strict=True):
            if error is not None:
                raise UserError(*error)
            if run.failures is not None:
                run.failures.extend(failures)
            bar.advance(task, len(places))
            yield arrays

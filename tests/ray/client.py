"""``ray://HOST:PORT``: the commands at a cluster of processes that are not theirs, and that asks for a token.

Run by ``make ray`` after ``many_processes.py``: ``python -m pytest tests/ray/client.py``.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.ray.many_processes import files, found

TOKEN = "0123456789abcdef" * 4
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as here:
        here.bind(("127.0.0.1", 0))
        return int(here.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as here:
        return here.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the client server of a cluster of two processes."""
    port, client = free_port(), free_port()
    words = ["start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    with TemporaryDirectory(prefix="ray-") as place:  # a short path: Ray's sockets lie in it
        words += [f"--port={port}", f"--ray-client-server-port={client}", f"--temp-dir={place}"]
        with Path(place, "head.log").open("w+") as log:
            head = subprocess.Popen([BIN / "ray", *words], env=environment, stdout=log, stderr=log)
            try:
                for _ in range(600):
                    if answers(client) or head.poll() is not None:
                        break
                    time.sleep(0.5)
                assert head.poll() is None, Path(place, "head.log").read_text()
                yield f"ray://127.0.0.1:{client}"
            finally:
                head.terminate()
                head.wait(120)


def weft(folder: Path, *words: object, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which has no token but this."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, "HOME": str(folder), **({} if token is None else {"RAY_AUTH_TOKEN": token})}
    command = [BIN / "weft", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200)


def test_bytes_and_verdict_are_those_of_one_process(address: str, tmp_path: Path) -> None:
    encode = ("encode", "shapes", "--data", "rows=60", "-q", "-o")
    compare = ("compare", "alone", "--only", "linear", "--seeds", 1, "--set", "trials=1", "-q", "--out")
    for name, on in {"alone": (), "far": ("--on", address)}.items():
        for words in ((*encode, name, *on), (*compare, f"{name}-found", *on)):
            done = weft(tmp_path, *words)
            assert done.returncode == 0, done.stderr
    assert files(tmp_path / "far") == files(tmp_path / "alone")
    assert found(tmp_path / "far-found") == found(tmp_path / "alone-found")


def test_a_token_that_is_not_given_is_asked_for(address: str, tmp_path: Path) -> None:
    done = weft(tmp_path, "encode", "shapes", "--data", "rows=20", "-q", "-o", "store", "--on", address, token=None)
    assert done.returncode == 2
    assert "no Ray cluster answers" in done.stderr
    assert "RAY_AUTH_TOKEN" in done.stderr

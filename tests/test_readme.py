"""Every command and every line of Python in the README and the how-tos runs, in the order a reader would run them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.hub import Hub

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


HOW_TOS = sorted((ROOT / "docs" / "howto").glob("*.md"))


def steps(page: Path) -> list[tuple[str, str]]:
    """``("shell", command)`` and ``("python", code)`` of a page, without the set-up commands of make."""
    found = []
    for language, content in BLOCK.findall(page.read_text()):
        if language == "python":
            found.append(("python", content))
            continue
        commands = (line.removeprefix("$ ") for line in content.splitlines() if line.startswith("$ "))
        found += [("shell", command) for command in commands if not command.startswith(("make ", "pip "))]
    return found


@contextmanager
def serve(text: str, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """A server that says that it is well; where it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        ["bash", "-c", f"exec {text.partition(' --port ')[0].partition('#')[0]} --port {port}"],
        cwd=folder,
        env=environment,
    )
    try:
        while True:
            assert server.poll() is None, f"{text} ended with {server.returncode}"
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/health")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        assert answer.json() == {"status": "ok"}
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def run(page: Path, folder: Path, **variables: str) -> None:
    """Every step of a page in a folder of its own."""
    (folder / "examples").symlink_to(ROOT / "examples")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **variables}
    place = "127.0.0.1:8000"
    with ExitStack() as servers:
        for kind, text in steps(page):
            if text.startswith("weft serve "):
                place = servers.enter_context(serve(text, folder, environment))
                continue
            text = text.replace("127.0.0.1:8000", place)
            command = ["bash", "-c", text] if kind == "shell" else [sys.executable, "-c", text]
            result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            assert result.returncode == 0, f"{page.name}: {text}\n{result.stdout}\n{result.stderr}"


@pytest.mark.slow
def test_readme_runs_as_written(tmp_path: Path) -> None:
    assert len(steps(ROOT / "README.md")) > 5
    run(ROOT / "README.md", tmp_path)
    assert (tmp_path / "shop/result/report.html").stat().st_size > 10_000
    lines = (tmp_path / "shop/predictions.csv").read_text().splitlines()
    assert len(lines) == 21
    assert lines[0].startswith('"id","prediction","probability_')


@pytest.mark.slow
@pytest.mark.parametrize("page", HOW_TOS, ids=lambda page: page.stem)
def test_how_tos_run_as_written(page: Path, tmp_path: Path) -> None:
    assert steps(page)
    with Hub() as hub:
        run(page, tmp_path, **(hub.environment("me", str(tmp_path / "hf")) if page.stem == "sharing" else {}))

"""What an installed wheel can do: run by ``make dist-check`` with the Python of an environment that holds nothing else.

    python tests/installed.py CHECKOUT

Every file of the package is in the wheel, the metadata says what pyproject.toml says, and in an empty folder the
command fits, predicts and serves its page. The environment has the extra ``serve``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from importlib.metadata import metadata
from pathlib import Path

WEFT = Path(sys.executable).with_name("weft")


def weft(*words: object) -> str:
    """Runs the command; what it printed."""
    done = subprocess.run([WEFT, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, f"weft {words}: {done.stderr[-2000:]}"
    return done.stdout


def files_are_there(checkout: Path) -> None:
    import weft as package

    installed = Path(package.__file__).parent
    assert checkout / "src" not in installed.parents, f"{installed} is the checkout, not a wheel"
    listed = subprocess.run(["git", "ls-files", "src/weft"], cwd=checkout, capture_output=True, text=True, check=True)
    names = [name.removeprefix("src/weft/") for name in listed.stdout.split()]
    gone = [n for n in names if (installed / n).read_bytes() != (checkout / "src" / "weft" / n).read_bytes()]
    assert not gone, gone
    assert {"py.typed", "serve/page.html", "serve/docs.html", "recipes/fusion/all-operators.yaml"} <= set(names)
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    about = metadata("weft")
    assert about["Version"] == project["version"]
    assert about["Requires-Python"] == project["requires-python"]
    assert set(about.get_all("Provides-Extra") or ()) == set(project["optional-dependencies"])


def served(model: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([WEFT, "serve", model, "--port", str(port)])
    try:
        while True:
            assert server.poll() is None, f"weft serve ended with {server.returncode}"
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/").read().decode()
                break
            except OSError:
                time.sleep(0.1)
        assert "<title>weft</title>" in page
        body = json.dumps({"rows": {"caption": "a red circle"}}).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/predict", body, {"Content-Type": "application/json"}, method="POST"
        )
        assert json.load(urllib.request.urlopen(asked))["answers"][0]["prediction"]
    finally:
        server.terminate()
        server.wait(20)


def main(checkout: Path) -> None:
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        files_are_there(checkout)
        assert "compare" in weft("--help")
        assert "mutualformer" in weft("list")
        quick = ("--data", "rows=60", "--quiet")
        weft("fit", "shapes", "--fusion", "gated", "--set", "epochs=2", *quick, "-o", "model")
        weft("predict", "model", "shapes", *quick, "-o", "answers.csv")
        assert len(Path("answers.csv").read_text().splitlines()) == 61
        served(Path("model"))
    sys.stdout.write(f"weft {metadata('weft')['Version']} works, Python {sys.version.split()[0]}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

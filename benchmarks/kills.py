"""kill -9 at random points of encode, fit, compare and serve: nothing is lost, and the figures are the same.

Each verb is run once as a reference. Then it is started in an empty folder, killed at a random moment of its run,
started again in the same folder and killed again, five times; after each kill everything that had been kept by an
earlier run is still there, with the bytes that it had; then it is left to end, and what it wrote is compared with the
reference: bytes of the store, of the fitted model and of every job's outputs, and all figures but times. A server is
killed while it answers; every answer it gave is the reference's, byte for byte, its next start answers the same, and
it has changed no file.

A run is a fork of this process, which has imported everything, so that no moment is spent on imports; a kill that comes
after the end of the run is not counted.

    python benchmarks/kills.py [kills = 100] [seed = 0]
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from harness import set_threads, write_result

ROWS, ROUND = 120, 5
TIMES = ("seconds", "train_seconds", "latency", "per_second", "time")
LOCKS = (".lock",)


def fork(work: Callable[[], None]) -> int:
    """A process that does the work, silently; its id."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def killed_after(child: int, seconds: float) -> bool:
    """Whether a process that is killed after so many seconds had not ended by then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def ends(work: Callable[[], None]) -> float:
    """Seconds of a run that nobody kills; it has to end well."""
    began = time.monotonic()
    assert os.waitpid(fork(work), 0)[1] == 0, "a run that nobody killed failed"
    return time.monotonic() - began


def weft(*words: object) -> None:
    from weft.cli import app

    with redirect_stdout(io.StringIO()):
        app([*map(str, words), "--quiet"], standalone_mode=False)


def encode(folder: Path) -> None:
    """Small shards, so that there are many."""
    from weft.data import load_dataset
    from weft.encoders import create_encoder, default_encoder
    from weft.store import encode as run

    data = load_dataset("shapes", rows=ROWS)
    made = {name: create_encoder(default_encoder(m.kind), m.kind) for name, m in data.modalities.items()}
    run(data, made, folder, shard_rows=8, batch_size=4, progress=False)


def fit(store: Path, folder: Path) -> None:
    weft("fit", store, "--fusion", "gated", "--set", "epochs=12", "--set", "batch_size=16", "--out", folder)


def compare(store: Path, folder: Path) -> None:
    """Jobs, verdict and the model that is kept; the pages that the command draws from them are left out."""
    from weft.compare import CompareConfig
    from weft.compare import compare as run
    from weft.files import write_json
    from weft.store import Store

    some: dict[str, Any] = {"only": ["linear", "concat"], "fusions": ["concat"], "seeds": 2, "trials": 1, "dim": 16}
    found = run(Store.open(store), CompareConfig(**some, resamples=199, train={"epochs": 6}), folder, progress=False)
    write_json(folder / "comparison.json", found.to_dict())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def timeless(value: Any) -> Any:
    """JSON without times."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def content(path: Path) -> str:
    """What has to be the same of a file: of JSON all but times, of tensors outside a store what is read (a header with
    several entries has them in any order), of others every byte."""
    if path.suffix == ".json":
        return json.dumps(timeless(json.loads(path.read_text())), sort_keys=True)
    if path.suffix == ".jsonl":
        return json.dumps([timeless(json.loads(line)) for line in path.read_text().splitlines()])
    if path.suffix == ".safetensors" and path.parent.parent.name.partition("-")[0] != "encode":
        from weft.files import read_tensors

        tensors, header = read_tensors(path)
        hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
        return json.dumps([hashes, header], sort_keys=True)
    return digest(path)


def files(folder: Path, kept: Callable[[Path], bool]) -> dict[str, str]:
    """What has to be the same, by path."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in LOCKS)
    return {str(path.relative_to(folder)): content(path) for path in found if kept(path)}


def shards(path: Path) -> bool:
    return path.suffix != ".tmp"


def of_a_fit(path: Path) -> bool:
    """The checkpoint keeps how long it took; its weights are those of ``best`` and ``metrics``."""
    return path.suffix != ".tmp" and path.parent.name != "last"


def of_a_comparison(path: Path) -> bool:
    """The outputs and figures of jobs, their models, and the verdict; pages and pictures are drawn from them."""
    return path.parent.parent.name == "jobs" or path.parent.name == "jobs" or path.name == "comparison.json"


def lasting(verb: str, folder: Path) -> dict[str, str]:
    """What a later run may not change: shards and finished jobs; of a fit, see :func:`progress`."""
    if verb == "encode" and (folder / "manifest.json").exists():
        from weft.store.block import damage

        found = {}
        for name, entry in json.loads((folder / "manifest.json").read_text())["modalities"].items():
            bad = dict(damage(folder / entry["folder"], entry, verify=True))
            found |= {f"{name} {i}": bad.get(i, shard["sha256"]) for i, shard in enumerate(entry["shards"])}
        return found
    if verb == "compare":
        done = [path for path in folder.glob("jobs/*.json") if not path.name.startswith(".")]
        return {str(p): content(p) + content(p.with_suffix(".safetensors")) for p in done}
    return {}


def progress(folder: Path) -> tuple[int, int]:
    """Epoch and step that the checkpoint of a fit stands at, the truth of it; the log is written again from it."""
    from weft.files import read_tensors

    checkpoint = folder / "last" / "checkpoint.safetensors"
    if not checkpoint.exists():
        return 0, 0
    position = json.loads(read_tensors(checkpoint)[1]["weft"])["position"]
    return position["epoch"], position["step"]


def kill_often(
    verb: str, run: Callable[[Path], None], kept: Callable[[Path], bool], place: Path, count: int, rng: random.Random
) -> dict[str, Any]:
    """Kills of one verb that writes a folder."""
    reference = place / f"{verb}-reference"
    run(reference)  # imports what it needs, here
    again = place / f"{verb}-timed"
    length, expected = ends(lambda: run(again)), files(reference, kept)
    differ = files(again, kept) != expected
    assert not differ, f"{verb}: two runs that nobody killed differ: {different(expected, files(again, kept))}"
    kills = rounds = lost = 0
    wrong: list[str] = []
    began = time.monotonic()
    while kills < count:
        folder, rounds = place / f"{verb}-{rounds}", rounds + 1
        before: dict[str, str] = {}
        done = (0, 0)
        for _ in range(min(ROUND, count - kills)):
            hit = killed_after(fork(lambda folder=folder: run(folder)), rng.uniform(0, length))
            kills += hit
            now = lasting(verb, folder)
            gone = [name for name, was in before.items() if now.get(name) != was]
            lost += len(gone) + (progress(folder) < done)
            before, done = before | now, max(done, progress(folder))
        ends(lambda folder=folder: run(folder))
        wrong += [f"{folder.name}: {name}" for name in different(expected, files(folder, kept))]
    took = time.monotonic() - began
    print(f"{verb}: {kills} kills in {rounds} folders, {lost} lost, {len(wrong)} different; {took:.0f} s", flush=True)
    print("\n".join(wrong), end="", flush=True)
    return {"kills": kills, "folders": rounds, "lost": lost, "different": len(wrong), "run seconds": round(length, 2)}


def different(one: dict[str, str], two: dict[str, str]) -> list[str]:
    return [name for name in sorted({*one, *two}) if one.get(name) != two.get(name)]


def ask(port: int, body: bytes) -> bytes:
    """What a server answers.

    Raises:
        OSError, http.client.HTTPException: it is not there, or goes away.
    """
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        client.request("POST", "/predict", body, {"Content-Type": "application/json"})
        answer = client.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return text
    finally:
        client.close()


def kill_a_server(model: Path, count: int, rng: random.Random) -> dict[str, Any]:
    """Kills of a server that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("circle", "square", "triangle", "red", "blue", "large", "small", "top left")
    bodies = [json.dumps({"rows": {"caption": f"a {a} {b}"}}).encode() for a in words for b in words if a != b]
    folder_before = files(model, lambda path: True)

    def start() -> int:
        from weft.cli import app

        return fork(lambda: app(["serve", str(model), "--port", str(port)], standalone_mode=False))

    def answered(child: int) -> bytes:
        while True:
            assert not os.waitpid(child, os.WNOHANG)[0], "a server ended by itself"
            try:
                return ask(port, bodies[0])
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)

    child = start()
    answered(child)
    expected = [ask(port, body) for body in bodies]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    answers = wrong = kills = 0
    began = time.monotonic()
    while kills < count:
        child = start()
        wrong += answered(child) != expected[0]
        killer = threading.Timer(rng.uniform(0, 0.5), os.kill, (child, signal.SIGKILL))
        killer.start()
        at = 0
        try:
            while True:
                wrong += ask(port, bodies[at % len(bodies)]) != expected[at % len(bodies)]
                answers, at = answers + 1, at + 1
        except (OSError, http.client.HTTPException):
            pass
        killer.join()
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    changed = different(folder_before, files(model, lambda path: True))
    took = time.monotonic() - began
    print(f"serve: {kills} kills, {answers} answers between, {wrong} different; {took:.0f} s", flush=True)
    return {"kills": kills, "answers": answers, "lost": len(changed), "different": wrong}


def main(count: int = 100, seed: int = 0) -> None:
    set_threads(1)
    rng, each = random.Random(seed), count // 4
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        store, model = place / "encode-reference", place / "fit-reference"
        found = {"encode": kill_often("encode", encode, shards, place, each, rng)}
        found["fit"] = kill_often("fit", lambda folder: fit(store, folder), of_a_fit, place, each, rng)
        found["compare"] = kill_often(
            "compare", lambda folder: compare(store, folder), of_a_comparison, place, each, rng
        )
        found["serve"] = kill_a_server(model, count - 3 * each, rng)
    whole = not any(verb["lost"] or verb["different"] for verb in found.values())
    kills = sum(verb["kills"] for verb in found.values())
    write_result("kills", {"kills": kills, "seed": seed, "nothing lost": whole, **found})
    sys.exit(not whole)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""``weft serve`` beside a bare FastAPI + torch loop with the same model: requests per second, p99, memory.

The bare side is what one would write by hand: ``POST /predict`` takes the JSON of one row of vectors, makes tensors,
runs the model without gradient and answers with the prediction and the probability of each class. It has no limits, no
figures, no checks of its own and no batching, and it answers in the event loop. Both run under uvicorn, one process,
one thread of torch; one client process keeps 1, 16 or 64 connections busy with one row per request. The answers are
compared first. Bursts alternate; *ratio* is ours over theirs in requests per second, of each pair of bursts, *ratio by
CPU* theirs over ours in the server's CPU seconds per request: median and quartiles.

    python benchmarks/serving.py [speed] [memory]

"memory" sends 50,000 requests by 16 clients to ``weft serve`` and reads its resident set before, on the way and after.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from harness import set_threads, spread, write_result
from pydantic import BaseModel

CLIENTS, BURST, PAIRS = (1, 16, 64), 2.0, 5
REQUESTS, STEPS = 50_000, 10
DIMS = {"text": 384, "image": 512}
MODELS = {"gated": "gated", "simple-transformer": "simple-transformer"}
"""A cheap model, of which a request is mostly HTTP, and one that works."""


class Body(BaseModel):
    """What the bare side reads."""

    rows: dict[str, list[float]]


def make_model(folder: Path, fusion: str) -> None:
    """A model on two vectors, fitted for one epoch: what it says does not matter."""
    from weft.data import Dataset, Modality, make_splits
    from weft.encoders import create_encoder
    from weft.models import FusedModel
    from weft.models.raw import encoder_specs
    from weft.store import encode
    from weft.tasks.base import create_task
    from weft.training import fit

    rng = np.random.default_rng(0)
    kind = rng.integers(0, 5, 200)
    values = {name: rng.normal(size=(200, width)) + kind[:, None] for name, width in DIMS.items()}
    modalities = {name: Modality("vector", [v.astype(np.float32) for v in found]) for name, found in values.items()}
    ids, targets = [str(i) for i in range(200)], {"kind": np.array([f"k{k}" for k in kind])}
    data = Dataset("served", ids, modalities, targets, None, None, "classification")
    split = make_splits(data)
    encoders = {name: create_encoder("precomputed", "vector") for name in DIMS}
    store = encode(data, encoders, folder / "store", dtype="fp32", progress=False)
    task = create_task("classification", data.targets["kind"][split.train])
    specs = encoder_specs(store, list(DIMS))
    model = FusedModel.build(dims=store.dims, task=task, fusion=fusion, dim=256, target="kind", encoders=specs)
    fit(model, store, split, {"epochs": 1}, folder / "model", progress=False)


def bare(folder: str, port: str) -> None:
    """The other side."""
    import torch
    import uvicorn
    from fastapi import FastAPI

    from weft.models import load_model
    from weft.tokens import Tokens

    model = load_model(Path(folder))
    model.eval()
    labels = [str(label) for label in model.task.labels]
    app = FastAPI()

    @app.post("/predict")
    async def predict(body: Body) -> dict[str, Any]:
        with torch.inference_mode():
            there = torch.ones(1, 1, dtype=torch.bool)
            inputs = {name: Tokens(torch.tensor(vector)[None, None], there) for name, vector in body.rows.items()}
            p = model(inputs).softmax(-1)[0].tolist()
        best = max(range(len(p)), key=p.__getitem__)
        return {"answers": [{"prediction": labels[best], "probability": dict(zip(labels, p, strict=True))}]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    uvicorn.run(app, port=int(port), log_level="warning")


@contextmanager
def server(code: str) -> Iterator[tuple[int, int]]:
    """A server's port and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = subprocess.Popen([sys.executable, "-c", code.format(port=port)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while True:
            assert child.poll() is None, "a server did not start"
            with socket.socket() as asked:
                if not asked.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        yield port, child.pid
    finally:
        child.terminate()
        child.wait(20)


def requests(count: int = 64) -> list[bytes]:
    """POST requests of one row each, as bytes."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        rows = {name: rng.normal(size=width).round(4).tolist() for name, width in DIMS.items()}
        body = json.dumps({"rows": rows}).encode()
        head = ("POST /predict HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}")
        found.append("\r\n".join([*head, "", ""]).encode() + body)
    return found


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """The body of an answer that is 200."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return await reader.readexactly(int(length.partition(b":")[2]))


async def burst(port: int, clients: int, sent: list[bytes], seconds: float, count: int | None = None) -> list[float]:
    """Seconds of each answer that clients without a pause got in so much time, or of so many answers."""
    took: list[float] = []
    until, left = time.perf_counter() + seconds, [count]

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        at = number
        while time.perf_counter() < until and left[0] != 0:
            if left[0] is not None:
                left[0] -= 1
            began = time.perf_counter()
            await ask(reader, writer, sent[at % len(sent)])
            took.append(time.perf_counter() - began)
            at += clients
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return took


async def one(port: int, request: bytes) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = json.loads(await ask(reader, writer, request))
    writer.close()
    return found


def cpu(pid: int) -> float:
    """User and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """MiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def median(values: list[float]) -> float:
    """To three figures."""
    return float(f"{np.median(values):.3g}")


def sides(folder: Path) -> tuple[str, str]:
    """What each server runs."""
    model, here = str(folder / "model"), str(Path(__file__).resolve().parent)
    weft = f"from weft.cli import app; app(['serve', {model!r}, '--port', '{{port}}'])"
    other = f"from serving import bare; bare({model!r}, '{{port}}')"
    return weft, f"import sys; sys.path.insert(0, {here!r}); {other}"


def speed(folder: Path) -> dict[str, dict[str, Any]]:
    """Both sides at each number of clients."""
    ours, theirs = sides(folder)
    sent, found = requests(), {}
    with server(ours) as a, server(theirs) as b:
        for request in sent[:8]:
            said = [asyncio.run(one(port, request))["answers"][0] for port, _ in (a, b)]
            assert said[0]["prediction"] == said[1]["prediction"]
            p = [list(answer["probability"].values()) for answer in said]
            np.testing.assert_allclose(p[0], p[1], atol=1e-4)
        for clients in CLIENTS:
            rates, late, spent = ([], []), ([], []), ([], [])
            for port, _ in (a, b):
                asyncio.run(burst(port, clients, sent, BURST / 2))
            for pair in range(PAIRS):
                for side in (0, 1) if pair % 2 == 0 else (1, 0):
                    port, pid = (a, b)[side]
                    before, began = cpu(pid), time.perf_counter()
                    took = asyncio.run(burst(port, clients, sent, BURST))
                    rates[side].append(len(took) / (time.perf_counter() - began))
                    spent[side].append(1000 * (cpu(pid) - before) / len(took))
                    late[side].append(1000 * float(np.percentile(took, 99)))
            figures: dict[str, Any] = {}
            for side, name in enumerate(("weft serve", "bare")):
                figures[f"{name}: requests per second"] = median(rates[side])
                figures[f"{name}: p99 ms"] = median(late[side])
                figures[f"{name}: cpu ms per request"] = median(spent[side])
            ratio = spread([x / y for x, y in zip(*rates, strict=True)])
            figures["ratio"] = [round(ratio[key], 2) for key in ("q1", "median", "q3")]
            figures["ratio by CPU"] = round(spread([y / x for x, y in zip(*spent, strict=True)])["median"], 2)
            found[f"{folder.name}, {clients} clients"] = figures
            print(f"{folder.name}, {clients} clients: {', '.join(f'{k} {v}' for k, v in figures.items())}", flush=True)
    return found


def memory(folder: Path) -> dict[str, Any]:
    """Resident set of ``weft serve`` over many requests."""
    sent = requests()
    with server(sides(folder)[0]) as (port, pid):
        asyncio.run(burst(port, 16, sent, 1e9, 1000))
        sizes = [resident(pid)]
        for _ in range(STEPS):
            asyncio.run(burst(port, 16, sent, 1e9, REQUESTS // STEPS))
            sizes.append(resident(pid))
            print(f"resident {sizes[-1]:.1f} MiB", flush=True)
    print(f"memory: {sizes[0]:.1f} MiB after 1,000 requests, {sizes[-1]:.1f} MiB after {REQUESTS:,} more")
    return {"requests": REQUESTS, "MiB": [round(size, 1) for size in sizes]}


def main(parts: list[str]) -> None:
    set_threads(1)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for name, fusion in MODELS.items():
            make_model(Path(place) / name, fusion)
            if "speed" in parts:
                figures |= speed(Path(place) / name)
        if "memory" in parts:
            figures["memory"] = memory(Path(place) / "gated")
    write_result("serving", figures)


if __name__ == "__main__":
    main(sys.argv[1:] or ["speed", "memory"])

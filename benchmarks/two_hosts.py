"""``weft fit`` on two hosts beside one process: the same weights and the same figures.

The hosts are two network namespaces of this machine with a cable (veth) between them: each has its own interfaces, its
own loopback and no way to the other but 10.77.0.1 <-> 10.77.0.2. On each, ``torchrun`` starts one process of ``weft
fit``, which accelerate joins to the other's by gloo. They share a file system, as hosts of a cluster do. The same
command without ``torchrun``, on one process and with the same batches, is the reference. Dropout is 0, since every
process draws its own. *In shares*: each host keeps half of every weight and of its moments (FSDP). *difference* is the
largest one of any weight, of any figure of ``metrics.json`` (of a system: of the dev rows), and of the loss of any
epoch. Adam makes steps of up to the learning rate of gradients that are nothing but rounding: all are trained at
0.0003; at 0.001 weights were up to 2.6e-6 apart.

    sudo python benchmarks/two_hosts.py

It needs root and iproute2, takes two minutes, and takes its namespaces away whatever happens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import set_threads, write_result

HOSTS = (("weft-a", "10.77.0.1"), ("weft-b", "10.77.0.2"))
ROWS, BATCH, LIMIT = 160, 28, 1e-6
"""Of 160 rows 112 teach: 4 batches of 28, 14 on each host."""
TRAINED = ("epochs=4", "patience=0", f"batch_size={BATCH}", "lr=0.0003")
SOME = [*(word for setting in TRAINED for word in ("--set", setting)), "--quiet"]
STORE, GATED = "STORE", ["--fusion", "gated", "--dropout", "0"]
FITS = {
    "predictor (gated)": [STORE, *GATED],
    "predictor (gated), weights in shares": [STORE, *GATED],
    "aligner (two-tower, InfoNCE)": [
        STORE, "--fusion", "two-tower", "--modality", "image", "--modality", "caption",
    ],
    "system (frozen-fusion)": [
        "shapes", "--data", f"rows={ROWS}", "--data", "complete=true", "--system", "frozen-fusion",
        "--option", "dropout=0",
    ],
}  # fmt: skip


def ip(*words: str) -> None:
    """One command of iproute2; its own words where it is refused."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def hosts() -> Iterator[None]:
    """Two namespaces and the cable between them."""
    names = [name for name, _ in HOSTS]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for name, address in HOSTS:
            ip("-n", name, "address", "add", f"{address}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def weft(*words: object) -> list[str]:
    return [str(Path(sys.executable).parent / "weft"), *map(str, words)]


def on_both(command: Sequence[str], shares: bool) -> int:
    """The command on both hosts at once; the bytes that went over the cable."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["ACCELERATE_USE_FSDP"] = str(shares)
    run = [str(Path(sys.executable).parent / "torchrun"), "--nnodes", "2", "--nproc_per_node", "1"]
    run += ["--master_addr", HOSTS[0][1], "--master_port", "29500"]
    started = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, *run, "--node_rank", str(rank), "--no_python", *command],
            env={**environment, "GLOO_SOCKET_IFNAME": name},
            stdout=subprocess.DEVNULL,
        )
        for rank, (name, _) in enumerate(HOSTS)
    ]
    assert [child.wait(300) for child in started] == [0, 0], "a host failed"
    asked = ["ip", "-n", HOSTS[0][0], "-j", "-s", "link", "show", HOSTS[0][0]]
    (link,) = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
    return sum(int(link["stats64"][way]["bytes"]) for way in ("rx", "tx"))


def judged(folder: Path, log: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """``{part: {figure: value}}`` of a run."""
    if (folder / "metrics.json").exists():
        return dict(json.loads((folder / "metrics.json").read_text()))
    return {"dev": {name: value for name, value in log[-1].items() if name.startswith("dev_")}}


def compared(one: Path, two: Path) -> dict[str, float]:
    """The largest differences of two folders of ``weft fit``."""
    from weft.files import read_tensors

    a, b = (read_tensors(folder / "best" / "model.safetensors")[0] for folder in (one, two))
    assert a.keys() == b.keys()
    weights = max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (one, two)]
    p, q = (judged(folder, log) for folder, log in zip((one, two), logs, strict=True))
    figures = max(abs(p[part][name] - q[part][name]) for part in p for name in p[part])
    losses = [[entry["loss"] for entry in log if "dev_score" in entry] for log in logs]
    assert len(losses[0]) == len(losses[1]) == 4
    loss = max(abs(x - y) for x, y in zip(*losses, strict=True))
    return {"weights": weights, "figures": figures, "loss": loss}


def processes(folder: Path) -> int:
    """How many the run itself says there were."""
    from weft.files import read_tensors

    header = json.loads(read_tensors(folder / "last" / "checkpoint.safetensors")[1]["weft"])
    return int(header["run"]["processes"])


def main() -> None:
    set_threads(1)
    from weft.data import load_dataset
    from weft.encoders import create_encoder, default_encoder
    from weft.store import encode

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place, hosts():
        data = load_dataset("shapes", rows=ROWS)
        made = {name: create_encoder(default_encoder(m.kind), m.kind) for name, m in data.modalities.items()}
        store, before = Path(place) / "store", 0
        encode(data, made, store, progress=False)
        for name, words in FITS.items():
            one, two = (Path(place) / name / count for count in ("one", "two"))
            fit = ["fit", *(store if word == STORE else word for word in words), *SOME, "--out"]
            subprocess.run(weft(*fit, one), check=True, stdout=subprocess.DEVNULL)
            sent = on_both(weft(*fit, two), "shares" in name)
            assert (processes(one), processes(two)) == (1, 2)
            differences = compared(one, two)
            rounded = {key: float(f"{value:.2g}") for key, value in differences.items()}
            found[name] = {**rounded, "bytes over the cable": sent - before}
            before = sent
            print(f"{name}: {', '.join(f'{key} {value:.3g}' for key, value in found[name].items())}", flush=True)
    write_result("two_hosts", found)
    sys.exit(any(row[key] > LIMIT for row in found.values() for key in ("weights", "figures", "loss")))


if __name__ == "__main__":
    main()

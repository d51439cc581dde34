"""NLX-GPT writes 40 tokens at its published size, keys and values kept beside everything computed again; 1 to 8 rows.

The tokens are the same. One row reads all weights for every token, so memory sets its pace.

    python benchmarks/nlxgpt_decoding.py
"""

from __future__ import annotations

from typing import Any

import torch
from harness import compare_ab, set_threads, write_result

from weft.systems.nlxgpt.network import Decoder, Marks, generate
from weft.tokens import Tokens


def cached(rows: int, repeats: int = 5) -> dict[str, Any]:
    """40 new tokens of so many rows by a decoder of the published size."""
    torch.manual_seed(0)
    decoder = Decoder({"n_layer": 6, "vocab_size": 50261}, 768).eval()
    image = Tokens(torch.randn(rows, 196, 768), torch.ones(rows, 196, dtype=torch.bool))
    prompt, marks = [([5] * 16, [6] * 16)] * rows, Marks({50257}, 7, 6, 8)

    def run(cache: bool) -> Any:
        return lambda: generate(decoder, prompt, image, marks, steps=40, cache=cache)

    assert run(True)() == run(False)()
    return compare_ab(f"decoding {rows}", run(True), run(False), repeats=repeats)


if __name__ == "__main__":
    set_threads(1)
    write_result("nlxgpt_decoding", {f"rows {rows}": cached(rows) for rows in (1, 4, 8)})

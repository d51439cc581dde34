"""What L-Verse costs: a picture of 1,024 codes drawn with and without kept keys and values, and steps of training.

    python benchmarks/l_verse_cost.py [steps | decoding]

Beside: the same transformer of transformers with ids in place of vectors (GPT-2, its loss), and vector-quantize-pytorch
(``pip install vector-quantize-pytorch``) with the settings that do the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from harness import RESULTS, compare_ab, peak_allocated, set_threads, write_result
from torch.nn import functional as F

from weft.systems.l_verse.biart import BiArt
from weft.systems.l_verse.codebook import Codebook

WORDS, CODES, TEXT, PICTURE = 400, 512, 16, 1024
WIDTH, LAYERS, HEADS = 64, 2, 4


def decoding() -> dict[str, Any]:
    """The same codes, time and the most memory that tensors held."""
    torch.manual_seed(0)
    net = BiArt(WORDS, CODES, TEXT, PICTURE, width=WIDTH, layers=LAYERS, heads=HEADS).eval()
    prompt = net.draw(torch.randint(2, WORDS, (1, TEXT)))

    def run(cache: bool) -> Callable[[], torch.Tensor]:
        return lambda: net.go_on(prompt, temperature=0.0, cache=cache)

    if not torch.equal(run(True)(), run(False)()):
        raise SystemExit("the codes differ")
    found = compare_ab("1,024 codes, kept against anew", run(True), run(False), repeats=5, warmup=0)
    bytes_ = {name: peak_allocated(run(cache)) for name, cache in (("kept", True), ("anew", False))}
    print({name: f"{value / 2**20:.1f} MiB" for name, value in bytes_.items()})
    return {**found, "peak_bytes": bytes_}


def step_of_gpt() -> dict[str, Any]:
    """Forward and backward of a batch, ours and that of GPT-2 with a head of its own, at 82 tokens."""
    import transformers

    torch.manual_seed(0)
    net = BiArt(WORDS, CODES, TEXT, 64, width=128, layers=4, heads=4, dropout=0.0)
    config = transformers.GPT2Config(
        vocab_size=net.eoc + 1, n_positions=TEXT + 67, n_embd=128, n_layer=4, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    plain = transformers.GPT2LMHeadModel(config)
    words, codes = torch.randint(2, WORDS, (32, TEXT)), torch.randint(CODES, (32, 64))
    stream = net.pairs(words, codes, torch.rand(32) < 0.5)

    def ours() -> None:
        net.loss(net.pairs(words, codes, torch.rand(32) < 0.5), 0.1).mean().backward()

    def theirs() -> None:
        plain(input_ids=stream.ids, labels=stream.ids).loss.backward()

    return compare_ab("a step, BiART against GPT-2", ours, theirs, repeats=7)


def step_of_codebook() -> dict[str, Any]:
    """Forward and the move of the codebook, of 32 maps of 16 x 16."""
    from vector_quantize_pytorch import VectorQuantize

    torch.manual_seed(0)
    book = Codebook(512, 64).train()
    other = VectorQuantize(64, 512, decay=0.99, kmeans_init=True, threshold_ema_dead_code=2, commitment_weight=0.25,
                           accept_image_fmap=True).train()  # fmt: skip
    maps = torch.randn(32, 64, 16, 16, requires_grad=True)

    def ours() -> None:
        found, loss, _ = book(maps)
        (F.mse_loss(found, maps.detach()) + loss).backward()

    def theirs() -> None:
        found, _, loss = other(maps)
        (F.mse_loss(found, maps.detach()) + loss.sum()).backward()

    ours(), theirs()
    other._codebook.embed.copy_(book.weight[None])
    with torch.no_grad():
        if not torch.equal(book.eval()(maps)[2], other.eval()(maps)[1]):
            raise SystemExit("equal codebooks choose other codes")
    book.train(), other.train()
    return compare_ab("a step, codebook against vector-quantize-pytorch", ours, theirs, repeats=7)


if __name__ == "__main__":
    set_threads(1)
    parts = {"steps": [step_of_gpt, step_of_codebook], "decoding": [decoding]}
    path = RESULTS / "l_verse_cost.json"
    found = json.loads(path.read_text())["figures"] if path.exists() else {}
    for name in sys.argv[1:] or parts:
        found |= {part.__name__: part() for part in parts[name]}
        write_result("l_verse_cost", {"figures": found})

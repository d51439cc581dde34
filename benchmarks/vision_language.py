"""METER, UNITER, NLX-GPT and CoCoOp beside plain transformers implementations of the same networks; UNITER's compaction
beside padding. Forward and backward, published widths, two layers of each stack, one thread.

    python benchmarks/vision_language.py [meter] [uniter] [uniter-alike] [nlxgpt] [cocoop] [cocoop-cut]

Both sides have the same weights and give the same values, forward and backward (checked in float64 at a small size; the
vocabulary's and the encoders' parts are the same modules and left out of METER). Plain means: for METER BridgeTower's
layers, which come from METER; for UNITER ``BertEncoder`` over words and regions padded side by side; for NLX-GPT
``GPT2LMHeadModel`` with cross-attention. Captions and regions of the UNITER rows are as long as real ones: 8 to 24 word
pieces; 10 to 100 regions, as its detector gives (rows drawn, seed 0); ``uniter-alike`` takes eight rows of like length,
the middle of 64, as its published batches are made. CoCoOp has one image and ten classes of short names: the plain loop
over images runs all 77 places, as published; in ``cocoop-cut`` its prompts are cut to the longest, too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers
from harness import RESULTS, compare_sides, set_threads, write_result
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.bridgetower.modeling_bridgetower import BridgeTowerBertCrossLayer

from weft.allocator import keep_freed_memory
from weft.fusion.bert import BertLayer, load_official
from weft.fusion.co_attention import step as co_step
from weft.systems.cocoop.network import CoopNet, PromptLearner, Prompts
from weft.systems.nlxgpt.network import Decoder
from weft.systems.uniter.network import UniterNet
from weft.tokens import Tokens

Run = Callable[[], Tensor]
Sizes = tuple[int, int, int, int]
PUBLISHED, SMALL = (768, 12, 3072, 2), (24, 3, 48, 2)


def backward(loss: Run, modules: list[nn.Module]) -> Run:
    def run() -> Tensor:
        for module in modules:
            module.zero_grad()
        value = loss()
        value.backward()
        return value.detach()

    return run


def meter(sizes: Sizes, dtype: torch.dtype) -> tuple[Run, Run, list[nn.Module]]:
    """Co-attention of 40 words, some padding, and 197 image tokens."""
    dim, heads, hidden, layers = sizes
    config = transformers.BridgeTowerTextConfig(
        hidden_size=dim, num_attention_heads=heads, intermediate_size=hidden, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    config.layer_norm_eps, config._attn_implementation = 1e-12, "sdpa"
    plain_layers = nn.ModuleList(BridgeTowerBertCrossLayer(config) for _ in range(2 * layers)).to(dtype)
    own = nn.ModuleList(BertLayer(dim, heads, hidden, 0.0, cross=True) for _ in range(2 * layers)).to(dtype)
    for mine, plain in zip(own, plain_layers, strict=True):
        load_official(mine, plain.state_dict())
    lengths = torch.tensor([40, 12, 9, 20])
    x, y = torch.randn(4, 40, dim, dtype=dtype), torch.randn(4, 197, dim, dtype=dtype)
    x_mask, y_mask = torch.arange(40) < lengths[:, None], torch.ones(4, 197, dtype=torch.bool)
    weights = torch.randn(4, dim, dtype=dtype)

    def pooled(text: Tensor, image: Tensor) -> Tensor:
        return ((text[:, 0] + image[:, 0]) * weights).sum()

    def ours() -> Tensor:
        a, b = Tokens(x, x_mask), Tokens(y, y_mask)
        for k in range(0, len(own), 2):
            a, b = co_step(own[k : k + 2], a, b)
        return pooled(a.values, b.values)

    def theirs() -> Tensor:
        ways = [torch.zeros(m.shape, dtype=dtype).masked_fill(~m, -1e4)[:, None, None] for m in (x_mask, y_mask)]
        a, b = x, y
        for one, two in zip(plain_layers[::2], plain_layers[1::2], strict=True):
            a, b = (
                one(a, b, attention_mask=ways[0], encoder_attention_mask=ways[1])[0],
                two(b, a, attention_mask=ways[1], encoder_attention_mask=ways[0])[0],
            )
        return pooled(a, b)

    return backward(ours, [own]), backward(theirs, [plain_layers]), [own, plain_layers]


def uniter(sizes: Sizes, dtype: torch.dtype, drawn: int = 8) -> tuple[Run, Run, list[nn.Module]]:
    """The trunk: rows compacted, against words and regions padded side by side; eight of ``drawn`` rows."""
    dim, heads, hidden, layers = sizes
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=dim, num_attention_heads=heads, intermediate_size=hidden, num_hidden_layers=layers,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    net = UniterNet(config, 2048 if dim == 768 else 16).to(dtype)
    lengths = torch.Generator().manual_seed(0)
    words, regions = (torch.randint(*ends, (drawn,), generator=lengths) for ends in ((8, 25), (10, 101)))
    middle = (words + regions).argsort()[drawn // 2 - 4 : drawn // 2 + 4]
    words, regions = words[middle], regions[middle]
    ids_mask, seen = (torch.arange(int(n.max())) < n[:, None] for n in (words, regions))
    ids = torch.randint(1, 200, ids_mask.shape) * ids_mask
    features = torch.randn(*seen.shape, net.img_embeddings.img_linear.in_features, dtype=dtype)
    places, weights = torch.rand(*seen.shape, 7, dtype=dtype), torch.randn(8, dim, dtype=dtype)

    def ours() -> Tensor:
        return (net.pooled(net(ids, ids_mask, Tokens(features, seen), places)) * weights).sum()

    def padded() -> Tensor:
        types = net.embeddings.token_type_embeddings.weight[1]
        values = torch.cat([net.embeddings(input_ids=ids), net.img_embeddings(features, places, types)], dim=1)
        mask = torch.cat([ids_mask, seen], dim=1)
        blocked = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -1e4)[:, None, None]
        return (net.pooler(net.encoder(values, attention_mask=blocked).last_hidden_state) * weights).sum()

    print(f"  places of a row: {int((words + regions).max())} compacted, {ids.shape[1] + seen.shape[1]} padded")
    return backward(ours, [net]), backward(padded, [net]), [net]


def uniter_alike(sizes: Sizes, dtype: torch.dtype) -> tuple[Run, Run, list[nn.Module]]:
    """The same, of rows of like length."""
    return uniter(sizes, dtype, drawn=64)


def nlxgpt(sizes: Sizes, dtype: torch.dtype) -> tuple[Run, Run, list[nn.Module]]:
    """The decoder's training step: 40 tokens, 196 image tokens, the published vocabulary."""
    dim, heads, hidden, layers = sizes
    plain = {
        "n_embd": dim, "n_head": heads, "n_inner": hidden, "n_layer": layers, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        "resid_pdrop": 0.0, "vocab_size": 50261 if dim == 768 else 90,
    }  # fmt: skip
    own = Decoder(plain, dim).to(dtype).train()
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**plain, add_cross_attention=True)).to(dtype).train()
    theirs.transformer.load_state_dict(own.transformer.state_dict())
    image = torch.randn(4, 196, dim, dtype=dtype)
    ids, segments = torch.randint(0, 90, (4, 40)), torch.randint(0, 90, (4, 40))
    labels = torch.where(torch.arange(40) < 9, -100, ids)

    def ours() -> Tensor:
        return own.loss(ids, segments, Tokens(image, torch.ones(4, 196, dtype=torch.bool)), labels).mean()

    def plainly() -> Tensor:
        logits = theirs(ids, token_type_ids=segments, encoder_hidden_states=image).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    return backward(ours, [own]), backward(plainly, [theirs]), [own, theirs]


def cocoop(sizes: Sizes, dtype: torch.dtype, cut: bool = False) -> tuple[Run, Run, list[nn.Module]]:
    """The text side of a training step: prompts of every class under the context of the image, and the loss."""
    dim, heads, hidden, layers = (512, 8, 2048, sizes[3]) if sizes[0] == 768 else sizes
    text = {
        "hidden_size": dim, "num_attention_heads": heads, "intermediate_size": hidden, "num_hidden_layers": layers,
        "vocab_size": 1000, "max_position_embeddings": 77, "eos_token_id": 999,
    }  # fmt: skip
    vision = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim)
    clip = transformers.CLIPModel(config).to(dtype).eval().requires_grad_(False)
    names = tuple(1 + k % 3 for k in range(10))
    ids = torch.zeros(10, 77, dtype=torch.long)
    for row, length in zip(ids, names, strict=True):
        row[: 7 + length] = torch.tensor([998, 1, 1, 1, 1, *range(10, 10 + length), 2, 999])
    learner = PromptLearner(torch.randn(4, dim) * 0.02, joint=dim).to(dtype)
    net = CoopNet(clip, learner, Prompts(ids, names))
    feature, label = F.normalize(torch.randn(1, dim, dtype=dtype), dim=-1), torch.tensor([3])
    places = int((ids == 999).int().argmax(1).max()) + 1 if cut else 77
    seen, model = ids[:, :places], clip.text_model
    blocked = torch.full((places, places), -torch.inf, dtype=dtype).triu(1)[None, None]

    def ours() -> Tensor:
        return F.cross_entropy(net(feature), label)

    def plain() -> Tensor:
        tokens, logits = model.embeddings.token_embedding(seen), []
        for context, image in zip(learner.contexts(feature), feature, strict=True):
            prompts = torch.cat([tokens[:, :1], context.expand(len(seen), -1, -1), tokens[:, 5:]], dim=1)
            hidden = prompts + model.embeddings.position_embedding.weight[:places]
            hidden = model.final_layer_norm(model.encoder(hidden, attention_mask=blocked).last_hidden_state)
            found = clip.text_projection(hidden[torch.arange(len(seen)), (seen == 999).int().argmax(1)])
            logits.append(clip.logit_scale.exp() * image @ F.normalize(found, dim=-1).T)
        return F.cross_entropy(torch.stack(logits), label)

    return backward(ours, [learner]), backward(plain, [learner]), [learner]


def cocoop_cut(sizes: Sizes, dtype: torch.dtype) -> tuple[Run, Run, list[nn.Module]]:
    """The same, with prompts cut on both sides."""
    return cocoop(sizes, dtype, cut=True)


PARTS: dict[str, Callable[[Sizes, torch.dtype], tuple[Run, Run, list[nn.Module]]]] = {
    "meter": meter,
    "uniter": uniter,
    "uniter-alike": uniter_alike,
    "nlxgpt": nlxgpt,
    "cocoop": cocoop,
    "cocoop-cut": cocoop_cut,
}


def one_side(name: str, side: int) -> Run:
    torch.manual_seed(0)
    return PARTS[name](PUBLISHED, torch.float32)[side]


def check(name: str) -> None:
    """Both sides in float64: the same value, and gradients of the same size in all."""
    torch.manual_seed(0)
    ours, theirs, modules = PARTS[name](SMALL, torch.float64)
    found = []
    for run, module in zip((ours, theirs), (modules * 2)[:2], strict=True):
        value = run()
        grads = [p.grad for p in module.parameters() if p.grad is not None and p.grad.ndim == 2]
        found.append([value, torch.stack([g.square().sum() for g in grads]).sum()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def main() -> None:
    set_threads(1)
    keep_freed_memory()
    path = RESULTS / "vision_language.json"
    figures: dict[str, Any] = json.loads(path.read_text())["figures"] if path.is_file() else {}
    for name in sys.argv[1:] or list(PARTS):
        check(name)
        torch.manual_seed(0)
        ours, theirs, _ = PARTS[name](PUBLISHED, torch.float32)
        figures[name] = compare_sides(name, ours, theirs, one_side, name, repeats=15)
    write_result("vision_language", {"figures": figures})


if __name__ == "__main__":
    main()

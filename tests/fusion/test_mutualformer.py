"""MutualFormer against plain loops, its published parameter count, its options, and its errors."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.fusion.references import reference
from weft.errors import UserError
from weft.fusion import create_fusion
from weft.fusion.mutualformer import (
    CrossDiffusionAttention,
    DropPath,
    MutualFormer,
    MutualFormerBlock,
    OverlapPatchEmbed,
    to_map,
)
from weft.tokens import Tokens

TIGHT = {"rtol": 1e-11, "atol": 1e-11}


def norm(x: Tensor, layer: Any) -> Tensor:
    """LayerNorm of one vector."""
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * layer.weight + layer.bias


def softmax_map(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """Row i over the real keys; rows of masked queries are zero."""
    out = torch.zeros(len(q), len(q), dtype=q.dtype)
    for i in range(len(q)):
        if mask[i]:
            scores = {
                j: math.exp(float(q[i].detach() @ k[j].detach()) / math.sqrt(len(q[i])))
                for j in range(len(k))
                if mask[j]
            }
            for j, score in scores.items():
                out[i, j] = score / sum(scores.values())
    return out


def block_by_loops(block: Any, r: Tensor, d: Tensor, f: Tensor, masks: list[Tensor], alpha: float) -> Tensor:
    """One block on one sample, ``(N, D)``, from the published equations, head by head and token by token."""
    attn, (tokens, dim) = block.attn, r.shape
    both = [norm(torch.cat([r[i], d[i]]), block.norm1) for i in range(tokens)]
    streams = [torch.stack([x[:dim] for x in both]), torch.stack([x[dim:] for x in both])]
    streams.append(torch.stack([norm(f[i], block.norm1_rd) for i in range(tokens)]))
    width = dim // attn.heads
    selves = [torch.zeros(tokens, dim, dtype=r.dtype) for _ in range(3)]
    crosses = [torch.zeros(tokens, dim, dtype=r.dtype) for _ in range(2)]
    for h in range(attn.heads):
        part = slice(h * width, (h + 1) * width)
        maps, values = [], []
        for x, layer, mask in zip(streams, (attn.qkv_r, attn.qkv_d, attn.qkv), masks, strict=True):
            q, k, v = (torch.stack([layer.weight[n * dim :][part] @ token for token in x]) for n in range(3))
            maps.append(softmax_map(q, k, mask))
            values.append(v * mask.unsqueeze(1))
        for out, a, v in zip(selves, maps, values, strict=True):
            out[:, part] = a @ v
        fitted = (1 - alpha) * (maps[0] + maps[1])
        crosses[0][:, part] = (alpha * maps[0].T @ maps[1] + fitted) @ values[1]
        crosses[1][:, part] = (alpha * maps[1].T @ maps[0] + fitted) @ values[0]
    out = torch.zeros_like(f)
    for i in range(tokens):
        o_r = attn.proj_r(torch.cat([selves[0][i], crosses[0][i]]))
        o_d = attn.proj_d(torch.cat([selves[1][i], crosses[1][i]]))
        y = f[i] + attn.proj(selves[2][i]) + attn.proj_rd(torch.cat([o_r, o_d]))
        hidden = block.mlp.fc1(norm(y, block.norm2))
        out[i] = y + block.mlp.fc2(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
    return out


@reference("mutualformer")
def mutualformer(module: MutualFormer, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    for row in range(len(next(iter(inputs.values())).mask)):
        masks = [t.mask[row] for t in inputs.values()]
        streams = []
        for (values, _), mask, embed in zip(inputs.values(), masks, module.embed, strict=True):
            streams.append(torch.stack([embed(v) if real else torch.zeros(module.dim).double()
                                        for v, real in zip(values[row], mask, strict=True)]))  # fmt: skip
        real = torch.stack(masks).any(dim=0)
        fused = torch.stack([module.prefuse(torch.cat([s[i] for s in streams])) for i in range(len(real))])
        pairs = list(combinations(range(len(streams)), 2))
        for layer in range(len(module.blocks) // len(pairs)):
            results = [
                block_by_loops(
                    module.blocks[layer * len(pairs) + p],
                    streams[i],
                    streams[j],
                    fused,
                    [masks[i], masks[j], real],
                    0.6,
                )
                for p, (i, j) in enumerate(pairs)
                if masks[i].any() or masks[j].any()
            ]
            fused = torch.stack(results).sum(dim=0) / len(results)
        vectors.append(fused[real].sum(dim=0) / int(real.sum()))
    return torch.stack(vectors)


def streams(dim: int = 8, tokens: int = 6, batch: int = 3) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, tokens, dim, dtype=torch.float64) for _ in range(3)]


def batch(dims: dict[str, int], tokens: int = 6, rows: int = 3) -> dict[str, Tokens]:
    torch.manual_seed(0)
    return {
        n: Tokens(torch.randn(rows, tokens, d), torch.ones(rows, tokens, dtype=torch.bool)) for n, d in dims.items()
    }


@pytest.mark.parametrize("depth", [1, 2])
def test_equals_plain_loops_for_two_modalities_and_deeper(depth: int) -> None:
    torch.manual_seed(0)
    module = MutualFormer({"a": 8, "b": 5}, 8, depth=depth, heads=2).double()
    inputs = {n: Tokens(t.values.double(), t.mask) for n, t in batch(module.dims).items()}
    inputs["b"].mask[0], inputs["a"].mask[1, 4:] = False, False
    assert_close(module(inputs).vector, mutualformer(module, inputs), **TIGHT)


@pytest.mark.parametrize("dim", [16, 64, 128])
def test_published_parameter_count(dim: int) -> None:
    assert sum(p.numel() for p in MutualFormerBlock(dim).parameters()) == 24 * dim**2 + 17 * dim
    assert sum(p.numel() for p in CrossDiffusionAttention(dim).parameters()) == 16 * dim**2 + 4 * dim


def test_official_parameters_go_into_the_stack() -> None:
    torch.manual_seed(0)
    block = MutualFormerBlock(8, 2, qkv_bias=True, mlp_ratio=2.0)
    module = MutualFormer.from_official(block.state_dict(), heads=2, names=("rgb", "thermal"))
    inputs = batch({"rgb": 8, "thermal": 8})
    r, d = inputs["rgb"].values, inputs["thermal"].values
    tokens = module(inputs).tokens
    assert tokens is not None
    assert_close(tokens.values, block(r, d, module.prefuse(torch.cat([r, d], dim=-1))))


@pytest.mark.parametrize("broken", ["missing", "shape", "other"])
def test_parameters_that_do_not_fit_are_refused(broken: str) -> None:
    state = MutualFormerBlock(8, 2).state_dict()
    if broken == "missing":
        del state["attn.proj.weight"]
    elif broken == "shape":
        state["attn.proj.weight"] = torch.zeros(3, 3)
    else:
        state = {"weight": torch.zeros(3)}
    with pytest.raises(UserError, match=r"MutualFormer block|published block"):
        MutualFormerBlock.from_official(state, 2)


def test_ablations_are_what_they_say() -> None:
    """Each option against its own short formula, on the attention alone."""
    r, d, f = streams()

    def build(**options: Any) -> Any:
        torch.manual_seed(1)
        return CrossDiffusionAttention(8, 2, self_attention=False, **options).double()

    def split(layer: nn.Linear, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.unflatten(-1, (2, 4)).transpose(1, 2) for t in layer(x).chunk(3, dim=-1))

    def merge(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

    def output(module: Any, to_r: Tensor, to_d: Tensor) -> Tensor:
        return module.proj_rd(torch.cat([module.proj_r(to_r), module.proj_d(to_d)], dim=-1))

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return merge(torch.softmax(q @ k.mT / 2, dim=-1) @ v)

    module = build(cross="none")
    assert_close(
        module(r, d, f), output(module, attention(*split(module.qkv_r, r)), attention(*split(module.qkv_d, d)))
    )
    module = build(cross="attention")
    (qr, kr, vr), (qd, kd, vd) = split(module.qkv_r, r), split(module.qkv_d, d)
    to_r = torch.cat([attention(qr, kr, vr), attention(qr, kd, vd)], dim=-1)
    to_d = torch.cat([attention(qd, kd, vd), attention(qd, kr, vr)], dim=-1)
    assert_close(module(r, d, f), output(module, to_r, to_d), **TIGHT)
    module = build(cross="concat")
    vr, vd = module.qkv_r(r), module.qkv_d(d)
    assert_close(module(r, d, f), output(module, torch.cat([vr, vd], -1), torch.cat([vd, vr], -1)), **TIGHT)
    module = build(alpha=0.0)
    (qr, kr, vr), (qd, kd, vd) = split(module.qkv_r, r), split(module.qkv_d, d)
    a_r, a_d = torch.softmax(qr @ kr.mT / 2, -1), torch.softmax(qd @ kd.mT / 2, -1)
    to_r = torch.cat([merge(a_r @ vr), merge((a_r + a_d) @ vd)], -1)
    to_d = torch.cat([merge(a_d @ vd), merge((a_r + a_d) @ vr)], -1)
    assert_close(module(r, d, f), output(module, to_r, to_d), **TIGHT)
    module = build(alpha=1.0)
    to_r = torch.cat([merge(a_r @ vr), merge(a_r.mT @ a_d @ vd)], -1)
    to_d = torch.cat([merge(a_d @ vd), merge(a_d.mT @ a_r @ vr)], -1)
    assert_close(module(r, d, f), output(module, to_r, to_d), **TIGHT)


def test_split_norm_keeps_the_modalities_apart() -> None:
    """With one norm over both, the scale of one modality changes the other's tokens."""
    r, d, _ = streams()
    for split, same in ((True, True), (False, False)):
        block = MutualFormerBlock(8, 2, split_norm=split).double()
        before, after = (block.norm1(torch.cat([r, x], dim=-1))[..., :8] for x in (d, 10 * d))
        assert torch.equal(before, after) == same


@pytest.mark.parametrize(
    "options",
    [
        {"cross": "attention"},
        {"cross": "none"},
        {"cross": "concat"},
        {"self_attention": False},
        {"split_norm": True},
        {"qkv_bias": True},
        {"steps": 3, "orientation": "rdp", "fit": "mean"},
        {"dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.1, "depth": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("absent", [None, "b"])
def test_every_option_trains_and_ignores_what_lies_under_the_mask(options: dict[str, Any], absent: str | None) -> None:
    torch.manual_seed(0)
    module = create_fusion("mutualformer", {"a": 5, "b": 7, "c": 4}, 8, heads=2, **options)
    inputs = batch(module.dims)
    inputs["a"].mask[:, 4:] = False
    if absent:
        inputs[absent].mask[:2] = False
    module(inputs).vector.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in module.parameters())
    garbage = {n: Tokens(t.values.masked_fill(~t.mask.unsqueeze(-1), 1e4), t.mask) for n, t in inputs.items()}
    module.eval()
    assert_close(module(garbage).vector, module(inputs).vector)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer, x = DropPath(0.25), torch.ones(4000, 3, 2)
    out = layer(x)
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(out[:, :1, :1].expand_as(out), out)
    assert float(out.mean()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(layer.eval()(x), x)
    deep = MutualFormer({"a": 8, "b": 8}, 8, depth=4, heads=2, drop_path=0.4)
    assert [block.drop_path.p for block in deep.blocks] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_maps_and_patches() -> None:
    tokens = torch.arange(12.0).view(1, 6, 2)
    assert to_map(tokens, 2)[0, 0].tolist() == [[0, 2, 4], [6, 8, 10]]
    with pytest.raises(UserError, match="height=4"):
        to_map(tokens, 4)
    embed = OverlapPatchEmbed((20, 32), patch=8, stride=6, channels=1, dim=5)
    assert embed.grid == (3, 5)
    image = torch.randn(2, 1, 20, 32)
    second_row = embed.proj.weight.flatten(1) @ image[0, 0, 6:14, 12:20].flatten() + embed.proj.bias
    assert_close(embed(image)[0, 5 + 2], second_row)
    with pytest.raises(UserError, match="made for"):
        embed(image[..., :20])
    with pytest.raises(UserError, match="fits"):
        OverlapPatchEmbed(8, patch=16)


def test_misuse_is_explained() -> None:
    with pytest.raises(UserError, match="heads=3"):
        MutualFormer({"a": 8, "b": 8}, 8, heads=3)
    with pytest.raises(UserError, match="depth=0"):
        MutualFormer({"a": 8, "b": 8}, 8, depth=0)
    with pytest.raises(UserError, match="drop_path"):
        MutualFormer({"a": 8, "b": 8}, 8, drop_path=1.0)
    with pytest.raises(UserError, match="at least 2"):
        MutualFormer({"a": 8}, 8)
    module = MutualFormer({"a": 8, "b": 8}, 8)
    one = batch(module.dims, tokens=1)
    with pytest.raises(UserError, match="two or more"):
        module(one)
    assert module.eval()(one).vector.isfinite().all()
    with pytest.raises(UserError, match="token counts"):
        module({"a": batch({"a": 8}, 5)["a"], "b": batch({"b": 8}, 4)["b"]})
    with pytest.raises(UserError, match="one grid"):
        CrossDiffusionAttention(8)(torch.zeros(1, 5, 8), torch.zeros(1, 4, 8), torch.zeros(1, 5, 8))

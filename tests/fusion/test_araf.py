"""ARAF against plain loops on unpadded rows; the copied channels against the dense blocks; options and absence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.contract.fusion_checks import CHECKS
from tests.contract.sampling import DIM, build, sample, widths
from tests.fusion.loops import layer_norm
from tests.fusion.references import real_tokens, reference
from weft.errors import UserError
from weft.fusion import create_fusion
from weft.fusion.araf import ARAF, Alignment, Enhancement, Extraction, Resampler
from weft.fusion.araf_blocks import JointLayerNorm, LowRank, PublishedAlignment, PublishedEnhancement
from weft.tokens import Tokens

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def joint(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    values = [float(v) for token in x.detach() for v in token]
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    return torch.stack([(token - mean) / math.sqrt(variance + 1e-5) * gamma + beta for token in x])


def normalise(norm: nn.Module, x: Tensor) -> Tensor:
    if isinstance(norm, JointLayerNorm):
        return joint(x, norm.gamma, norm.beta)
    return layer_norm(x, norm.weight, norm.bias)


def softmax_average(scores: Tensor, values: Tensor) -> Tensor:
    weights = [math.exp(s) for s in (scores - scores.max()).tolist()]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def interpolate(row: Tensor, length: int) -> Tensor:
    """Linear, at ``(t + 0.5) L / length - 0.5``, clamped to the ends."""
    out = []
    for t in range(length):
        place = max((t + 0.5) * len(row) / length - 0.5, 0.0)
        left = min(int(place), len(row) - 1)
        right = min(left + 1, len(row) - 1)
        out.append(row[left] * (1 - (place - left)) + row[right] * (place - left))
    return torch.stack(out)


def resample(module: Resampler, x: Tensor) -> Tensor:
    if not len(x):
        return module.queries
    att, dim = module.attention, module.queries.shape[1]
    normed, size = layer_norm(x, module.norm.weight, module.norm.bias), dim // att.heads
    keys, values = normed @ att.key_value.weight[:dim].T, normed @ att.key_value.weight[dim:].T
    out = []
    for learned in module.queries:
        query = att.query.weight @ learned
        heads = [slice(h * size, (h + 1) * size) for h in range(att.heads)]
        received = [softmax_average(keys[:, h] @ query[h] / math.sqrt(size), values[:, h]) for h in heads]
        out.append(learned + att.out.weight @ torch.cat(received) + att.out.bias)
    return torch.stack(out)


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Keys and values ``(m, d)`` of all heads."""
    size = keys.shape[1]
    return torch.stack(
        [
            torch.cat(
                [softmax_average(keys @ q[h * size : (h + 1) * size] / math.sqrt(size), values) for h in range(heads)]
            )
            for q in queries
        ]
    )


def align(module: Alignment, queries: Tensor, source: Tensor) -> Tensor:
    keys, values = (normalise(module.norm, source) @ module.key_value.weight.T).chunk(2, dim=1)
    q = normalise(module.norm, queries) @ module.query.weight.T + module.query.bias
    received = attend(q, keys, values, module.heads)
    return received @ module.out.weight.T + module.out.bias if isinstance(module.out, nn.Linear) else received


def enhance(module: Enhancement, fused: Tensor, mean: Tensor) -> Tensor:
    tokens, columns = len(fused), module.channels.out_features
    x = fused if module.gate is None else torch.stack([token + module.gate.weight @ mean for token in fused])
    mixed = [
        sum(w * x[n] for n, w in enumerate(row)) + b for row, b in zip(module.mix.weight, module.mix.bias, strict=True)
    ]
    reduced = torch.stack([module.channels.weight @ r + module.channels.bias for r in mixed])
    raised = torch.stack([interpolate(reduced[:, s], tokens) for s in range(columns)], dim=1).clamp(min=0)
    down = torch.stack([interpolate(token, columns) for token in normalise(module.norm, fused)])
    return (raised + down).clamp(min=0)


def extract(module: Extraction, x: Tensor, places: list[int]) -> Tensor:
    """Normalisation and two convolutions, token by token; ``places`` are the tokens' positions, gaps are zeros."""
    values = layer_norm(x, module.norm.weight, module.norm.bias)
    for block in module.blocks:
        kernel, bias = block.convolution.weight, block.convolution.bias
        branch = []
        for t in range(len(values)):
            total = bias.clone()
            for k in (-1, 0, 1):
                if places[t] + k in places:
                    total = total + kernel[:, :, k + 1] @ values[places.index(places[t] + k)]
            gelu = torch.stack([u * 0.5 * (1 + math.erf(float(u) / math.sqrt(2))) for u in total])
            branch.append(block.mapping.weight @ gelu + block.mapping.bias)
        values = values + torch.stack(branch)
    return values


@reference("araf")
def araf(module: ARAF, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    with torch.no_grad():
        for row in range(len(inputs[module.names[0]].mask)):
            x = [
                real_tokens(inputs[name], row) @ p.weight.T + p.bias
                for name, p in zip(module.names, module.project, strict=True)
            ]
            if module.extract is not None:
                places = [inputs[name].mask[row].nonzero().flatten().tolist() for name in module.names]
                x = [extract(e, *xp) if xp[1] else xp[0] for e, *xp in zip(module.extract, x, places, strict=True)]
            queries = {a: resample(r, x[a]) for a, r in zip(module.askers, module.resample, strict=True)}
            fused = dict.fromkeys(module.askers, torch.zeros_like(next(iter(queries.values()))))
            for (a, b), block in zip(module.pairs, module.align or [None] * len(module.pairs), strict=True):
                if block is None:
                    fused[a] = queries[a]
                elif len(x[b]):
                    fused[a] = fused[a] + align(block, queries[a], x[b])
            asking = [a for a in fused if len(x[a]) or not len(module.align)] if len(fused) > 1 else list(fused)
            mean = sum(fused[a] for a in asking) / len(asking)
            means = {m: x[m].sum(dim=0) / len(x[m]) for m in range(len(x)) if len(x[m])}
            if len(module.enhance):
                shared = sum(enhance(module.enhance[m], mean, centre) for m, centre in means.items())
            else:
                shared = torch.stack([interpolate(token, module.columns) for token in mean])
            vector = module.out.weight @ shared.flatten() + module.out.bias
            vectors.append(
                vector
                if module.scale is None
                else module.scale * vector + sum(m.clamp(min=0) for m in means.values()) / len(means)
            )
    return torch.stack(vectors)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "token", "symmetric": True},
        {"gates": False, "asks": "m1"},
        {"output_projection": False, "columns": 5, "heads": 2},
        {"symmetric": True, "columns": 16},
        {"mfe": True, "skip": False},
        {"align": False, "symmetric": True},
        {"enhance": False, "symmetric": True},
    ],
)
def test_options_equal_the_loops(options: dict[str, Any]) -> None:
    dims = widths(ARAF)
    module = build(ARAF, dims, **{"columns": 12, **options}, tokens=6)
    inputs = sample(ARAF, dims)
    assert_close(module(inputs).vector, araf(module, inputs), rtol=1e-9, atol=1e-9)


class Official(ARAF):
    """The official variant as a class of its own, for the contract."""

    def __init__(self, dims: dict[str, int], dim: int = 256) -> None:
        super().__init__(dims, dim, variant="official")


class Symmetric(ARAF):
    """All modalities ask, normalised per token."""

    def __init__(self, dims: dict[str, int], dim: int = 256) -> None:
        super().__init__(dims, dim, symmetric=True, norm="token", tokens=8, columns=8)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("cls", [Official, Symmetric])
def test_variants_keep_the_contract(cls: type[ARAF], check: str) -> None:
    CHECKS[check](cls)


def official(module: ARAF, inputs: dict[str, Tokens]) -> Tensor:
    """Section by section, with every channel copied."""
    vectors = []
    with torch.no_grad():
        for row in range(len(inputs[module.names[0]].mask)):
            x = []
            for name, p in zip(module.names, module.project, strict=True):
                real = real_tokens(inputs[name], row)
                mean = (real @ p.weight.T + p.bias).mean(dim=0) if len(real) else torch.zeros_like(p.bias)
                x.append((len(real), mean.unsqueeze(1).expand(-1, module.dim)))
            fused: dict[int, Tensor] = {a: torch.zeros_like(x[0][1]) for a in module.askers}
            for (a, b), block in zip(module.pairs, module.align, strict=True):
                if x[b][0]:
                    fused[a] = fused[a] + literal_alignment(block, x[a][1], x[b][1])
            asking = [a for a in fused if x[a][0]] if len(fused) > 1 else list(fused)
            enhanced = literal_enhancement(module.enhance[0], sum(fused[a] for a in asking) / len(asking))
            vectors.append(module.out.weight @ enhanced.flatten() + module.out.bias)
    return torch.stack(vectors)


def literal_alignment(block: PublishedAlignment, query: Tensor, source: Tensor) -> Tensor:
    q, kv = block.image_projection, block.signal_projection
    keys, values = (normalise(block.norm, source) @ kv.weight.T + kv.bias).chunk(2, dim=1)
    return attend(normalise(block.norm, query) @ q.weight.T + q.bias, keys, values, block.heads)


def literal_enhancement(block: PublishedEnhancement, features: Tensor) -> Tensor:
    z = normalise(block.norm, features)
    first, second, last = *block.residual_block, block.cnn[0]
    r = second.weight[..., 0] @ (first.weight[..., 0] @ z + first.bias[:, None]) + second.bias[:, None]
    e = last.weight[..., 0] @ r.T + last.bias[:, None]
    up = torch.stack([interpolate(row, block.columns) for row in e]).clamp(min=0)
    return (up + torch.stack([interpolate(row, block.columns) for row in z])).clamp(min=0)


@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"asks": "m2", "columns": 5}])
def test_official_equals_the_loops(options: dict[str, Any]) -> None:
    dims = widths(ARAF)
    module = build(ARAF, dims, variant="official", **options)
    inputs = sample(ARAF, dims)
    assert_close(module(inputs).vector, official(module, inputs), rtol=1e-9, atol=1e-9)


def test_copied_channels_equal_the_dense_blocks_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    align, enhance = PublishedAlignment(24, 4, 6).double(), PublishedEnhancement(24, 4, 6, 10).double()
    parameters = [*align.parameters(), *enhance.parameters()]
    with torch.no_grad():
        for p in parameters:
            p.add_(0.3 * torch.randn_like(p))
    vectors = [torch.randn(3, n, dtype=torch.float64, requires_grad=True) for n in (24, 24)]
    weight = torch.randn(3, 24, 10, dtype=torch.float64)
    outcomes = []
    for dense in (True, False):
        if dense:
            fused = align(*(v.unsqueeze(2).expand(-1, -1, 24) for v in vectors))
            y = enhance(fused)
        else:
            low = align.copied(*vectors)
            fused, y = low.dense(), enhance.copied(low)
        gradients = torch.autograd.grad((y * weight).sum(), [*vectors, *parameters])
        outcomes.append([fused, y, *gradients])
    for dense_result, copied_result in zip(*outcomes, strict=True):
        assert_close(copied_result, dense_result, **TIGHT)
    assert int(torch.linalg.matrix_rank(outcomes[0][0][0])) <= 5


def test_enhancement_takes_any_low_rank_form() -> None:
    """Several sources: more coefficients than heads, and an offset per row."""
    torch.manual_seed(1)
    enhance = PublishedEnhancement(12, 3, 4, 7).double()
    low = LowRank(*(torch.randn(*s, dtype=torch.float64) for s in ((2, 12, 6), (6, 12), (2, 12))))
    assert_close(enhance.copied(low), enhance(low.dense()), **TIGHT)


def test_joint_norm_with_fewer_channels_uses_the_first_weights() -> None:
    norm = JointLayerNorm(9).double()
    nn.init.normal_(norm.gamma)
    x = torch.randn(1, 4, 6, dtype=torch.float64)
    assert_close(norm(x)[0], joint(x[0], norm.gamma[:6], norm.beta[:6]))
    with pytest.raises(UserError, match="10 channels"):
        norm(torch.randn(1, 4, 10).double())


def test_absent_asker_still_learns_from_the_others() -> None:
    dims = widths(ARAF, 2)
    module, inputs = build(ARAF, dims, tokens=4), sample(ARAF, dims, absent=False)
    first, second = inputs.values()
    gone = {"m0": Tokens(first.values, torch.zeros_like(first.mask)), "m1": second}
    other = {"m0": gone["m0"], "m1": Tokens(second.values + 1, second.mask)}
    assert not torch.allclose(module(gone).vector, module(other).vector, atol=1e-3)


def test_training_on_one_token_is_refused_by_the_paper_variant_alone() -> None:
    inputs = {n: Tokens(torch.randn(2, 1, d), torch.ones(2, 1, dtype=torch.bool)) for n, d in widths(ARAF, 2).items()}
    with pytest.raises(UserError, match="gated"):
        create_fusion("araf", widths(ARAF, 2), DIM)(inputs)
    vector = create_fusion("araf", widths(ARAF, 2), DIM, variant="official")(inputs).vector
    assert vector.shape == (2, DIM)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"heads": 7}, "heads=7"),
        ({"tokens": 0}, "tokens=0"),
        ({"asks": "m7"}, "m7"),
        ({"asks": "m1", "symmetric": True}, "symmetric=True"),
        ({"variant": "official", "norm": "token"}, "norm='token'"),
        ({"variant": "oficial"}, "variant='oficial'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], found: str) -> None:
    with pytest.raises(UserError, match=found):
        create_fusion("araf", widths(ARAF), DIM, **options)


def marked(rows: int, generator: torch.Generator) -> tuple[dict[str, Tokens], Tensor]:
    """One token of each modality is marked and carries one of four symbols; the label is the parity of their sum."""
    inputs, label = {}, torch.zeros(rows, dtype=torch.long)
    every = torch.arange(rows)
    for name, length in (("a", 6), ("b", 8)):
        values = 0.3 * torch.randn(rows, length, 6, generator=generator)
        symbols = torch.randint(0, 4, (rows, length), generator=generator)
        values.scatter_add_(2, symbols.unsqueeze(-1) + 1, torch.full((rows, length, 1), 1.5))
        place = torch.randint(0, length, (rows,), generator=generator)
        values[every, place, 0] += 3
        mask = torch.rand(rows, length, generator=generator) > 0.2
        mask[every, place] = True
        inputs[name], label = Tokens(values, mask), (label + symbols[every, place]) % 2
    return inputs, label


def test_learns_what_neither_modality_knows() -> None:
    """It has to find a token in each modality and combine both: chance is 0.5 for any one, and for pooled vectors."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    (inputs, label), (unseen, answer) = marked(2000, generator), marked(500, generator)
    model = nn.ModuleList([ARAF({"a": 6, "b": 6}, 32, tokens=8, columns=16), nn.Linear(32, 2)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(8):
        for rows in torch.randperm(2000).split(100):
            batch = {name: Tokens(t.values[rows], t.mask[rows]) for name, t in inputs.items()}
            loss = nn.functional.cross_entropy(model[1](model[0](batch).vector), label[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    right = model[1](model.eval()[0](unseen).vector).argmax(dim=1) == answer
    assert right.float().mean() > 0.85


def test_enhancement_needs_as_many_tokens_as_channels() -> None:
    with pytest.raises(UserError, match=r"heads=8, head_dim=32, width=512"):
        PublishedEnhancement(512, 8, 32)
    with pytest.raises(UserError, match="5 tokens"):
        PublishedEnhancement(6, 2, 3)(torch.randn(1, 5, 6))

"""MulT against plain loops on unpadded rows; padding, absence, targets and shared encoders."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.sampling import build, sample, widths
from tests.fusion.loops import layer_norm
from tests.fusion.references import real_tokens, reference
from weft.errors import UserError
from weft.fusion.mult import (
    CTCAlignment,
    MulT,
    ResidualHead,
    SequenceAttention,
    SequenceEncoder,
    SequenceLayer,
    embed,
    positions,
)
from weft.tokens import Tokens


def position(number: int, width: int) -> Tensor:
    half = width // 2
    rates = [math.exp(-k * math.log(10000) / (half - 1)) for k in range(half)]
    row = [math.sin(number * f) for f in rates] + [math.cos(number * f) for f in rates] + [0.0] * (width % 2)
    return torch.tensor(row, dtype=torch.float64)


def embedded(x: Tensor) -> Tensor:
    """One row ``(n, E)`` with positions 1, 2, ..., n."""
    return torch.stack([math.sqrt(x.shape[1]) * v + position(i + 1, x.shape[1]) for i, v in enumerate(x)])


def attend(att: SequenceAttention, query: Tensor, key: Tensor, reach: int | None) -> Tensor:
    """Head by head; query i sees key j iff ``j <= i + reach``."""
    size = att.width // att.heads
    (wq, wk, wv), (bq, bk, bv) = att.in_proj_weight.chunk(3), att.in_proj_bias.chunk(3)
    q, k, v = query @ wq.T + bq, key @ wk.T + bk, key @ wv.T + bv
    received = []
    for head in range(att.heads):
        part = slice(head * size, (head + 1) * size)
        scores = torch.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
        if reach is not None:
            seen = [[1.0 if j <= i + reach else 0.0 for j in range(len(key))] for i in range(len(query))]
            scores = scores * torch.tensor(seen, dtype=torch.float64)
        received.append(scores @ v[:, part] / scores.sum(dim=1, keepdim=True))
    return torch.cat(received, dim=1) @ att.out_proj.weight.T + att.out_proj.bias


def run_layer(layer: SequenceLayer, x: Tensor, source: Tensor | None, reach: int | None) -> Tensor:
    first, second = layer.layer_norms
    query = layer_norm(x, first.weight, first.bias)
    if source is None:
        x = x + attend(layer.self_attn, query, query, reach)
    elif len(source):
        x = x + attend(layer.self_attn, query, layer_norm(source, first.weight, first.bias), reach)
    hidden = layer_norm(x, second.weight, second.bias) @ layer.fc1.weight.T + layer.fc1.bias
    return x + hidden.clamp(min=0) @ layer.fc2.weight.T + layer.fc2.bias


def encode(encoder: SequenceEncoder, x: Tensor, source: Tensor | None = None) -> Tensor:
    """One row ``(n, E)``, not embedded yet, through an encoder; an empty source sends nothing."""
    reach = abs(len(x) - len(x if source is None else source)) if encoder.future_mask else None
    values = embedded(x)
    context = embedded(source) if source is not None and len(source) else source
    for layer in encoder.layers:
        values = run_layer(layer, values, context, reach)
    return layer_norm(values, encoder.layer_norm.weight, encoder.layer_norm.bias)


def run_head(head: ResidualHead, z: Tensor) -> Tensor:
    hidden = (head.proj1.weight @ z + head.proj1.bias).clamp(min=0)
    return head.out_layer.weight @ (head.proj2.weight @ hidden + head.proj2.bias + z) + head.out_layer.bias


def projected(module: MulT, inputs: dict[str, Tokens], row: int) -> list[Tensor]:
    found = []
    for name, project in zip(module.names, module.project, strict=True):
        real = real_tokens(inputs[name], row)
        found.append(real @ project.weight.T if isinstance(project, torch.nn.Linear) else real)
    return found


@reference("mult")
def mult(module: MulT, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    for row in range(len(inputs[module.names[0]].mask)):
        x = projected(module, inputs, row)
        encoders = iter(module.cross)
        summaries = []
        for a, memory in zip(module.targets, module.memory, strict=True):
            received = []
            for b in range(len(x)):
                if b != a:
                    encoder = next(encoders) if len(module.cross) > 1 else module.cross[0]
                    received.append(encode(encoder, x[a], x[b]) if len(x[a]) else x[a])
            if len(x[a]):
                summaries.append(encode(memory, torch.cat(received, dim=1))[-1])
            else:
                summaries.append(torch.zeros(memory.layer_norm.weight.shape[0], dtype=torch.float64))
        vectors.append(run_head(module.head, torch.cat(summaries)))
    return torch.stack(vectors)


@pytest.mark.parametrize("options", [{"future_mask": True}, {"shared": True}, {"targets": ("m1",)}, {"width": 5}])
def test_options_equal_the_loops(options: dict[str, object]) -> None:
    dims = widths(MulT)
    module = build(MulT, dims, **{"layers": 2, **options}, heads=5)
    inputs = sample(MulT, dims)
    assert_close(module(inputs).vector, mult(module, inputs), rtol=1e-9, atol=1e-9)


def test_one_encoder_where_pairs_share_it() -> None:
    dims = widths(MulT)
    assert (len(MulT(dims).cross), len(MulT(dims, shared=True).cross)) == (6, 1)
    assert len(MulT(dims, targets=("m0",)).cross) == 2


def test_size_is_the_published_one() -> None:
    """Spec of MulT: 1 073 731 weights on MOSEI (300/74/35, 5 layers, one output)."""
    dims = {"text": 300, "audio": 74, "vision": 35}
    assert MulT.cost(dims, 1, width=30, layers=5, heads=5).parameters == 1_073_731


def test_positions_follow_the_published_table() -> None:
    table = positions(torch.arange(7, dtype=torch.float64), 9)
    assert not table[0].any()
    for number in range(1, 7):
        assert_close(table[number], position(number, 9))


def test_padding_as_in_the_code_counts_as_data() -> None:
    dims = widths(MulT)
    module = build(MulT, dims, layers=1, padding="code")
    inputs = sample(MulT, dims, absent=False, holes=False)
    longer = {
        n: Tokens(torch.cat([t.values, t.values[:, :1]], 1), torch.cat([t.mask, t.mask[:, :1] & False], 1))
        for n, t in inputs.items()
    }
    assert not torch.allclose(module(longer).vector, module(inputs).vector, atol=1e-3)
    ours = build(MulT, dims, layers=1)
    assert_close(ours(longer).vector, ours(inputs).vector)


def test_both_rules_agree_on_full_sequences() -> None:
    dims = widths(MulT)
    inputs = {n: Tokens(t.values, torch.ones_like(t.mask)) for n, t in sample(MulT, dims).items()}
    for future_mask in (False, True):
        ours, code = (build(MulT, dims, layers=1, padding=p, future_mask=future_mask) for p in ("mask", "code"))
        assert_close(ours(inputs).vector, code(inputs).vector)


def test_training_on_one_token_is_refused_with_the_way_out() -> None:
    dims = {"text": 3, "image": 5}
    inputs = {
        n: Tokens(torch.randn(2, length, dims[n]), torch.ones(2, length, dtype=torch.bool))
        for n, length in (("text", 4), ("image", 1))
    }
    module = MulT(dims, 8, layers=1)
    with pytest.raises(UserError, match=r"'image'.*\n.*\n.*gated"):
        module(inputs)
    assert module.eval()(inputs).vector.isfinite().all()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"heads": 7}, "heads=7"),
        ({"layers": 0}, "layers=0"),
        ({"width": 3, "heads": 3}, "width=3"),
        ({"targets": ("m7",)}, "m7"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], found: str) -> None:
    with pytest.raises(UserError, match=found):
        MulT(widths(MulT), 8, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("targets", [None, ("text",), ("vision",)])
def test_from_official_reads_the_published_names(targets: tuple[str, ...] | None) -> None:
    letters = {"text": "l", "audio": "a", "vision": "v"}
    dims = {"text": 7, "audio": 5, "vision": 10}  # one as wide as the common width: its projection is not used
    options = {"width": 10, "layers": 2, "targets": targets, "padding": "code", "future_mask": True}
    module = build(MulT, dims, **options)
    state = {f"proj_{letters[n]}.weight": torch.randn(10, d, 1, dtype=torch.float64) for n, d in dims.items()}
    for name, project in zip(dims, module.project, strict=True):
        if dims[name] != 10:
            state[f"proj_{letters[name]}.weight"] = project.weight.unsqueeze(-1)
    chosen = [letters[n] for n in dims if n in (targets or dims)]
    pairs = [(a, b) for a in chosen for b in letters.values() if a != b]
    parts = {f"trans_{a}_with_{b}": m for (a, b), m in zip(pairs, module.cross, strict=True)}
    parts |= {f"trans_{a}_mem": m for a, m in zip(chosen, module.memory, strict=True)}
    for prefix, encoder in parts.items():
        state |= {f"{prefix}.{key}": value for key, value in encoder.state_dict().items()}
        state[f"{prefix}.version"] = torch.zeros(1)
        state[f"{prefix}.embed_positions._float_tensor"] = torch.zeros(1)
    if targets:  # the original makes the other self-attention encoders as well
        state["trans_a_mem.layer_norm.weight"] = torch.zeros(20)
    loaded = MulT.from_official({**state, **module.head.state_dict()}, heads=5).eval()
    assert set(loaded.state_dict()) == set(module.state_dict())
    inputs = sample(MulT, dims, absent=False)
    assert torch.equal(loaded(inputs).vector, module(inputs).vector)


def test_soft_alignment_equals_the_loops() -> None:
    module = CTCAlignment(4, 3).double()
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    aligned, scores = module(Tokens(x, mask))
    for row in range(2):
        for step in range(3):
            shares = [scores[row, t].softmax(dim=0)[step + 1] for t in range(6) if mask[row, t]]
            assert_close(aligned[row, step], sum(s * v for s, v in zip(shares, x[row], strict=False)))
    again = CTCAlignment.from_official({f"position.{k}": v for k, v in module.lstm.state_dict().items()})
    assert torch.equal(again(Tokens(x, mask))[0], aligned)


def test_from_official_refuses_other_parameters() -> None:
    with pytest.raises(UserError, match="MulT"):
        MulT.from_official({"weight": torch.zeros(1)}, heads=1)


def test_embedding_scales_by_the_root_of_the_width() -> None:
    values = torch.randn(2, 3, 8, dtype=torch.float64)
    numbers = torch.tensor([[1, 2, 3], [0, 1, 0]])
    assert_close(embed(values, numbers)[1, 0], math.sqrt(8) * values[1, 0])
    assert_close(embed(values, numbers)[0, 2], math.sqrt(8) * values[0, 2] + position(3, 8))

"""AFF against plain loops; maps and sequences, BatchNorm over real positions, the published scale."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.contract.sampling import build, sample, under_mask
from tests.fusion.loops import layer_norm
from tests.fusion.references import reference
from weft.errors import UserError
from weft.fusion import fusions
from weft.fusion.aff import AttentionalFusion, Bottleneck, ChannelAttention, MultiScaleChannelAttention, RealBatchNorm
from weft.tokens import Tokens, as_tokens

Logits = Callable[[list[Tensor]], list[Tensor]]


def bottleneck(module: Bottleneck, x: Tensor) -> Tensor:
    """One position ``(C,)``, LayerNorm."""
    hidden = module.reduce.weight @ x + module.reduce.bias
    hidden = layer_norm(hidden[None], module.norm_hidden.weight, module.norm_hidden.bias)[0].clamp(min=0)
    out = module.expand.weight @ hidden + module.expand.bias
    return layer_norm(out[None], module.norm_out.weight, module.norm_out.bias)[0]


def logits(module: ChannelAttention, positions: list[Tensor], pooled: Bottleneck | None = None) -> list[Tensor]:
    """Local and global logits of the real positions of one row."""
    mean = sum(positions) / len(positions)
    return [bottleneck(module.local, x) + bottleneck(pooled or module.pooled, mean) for x in positions]


def blend(found: Tensor, values: dict[int, Tensor], count: int) -> Tensor:
    """One position: logits ``((M - 1) C,)`` and the maps that are real there."""
    rows = [*found.chunk(count - 1), torch.zeros_like(found.chunk(count - 1)[0])]
    out = []
    for c in range(len(rows[0])):
        scores = {m: torch.exp(rows[m][c]) for m in values}
        out.append(sum(scores[m] * values[m][c] for m in values) / sum(scores.values()))
    return torch.stack(out)


def real_positions(module: nn.Module, inputs: dict[str, Tokens], row: int) -> list[dict[int, Tensor]]:
    """For every position that is real anywhere, the projected maps that are real there."""
    found = []
    for t in range(inputs[module.names[0]].mask.shape[1]):
        values = {}
        for m, (name, project) in enumerate(zip(module.names, module.project, strict=True)):
            if inputs[name].mask[row, t]:
                x = inputs[name].values[row, t]
                values[m] = project.weight @ x + project.bias if isinstance(project, nn.Linear) else x
        if values:
            found.append(values)
    return found


@reference("aff")
def aff(module: AttentionalFusion, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    for row in range(len(inputs[module.names[0]].mask)):
        positions = real_positions(module, inputs, row)
        found = logits(module.attention, [sum(v.values()) for v in positions])
        fused = [
            (len(v) if module.scale is None else module.scale) * blend(found_t, v, len(module.names))
            for found_t, v in zip(found, positions, strict=True)
        ]
        vectors.append(sum(fused) / len(fused))
    return torch.stack(vectors)


@pytest.mark.parametrize("options", [{"scale": 1.0}, {"reduction": 8}])
def test_options_equal_the_loops(options: dict[str, float]) -> None:
    dims = {"m0": 16, "m1": 5}
    module, inputs = build(AttentionalFusion, dims, **options), sample(AttentionalFusion, dims)
    assert_close(module(inputs).vector, aff(module, inputs))


def test_two_maps_are_the_published_formula() -> None:
    module = build(AttentionalFusion, {"x": 16, "y": 16}, scale=2.0)
    x, y = (torch.randn(3, 6, 16, dtype=torch.float64) for _ in range(2))
    mask = torch.ones(3, 6, dtype=torch.bool)
    w = module.attention(Tokens(x + y, mask)).sigmoid()
    fused = module({"x": Tokens(x, mask), "y": Tokens(y, mask)})
    assert_close(fused.tokens.values, 2 * w * x + 2 * (1 - w) * y)
    assert_close(fused.weights, torch.stack([w.mean((1, 2)), 1 - w.mean((1, 2))], dim=1))


def test_equal_weights_give_the_plain_sum() -> None:
    dims = {"a": 16, "b": 16, "c": 16}
    module = build(AttentionalFusion, dims)
    with torch.no_grad():
        for p in module.attention.parameters():
            p.zero_()
    inputs = sample(AttentionalFusion, dims)
    total = sum(torch.where(t.mask.unsqueeze(-1), t.values, 0.0) for t in inputs.values())
    fused = module(inputs).tokens
    assert_close(fused.values[fused.mask], total[fused.mask])


def test_a_position_with_one_map_passes_it() -> None:
    dims = {"a": 16, "b": 16}
    module, inputs = build(AttentionalFusion, dims), sample(AttentionalFusion, dims)
    only = inputs["a"].mask & ~inputs["b"].mask
    assert bool(only.any())
    assert_close(module(inputs).tokens.values[only], inputs["a"].values[only])


def test_maps_and_sequences_agree() -> None:
    module = MultiScaleChannelAttention(8).double()
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    flat = x.flatten(2).mT
    assert_close(module(x).flatten(2).mT, module(flat))
    padded = torch.cat([flat, torch.full((2, 4, 8), 7.0, dtype=torch.float64)], dim=1)
    mask = torch.arange(19).expand(2, -1) < 15
    assert_close(module(padded, mask)[:, :15], module(flat))
    assert not module(padded, mask)[:, 15:].any()


def test_batch_norm_counts_real_positions_only() -> None:
    ours, plain = RealBatchNorm(4).double(), nn.BatchNorm1d(4).double()
    x, mask = torch.randn(3, 5, 4, dtype=torch.float64), torch.rand(3, 5) < 0.6
    assert_close(ours(x, mask)[mask], plain(x[mask]))
    assert_close(ours.running_mean, plain.running_mean)
    assert_close(ours.running_var, plain.running_var)
    assert_close(ours.eval()(x, mask)[mask], plain.eval()(x[mask]))


def test_batch_norm_in_training_ignores_what_is_masked() -> None:
    dims = {"a": 6, "b": 5}
    module, inputs = build(AttentionalFusion, dims, norm="batch").train(), sample(AttentionalFusion, dims)
    assert_close(module(inputs).vector, module(under_mask(inputs, 1e4)).vector)


def test_batch_norm_cannot_train_on_one_row() -> None:
    dims = {"a": 6, "b": 5}
    row = {n: as_tokens(torch.randn(1, d)) for n, d in dims.items()}
    module = AttentionalFusion(dims, 16, norm="batch")
    with pytest.raises(UserError, match="norm='layer'"):
        module(row)
    assert module.eval()(row).vector.isfinite().all()


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="reduction=16"):
        AttentionalFusion({"a": 4, "b": 4}, 8, reduction=16)
    inputs = {n: Tokens(torch.randn(2, t, 4), torch.ones(2, t, dtype=torch.bool)) for n, t in (("a", 3), ("b", 4))}
    with pytest.raises(UserError, match=r"'a': 3, 'b': 4"):
        AttentionalFusion({"a": 4, "b": 4}, 16)(inputs)
    with pytest.raises(UserError, match="local_att"):
        AttentionalFusion.from_official({"weight": torch.zeros(1)})


def test_size_is_the_published_one() -> None:
    """Two branches of 2 C C' + 3 C' + 3 C weights."""
    assert AttentionalFusion.cost({"x": 8, "y": 8}, 8, reduction=4).parameters == 2 * (2 * 16 + 6 + 24)


@pytest.mark.parametrize("name", ["aff", "iaff"])
def test_batch_norm_trains_under_autocast(name: str) -> None:
    """With gaps its statistics are in float32, as torch's own are."""
    cls, dims = fusions.get(name), {"x": 16, "y": 16}
    inputs = sample(cls, dims, dtype=torch.float32)
    module = build(cls, dims, dtype=torch.float32, norm="batch").train()
    exact = module(inputs).vector
    with torch.autocast("cpu", torch.bfloat16):
        found = module(inputs).vector
    assert bool((found.float() - exact).norm() < 0.05 * exact.norm())

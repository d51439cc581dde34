"""What every fusion keeps, one function per promise. ``cls`` is the operator's class.

``tests/contract/test_fusion.py`` runs all of them on every registered operator, ``test_checks.py`` on operators that
are wrong in known ways.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor
from torch.func import functional_call
from torch.testing import assert_close

from tests.contract.host import NothingFromTheHost
from tests.contract.sampling import (
    DIM,
    all_real,
    build,
    permuted_state,
    probe,
    require_grad,
    rows,
    sample,
    sizes,
    stray_tensors,
    under_mask,
    widths,
)
from weft.errors import UserError
from weft.fusion import Fusion
from weft.tokens import Fused, Tokens, present

Operator = type[Fusion]
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
DEAD = 1e-10
BFLOAT16_ERROR = 0.05


def results(fused: Fused) -> list[Tensor]:
    """What must not depend on padding or on other rows (the fused sequence may be padded itself)."""
    return [fused.vector, *fused.per_modality.values(), *([] if fused.weights is None else [fused.weights])]


def value_and_gradients(module: Fusion, inputs: dict[str, Tokens]) -> list[Tensor]:
    """Results, gradient of every parameter, and gradient of every input."""
    inputs = require_grad(inputs)
    module.zero_grad()
    fused = module(inputs)
    probe(fused.vector).backward()
    gradients = [p.grad for p in module.parameters()] + [t.values.grad for t in inputs.values()]
    return results(fused) + [torch.zeros(()) if g is None else g.clone() for g in gradients]


def dead_parameters(module: Fusion, inputs: dict[str, Tokens]) -> list[str]:
    """Parameters whose gradient is zero everywhere."""
    module.zero_grad()
    probe(module(inputs).vector).backward()
    return [n for n, p in module.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > DEAD)]


def alone_equals_in_a_batch(cls: Operator) -> None:
    module, inputs = build(cls, widths(cls)), sample(cls, widths(cls), holes=False)
    whole = results(module(inputs))
    for row in range(len(whole[0])):
        part = rows(inputs, slice(row, row + 1), trim=cls.wants != "aligned-tokens")
        for alone, batch in zip(results(module(part)), whole, strict=True):
            assert_close(alone, batch[row : row + 1], **TIGHT)


def values_under_the_mask_never_matter(cls: Operator) -> None:
    """Padding and absent modalities, in value and gradient, evaluating and training."""
    module, inputs = build(cls, widths(cls)), sample(cls, widths(cls))
    for training in (False, True):
        module.train(training)
        state = {k: v.clone() for k, v in module.state_dict().items()}
        outcomes = []
        for batch in (inputs, under_mask(inputs, 1e4), under_mask(inputs, float("nan"))):
            module.load_state_dict(state)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                outcomes.append(value_and_gradients(module, batch))
        for other in outcomes[1:]:
            for expected, found in zip(outcomes[0], other, strict=True):
                assert_close(found, expected, **TIGHT)


def every_presence_pattern_is_finite(cls: Operator) -> None:
    """Or, for ``refuse``, the error names the rows."""
    for count in sizes(cls):
        dims = widths(cls, count)
        module, inputs = build(cls, dims), sample(cls, dims, absent=True)
        if cls.absent == "refuse" and count > 1:
            first = next(row for row in range(len(inputs["m0"].mask)) if not inputs["m0"].mask[row].any())
            with pytest.raises(UserError, match=rf"\b{first}\b"):
                module(inputs)
            continue
        for training in (False, True):
            for tensor in value_and_gradients(module.train(training), inputs):
                assert bool(tensor.isfinite().all())


def every_parameter_lives(cls: Operator) -> None:
    """Registered, with a gradient, moved by one step, and back from a file."""
    dims = widths(cls)
    module, inputs = build(cls, dims), sample(cls, dims)
    assert not list(stray_tensors(module))
    assert not dead_parameters(module, inputs)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3) if before else None
    if optimizer:
        optimizer.step()
    assert not [n for n, p in module.named_parameters() if torch.equal(p, before[n])]
    other = build(cls, dims, seed=1)
    other.load_state_dict(load_bytes(save_bytes({k: v.contiguous() for k, v in module.state_dict().items()})))
    for saved, loaded in zip(results(module(inputs)), results(other(inputs)), strict=True):
        assert torch.equal(saved, loaded)


def gradients_are_right(cls: Operator) -> None:
    """Along a random direction of all inputs and parameters at once, against central differences."""
    dims = widths(cls)
    module, inputs = build(cls, dims), sample(cls, dims, batch=4, length=3)
    names = [name for name, _ in module.named_parameters()]
    parts = [t.values for t in inputs.values()] + [p.detach() for p in module.parameters()]

    def vector(point: Tensor) -> Tensor:
        split = point.split([p.numel() for p in parts])
        values = [part.view_as(like) for part, like in zip(split, parts, strict=True)]
        batch = {n: Tokens(v, t.mask) for (n, t), v in zip(inputs.items(), values, strict=False)}
        state = dict(zip(names, values[len(dims) :], strict=True))
        return functional_call(module, state, (batch,)).vector

    point = torch.cat([p.flatten() for p in parts]).requires_grad_()
    assert torch.autograd.gradcheck(vector, (point,), fast_mode=True)


def bfloat16_is_near(cls: Operator) -> None:
    dims = widths(cls)
    module = build(cls, dims, dtype=torch.bfloat16)
    inputs = sample(cls, dims, dtype=torch.bfloat16)
    found = module(inputs).vector
    exact = module.to(torch.float64)({n: Tokens(t.values.double(), t.mask) for n, t in inputs.items()}).vector
    assert found.dtype == torch.bfloat16
    assert bool((found.double() - exact).norm() < BFLOAT16_ERROR * exact.norm())


def trains_under_autocast(cls: Operator) -> None:
    """Modalities as wide as the result, which some operators take as they are: float32 then meets bfloat16."""
    dims = dict.fromkeys(few(cls), DIM)
    module = build(cls, dims, dtype=torch.float32)
    for inputs in (
        sample(cls, dims, dtype=torch.float32),
        all_real(sample(cls, dims, absent=False, dtype=torch.float32)),
    ):
        exact = module.eval()(inputs).vector
        with torch.autocast("cpu", torch.bfloat16):
            found, trained = module(inputs).vector, module.train()(inputs).vector
        assert bool((found.float() - exact).norm() < BFLOAT16_ERROR * exact.norm())
        probe(trained.float()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)


def symmetric_where_it_says_so(cls: Operator) -> None:
    """Permuting the modalities together with their weights leaves the vector as it is."""
    count, width = max(sizes(cls)), 6
    if not cls.symmetric or count == 1:
        return
    order = tuple(random.Random(3).sample(range(count), count))
    order = order if order != tuple(range(count)) else order[::-1]
    dims = {f"m{index}": width for index in range(count)}
    module = build(cls, dims)
    permuted = build(cls, {f"m{index}": width for index in order}, seed=1)
    permuted.load_state_dict(permuted_state(module, order, width))
    inputs = sample(cls, dims, batch=6)
    assert_close(permuted(inputs).vector, module(inputs).vector, **TIGHT)


def any_number_of_modalities(cls: Operator) -> None:
    """M in {1, 2, 3, 5} within arity, one row; outside of it an error."""
    for count in sizes(cls):
        module, inputs = build(cls, widths(cls, count)), sample(cls, widths(cls, count), batch=1, absent=False)
        fused = module(inputs)
        assert fused.vector.shape == (1, DIM)
        assert bool(fused.vector.isfinite().all())
    for count in {1, 2, 3, 5} - set(sizes(cls)):
        with pytest.raises(UserError):
            build(cls, widths(cls, count))


def one_token_works_or_is_refused(cls: Operator) -> None:
    """With one token everywhere all parameters train, or a UserError says why they could not."""
    for count in sizes(cls):
        module = build(cls, widths(cls, count)).train()
        inputs = sample(cls, widths(cls, count), length=1)
        try:
            module(inputs)
        except UserError:
            assert cls.wants != "vectors", "pooled vectors always have one token"
            continue
        assert not dead_parameters(module, inputs), f"with one token and M = {count} these never train"


def contract_of_fused(cls: Operator) -> None:
    for count in sizes(cls):
        dims = widths(cls, count)
        module, inputs = build(cls, dims), sample(cls, dims)
        batch, there = len(inputs["m0"].mask), torch.stack([present(t) for t in inputs.values()], dim=1)
        fused = module(inputs)
        assert fused.vector.shape == (batch, DIM)
        assert list(fused.per_modality) == list(dims)
        assert all(v.shape == (batch, DIM) for v in fused.per_modality.values())
        if fused.tokens is not None:
            values, mask = fused.tokens
            assert values.ndim == 3
            assert mask.dtype == torch.bool
            assert mask.shape == values.shape[:2]
            assert values.shape[0] == batch
            assert bool(values[mask].isfinite().all())
        if fused.weights is not None:
            assert fused.weights.shape == (batch, count)
            assert bool((fused.weights >= 0).all())
            assert bool(fused.weights.isfinite().all())
            assert cls.absent == "fill" or not fused.weights[~there].any()


def few(cls: Operator) -> dict[str, int]:
    """Two modalities where the class takes two: graphs of more say the same and take longer to make."""
    return widths(cls, 2 if 2 in sizes(cls) else None)


def exports_with_any_batch(cls: Operator) -> None:
    dims = few(cls)
    module = build(cls, dims, dtype=torch.float32)
    inputs = sample(cls, dims, batch=4, dtype=torch.float32)
    rows_vary = {0: torch.export.Dim.DYNAMIC}
    dynamic = {name: Tokens(rows_vary, rows_vary) for name in dims}  # type: ignore[arg-type]
    program = torch.export.export(module, (inputs,), dynamic_shapes=(dynamic,)).module()
    other = sample(cls, dims, batch=6, dtype=torch.float32, seed=1)
    for exported, eager in zip(results(program(other)), results(module(other)), strict=True):
        assert_close(exported, eager, rtol=1e-5, atol=1e-6)


def compiles(cls: Operator, backend: str = "eager") -> None:
    """In one graph, value and gradient."""
    dims = few(cls)
    module, inputs = build(cls, dims, dtype=torch.float32), sample(cls, dims, dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend=backend, fullgraph=True, dynamic=False)
    for found, eager in zip(value_and_gradients(compiled, inputs), value_and_gradients(module, inputs), strict=True):
        assert_close(found, eager, rtol=1e-4, atol=1e-5)


def stays_on_its_device(cls: Operator) -> None:
    """With gaps and without, and nothing is brought there from the host, for which a GPU would wait."""
    dims = widths(cls)
    for batch in (sample(cls, dims), all_real(sample(cls, dims, absent=False))):
        inputs = {name: tokens.to("meta") for name, tokens in batch.items()}
        for training in (False, True):
            module = build(cls, dims).to("meta").train(training)
            with NothingFromTheHost(module, inputs):
                fused = module(inputs)
                outputs = results(fused) + ([] if fused.tokens is None else [*fused.tokens])
            assert {t.device.type for t in outputs} == {"meta"}


def cost_counts_the_parameters(cls: Operator) -> None:
    for count in sizes(cls):
        dims = widths(cls, count)
        real = sum(p.numel() for p in build(cls, dims).parameters())
        assert cls.cost(dims, DIM, 4).parameters == real


CHECKS: dict[str, Callable[[Operator], None]] = {
    check.__name__: check
    for check in (
        alone_equals_in_a_batch,
        values_under_the_mask_never_matter,
        every_presence_pattern_is_finite,
        every_parameter_lives,
        gradients_are_right,
        bfloat16_is_near,
        trains_under_autocast,
        symmetric_where_it_says_so,
        any_number_of_modalities,
        one_token_works_or_is_refused,
        contract_of_fused,
        exports_with_any_batch,
        compiles,
        stays_on_its_device,
        cost_counts_the_parameters,
    )
}

OF_OPTIONS = (
    "alone_equals_in_a_batch",
    "values_under_the_mask_never_matter",
    "every_presence_pattern_is_finite",
    "every_parameter_lives",
    "contract_of_fused",
    "one_token_works_or_is_refused",
)
"""Names of the checks for an operator with other options than its own."""

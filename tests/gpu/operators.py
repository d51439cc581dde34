"""Every fusion, aligner, objective and regulariser on the GPU equals the CPU; full masks make nobody wait."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.fusion_checks import value_and_gradients as of_fusion
from tests.contract.processes import GRAD_CACHE, REGULARISERS, Encoder, label, pairs, variants
from tests.contract.processes import build as build_objective
from tests.contract.processes import groups as groups_of
from tests.contract.sampling import all_real, build, probe, sample, sizes, widths
from tests.contract.test_aligner import value_and_gradients as of_aligner
from tests.gpu import DEVICE, exact_float32, near, needs_device, needs_gpu, no_waiting
from weft.alignment import aligners, create_regulariser, list_aligners
from weft.alignment.grad_cache import grad_cache
from weft.fusion import fusions, list_fusions
from weft.tokens import Tokens, as_tokens

pytestmark = needs_device
every_fusion = pytest.mark.parametrize("name", list_fusions())
every_aligner = pytest.mark.parametrize("name", list_aligners())


def there(inputs: dict[str, Tokens]) -> dict[str, Tokens]:
    """On the device."""
    return {name: tokens.to(DEVICE) for name, tokens in inputs.items()}


def batches(cls: type[Any], dims: dict[str, int]) -> dict[str, dict[str, Tokens]]:
    """With gaps and absent modalities, and without any."""
    return {"gaps": sample(cls, dims), "full": all_real(sample(cls, dims, absent=False, batch=5))}


def compare(cls: type[Any], results: Any) -> None:
    """In float64, for every number of modalities, evaluating; training too where nothing is drawn."""
    for count in sizes(cls):
        dims = widths(cls, count)
        for kind, inputs in batches(cls, dims).items():
            for training in (False, True):
                expected = []
                for seed in (0, 1):
                    torch.manual_seed(seed)
                    expected.append(results(build(cls, dims).train(training), inputs))
                if training and any(not torch.equal(a, b) for a, b in zip(*expected, strict=True)):
                    continue
                module = build(cls, dims).to(DEVICE).train(training)
                found = results(module, there(inputs))
                assert found[0].device.type == DEVICE.type
                near(found, expected[0], f"{cls.__name__}, {count}, {kind}, training={training}")


@every_fusion
def test_a_fusion_in_value_and_gradient(name: str) -> None:
    compare(fusions.get(name), of_fusion)


@every_aligner
def test_an_aligner_in_value_and_gradient(name: str) -> None:
    compare(aligners.get(name), of_aligner)


@every_fusion
def test_a_fusion_in_float32_and_in_bfloat16(name: str) -> None:
    """The value beside float64 on the CPU; gradients under autocast are finite."""
    cls = fusions.get(name)
    dims = widths(cls)
    module, inputs = build(cls, dims), sample(cls, dims)
    exact = module(inputs).vector
    single = copy.deepcopy(module).float().to(DEVICE)
    batch = there({n: Tokens(t.values.float(), t.mask) for n, t in inputs.items()})
    with exact_float32():
        near(single(batch).vector, exact, f"{name}, float32", 1e-4)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        vector = single(batch).vector
    probe(vector).backward()
    off = (vector.double().cpu() - exact).norm() / exact.norm()
    assert bool(off < 0.05), f"{name}: bfloat16 is off by {float(off):.3f}"
    assert all(bool(p.grad.isfinite().all()) for p in single.parameters() if p.grad is not None)


@needs_gpu
@every_fusion
def test_full_masks_make_nobody_wait(name: str) -> None:
    """Forward and backward pass, evaluating and training: nothing is read back from the GPU."""
    cls = fusions.get(name)
    for count in sizes(cls):
        dims = widths(cls, count)
        module = build(cls, dims, dtype=torch.float32).to(DEVICE)
        inputs = there(all_real(sample(cls, dims, absent=False, batch=5, dtype=torch.float32)))
        for tokens in inputs.values():
            tokens.values.requires_grad_()
        for training in (False, True):
            run(module.train(training), inputs)
            with no_waiting():
                run(module, inputs)


@needs_gpu
@every_fusion
def test_gaps_make_nobody_wait(name: str) -> None:
    """Nor do masks with gaps, but where absent rows are refused: those have to be named."""
    cls = fusions.get(name)
    if cls.absent == "refuse":
        return
    dims = widths(cls)
    module, inputs = build(cls, dims, dtype=torch.float32).to(DEVICE), there(sample(cls, dims, dtype=torch.float32))
    run(module, inputs)
    with no_waiting():
        run(module, inputs)


@needs_gpu
@every_aligner
def test_an_aligner_makes_nobody_wait(name: str) -> None:
    cls = aligners.get(name)
    dims = widths(cls)
    module = build(cls, dims, dtype=torch.float32).to(DEVICE)
    inputs = there(all_real(sample(cls, dims, absent=False, batch=5, dtype=torch.float32)))
    for tokens in inputs.values():
        tokens.values.requires_grad_()

    def step() -> None:
        torch.cat(list(module(inputs).values()), dim=1).sum().backward()

    step()
    with no_waiting():
        step()


def run(module: nn.Module, inputs: dict[str, Tokens]) -> None:
    vector = module(inputs).vector
    (vector * torch.linspace(-1, 1, vector.shape[1], device=vector.device)).sum().backward()


@pytest.mark.parametrize(("name", "options"), [pytest.param(n, o, id=label(n, o)) for n, o in variants()])
def test_an_objective_with_and_without_grad_cache(name: str, options: dict[str, Any]) -> None:
    expected, *found = (trained(name, options, device, chunk) for device, chunk in PLACES)
    for one in found:
        near(one, expected, label(name, options))


PLACES = ((torch.device("cpu"), None), (DEVICE, None), (DEVICE, GRAD_CACHE))


def trained(name: str, options: dict[str, Any], device: torch.device, chunk: int | None) -> list[Tensor]:
    """Loss and gradients of an encoder and an objective."""
    a, b, valid = (x.to(device) for x in pairs())
    group = groups_of(options)
    encoder, objective = Encoder().to(device), build_objective(name, options).double().train().to(device)
    inputs = {"a": as_tokens(a), "b": as_tokens(b)}
    embedded = encoder(inputs) if chunk is None else grad_cache(encoder, inputs, chunk)
    loss = objective(embedded["a"], embedded["b"], valid, None if group is None else group.to(device))
    loss.backward()
    weights = [*encoder.parameters(), *(p for p in objective.parameters() if p.requires_grad)]
    return [loss.detach(), *(p.grad for p in weights)]  # type: ignore[list-item]


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_regulariser(name: str) -> None:
    near(regularised(name, DEVICE), regularised(name, torch.device("cpu")), name, 1e-4)


def regularised(name: str, device: torch.device) -> list[Tensor]:
    """Its second step and the gradient of the encoder."""
    a, b, valid = (x.to(device) for x in pairs())
    encoder, regulariser = Encoder().to(device), create_regulariser(name, **REGULARISERS[name]).train().to(device)
    whole = {
        n: Tokens((x * real[:, None])[:, None], real[:, None])
        for n, x, real in (("a", a, torch.ones_like(valid)), ("b", b, valid))
    }

    def batch(positions: Any) -> dict[str, Tokens]:
        return {n: Tokens(t.values[positions], t.mask[positions]) for n, t in whole.items()}

    def single(inputs: dict[str, Tokens]) -> dict[str, Tokens]:
        return {n: Tokens(t.values.float(), t.mask) for n, t in inputs.items()}

    presence = {n: t.mask[:, 0].cpu().numpy() for n, t in whole.items()}
    regulariser.prepare(batch, presence, single)
    for step in range(2):
        encoder.zero_grad()
        torch.manual_seed(step)
        loss = regulariser(whole, encoder(whole), encoder)
        loss.backward()
    return [loss.detach(), *(p.grad for p in encoder.parameters())]  # type: ignore[list-item]

"""Every registered aligner: unit vectors, masks, one side alone, parameters, cost, export."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor
from torch.testing import assert_close

from tests.contract.host import NothingFromTheHost
from tests.contract.sampling import (
    DIM,
    all_real,
    build,
    probe,
    require_grad,
    rows,
    sample,
    sizes,
    stray_tensors,
    under_mask,
    widths,
)
from weft.alignment import Aligner, aligners, list_aligners
from weft.errors import UserError
from weft.tokens import Tokens

every_aligner = pytest.mark.parametrize("name", list_aligners())
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
DEAD = 1e-10


def joined(embeddings: dict[str, Tensor]) -> Tensor:
    return torch.cat(list(embeddings.values()), dim=1)


def value_and_gradients(module: Aligner, inputs: dict[str, Tokens]) -> list[Tensor]:
    inputs = require_grad(inputs)
    module.zero_grad()
    out = joined(module(inputs))
    probe(out).backward()
    return [out, *(t.values.grad for t in inputs.values()), *(p.grad.clone() for p in module.parameters())]  # type: ignore[list-item, union-attr]


@every_aligner
def test_unit_vectors_and_zeros_where_absent(name: str) -> None:
    cls = aligners.get(name)
    for count in sizes(cls):
        inputs = sample(cls, widths(cls, count))
        embeddings = build(cls, widths(cls, count))(inputs)
        assert list(embeddings) == list(inputs)
        for modality, z in embeddings.items():
            assert z.shape[1] == DIM
            assert_close(z.norm(dim=1), inputs[modality].mask.any(dim=1).double())


@every_aligner
def test_alone_equals_in_a_batch(name: str) -> None:
    cls = aligners.get(name)
    module, inputs = build(cls, widths(cls)), sample(cls, widths(cls), holes=False)
    whole = joined(module(inputs))
    for row in range(len(whole)):
        assert_close(joined(module(rows(inputs, slice(row, row + 1), trim=True))), whole[row : row + 1], **TIGHT)


@every_aligner
def test_one_side_alone_is_the_same(name: str) -> None:
    cls = aligners.get(name)
    module, inputs = build(cls, widths(cls)), sample(cls, widths(cls))
    both = module(inputs)
    for modality, tokens in inputs.items():
        assert_close(module({modality: tokens})[modality], both[modality], **TIGHT)


@every_aligner
def test_values_under_the_mask_never_matter(name: str) -> None:
    cls = aligners.get(name)
    module, inputs = build(cls, widths(cls)), sample(cls, widths(cls))
    for training in (False, True):
        outcomes = []
        for batch in (inputs, under_mask(inputs, 1e4), under_mask(inputs, float("nan"))):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                outcomes.append(value_and_gradients(module.train(training), batch))
        for other in outcomes[1:]:
            for expected, found in zip(outcomes[0], other, strict=True):
                assert bool(found.isfinite().all())
                assert_close(found, expected, **TIGHT)


@every_aligner
def test_every_parameter_lives(name: str) -> None:
    cls = aligners.get(name)
    module, inputs = build(cls, widths(cls)), sample(cls, widths(cls))
    assert not list(stray_tensors(module))
    value_and_gradients(module, inputs)
    assert not [n for n, p in module.named_parameters() if not bool(p.grad.abs().max() > DEAD)]
    other = build(cls, widths(cls), seed=1)
    other.load_state_dict(load_bytes(save_bytes({k: v.contiguous() for k, v in module.state_dict().items()})))
    assert torch.equal(joined(other(inputs)), joined(module(inputs)))


@every_aligner
def test_bfloat16_is_near(name: str) -> None:
    cls = aligners.get(name)
    module, inputs = build(cls, widths(cls), dtype=torch.bfloat16), sample(cls, widths(cls), dtype=torch.bfloat16)
    found = joined(module(inputs))
    exact = joined(module.double()({n: Tokens(t.values.double(), t.mask) for n, t in inputs.items()}))
    assert found.dtype == torch.bfloat16
    assert bool((found.double() - exact).norm() < 0.05 * exact.norm())


@every_aligner
def test_cost_counts_the_parameters(name: str) -> None:
    cls = aligners.get(name)
    real = sum(p.numel() for p in build(cls, widths(cls)).parameters())
    assert cls.cost(widths(cls), DIM, 4).parameters == real


@every_aligner
def test_exports_with_any_batch(name: str) -> None:
    cls = aligners.get(name)
    dims = widths(cls)
    module = build(cls, dims, dtype=torch.float32)
    rows_vary = {0: torch.export.Dim.DYNAMIC}
    dynamic = {modality: Tokens(rows_vary, rows_vary) for modality in dims}  # type: ignore[arg-type]
    inputs = sample(cls, dims, batch=4, dtype=torch.float32)
    program = torch.export.export(module, (inputs,), dynamic_shapes=(dynamic,)).module()
    other = sample(cls, dims, batch=6, dtype=torch.float32, seed=1)
    assert_close(joined(program(other)), joined(module(other)), rtol=1e-5, atol=1e-6)


@every_aligner
def test_stays_on_its_device(name: str) -> None:
    cls = aligners.get(name)
    for batch in (sample(cls, widths(cls)), all_real(sample(cls, widths(cls), absent=False))):
        inputs = {name: tokens.to("meta") for name, tokens in batch.items()}
        module = build(cls, widths(cls)).to("meta").train()
        with NothingFromTheHost(module, inputs):
            assert {z.device.type for z in module(inputs).values()} == {"meta"}


@every_aligner
def test_unknown_modalities_are_refused(name: str) -> None:
    cls = aligners.get(name)
    inputs = sample(cls, widths(cls))
    with pytest.raises(UserError, match="nobody"):
        build(cls, widths(cls))(inputs | {"nobody": inputs["m0"]})
    assert cls.paper

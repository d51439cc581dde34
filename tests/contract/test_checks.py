"""The contract can fail: operators that are wrong in ways found in public code are caught, each by its own check."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from tests.contract.fusion_checks import CHECKS, Operator
from tests.contract.sampling import sizes
from weft.fusion import Fusion
from weft.tokens import Fused, Tokens


class Sum(Fusion):
    """A right operator: the sum of projections. The wrong ones change one line of it."""

    symmetric = True
    paper = "none"

    def __init__(self, dims: Mapping[str, int], dim: int = 256) -> None:
        super().__init__(dims, dim)
        self.project = nn.ModuleList(nn.Linear(d, dim, bias=False) for d in dims.values())

    def terms(self, inputs: dict[str, Tokens]) -> list[torch.Tensor]:
        return [p(t.values[:, 0]) for p, t in zip(self.project, inputs.values(), strict=True)]

    def joined(self, inputs: dict[str, Tokens]) -> torch.Tensor:
        return torch.stack(self.terms(inputs)).sum(dim=0)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        return Fused(self.joined(inputs), None, dict(zip(self.names, self.terms(inputs), strict=True)), None)


class AttendsOverTheBatch(Sum):
    def joined(self, inputs: dict[str, Tokens]) -> torch.Tensor:
        x = super().joined(inputs)
        return (x @ x.T).softmax(dim=-1) @ x


class PoolsPadding(Sum):
    wants = "tokens"

    def terms(self, inputs: dict[str, Tokens]) -> list[torch.Tensor]:
        return [p(t.values.mean(dim=1)) for p, t in zip(self.project, inputs.values(), strict=True)]


class ReadsUnderTheMask(PoolsPadding):
    def _prepare(self, inputs: dict[str, Tokens]) -> dict[str, Tokens]:
        return inputs


class PoolsPaddedBias(Sum):
    wants = "tokens"

    def __init__(self, dims: Mapping[str, int], dim: int = 256) -> None:
        super().__init__(dims, dim)
        self.project = nn.ModuleList(nn.Linear(d, dim) for d in dims.values())

    def terms(self, inputs: dict[str, Tokens]) -> list[torch.Tensor]:
        return [p(t.values).mean(dim=1) for p, t in zip(self.project, inputs.values(), strict=True)]


class DividesByPresence(Sum):
    """NaN where no modality but the first is there."""

    def joined(self, inputs: dict[str, Tokens]) -> torch.Tensor:
        others = torch.cat([t.mask for t in inputs.values()], dim=1)[:, 1:].sum(dim=1, keepdim=True)
        return super().joined(inputs) * others / others if len(inputs) > 1 else super().joined(inputs)


class HidesItsWeights(Sum):
    def __init__(self, dims: Mapping[str, int], dim: int = 256) -> None:
        super().__init__(dims, dim)
        self.factors = [nn.Parameter(torch.ones(dim, dtype=torch.float64))]

    def joined(self, inputs: dict[str, Tokens]) -> torch.Tensor:
        return super().joined(inputs) * self.factors[0].to(inputs[self.names[0]].values)


class OneKey(Sum):
    """Attention over a single key: the query never trains."""

    wants = "tokens"

    def __init__(self, dims: Mapping[str, int], dim: int = 256) -> None:
        super().__init__(dims, dim)
        self.query = nn.ModuleList(nn.Linear(d, dim, bias=False) for d in dims.values())

    def joined(self, inputs: dict[str, Tokens]) -> torch.Tensor:
        out = []
        for (values, mask), query, value in zip(inputs.values(), self.query, self.project, strict=True):
            scores = query(values).sum(dim=-1).masked_fill(~mask, torch.finfo(values.dtype).min)
            out.append((scores.softmax(dim=1).unsqueeze(1) @ value(values))[:, 0] * mask.any(dim=1, keepdim=True))
        return torch.stack(out).sum(dim=0)

    def terms(self, inputs: dict[str, Tokens]) -> list[torch.Tensor]:
        return [p(t.values[:, 0]) for p, t in zip(self.project, inputs.values(), strict=True)]


class CutsTheGradient(Sum):
    def joined(self, inputs: dict[str, Tokens]) -> torch.Tensor:
        x = super().joined(inputs)
        return x * x.detach().sigmoid()


class FirstCountsTwice(Sum):
    def joined(self, inputs: dict[str, Tokens]) -> torch.Tensor:
        return super().joined(inputs) + self.terms(inputs)[0]


class RoundsToHalf(Sum):
    def joined(self, inputs: dict[str, Tokens]) -> torch.Tensor:
        x = super().joined(inputs)
        return x + (1e3 * x - (1e3 * x + 1).sub(1)) if x.dtype == torch.bfloat16 else x


class LeaksToTheCpu(Sum):
    def joined(self, inputs: dict[str, Tokens]) -> torch.Tensor:
        return super().joined(inputs) + torch.ones(self.dim)


class ChoosesByAList(Sum):
    def joined(self, inputs: dict[str, Tokens]) -> torch.Tensor:
        terms = torch.stack(self.terms(inputs), dim=1)
        return terms[:, list(range(len(inputs)))].sum(dim=1)


class MixesPrecisions(Sum):
    """A modality as wide as the result is taken as it is, and interpolated with one that autocast has rounded."""

    def joined(self, inputs: dict[str, Tokens]) -> torch.Tensor:
        first = inputs[self.names[0]].values[:, 0]
        x = super().joined(inputs)
        return torch.lerp(first, x, x.sigmoid()) if first.shape == x.shape else x


class BranchesOnData(Sum):
    def joined(self, inputs: dict[str, Tokens]) -> torch.Tensor:
        x = super().joined(inputs)
        return x if float(x.detach().sum()) > 0 else 2 * x


class ForgetsAModality(Sum):
    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        terms = self.terms(inputs)
        return Fused(self.joined(inputs), None, {self.names[0]: terms[0]}, None)


class NegativeWeights(Sum):
    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        there = torch.cat([t.mask for t in inputs.values()], dim=1)
        return super().fuse(inputs)._replace(weights=-there.to(inputs[self.names[0]].values.dtype))


WRONG = {
    "alone_equals_in_a_batch": [AttendsOverTheBatch, PoolsPadding, PoolsPaddedBias],
    "values_under_the_mask_never_matter": [ReadsUnderTheMask],
    "every_presence_pattern_is_finite": [DividesByPresence],
    "every_parameter_lives": [HidesItsWeights],
    "gradients_are_right": [CutsTheGradient],
    "bfloat16_is_near": [RoundsToHalf],
    "symmetric_where_it_says_so": [FirstCountsTwice],
    "one_token_works_or_is_refused": [OneKey],
    "contract_of_fused": [ForgetsAModality, NegativeWeights],
    "exports_with_any_batch": [BranchesOnData],
    "compiles": [BranchesOnData],
    "stays_on_its_device": [LeaksToTheCpu, ChoosesByAList],
    "trains_under_autocast": [MixesPrecisions],
}


@pytest.mark.parametrize("check", [c for c in CHECKS if c not in ("exports_with_any_batch", "compiles")])
def test_a_right_operator_passes(check: str) -> None:
    CHECKS[check](Sum)


@pytest.mark.parametrize(("check", "cls"), [(check, cls) for check, wrong in WRONG.items() for cls in wrong])
def test_a_wrong_operator_is_caught(check: str, cls: Operator) -> None:
    assert 3 in sizes(cls)
    with pytest.raises(Exception) as caught:
        CHECKS[check](cls)
    assert not isinstance(caught.value, AttributeError | NameError)

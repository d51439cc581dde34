"""The temperature of InfoNCE, and the start of both objectives."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from weft.alignment import create_objective, siglip
from weft.errors import UserError

EVERY = torch.ones(4, dtype=torch.bool)
A, B = (F.normalize(torch.arange(1.0, 13.0).view(4, 3).sin() * k, dim=1) for k in (1, -2))


def test_infonce_is_cross_entropy_at_its_temperature() -> None:
    logits = A @ B.T / 0.07
    expected = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    assert_close(create_objective("infonce")(A, B, EVERY), expected)
    assert_close(create_objective("infonce", chunk=3)(A, B, EVERY), expected)


def test_siglip_starts_at_the_published_values() -> None:
    logits = 10 * A @ B.T - 10
    signs = 2 * torch.eye(4) - 1
    assert_close(create_objective("siglip")(A, B, EVERY), -F.logsigmoid(signs * logits).sum() / 4)


def test_a_fixed_temperature_is_no_parameter_to_train() -> None:
    objective = create_objective("infonce", temperature=0.5, learnable=False)
    assert [p for p in objective.parameters() if p.requires_grad] == []
    assert "log_scale" in objective.state_dict()


def test_the_scale_stays_in_its_range_and_keeps_its_gradient() -> None:
    objective = create_objective("infonce")
    with torch.no_grad():
        objective.log_scale.fill_(9.0)
    objective(A, B, EVERY).backward()
    assert objective.log_scale.item() == pytest.approx(math.log(100))
    assert objective.log_scale.grad.abs() > 0


def test_lightcrl_starts_near_one() -> None:
    objective = create_objective("infonce", temperature=math.exp(-0.07), log_scale_range=(0.01, 20.0))
    assert objective.log_scale.item() == pytest.approx(0.07)


@pytest.mark.parametrize(
    "options", [{"temperature": math.nan}, {"temperature": 0.0}, {"temperature": -1.0}, {"temperature": 1e-4}]
)
def test_wrong_temperatures_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="temperature"):
        create_objective("infonce", **options)


def test_a_temperature_that_became_nan_is_named() -> None:
    for name in ("infonce", "siglip"):
        objective = create_objective(name)
        with torch.no_grad():
            objective.log_scale.fill_(math.nan)
        with pytest.raises(UserError, match="temperature"):
            objective(A, B, EVERY)


def test_hard_negatives_are_not_for_siglip() -> None:
    """Refused by name; its docstring says who has them."""
    with pytest.raises(UserError, match="'siglip' has no option 'hardness'"):
        create_objective("siglip", hardness=0.5)
    assert "``infonce`` has ``hardness``" in (siglip.__doc__ or "")


def test_start_values_of_siglip_are_finite() -> None:
    with pytest.raises(UserError, match="siglip"):
        create_objective("siglip", bias=math.inf)

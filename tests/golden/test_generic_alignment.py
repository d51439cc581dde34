"""Losses of coordinated representations equal the public code in value and gradient; the json says which loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.golden.cases import Case, golden, load
from tests.golden.test_generic import ELSEWHERE
from tests.golden.unimodal import close
from weft.alignment.ranking import Ranking
from weft.ops.correlation import cca_loss, published_cca_loss


def ranking(case: Case, config: Mapping[str, Any], a: Tensor, b: Tensor) -> Tensor:
    objective = Ranking(margin=config["margin"], hardest=config["max_violation"], similarity=config["measure"])
    return objective(a, b, torch.ones(len(a), dtype=torch.bool))


def correlation(case: Case, config: Mapping[str, Any], a: Tensor, b: Tensor) -> Tensor:
    k = None if config["use_all_singular_values"] else config["outdim_size"]
    exact = cca_loss(a, b, config["r1"], config["r2"], k)
    close(exact.detach(), case.tensors["output.exact_loss"].squeeze(), value="exact loss")
    singular = torch.stack([cca_loss(a, b, config["r1"], config["r2"], i).detach() for i in range(a.shape[1] + 1)])
    close(-singular.diff(), case.tensors["output.singular_values"], value="singular values")
    assert config["r1"] == config["r2"]
    return published_cca_loss(a, b, config["r1"], k, config["eps"])


LOSSES: dict[str, Callable[[Case, Mapping[str, Any], Tensor, Tensor], Tensor]] = {
    "ContrastiveLoss": ranking,
    "CCALoss": correlation,
}


@golden("generic", only=ELSEWHERE)
def test_equal_to_the_original(path: Path) -> None:
    case = load(path)
    config = case.config["config"]
    inputs = sorted(key for key in case.tensors if key.startswith("input."))
    leaves = [case.tensors[key].clone().requires_grad_() for key in inputs]
    loss = LOSSES[config["kind"]](case, config, *leaves)
    close(loss.detach(), case.tensors["output.loss"].squeeze(), value="loss")
    loss.backward()
    for key, leaf in zip(inputs, leaves, strict=True):
        recorded = case.tensors[f"grad.{key}"]
        if recorded.isnan().all():
            assert bool(leaf.grad.isfinite().all()), "the original's roots of negative numbers give NaN; ours must not"
        else:
            close(leaf.grad, recorded, gradient=key)

"""LMF equals the published network: output and gradients."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tests.golden.cases import golden, load
from tests.golden.unimodal import NAMES, Unimodal, check_gradients, close, inputs, params
from weft.fusion.low_rank import LowRankFusion


@golden("lmf")
def test_equal_to_the_original(path: Path) -> None:
    case = load(path)
    unimodal = Unimodal(case)
    fusion = LowRankFusion.from_official(params(case), NAMES).eval()
    assert (fusion.rank, fusion.dim) == (case.config["config"]["rank"], case.config["config"]["output_dim"])
    x = inputs(case)
    y = fusion(unimodal(x)).vector
    if case.config["config"]["use_softmax"]:
        y = y.softmax(dim=1)
    close(y, case.tensors["output.y"], value="output")

    def gradient(name: str) -> Tensor | None:
        if name.endswith("_factor"):
            grad = fusion.factors[NAMES.index(name.removesuffix("_factor"))].grad
            return grad.unflatten(1, (fusion.rank, -1)).transpose(0, 1)
        if name in ("fusion_weights", "fusion_bias"):
            return (fusion.rank_weights if name == "fusion_weights" else fusion.bias).grad[None]
        return unimodal.get_parameter(name).grad

    check_gradients(case, y, x, gradient)

"""The bilinear family, the bare product and multiplicative interactions equal the public code, in value and gradient.

Which operator a case belongs to is read from its configuration. Losses of coordinated representations (``ELSEWHERE``)
are in ``test_generic_alignment.py``; any other kind that has no operator here fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.golden.cases import Case, golden, load
from tests.golden.unimodal import close, params
from weft.fusion import Fusion
from weft.fusion.block import Block
from weft.fusion.interactions import MultiplicativeInteractions
from weft.fusion.linear_sum import LinearSum
from weft.fusion.mfb import FactorizedBilinear, FactorizedHighOrder
from weft.fusion.mlb import LowRankBilinear
from weft.fusion.mutan import Mutan
from weft.fusion.tucker import Tucker
from weft.ops.bilinear import outer, with_one
from weft.tokens import as_tokens

NAMES = ("first", "second")
ELSEWHERE = ("vse_", "cca_")
Forward = Callable[[list[Tensor]], Tensor]


def run(fusion: Fusion) -> Forward:
    """The operator on plain vectors."""
    return lambda x: fusion.eval()({name: as_tokens(v) for name, v in zip(NAMES, x, strict=True)}).vector


def activations(config: Mapping[str, Any]) -> dict[str, str]:
    """The two activations of a case; the original default of both is relu, and a false value means none."""
    found = (config.get(key, "relu") for key in ("activ_input", "activ_output"))
    return dict(zip(("activation", "output_activation"), (f or "none" for f in found), strict=True))


def chunk_norm(config: Mapping[str, Any]) -> str:
    """Where a chunked case is normalised; the original default is before the concatenation."""
    return {"before_cat": "chunk", "after_cat": "whole"}[config.get("pos_norm", "before_cat")]


def whole_norm(config: Mapping[str, Any]) -> str:
    return "whole" if config.get("normalize", False) else "none"


def bilinear(case: Case, config: Mapping[str, Any]) -> Forward:
    """An operator of the public code of BLOCK."""
    classes: dict[str, tuple[type[Any], dict[str, Any]]] = {
        "LinearSum": (LinearSum, activations(config)),
        "MLB": (LowRankBilinear, {**activations(config), "normalize": config.get("normalize", False)}),
        "MFB": (FactorizedBilinear, {**activations(config), "normalize": config.get("normalize", False)}),
        "MFH": (FactorizedHighOrder, {**activations(config), "normalize": config.get("normalize", False)}),
        "Mutan": (Mutan, {"normalize": config.get("normalize", False)}),
        "Tucker": (Tucker, {"normalize": whole_norm(config)}),
        "Block": (Block, {"normalize": chunk_norm(config) if config["kind"] == "Block" else "none"}),
        "BlockTucker": (Tucker, {"normalize": chunk_norm(config) if config["kind"] == "BlockTucker" else "none"}),
    }
    cls, options = classes[config["kind"]]
    fusion = cls.from_official(params(case), NAMES, **options)
    assert list(fusion.dims.values()) == config["input_dims"]
    assert sum(p.numel() for n, p in fusion.named_parameters() if not n.startswith("fillers")) == config["n_params"]
    return run(fusion)


def interactions(case: Case, config: Mapping[str, Any]) -> Forward:
    state, width = params(case), case.tensors["input.x1"].shape[1]
    return run(MultiplicativeInteractions.from_official(state, NAMES, form=config["output"], width=width))


def product(case: Case, config: Mapping[str, Any]) -> Forward:
    return lambda x: outer([with_one(v) for v in x])


BUILDERS: dict[str, Callable[[Case, Mapping[str, Any]], Forward]] = {
    "TensorFusion": product,
    "MultiplicativeInteractions2Modal": interactions,
}


@golden("generic", without=ELSEWHERE)
def test_equal_to_the_original(path: Path) -> None:
    case = load(path)
    config = case.config["config"]
    forward = BUILDERS.get(config["kind"], bilinear)(case, config)
    inputs = sorted(key for key in case.tensors if key.startswith("input."))
    x = [case.tensors[key].clone().requires_grad_() for key in inputs]
    y = forward(x)
    close(y, case.tensors["output.y"], value="output")
    if "grad.probe" in case.tensors:
        (y * case.tensors["grad.probe"]).sum().backward()
        for key, leaf in zip(inputs, x, strict=True):
            close(leaf.grad, case.tensors[f"grad.{key}"], gradient=key)

"""MS-CAM, AFF and iAFF equal the original code, evaluating and training, in value and gradient.

What a case is, is read from its configuration. Outputs and gradients are named ``<wiring>.<mode>``: "port" is the
PyTorch port, "mxnet_wiring" its iAFF with the second global branch. A case recorded from MXNet names the file of its
weights and inputs, and has one output per mode.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

from tests.golden.cases import Case, golden, load
from tests.golden.unimodal import close, params
from weft.fusion.aff import AttentionalFusion, MultiScaleChannelAttention, to_map, to_tokens
from weft.fusion.base import Fusion
from weft.fusion.iaff import IterativeAttentionalFusion

Forward = Callable[[list[Tensor]], Tensor]
WIRINGS = {"port": True, "mxnet_wiring": False}


def on_maps(fusion: Fusion) -> Forward:
    """The fusion on maps ``(B, C, H, W)``."""

    def forward(x: list[Tensor]) -> Tensor:
        fused = fusion({name: to_tokens(v) for name, v in zip(fusion.names, x, strict=True)})
        assert fused.tokens is not None
        return to_map(fused.tokens.values, x[0])

    return forward


def build(case: Case, wiring: str) -> tuple[nn.Module, Forward, list[str]]:
    """The module, what it computes, and the names of its inputs."""
    state, kind = params(case), case.config["config"]["kind"]
    if kind == "MS_CAM":
        module = MultiScaleChannelAttention.from_official(state)
        return module, lambda x: module(x[0]), ["x"]
    if kind == "AFF":
        fusion: Fusion = AttentionalFusion.from_official(state)
    elif kind == "iAFF":
        fusion = IterativeAttentionalFusion.from_official(state, port=WIRINGS[wiring])
    else:
        raise KeyError(kind)
    assert sum(p.numel() for p in fusion.parameters()) == case.config["config"]["parameters"]
    return fusion, on_maps(fusion), ["x", "residual"]


@pytest.mark.parametrize("mode", ["eval", "train"])
@golden("aff")
def test_equal_to_the_original(path: Path, mode: str) -> None:
    recorded = load(path)
    case = load(path.with_name(recorded.config["weights"])) if "weights" in recorded.config else recorded
    outputs = [key for key in recorded.tensors if key.startswith("output.") and key.endswith(f".{mode}")]
    assert outputs
    for key in outputs:
        wiring = key.split(".")[1] if key.count(".") == 2 else "mxnet_wiring"
        module, forward, names = build(case, wiring)
        module.train(mode == "train")
        x = [case.tensors[f"input.{name}"].clone().requires_grad_() for name in names]
        y = forward(x)
        close(y, recorded.tensors[key], value=key)
        gradients = [k for k in recorded.tensors if k.startswith(f"grad.{wiring}.{mode}.")]
        assert recorded is not case or len(gradients) == len(names)
        if gradients:
            (y * recorded.tensors["grad.probe"]).sum().backward()
            for leaf, name in zip(x, names, strict=True):
                close(leaf.grad, recorded.tensors[f"grad.{wiring}.{mode}.{name}"], gradient=name)

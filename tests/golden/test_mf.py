"""MutualFormer against every recorded case of the original code: values and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.golden.cases import Case, golden, load
from weft.fusion.mutualformer import CrossDiffusionAttention, MutualFormerBlock, OverlapPatchEmbed, to_map
from weft.ops.cross_diffusion import normalise_affinity

FORMS = pytest.mark.parametrize("form", ["dense", "associative", "streaming"])


def close(ours: Tensor, theirs: Tensor, name: str) -> None:
    """Within 1e-10 (float64) or 1e-5 (float32) of the recorded tensor's largest value, or of 1: gradients are sums of
    hundreds of terms, and both sides round in the last digits of the largest."""
    tolerance = 1e-10 if theirs.dtype == torch.float64 else 1e-5
    scale = max(1.0, theirs.abs().max().item())
    assert_close(ours, theirs, rtol=0.0, atol=tolerance * scale, msg=lambda text: f"{name}: {text}")


def options(case: Case) -> dict[str, Any]:
    known = {"qk_scale": "scale", "alpha": "alpha", "attn_drop": "attention_dropout", "proj_drop": "dropout"}
    return {ours: case.config[theirs] for theirs, ours in known.items() if theirs in case.config}


def state(case: Case) -> dict[str, Tensor]:
    return {k.removeprefix("state."): v for k, v in case.tensors.items() if k.startswith("state.")}


def check(module: nn.Module, case: Case, height: int | None = None) -> None:
    """Output, gradients of the inputs, gradients of every parameter."""
    x, fused = (case.tensors[f"in.{n}"].clone().requires_grad_() for n in ("x", "xrd"))
    r, d = x.chunk(2, dim=-1)
    y = module.eval()(r, d, fused)
    y = y if height is None else to_map(y, height)
    close(y, case.tensors["out.y"], "y")
    (case.tensors["loss_weight"] * y).sum().backward()
    ours = {"x": x.grad, "xrd": fused.grad, **{f"state.{n}": p.grad for n, p in module.named_parameters()}}
    recorded = {k.removeprefix("grad."): v for k, v in case.tensors.items() if k.startswith("grad.")}
    assert set(ours) == set(recorded)
    for name, theirs in recorded.items():
        close(ours[name], theirs, f"gradient of {name}")


@golden("mf_get_S")
def test_normalisation(path: Path) -> None:
    case = load(path)
    for kind in ("softmax", "positive"):
        close(normalise_affinity(case.tensors[f"in.{kind}"]), case.tensors[f"out.S_{kind}"], kind)


@FORMS
@golden("mf_multi_attention")
def test_attention(path: Path, form: str) -> None:
    case = load(path)
    config, weights = case.config, state(case)
    module = CrossDiffusionAttention(
        config["dim"], config["num_heads"], qkv_bias=config["qkv_bias"], form=form, **options(case)
    )
    module.to(weights["proj.weight"].dtype).load_state_dict(weights)
    check(module, case)


@FORMS
@golden("mf_block")
def test_block(path: Path, form: str) -> None:
    case = load(path)
    config = case.config
    block = MutualFormerBlock.from_official(state(case), config["num_heads"], form=form, **options(case))
    check(block, case, config["h"] if config["resize"] else None)


@golden("mf_patch_embed_overlap")
def test_patch_embedding(path: Path) -> None:
    case = load(path)
    config, weights = case.config, state(case)
    size = config["img_size"]
    module = OverlapPatchEmbed(
        size if isinstance(size, int) else tuple(size),
        config["patch_size"],
        config["stride_size"],
        config["in_chans"],
        config["embed_dim"],
    )
    module.to(weights["proj.weight"].dtype).load_state_dict(weights)
    assert module.grid == (config["num_y"], config["num_x"])
    close(module(case.tensors["in.x"]), case.tensors["out.y"], "y")

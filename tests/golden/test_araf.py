"""ARAF's blocks, encoders and whole network equal the original code, in value and gradient.

Stored weights to 1e-10; weights given by a rule to 1e-8, since the sine of large numbers differs between libraries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.golden.cases import Case, golden, load
from weft.fusion.araf_blocks import JointLayerNorm, PublishedAlignment, PublishedEnhancement
from weft.systems.araf.network import (
    ImageEncoder,
    MultiModalEnhancer,
    Residual,
    ResNet1D,
    image_names,
    image_options,
    stage,
)

State = dict[str, Tensor]


def rule_fill(index: int, name: str, shape: list[int], gain: float) -> Tensor:
    """One tensor by the rule written in the case; ``index`` is its place in the state dict."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.long)
    flat = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    flat.mul_(12.9898).add_((index + 1) * 78.233).sin_().mul_(43758.5453)
    u = flat.sub_(flat.floor()).sub_(0.5).view(shape)
    last = name.rsplit(".", 1)[-1]
    if last in ("pos_embedding", "cls_token"):
        return u.mul_(2)
    if len(shape) > 1:
        return u.mul_(gain * (12 / torch.Size(shape[1:]).numel()) ** 0.5)
    if last in ("weight", "gamma", "running_var"):
        return u.mul_(0.5).add_(1)
    return u.mul_(0.2)


def state_of(case: Case) -> State:
    """The original state dict: stored, or made by the rule."""
    stored = {k.removeprefix("state."): v for k, v in case.tensors.items() if k.startswith("state.")}
    if stored or "weights" not in case.config:
        return stored
    gain = float(re.findall(r"gain=([\d.]+)", case.config["weights"])[0])
    names = case.config["state_names"]
    return {name: rule_fill(index, name, shape, gain) for index, (name, shape) in enumerate(names.items())}


def tolerance(case: Case) -> dict[str, float]:
    size = 1e-8 if "weights" in case.config else 1e-10
    return {"rtol": size, "atol": size}


def options(case: Case) -> dict[str, Any]:
    """The configuration, with what lies one level deeper."""
    inner = [v for k, v in case.config.items() if isinstance(v, dict) and k not in ("tensors", "state_names")]
    return {k: v for part in (case.config, *inner) for k, v in part.items()}


def loaded(module: nn.Module, state: State) -> nn.Module:
    module.to(torch.float64).load_state_dict(state)
    return module


def image_encoder(case: Case, state: State) -> nn.Module:
    config = options(case)
    patch = config.get("patch_size", 16)
    patch = patch if isinstance(patch, int) else tuple(patch)
    names = image_names(state)
    found = image_options(state, heads=config["heads"], patch=patch, pool=config.get("pool", "cls"))
    module = ImageEncoder(outputs=len(state["to_fusion.0.weight"]), **found)
    return loaded(module, {ours: state[theirs] for theirs, ours in names.items()})


def residual(case: Case, state: State, axes: int) -> nn.Module:
    c = case.config
    return loaded(Residual(c["cin"], c["cout"], stride=c["stride"], project=c["use_1x1conv"], axes=axes), state)


BUILDERS: Mapping[str, Callable[[Case, State], nn.Module]] = {
    "araf_joint_layernorm": lambda c, s: loaded(JointLayerNorm(len(s["gamma"])), s),
    "araf_fusion_block": lambda c, s: loaded(
        PublishedAlignment(c.config["D"], c.config["heads"], c.config["head_dim"]), s
    ),
    "araf_enhancement_block": lambda c, s: loaded(
        PublishedEnhancement(c.config["D"], c.config["heads"], c.config["head_dim"], c.config["out_len"]), s
    ),
    "araf_image_encoder": image_encoder,
    "araf_residual_1d": lambda c, s: residual(c, s, 1),
    "araf_residual_2d": lambda c, s: residual(c, s, 2),
    "araf_resnet_block_1d": lambda c, s: loaded(
        stage(c.config["cin"], c.config["cout"], c.config["n"], first=c.config["first_block"]), s
    ),
    "araf_resnet_1d": lambda c, s: loaded(ResNet1D(s["net2_1.0.weight"].shape[1], len(s["linear.2.weight"])), s),
}


def our_name(module: nn.Module, state: State, name: str) -> str | None:
    """Our name of an original parameter; None for one that is dead in the original."""
    return image_names(state).get(name) if isinstance(module, ImageEncoder) else name


@golden("araf_[!f]*")
def test_block_equals_the_original(path: Path) -> None:
    check_block(path)


@golden("araf_fusion_block")
def test_alignment_equals_the_original(path: Path) -> None:
    check_block(path)


def check_block(path: Path) -> None:
    case = load(path)
    state, close = state_of(case), tolerance(case)
    module = BUILDERS[path.parent.name](case, state)
    module.train(case.config.get("mode", "eval") == "train")
    order = sorted((k for k in case.tensors if k.startswith("in.")), key=lambda k: (k == "in.signal", k))
    x = {k.removeprefix("in."): case.tensors[k].clone().requires_grad_() for k in order}
    middle: State = {}
    for name, child in module.named_children():
        child.register_forward_hook(lambda _m, _i, out, name=name: middle.__setitem__(name, out))
    y = module(*x.values())
    if isinstance(module, ResNet1D):
        middle["net2_7"] = middle["net2_6"].mean(dim=2)
    for key in (k for k in case.tensors if k.startswith(("out.", "mid."))):
        kind, name = key.split(".", 1)
        recorded = case.tensors[key]
        if kind == "mid" and name in middle:
            assert_close(middle[name], recorded, **close)
        elif isinstance(module, ImageEncoder) and recorded.ndim == 4:
            assert_close(module.attention(*x.values()), recorded, **close)
        else:
            assert_close(y, recorded, msg=lambda m, key=key: f"{key}: {m}", **close)
    check_gradients(case, module, state, x, y)


def check_gradients(case: Case, module: nn.Module, state: State, x: State, y: Tensor) -> None:
    recorded = {k.removeprefix("grad."): v for k, v in case.tensors.items() if k.startswith("grad.")}
    if not recorded:
        return
    (y * case.tensors["loss_weight"]).sum().backward()
    ours = dict(module.named_parameters())
    for key, expected in recorded.items():
        if not key.startswith("state."):
            assert_close(x[key].grad, expected, **tolerance(case))
            continue
        name = our_name(module, state, key.removeprefix("state."))
        assert_close(
            torch.zeros_like(expected) if name is None else ours[name].grad,
            expected,
            msg=lambda m, key=key: f"{key}: {m}",
            **tolerance(case),
        )
    for name in case.config.get("no_grad", []):
        assert our_name(module, state, name.removeprefix("state.")) is None, f"{name} is dead in the original"


@pytest.mark.slow
@golden("araf_full")
def test_whole_network_equals_the_original(path: Path) -> None:
    case = load(path)
    image = case.config["image"]
    patch = image["patch_size"]
    module = MultiModalEnhancer.from_official(
        state_of(case),
        image_heads=image["heads"],
        patch=patch if isinstance(patch, int) else tuple(patch),
        pool=image.get("pool", "cls"),
    )
    with torch.no_grad():
        image_embed = module.image_encoder(case.tensors["in.image"])
        signal_embed = module.signal_resnet(case.tensors["in.signal"].unsqueeze(1))
        fused = module.multi_modal_fusion.copied(image_embed, signal_embed)
        found = {
            "mid.image_embed": image_embed,
            "mid.signal_embed": signal_embed,
            "mid.fusion_first8tokens": fused.dense()[:, :8],
            "mid.fusion_sum": fused.dense().sum(dim=(1, 2)),
            "mid.enhanced_first8": module.feature_enhancement.copied(fused)[:, :8],
            "out.y": module(case.tensors["in.signal"], case.tensors["in.image"]),
        }
    recorded = [k for k in case.tensors if k.startswith(("out.", "mid."))]
    assert recorded
    for key in recorded:
        assert_close(found[key], case.tensors[key], msg=lambda m, key=key: f"{key}: {m}", **tolerance(case))

"""MulT's attention, encoders, networks and alignment equal the original code, in value and gradient.

What a case is, is read from its configuration. The original computes its softmax and positions in float32 even in a
float64 model; ``_pure64`` outputs are recorded with both in float64 and are compared to 1e-10, ``_f32`` ones to 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.golden.cases import Case, golden, load
from tests.golden.unimodal import close, params
from weft.fusion.mult import (
    CTCAlignment,
    MulT,
    SequenceAttention,
    SequenceEncoder,
    attendable,
    embed,
    positions,
    step_numbers,
)
from weft.fusion.mult_weights import part
from weft.tokens import Tokens

Outputs = dict[str, Tensor]
NAMES = {"l": "text", "a": "audio", "v": "vision"}


def inputs(case: Case, dtype: torch.dtype) -> Outputs:
    """The recorded inputs as leaves."""
    found = {k.removeprefix("input."): v for k, v in case.tensors.items() if k.startswith("input.")}
    return {k: v.to(dtype, copy=True).requires_grad_(v.is_floating_point()) for k, v in found.items()}


def batch_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def all_real(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool)


def attention(case: Case, config: Mapping[str, Any], x: Outputs, dtype: torch.dtype) -> Outputs:
    module = SequenceAttention(
        config["embed_dim"],
        config["num_heads"],
        learned_key=config["add_bias_kv"],
        zero_key=config["add_zero_attn"],
    )
    module.load_state_dict(params(case))
    query, key, value = (batch_first(x[name]) for name in ("query", "key", "value"))
    allowed = None
    if "mask" in x:
        allowed = x["mask"] == 0
        if config["future_mask"]:
            assert torch.equal(attendable(all_real(query), all_real(key), future_mask=True)[0, 0], allowed)
    module.to(dtype).eval()
    received = module(query, key, value, allowed)
    return {"attn": batch_first(received), "weights": module.weights(query, key, allowed)}


def sequence(x: Tensor) -> Tokens:
    """Time-major values as the original embeds them: a step whose first channel is 0 has no position."""
    values = batch_first(x)
    mask = all_real(values)
    return Tokens(embed(values, step_numbers(mask) * (values[..., 0] != 0)), mask)


def encoder(case: Case, config: Mapping[str, Any], x: Outputs, dtype: torch.dtype) -> Outputs:
    module = SequenceEncoder(
        config["embed_dim"], config["num_heads"], config["layers"], future_mask=config["attn_mask"]
    )
    module.load_state_dict(part(params(case), ""))
    module.to(dtype).eval()
    table = case.tensors["mid.sinusoid_table_f32"]
    close(positions(torch.arange(len(table), dtype=torch.float32), config["embed_dim"]), table, mid="positions")
    target = sequence(x["x"])
    source = sequence(x["src"]) if config["cross"] else None
    keys = target if source is None else source
    allowed = attendable(target.mask, keys.mask, future_mask=True)[0, 0]
    assert torch.equal(allowed, case.tensors["mid.future_mask"] == 0)
    whole = module(target, source)
    if source is None:
        close(module(target, last=True)[:, 0], whole.detach()[:, -1], what="the last step alone")
    return {"y": batch_first(whole)}


def network(case: Case, config: Mapping[str, Any], x: Outputs, dtype: torch.dtype) -> Outputs:
    module = MulT.from_official(params(case), config["num_heads"], future_mask=config["attn_mask"])
    module.to(dtype).eval()
    sequences = {}
    for letter, name in NAMES.items():
        (key,) = [k for k in x if k in (letter, f"x_{letter}", name)]
        sequences[name] = Tokens(x[key], all_real(x[key]))
    taken: list[Tensor] = []
    handle = module.head.register_forward_pre_hook(lambda _, z: taken.append(z[0]))
    y = module(sequences).vector
    handle.remove()
    return {"y": y, "z": taken[0]}


def alignment(case: Case, config: Mapping[str, Any], x: Outputs, dtype: torch.dtype) -> Outputs:
    (values,) = x.values()
    aligned, scores = CTCAlignment.from_official(params(case)).to(dtype)(Tokens(values, all_real(values)))
    return {"y": aligned, "scores": scores}


def output(found: Outputs, name: str, expected: Tensor) -> Tensor:
    """The output of this name, or the only one of this shape."""
    if name in found:
        return found[name]
    (same,) = [value for value in found.values() if value.shape == expected.shape]
    return same


def recorded(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Outputs:
    """The outputs of a case for a dtype: those recorded in it, or, where none says its dtype, all, cast."""
    suffix = "_pure64" if dtype == torch.float64 else "_f32"
    outputs = {k.removeprefix("output."): v for k, v in tensors.items() if k.startswith("output.")}
    found = {k.removesuffix(suffix): v for k, v in outputs.items() if k.endswith(suffix)}
    found = found or {k: v.to(dtype) for k, v in outputs.items() if not k.endswith(("_f64", "_pure64", "_f32"))}
    assert found, f"no output for {dtype} among {sorted(outputs)}"
    return found


BUILDERS: dict[str, Callable[[Case, Mapping[str, Any], Outputs, torch.dtype], Outputs]] = {
    "MultiheadAttention": attention,
    "TransformerEncoder": encoder,
    "MULTModel": network,
    "CTCModule": alignment,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@golden("mult")
def test_equal_to_the_original(path: Path, dtype: torch.dtype) -> None:
    case = load(path)
    config = case.config["config"]
    x = inputs(case, dtype)
    found = BUILDERS[config["kind"]](case, config, x, dtype)
    for name, expected in recorded(case.tensors, dtype).items():
        close(output(found, name, expected), expected, value=name)
    gradients = [k for k in case.tensors if k.startswith("grad.") and k != "grad.probe"]
    if dtype == torch.float64 and gradients:
        (found["y"] * case.tensors["grad.probe"]).sum().backward()
        for key in gradients:
            close(x[key.removeprefix("grad.").removeprefix("input.")].grad, case.tensors[key], gradient=key)


def test_plain_names_are_read_too() -> None:
    plain, typed = torch.zeros(2, dtype=torch.float64), torch.ones(2)
    assert recorded({"output.y": plain, "input.x": typed}, torch.float32)["y"].dtype == torch.float32
    assert recorded({"output.y_f32": typed, "output.y_f64": plain}, torch.float32) == {"y": typed}
    with pytest.raises(AssertionError, match="y_f32"):
        recorded({"output.y_f32": typed}, torch.float64)

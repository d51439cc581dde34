"""Weights of the public code of MulT (Tsai et al., ACL 2019): its names and ours.

With l, a and v for text, audio and vision that network holds ``proj_l`` (convolutions of one step), ``trans_l_with_a``
and ``trans_l_mem`` (encoders), ``proj1``, ``proj2`` and ``out_layer``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from weft.errors import UserError

Module = TypeVar("Module", bound=nn.Module)


class Shape(NamedTuple):
    """What the parameters of one published encoder show."""

    width: int
    layers: int


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The parameters of one published encoder by their names in it; its two bookkeeping buffers are left out."""
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key: value for key, value in found.items() if not key.endswith(("_float_tensor", "version"))}


def shape_of(state: Mapping[str, Tensor]) -> Shape:
    """Width ``D`` and number of layers of one published encoder."""
    layers = {key.split(".")[1] for key in state if key.startswith("layers.")}
    return Shape(state["layer_norm.weight"].shape[0], len(layers))


def load(build: Callable[..., Module], state: Mapping[str, Tensor], names: Sequence[str], **options: Any) -> Module:
    """``build(dims, dim, ...)`` with the parameters of the whole network, in their dtype; unused ones are left out.

    Raises:
        UserError: the parameters are those of another module.
    """
    letters = dict(zip("lav", names, strict=True))
    targets = [a for a in letters if any(key.startswith(f"trans_{a}_with_") for key in state)]
    if not targets or "out_layer.weight" not in state:
        raise UserError(
            "not the parameters of the published MulT",
            f"no 'trans_l_with_a' or 'out_layer' among {len(state)} names",
            "pass the whole state dict of the MULTModel",
        )
    pairs = [(a, b) for a in targets for b in letters if b != a]
    shape = shape_of(part(state, "trans_{}_with_{}.".format(*pairs[0])))
    module = build(
        {name: state[f"proj_{x}.weight"].shape[1] for x, name in letters.items()},
        len(state["out_layer.weight"]),
        width=shape.width,
        layers=shape.layers,
        targets=tuple(letters[a] for a in targets),
        **options,
    )
    found = {f"project.{m}.weight": state[f"proj_{x}.weight"][:, :, 0] for m, x in enumerate(letters)}
    encoders = {f"cross.{i}": f"trans_{a}_with_{b}." for i, (a, b) in enumerate(pairs)}
    encoders |= {f"memory.{i}": f"trans_{a}_mem." for i, a in enumerate(targets)}
    found |= {f"{ours}.{key}": v for ours, theirs in encoders.items() for key, v in part(state, theirs).items()}
    found |= {f"head.{k}": v for k, v in state.items() if k.split(".")[0] in ("proj1", "proj2", "out_layer")}
    wanted = module.state_dict()
    module.to(state["out_layer.weight"].dtype)
    module.load_state_dict({k: v for k, v in found.items() if k in wanted or not k.startswith("project.")})
    return module

"""Weights of the public code of AFF (Dai et al., WACV 2021): its names and ours.

Its modules hold ``local_att`` and ``global_att`` (iAFF also ``local_att2`` and ``global_att2``), each a sequence of two
1 x 1 convolutions with a BatchNorm after them; the global ones begin with a pooling layer.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from weft.errors import UserError


def shape(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Width ``C`` and reduction ``r`` of a published module.

    Raises:
        UserError: other parameters.
    """
    if "local_att.0.weight" not in state:
        raise UserError(
            "not the parameters of a published AFF, iAFF or MS-CAM",
            f"no 'local_att.0.weight' among {len(state)} names",
            "pass the state dict of one module, without the prefix of the network around it",
        )
    hidden, width = state["local_att.0.weight"].shape[:2]
    return width, width // hidden


def load(attention: nn.Module, state: Mapping[str, Tensor], stage: str = "") -> None:
    """Load the branches ``local_att{stage}`` and ``global_att{stage}``; the module takes their dtype."""
    layers = ("reduce", "norm_hidden", "expand", "norm_out")
    attention.to(state["local_att.0.weight"].dtype)
    for branch, name, numbers in (
        (attention.get_submodule("local"), f"local_att{stage}", (0, 1, 3, 4)),
        (attention.get_submodule("pooled"), f"global_att{stage}", (1, 2, 4, 5)),
    ):
        found = {
            f"{layer}.{key.rsplit('.', 1)[1]}": value.flatten(1) if value.ndim == 4 else value
            for layer, number in zip(layers, numbers, strict=True)
            for key, value in state.items()
            if key.startswith(f"{name}.{number}.")
        }
        branch.load_state_dict(found)

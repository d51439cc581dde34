"""Weights of a published MutualFormer block: the names of its parameters are ours, its options are read from shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from weft.errors import UserError


def shape(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options that the parameters' shapes show.

    Raises:
        UserError: other parameters.
    """
    try:
        hidden, dim = state_dict["mlp.fc1.weight"].shape
    except KeyError:
        raise UserError(
            "not the parameters of a MutualFormer block",
            f"no 'mlp.fc1.weight' among {len(state_dict)} names",
            "pass the state dict of one block, without the prefix of the network around it",
        ) from None
    return {"dim": dim, "mlp_ratio": hidden / dim, "qkv_bias": "attn.qkv_r.bias" in state_dict}


def load(block: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load; the block takes the dtype of the weights. A name or shape that does not fit is a UserError."""
    block.to(next(iter(state_dict.values())).dtype)
    try:
        block.load_state_dict(state_dict)
    except RuntimeError as error:
        raise UserError(
            "the parameters do not fit the published block",
            str(error),
            "pass the state dict of one MutualFormer block and options that agree with it",
        ) from None

"""The published multi-source attentions' variables, found by the ends of their names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from weft.errors import UserError


def one(state: Mapping[str, Tensor], suffix: str) -> Tensor:
    """The variable, of any shape, whose name ends like this.

    Raises:
        UserError: there is none, or several.
    """
    found = [value for key, value in state.items() if f"/{key}".endswith(f"/{suffix.removeprefix('/')}")]
    if len(found) != 1:
        raise UserError(
            "not the variables of a published multi-source attention",
            f"{len(found)} names end in {suffix!r}, of {len(state)}",
            "pass the variables of one attention, under the names of its graph",
        )
    return found[0]


def numbered(state: Mapping[str, Tensor], infix: str) -> list[Tensor]:
    """The variables ``...{infix}0``, ``...{infix}1`` and so on, in that order."""
    found = {int(key.rsplit("_", 1)[1]): value for key, value in state.items() if infix in key}
    return [found[k] for k in sorted(found)]


def dense(state: Mapping[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    """A dense layer, renamed: its kernel ``(in, out)`` transposed, its bias."""
    return {f"{ours}.weight": one(state, f"{theirs}/kernel").T, f"{ours}.bias": one(state, f"{theirs}/bias")}


def load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load parameters; the module takes their dtype."""
    module.to(next(iter(state.values())).dtype).load_state_dict(dict(state))

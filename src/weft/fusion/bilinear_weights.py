"""Weights of the public code of BLOCK (Ben-Younes et al., AAAI 2019) for our bilinear family: its names and ours.

That code projects by ``linear0`` and ``linear1`` (MFH: ``linear0_0``, ``linear0_1``, ...) and ends with ``linear_out``.
Between them lie ``merge_linear0`` and ``merge_linear1`` (Mutan), ``merge_linears0.C`` and ``merge_linears1.C`` (Block),
``bilinear`` (Tucker) or ``bilinears.C`` (BlockTucker), with C the chunk; MLB, MFB and LinearSum have nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count, takewhile
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from weft.errors import UserError

Module = TypeVar("Module", bound=nn.Module)
State = Mapping[str, Tensor]


class Layout(NamedTuple):
    """What a reader finds: the options that the shapes show, and our prefix for every prefix of theirs."""

    options: dict[str, Any]
    prefixes: dict[str, str]


Reader = Callable[[State, int], Layout]
"""Of the parameters and the number of modalities."""


def plain(state: State, modalities: int) -> Layout:
    """MLB and LinearSum."""
    return Layout({"hidden": state["linear_out.weight"].shape[1]}, _projections(modalities))


def factorized(state: State, modalities: int) -> Layout:
    """MFB, and MFH with its two blocks."""
    blocks = 1 if "linear0.weight" in state else 2
    names = {
        (block, m): f"linear{m}" if blocks == 1 else f"linear{m}_{block}"
        for block in range(blocks)
        for m in range(modalities)
    }
    hidden = state["linear_out.weight"].shape[1] // blocks
    factor = state[f"{names[0, 0]}.weight"].shape[0] // hidden
    prefixes = {f"{name}.": f"products.{block}.project.{m}." for (block, m), name in names.items()}
    return Layout({"hidden": hidden, "factor": factor}, prefixes)


def mutan(state: State, modalities: int) -> Layout:
    """Mutan."""
    rows, hidden = state["merge_linear0.weight"].shape
    merges = {f"merge_linear{m}.": f"core.factors.{m}." for m in range(modalities)}
    return Layout({"hidden": hidden, "rank": rows // hidden}, _projections(modalities) | merges)


def block(state: State, modalities: int) -> Layout:
    """Block; an empty last chunk computes nothing and is left out."""
    keys = takewhile(state.__contains__, (f"merge_linears0.{c}.weight" for c in count()))
    shapes = [state[key].shape for key in keys if len(state[key])]
    rows, width = shapes[0]
    merges = {
        f"merge_linears{m}.{c}.": f"cores.{c}.factors.{m}." for m in range(modalities) for c in range(len(shapes))
    }
    sizes = tuple(shape[1] for shape in shapes)
    options = {"hidden": sum(sizes), "chunks": sizes, "rank": rows // width}
    return Layout(options, _projections(modalities) | merges)


def tucker(state: State, modalities: int) -> Layout:
    """Tucker, or BlockTucker where there are chunks; empty ones are left out, as in Block."""
    names = ["bilinear."] if "bilinear.bias" in state else []
    names += [f"bilinears.{c}." for c in takewhile(lambda c: len(state.get(f"bilinears.{c}.bias", ())), count())]
    sizes = tuple(len(state[f"{name}bias"]) for name in names)
    cores = {name: f"cores.{c}." for c, name in enumerate(names)}
    return Layout({"hidden": sum(sizes), "chunks": sizes}, _projections(modalities) | cores)


def load(
    build: Callable[..., Module], read: Reader, state: State, names: Sequence[str], options: Mapping[str, Any]
) -> Module:
    """``build(dims, dim, ...)`` with the parameters ``state``, in their dtype.

    Parameters that only we have (what stands in for an absent modality) keep their initial values.

    Raises:
        UserError: the parameters are those of another module.
    """
    try:
        sizes, prefixes = read(state, len(names))
        out = state["linear_out.weight"]
        first = [state.get(f"linear{m}.weight", state.get(f"linear{m}_0.weight")) for m in range(len(names))]
        dims = {name: weight.shape[1] for name, weight in zip(names, first, strict=True) if weight is not None}
    except (KeyError, IndexError) as error:
        raise UserError(
            "not the parameters of this module of the public code of BLOCK",
            f"{error} among {len(state)} names",
            "pass the state dict of one fusion module, without the prefix of the network around it",
        ) from error
    module = build(dims, out.shape[0], **sizes, **options)
    renamed = {
        ours + key.removeprefix(theirs): value
        for theirs, ours in {**prefixes, "linear_out.": "out."}.items()
        for key, value in state.items()
        if key.startswith(theirs)
    }
    fresh = {key: value for key, value in module.state_dict().items() if key.startswith("fillers.")}
    module.to(out.dtype).load_state_dict(fresh | renamed)
    return module


def _projections(modalities: int) -> dict[str, str]:
    return {f"linear{m}.": f"project.{m}." for m in range(modalities)}

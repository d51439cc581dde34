"""Operators and inputs for the contract: small, seeded, with ragged masks and every pattern of presence.

Operators are built with their default options at ``dim=16`` (default head counts divide 16). Every parameter is moved
off its initial value by a little noise, so that a layer that starts at zero cannot hide a dead path or a leaking bias.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from weft.fusion import Fusion
from weft.tokens import Tokens, everywhere

DIM = 16
WIDTHS = (6, 5, 9, 4, 8)
NOISE = 0.05


def sizes(cls: type[Any]) -> list[int]:
    """The numbers of modalities among 1, 2, 3, 5 that the class takes."""
    fewest, most = cls.arity
    return [m for m in (1, 2, 3, 5) if m >= fewest and (most is None or m <= most)]


def widths(cls: type[Any], count: int | None = None) -> dict[str, int]:
    """``{name: D_m}`` for ``count`` modalities; without it three, or the nearest number the class takes."""
    if count is None:
        count = min(sizes(cls), key=lambda m: abs(m - 3))
    return {f"m{index}": width for index, width in enumerate(WIDTHS[:count])}


def build(
    cls: type[Any], dims: Mapping[str, int], *, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any
) -> Any:
    """The operator at ``dim=16`` in evaluation mode, its parameters moved off their initial values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = cls(dims, DIM, **options).to(dtype)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(NOISE * torch.randn_like(parameter))
    return module.eval()


def patterns(count: int) -> Tensor:
    """Every presence pattern of ``count`` modalities with at least one present, ``(2^M - 1, M)`` bool."""
    rows = [row for row in itertools.product((True, False), repeat=count) if any(row)]
    return torch.tensor(rows)


def sample(
    cls: type[Any],
    dims: Mapping[str, int],
    *,
    batch: int | None = None,
    length: int = 4,
    absent: bool | None = None,
    holes: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tokens]:
    """Inputs with garbage under the mask.

    Args:
        cls: the operator; ``aligned-tokens`` get ``length`` tokens in every modality, others ``length + index``;
            ``length = 1`` is one token everywhere.
        dims: widths.
        batch: rows; by default one per presence pattern and at least 4, or 5 where nothing is absent.
        length: tokens, see ``cls``.
        absent: leave modalities out by row, through every pattern in turn, or some spread over all; by default unless
            the class refuses that.
        holes: masked positions anywhere; otherwise only at the end.
        seed: of the values and masks.
        dtype: of the values.
    """
    generator = torch.Generator().manual_seed(seed)
    absent = getattr(cls, "absent", "native") != "refuse" if absent is None else absent
    every = patterns(len(dims))
    batch = batch or (max(len(every), 4) if absent else 5)
    spread = torch.arange(batch) * max(len(every) // batch, 1) % len(every)
    there = every[spread] if absent else torch.ones(batch, len(dims), dtype=torch.bool)
    aligned = getattr(cls, "wants", "tokens") == "aligned-tokens"
    inputs = {}
    for index, (name, width) in enumerate(dims.items()):
        tokens = length if aligned or length == 1 else length + index
        values = torch.randn(batch, tokens, width, generator=generator, dtype=torch.float64)
        real = torch.randint(min(2, tokens), tokens + 1, (batch, 1), generator=generator)
        mask = torch.arange(tokens) < real
        if holes:
            order = torch.rand(batch, tokens, generator=generator).argsort(dim=1)
            mask = mask.gather(1, order)
        inputs[name] = Tokens(values.to(dtype), mask & there[:, index : index + 1])
    return inputs


def rows(inputs: Mapping[str, Tokens], index: slice, *, trim: bool = False) -> dict[str, Tokens]:
    """Some rows of a batch; ``trim`` drops the positions at the end that none of them fills (two stay at least)."""
    part = {}
    for name, (values, mask) in inputs.items():
        kept = mask[index]
        last = int(kept.any(dim=0).nonzero().max()) + 1 if bool(kept.any()) else 0
        stop = min(max(last, 2), mask.shape[1]) if trim else mask.shape[1]
        part[name] = Tokens(values[index, :stop], kept[:, :stop])
    return part


def all_real(inputs: Mapping[str, Tokens]) -> dict[str, Tokens]:
    """The same batch with every token real, and known to be."""
    return {n: Tokens(t.values, everywhere(*t.mask.shape, device=t.mask.device)) for n, t in inputs.items()}


def under_mask(inputs: Mapping[str, Tokens], fill: float) -> dict[str, Tokens]:
    """The same batch with ``fill`` wherever the mask is False."""
    return {n: Tokens(t.values.masked_fill(~t.mask.unsqueeze(-1), fill), t.mask) for n, t in inputs.items()}


def require_grad(inputs: Mapping[str, Tokens]) -> dict[str, Tokens]:
    """The same batch with values that record their gradient."""
    return {n: Tokens(t.values.detach().clone().requires_grad_(), t.mask) for n, t in inputs.items()}


def probe(vector: Tensor) -> Tensor:
    """A scalar that depends on every entry of ``(B, D)`` with a weight of its own."""
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(vector.shape, generator=generator, dtype=torch.float64)
    return (vector * weight.to(vector)).sum()


def stray_tensors(module: torch.nn.Module) -> Iterator[str]:
    """Tensors and modules that hang on a module without being registered: they would not train, move or be saved."""
    for path, part in module.named_modules():
        for key, value in vars(part).items():
            if key not in ("_parameters", "_buffers", "_modules") and _holds_tensor(value):
                yield f"{path}.{key}".lstrip(".")


def _holds_tensor(value: object) -> bool:
    if isinstance(value, (Tensor, torch.nn.Module)):
        return True
    if isinstance(value, Mapping):
        return any(_holds_tensor(v) for v in value.values())
    return isinstance(value, (list, tuple, set)) and any(_holds_tensor(v) for v in value)


def permuted_state(module: Fusion, order: tuple[int, ...], width: int) -> dict[str, Tensor]:
    """The state of ``module`` for the same operator whose modality ``j`` is this one's modality ``order[j]``.

    What belongs to a modality is found by shape: entries of a ``ModuleList`` or ``ParameterList`` with one entry per
    modality, per unordered pair (``itertools.combinations``) or ordered pair (``itertools.permutations``), and axes of
    one entry or one block of ``width``, ``width + 1`` or ``dim`` per modality. A tensor with one axis of ``width + 1``
    for every modality has its axes permuted. All modalities have the same ``width``.
    """
    count = len(order)
    place = {old: new for new, old in enumerate(order)}
    lists: dict[str, dict[int, int]] = {}
    for path, part in module.named_modules():
        if isinstance(part, (torch.nn.ModuleList, torch.nn.ParameterList)):
            lists[path] = _index_map(len(part), place)
    state = {}
    for key, value in module.state_dict().items():
        steps = key.split(".")
        for depth in range(1, len(steps)):
            moved = lists.get(".".join(key.split(".")[:depth]))
            if moved and steps[depth].isdigit():
                steps[depth] = str(moved[int(steps[depth])])
        if list(value.shape).count(width + 1) == count:
            axes = [axis for axis, size in enumerate(value.shape) if size == width + 1]
            full = list(range(value.ndim))
            for slot, old in enumerate(order):
                full[axes[slot]] = axes[old]
            value = value.permute(full)
        for axis, size in enumerate(value.shape):
            for block in (1, width, width + 1, module.dim):
                if size == count * block:
                    value = value.unflatten(axis, (count, block)).index_select(axis, torch.tensor(order))
                    value = value.flatten(axis, axis + 1)
        state[".".join(steps)] = value.contiguous()
    return state


def _index_map(length: int, place: Mapping[int, int]) -> dict[int, int]:
    """Old index to new index of a list with one entry per modality, pair or ordered pair; empty for another list."""
    count = len(place)
    if length == count:
        return dict(place)
    pairs = list(itertools.combinations(range(count), 2))
    if length == len(pairs):
        new = {pair: index for index, pair in enumerate(pairs)}
        return {i: new[tuple(sorted((place[a], place[b])))] for i, (a, b) in enumerate(pairs)}  # type: ignore[index]
    ordered = list(itertools.permutations(range(count), 2))
    if length == len(ordered):
        return {i: ordered.index((place[a], place[b])) for i, (a, b) in enumerate(ordered)}
    return {}

"""Objectives and regularisers on several gloo processes, each with rows of its own; in one start of the processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from weft.alignment import Objective, create_objective, create_regulariser, objectives
from weft.alignment.grad_cache import grad_cache
from weft.ops.contrastive import process_rank
from weft.tokens import Tokens, as_tokens

ROWS, WIDTH = 26, 3
GRAD_CACHE = 5
"""Rows that an encoder embeds at a time; no process has a multiple of it."""


class Encoder(nn.Module):
    """Two nonlinear layers per side, to unit vectors; the same weights in every process.

    Args:
        dropout: rate between the layers.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.sides = nn.ModuleDict(
                {n: nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4)) for n in "ab"}
            ).double()

    def forward(self, inputs: dict[str, Tokens]) -> dict[str, Tensor]:
        return {name: F.normalize(self.sides[name](tokens.values[:, 0]), dim=1) for name, tokens in inputs.items()}


class Trained(NamedTuple):
    """The loss, and its gradient for the weights of an :class:`Encoder` and of the objective."""

    loss: Tensor
    parameters: list[Tensor]


class Outcome(NamedTuple):
    """The loss, and its gradient for the embeddings and for the objective's own parameters."""

    loss: Tensor
    a: Tensor
    b: Tensor
    parameters: list[Tensor]


GROUPED = "groups"
"""The option of a variant that is not the objective's: some rows are partners of each other."""

EXTRAS = {"smoothing": 0.2, "hardness": 0.5}


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every registered objective with its default options and without groups, and with groups and all that it has for
    hard and soft targets; each whole, and chunked where it knows chunks."""
    for name in objectives.names():
        known = objectives.schema(name).model_fields
        for options in ({}, {GROUPED: True, **{k: v for k, v in EXTRAS.items() if k in known}}):
            yield name, options
            if "chunk" in known:
                yield name, {**options, "chunk": 3}


def build(name: str, options: dict[str, Any]) -> Objective:
    """The objective of a variant."""
    return create_objective(name, **{key: value for key, value in options.items() if key != GROUPED})


def whole(options: dict[str, Any]) -> dict[str, Any]:
    """A variant's options without chunks."""
    return {key: value for key, value in options.items() if key != "chunk"}


def groups(options: dict[str, Any]) -> Tensor | None:
    """Groups of two to six rows, in every process; some have rows that are not valid."""
    return (torch.arange(ROWS) * 5) % 7 if GROUPED in options else None


def label(name: str, options: dict[str, Any]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def pairs() -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors ``(ROWS, WIDTH)`` and their validity; the last seven rows are not valid."""
    generator = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    valid = torch.arange(ROWS) < ROWS - 7
    valid[3] = False
    return a, b, valid


def share(rank: int, world: int) -> slice:
    """The rows of a process: unequal, and with three processes the last has no valid row."""
    bounds = {1: [0, ROWS], 2: [0, 9, ROWS], 3: [0, 8, ROWS - 7, ROWS]}[world]
    return slice(bounds[rank], bounds[rank + 1])


def run(name: str, options: dict[str, Any], rows: slice) -> Outcome:
    """Loss and gradients for some of the rows."""
    values, partners, valid = pairs()
    a, b = (x[rows].clone().requires_grad_() for x in (values, partners))
    objective, group = build(name, options).double().train(), groups(options)
    loss = objective(a, b, valid[rows], None if group is None else group[rows])
    loss.backward()
    parameters = [p.grad for p in objective.parameters() if p.requires_grad]
    return Outcome(loss.detach(), a.grad, b.grad, parameters)  # type: ignore[arg-type]


def train(
    name: str, options: dict[str, Any], rows: slice, chunk: int | None, dropout: float = 0.0, embed: Any = grad_cache
) -> Trained:
    """Loss and gradients of an encoder that trains, on some of the rows; with ``chunk`` that many at a time."""
    a, b, valid = pairs()
    encoder, objective, group = Encoder(dropout), build(name, options).double().train(), groups(options)
    inputs = {name: as_tokens(x[rows]) for name, x in (("a", a), ("b", b))}
    embedded = encoder(inputs) if chunk is None else embed(encoder, inputs, chunk)
    loss = objective(embedded["a"], embedded["b"], valid[rows], None if group is None else group[rows])
    loss.backward()
    weights = [*encoder.parameters(), *(p for p in objective.parameters() if p.requires_grad)]
    return Trained(loss.detach(), [p.grad for p in weights])  # type: ignore[misc]


REGULARISERS: dict[str, dict[str, Any]] = {
    "structure": {"levels": 2, "rise": 0},
    "klot": {"rows": 9, "dim": 2, "weight": 2.0},
}
"""With options; ``word-region`` mismatches the rows of each process among themselves, as it says."""


def regularise(name: str, rows: slice, chunk: int | None) -> Trained:
    """The second step of a regulariser and its gradient for the encoder, on some of the rows, whose last lack a side.

    Of all rows ``klot`` draws, so it gets all in ``prepare``.
    """
    a, b, valid = pairs()
    encoder, regulariser = Encoder(), create_regulariser(name, **REGULARISERS[name]).train()
    there = {"a": torch.ones_like(valid), "b": valid}
    whole = {n: Tokens((x * there[n][:, None])[:, None], there[n][:, None]) for n, x in (("a", a), ("b", b))}

    def batch(positions: Any) -> dict[str, Tokens]:
        return {n: Tokens(t.values[positions], t.mask[positions]) for n, t in whole.items()}

    def embed(inputs: dict[str, Tokens]) -> dict[str, Tensor]:
        return encoder(inputs) if chunk is None else grad_cache(encoder, inputs, chunk)

    def single(inputs: dict[str, Tokens]) -> dict[str, Tokens]:
        return {n: Tokens(t.values.float(), t.mask) for n, t in inputs.items()}

    regulariser.prepare(batch, {n: p.numpy() for n, p in there.items()}, single)
    inputs = batch(rows)
    for step in range(2):
        encoder.zero_grad()
        torch.manual_seed(10 * step + process_rank())  # as the loop does: every process has its own
        loss = regulariser(inputs, embed(inputs), embed)
        loss.backward()
    return Trained(loss.detach(), [p.grad for p in encoder.parameters()])  # type: ignore[misc]


def work(rank: int, folder: str) -> None:
    """One of three processes: every variant on its rows, then again without the third; the outcomes go to files."""
    torch.set_num_threads(1)
    for world in (3, 2):
        if rank >= world:
            continue
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world)
        outcomes = {label(n, o): tuple(run(n, o, share(rank, world))) for n, o in variants()}
        for name, options in variants():
            trained = train(name, options, share(rank, world), GRAD_CACHE)
            outcomes["trained " + label(name, options)] = tuple(trained)
            objective = build(name, options).double().eval()
            outcomes["eval " + label(name, options)] = (objective(*pairs(), groups(options)).detach(),)
        for name in REGULARISERS:
            outcomes[f"regularised {name}"] = tuple(regularise(name, share(rank, world), GRAD_CACHE))
        torch.save(outcomes, Path(folder) / f"outcome-{world}-{rank}.pt")
        dist.destroy_process_group()

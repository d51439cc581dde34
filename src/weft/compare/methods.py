"""What is compared: fusions, decision-level models, each modality alone, classical baselines, and chance.

A network on a single modality is :class:`~weft.training.FusedModel` with the ``concat`` operator, which for one
modality is a hidden ReLU layer; it gets the same loop, seeds and trials as every fusion. ``linear`` (logistic or ridge
regression) and ``boosting`` (gradient-boosted trees) see the pooled features of all modalities side by side, or of one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np
import torch

from weft.compare.config import CompareConfig
from weft.errors import UserError, did_you_mean
from weft.fusion import create_fusion, fusions
from weft.store import Features
from weft.tokens import Tokens

Family = Literal["network", "linear", "boosting", "chance"]
Role = Literal["fusion", "single", "classical", "chance"]

RATES, DROPOUTS, DECAYS = (1e-3, 3e-3, 3e-4), (0.1, 0.0, 0.3), (1e-2, 1e-1, 1e-3)
STRENGTHS = (1.0, 0.01, 100.0, 0.1, 10.0, 0.001, 1000.0, 0.03, 30.0, 0.3, 3.0, 0.003)
TREES = tuple(product((31, 7, 15), (0.1, 0.03, 0.3, 0.01)))


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: unique among the methods of a comparison.
        family: what is fitted.
        modalities: what it sees.
        fusion: registered name of the operator (networks).
        decision: ``"joint"``, ``"late"`` or ``"hybrid"`` (networks).
        rule: how decisions are combined (late and hybrid networks).
        options: of the operator.
    """

    name: str
    family: Family
    modalities: tuple[str, ...]
    fusion: str = "concat"
    decision: str = "joint"
    rule: str = "mean"
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def role(self) -> Role:
        """What it stands for: a fusion, a single modality (network or classical), classical on all, or chance."""
        if self.family == "chance":
            return "chance"
        if len(self.modalities) == 1:
            return "single"
        return "fusion" if self.family == "network" else "classical"

    @property
    def random(self) -> bool:
        """Whether another seed gives another result."""
        return self.family == "network"

    @property
    def reads_tokens(self) -> bool:
        """Whether it is an operator on token sequences."""
        return self.family == "network" and self.decision != "late" and fusions.get(self.fusion).wants != "vectors"

    def trials(self, config: CompareConfig) -> list[dict[str, Any]]:
        """The settings tried on the dev rows, equally many for each method; the first is the default."""
        if self.family == "chance":
            return [{}]
        if self.family == "linear":
            return [{"strength": s} for s in STRENGTHS[: config.trials]]
        if self.family == "boosting":
            return [{"leaves": leaves, "rate": rate} for leaves, rate in _spread(TREES, config.trials)]
        default = {"lr": config.train.lr, "dropout": DROPOUTS[0], "weight_decay": config.train.weight_decay}
        grid = tuple(product(RATES, DROPOUTS, DECAYS))
        others = [dict(zip(default, values, strict=True)) for values in _spread(grid, len(grid))]
        return [default, *(other for other in others if other != default)][: config.trials]

    def describe(self) -> dict[str, Any]:
        """JSON of what decides its results."""
        return asdict(self)


def _spread(grid: tuple[tuple[Any, ...], ...], count: int) -> list[tuple[Any, ...]]:
    """The first of the grid, then others in one fixed random order."""
    order = np.random.default_rng(0).permutation(np.arange(1, len(grid)))
    return [grid[0], *(grid[i] for i in order)][:count]


def plan_methods(features: Features, config: CompareConfig) -> tuple[list[Method], dict[str, str]]:
    """All methods in the order they run (the cheap and essential first), and ``{operator: why it was left out}``.

    An operator asked for by its exact name always runs, and fails with its own message where it does not suit; one that
    a pattern finds is left out.

    Raises:
        UserError: a name or pattern finds no operator.
    """
    names = tuple(features.dims)
    methods = [Method("chance", "chance", names)]
    for name in names:
        methods += [Method(f"{name} ({family})", family, (name,)) for family in ("linear", "boosting")]
        methods.append(Method(name, "network", (name,)))
    if len(names) == 1:
        return methods, {}
    methods += [Method(family, family, names) for family in ("linear", "boosting")]
    for name in config.decisions:
        decision, _, rule = name.partition(":")
        methods.append(Method(name, "network", names, decision=decision, rule=rule or "mean"))
    left_out: dict[str, str] = {}
    chosen: dict[str, None] = {}
    for pattern in config.fusions or ["*"]:
        found = fusions.names(pattern)
        if not found:
            known = fusions.names()
            raise UserError(
                "no fusion operator has this name", repr(pattern), did_you_mean(pattern, known, "fusion operators")
            )
        for name in found:
            why = None if name == pattern else unsuited(name, features, config)
            if why is None:
                chosen[name] = None
            else:
                left_out[name] = why
    unknown = [name for name in config.options if name not in chosen]
    if unknown:
        raise UserError(
            "options for an operator that is not compared", unknown[0], did_you_mean(unknown[0], chosen, "operators")
        )
    for name in sorted(chosen, key=lambda name: (name != "concat", name)):
        methods.append(Method(name, "network", names, fusion=name, options=config.options.get(name, {})))
    methods += [_variant(name, dict(options), names) for name, options in config.variants.items()]
    taken = [name for name, count in Counter(method.name for method in methods).items() if count > 1]
    if taken:
        raise UserError("a variant has a name of its own", taken[0], "choose a name that no other method has")
    return methods, {name: why for name, why in left_out.items() if name not in chosen}


def _variant(name: str, options: dict[str, Any], names: tuple[str, ...]) -> Method:
    fusion = options.pop("fusion")
    if fusion not in fusions.names():
        remedy = did_you_mean(str(fusion), fusions.names(), "fusion operators")
        raise UserError(f"variant {name!r}: no fusion operator has this name", repr(fusion), remedy)
    return Method(name, "network", names, fusion=fusion, options=options)


def unsuited(name: str, features: Features, config: CompareConfig) -> str | None:
    """Why an operator cannot fuse these features; None where it can. Nothing is allocated to find out."""
    operator, count = fusions.get(name), len(features.dims)
    fewest, most = operator.arity
    if count < fewest or (most is not None and count > most):
        return f"takes {fewest} to {most if most is not None else 'any number of'} modalities, not {count}"
    if operator.absent == "refuse" and not features.presence.all():
        return "cannot do without a modality, and some rows lack one"
    lengths = list(features.lengths.values())
    if operator.wants == "aligned-tokens" and any(not np.array_equal(lengths[0], other) for other in lengths[1:]):
        return "needs the same positions in every modality"
    try:
        with torch.device("meta"), torch.no_grad():
            module = create_fusion(name, features.dims, config.dim, **config.options.get(name, {})).train()
            module({key: _longest(features, key) for key in features.dims})
    except UserError as error:
        return error.what
    return None


def _longest(features: Features, name: str) -> Tokens:
    """Two rows of a modality with as many tokens as it ever has, on the current device."""
    shape = (2, max(1, int(features.lengths[name].max(initial=1))))
    return Tokens(torch.empty(*shape, features.dims[name]), torch.ones(shape, dtype=torch.bool))

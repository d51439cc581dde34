"""What is compared: fusions, decision-level models, each modality alone, classical models, ensembles, and chance.

A network on a single modality is :class:`~weft.training.FusedModel` with the ``concat`` operator, which for one
modality is a hidden ReLU layer; it gets the same loop, seeds and trials as every fusion. ``linear`` (logistic or ridge
regression) and ``boosting`` (gradient-boosted trees) see the pooled features of all modalities side by side, of some
("linear on a+b"), or of one. Ensembles average what others answer (:mod:`weft.compare.ensembles`).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations, product
from typing import Any, Literal

import numpy as np
import torch

from weft.compare.config import DECISIONS, ENSEMBLE, SINGLES_ENSEMBLE, CompareConfig
from weft.errors import UserError, did_you_mean
from weft.fusion import create_fusion, fusions
from weft.models.boosted import default_library
from weft.store import Features
from weft.tokens import Tokens, everywhere

Family = Literal["network", "linear", "boosting", "ensemble", "system", "chance"]
Role = Literal["fusion", "single", "classical", "ensemble", "ensemble of singles", "system", "chance"]

RATES, DROPOUTS, DECAYS = (1e-3, 3e-3, 3e-4), (0.1, 0.0, 0.3), (1e-2, 1e-1, 1e-3)
PROTECTIONS: tuple[dict[str, float], ...] = (
    *({"modality_dropout": rate} for rate in (0.1, 0.3, 0.5)),
    {"more_vs_fewer": 1.0},
)
"""What is tried on the best settings of a network, where missing modalities are asked about."""
STRENGTHS = (1.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 10.0, 100.0)
"""Of linear models: the usual one, a fair answer where the budget ends early, then from strong to weak."""
REDUCED = (64, 30)
MOST_SUBSETS = 4
"""Modalities up to which every subset is tried."""
FIRST_FUSIONS = ("concat", "gated")
SUBSET_FUSIONS = ("concat", "gated", "simple-transformer")


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
        options: of the operator, of the system, or ``{"library"}`` of boosting.
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
        """What it stands for: a fusion, a single modality, classical on several, an ensemble, or chance."""
        if self.family == "ensemble":
            return "ensemble of singles" if self.name == SINGLES_ENSEMBLE else "ensemble"
        if self.family in ("chance", "system"):
            return self.family
        if len(self.modalities) == 1:
            return "single"
        return "fusion" if self.family == "network" else "classical"

    @property
    def random(self) -> bool:
        """Whether another seed gives another result."""
        return self.family in ("network", "system")

    @property
    def reads_tokens(self) -> bool:
        """Whether it is an operator on token sequences."""
        return self.family == "network" and self.decision != "late" and fusions.get(self.fusion).wants != "vectors"

    def trials(self, config: CompareConfig, width: int = 0) -> list[dict[str, Any]]:
        """The settings tried on the dev rows, the default first; equally many for every network.

        Args:
            config: of the comparison.
            width: of the widest modality it sees; for trees, of columns with more than two values.
        """
        if self.family == "linear":
            widths = [None, *(k for k in REDUCED[:1] if k < width)]
            return [{"scaling": s, "components": k} for k in widths for s in ("block", "columns")]
        if self.family == "boosting":
            narrow = [(None, 0.8, 0.8, 31, 0.1), (None, 0.8, 0.8, 7, 0.05), (None, 0.8, 0.8, 15, 0.05),
                      (None, 1.0, 1.0, 31, 0.05)]  # fmt: skip
            wide = [(64, 0.8, 0.8, 15, 0.1), (None, 0.3, 0.8, 15, 0.05), (30, 0.8, 0.8, 7, 0.05),
                    (None, 0.3, 0.8, 7, 0.05)]  # fmt: skip
            names = ("components", "columns", "share", "leaves", "rate")
            found = [dict(zip(names, s, strict=True)) for s in (narrow if width <= REDUCED[0] else wide)]
            return found[: config.trials]
        if self.family != "network":
            return [{}]
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
    """The methods that need no other's result, and ``{operator: why it was left out}``.

    An operator asked for by its exact name always runs, and fails with its own message where it does not suit; one that
    a pattern finds is left out.

    Raises:
        UserError: options for an operator that is not compared, or a variant with the name of another method.
    """
    names = tuple(features.dims)
    methods = [Method("chance", "chance", names)]
    left_out: dict[str, str] = {}
    if len(names) > 1:
        methods += [Method("linear", "linear", names), *_boosted("boosting", names, config)]
        joint, left_out = _fusions(features, config)
        methods += joint
    taken = {method.name for method in methods} | {ENSEMBLE, SINGLES_ENSEMBLE}
    for name in names:
        for method in _alone(name, config):
            methods.append(replace(method, name=unique(method.name, taken)))
            taken.add(methods[-1].name)
    return methods, left_out


def subset_methods(features: Features, config: CompareConfig) -> list[Method]:
    """Linear and boosted models on every subset of two or more modalities but all, where there are few modalities."""
    names = tuple(features.dims)
    if not config.subsets or not 2 < len(names) <= MOST_SUBSETS:
        return []
    sizes = range(len(names) - 1, 1, -1)
    return [m for size in sizes for part in combinations(names, size) for m in classical_on(part, config)]


def classical_on(part: tuple[str, ...], config: CompareConfig) -> list[Method]:
    """A linear and a boosted model on some modalities."""
    label = "+".join(part)
    return [Method(f"linear on {label}", "linear", part), *_boosted(f"boosting on {label}", part, config)]


def fusions_on(part: tuple[str, ...], features: Features, config: CompareConfig) -> list[Method]:
    """The plain fusions on some modalities."""
    label, some = "+".join(part), features.subset(part)
    names = [name for name in SUBSET_FUSIONS if unsuited(name, some, config) is None]
    found = [Method(f"{name} on {label}", "network", part, fusion=name) for name in names]
    return [*found, Method(f"late on {label}", "network", part, decision="late")]


def ensemble_methods(features: Features, config: CompareConfig) -> list[Method]:
    """The ensemble of all methods, and that of single modalities."""
    names = tuple(features.dims)
    if not config.ensembles:
        return []
    found = [Method(ENSEMBLE, "ensemble", names)]
    if len(names) > 1:
        found.append(Method(SINGLES_ENSEMBLE, "ensemble", names))
    return found


def chosen(methods: Sequence[Method], config: CompareConfig) -> list[Method]:
    """The methods that ``only`` names and ``without`` does not; chance stays."""
    found = [m for m in methods if m.family == "chance" or not config.only or matches(m, config.only)]
    return [m for m in found if m.family == "chance" or not matches(m, config.without)]


def matches(method: Method, patterns: Iterable[str]) -> bool:
    """Whether a pattern finds a method by its name, its family or its operator."""
    words = {method.name, method.family, *(() if method.family != "network" else (method.fusion, method.decision))}
    if method.family == "network" and len(method.modalities) == 1:
        words -= {method.fusion}
    return any(word == pattern or fnmatch.fnmatchcase(word, pattern) for word in words for pattern in patterns)


def refuse_unknown(methods: Sequence[Method], config: CompareConfig) -> None:
    """Refuse a word of ``only`` or ``without`` that finds no method, before anything runs."""
    known = list(dict.fromkeys(m.name for m in methods))
    for pattern in (*config.only, *config.without):
        if not any(matches(m, [pattern]) for m in methods):
            raise UserError("no method has this name", repr(pattern), did_you_mean(pattern, known, "methods"))


def possible(names: Sequence[str], config: CompareConfig) -> list[Method]:
    """Every method that a comparison of these modalities could have, before anything is read."""
    whole = tuple(names)
    joint = [Method(name, "network", whole, fusion=name) for name in (*fusions.names(), *config.variants)]
    decided = {*DECISIONS, *config.decisions, *(f for f in config.fusions if f.partition(":")[0] in DECISIONS)}
    joint += [Method(name, "network", whole, decision=name.partition(":")[0]) for name in decided]
    parts = [part for size in range(2, len(whole)) for part in combinations(whole, size)] if len(whole) < 8 else []
    some = [method for part in parts for method in classical_on(part, config)]
    some += [Method(f"{f} on {'+'.join(p)}", "network", p, fusion=f) for p in parts for f in (*SUBSET_FUSIONS, "late")]
    alone = [m for name in whole for m in _alone(name, config)]
    averaged = [Method(name, "ensemble", whole) for name in (ENSEMBLE, SINGLES_ENSEMBLE)]
    classical = [Method("linear", "linear", whole), *_boosted("boosting", whole, config)]
    return [Method("chance", "chance", whole), *classical, *joint, *some, *alone, *averaged]


def _alone(name: str, config: CompareConfig) -> list[Method]:
    """A modality by itself."""
    linear = Method(f"{name} (linear)", "linear", (name,))
    return [Method(name, "network", (name,)), linear, *_boosted(f"{name} (boosting)", (name,), config)]


def _boosted(name: str, part: tuple[str, ...], config: CompareConfig) -> list[Method]:
    libraries = config.boosters or [default_library()]
    found = [Method(name, "boosting", part, options={"library": libraries[0]})]
    return found + [Method(f"{name} by {x}", "boosting", part, options={"library": x}) for x in libraries[1:]]


def unique(name: str, taken: set[str]) -> str:
    """A name that no other method has."""
    while name in taken:
        name = f"{name} (network)"
    return name


def _fusions(features: Features, config: CompareConfig) -> tuple[list[Method], dict[str, str]]:
    """Fusions of all modalities, those that run first first, and what was left out and why."""
    names = tuple(features.dims)
    joint = [pattern for pattern in config.fusions if pattern.partition(":")[0] not in DECISIONS]
    decided = [*config.decisions, *(pattern for pattern in config.fusions if pattern not in joint)]
    patterns = joint or ([] if config.fusions else ["*"])
    left_out: dict[str, str] = {}
    found: dict[str, None] = {}
    for pattern in patterns:
        for name in fusions.names(pattern):
            if config.only and not matches(Method(name, "network", names, fusion=name), config.only):
                continue
            why = None if name == pattern else unsuited(name, features, config)
            if why is None:
                found[name] = None
            else:
                left_out[name] = why
    unknown = [name for name in config.options if name not in found]
    if unknown:
        raise UserError(
            "options for an operator that is not compared", unknown[0], did_you_mean(unknown[0], found, "operators")
        )
    methods = [
        Method(name, "network", names, fusion=name, options=config.options.get(name, {}))
        for name in sorted(found, key=lambda name: (name not in FIRST_FUSIONS, name))
    ]
    for name in dict.fromkeys(decided):
        decision, _, rule = name.partition(":")
        methods.append(Method(name, "network", names, decision=decision, rule=rule or "mean"))
    taken = {method.name for method in methods}
    for name, options in config.variants.items():
        if name in taken:
            raise UserError("a variant has a name of its own", name, "choose a name that no other method has")
        given = dict(options)
        methods.append(Method(name, "network", names, fusion=given.pop("fusion"), options=given))
    return methods, {name: why for name, why in left_out.items() if name not in found}


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
    values = torch.empty(2, max(1, int(features.lengths[name].max(initial=1))), features.dims[name])
    return Tokens(values, everywhere(*values.shape[:2], device=values.device))

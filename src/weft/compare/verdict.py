"""What a comparison found, as facts; the words are written by :mod:`weft.report.sentence`.

The best of each kind (fusion network, classical model on several modalities, single modality, ensemble, ensemble of
single modalities) is chosen on the dev rows alone. With few dev rows the choice of the opponent is noisy, and the gain
over one that was chosen badly is too large; so whatever is to help also has to beat the *rival*, the single-modality
method that does best on the test rows, a choice that can only make it look worse.

Three ways of using several modalities are asked for a gain over one of them: a fusion network, a classical model on
their features side by side, and the mere average of single-modality models. One of them **helps** if, on the test rows
and against both the best single modality and the rival,

1. the two-sided paired test gives ``p < 0.05`` in its favour, corrected for the ways that were asked (Holm),
2. and the 95 % interval of the gain in the primary metric, over rows and training runs, lies above zero, so that one
   lucky training run is no evidence.

Both opponents have to be beaten, so no correction for two of them is due (an intersection-union test). A fusion is said
to earn a gain only where it helps itself; where only the average does, averaging earned it.

Whether anything predicts the target at all is asked by the metric that sees it best (an AUC sees what an accuracy at
82 % cannot), by permuting the target; and, where the test rows are silent, over all rows out of fold with a ridge
regression. What is not shown is stated with the *smallest gain* that this test set shows in 80 of 100 cases.

``benchmarks/verdict_calibration.py`` measures how often a gain is claimed where there is none, and where there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any, Literal

import numpy as np

from weft.compare.evidence import Evidence, Gain
from weft.compare.jobs import Setup
from weft.compare.signal import Signal
from weft.compare.statistics import LEVEL, holm
from weft.models.missing import lacking
from weft.tasks.metrics import why_undefined

Outcome = Literal[
    "helps",
    "together",
    "averaging",
    "does not help",
    "weak signal",
    "nothing shown",
    "one modality",
    "no fusion finished",
    "no result",
    "variants differ",
    "variants alike",
]
GOOD: tuple[Outcome, ...] = ("helps", "together", "averaging", "variants differ")
"""Something is shown to be better."""
RARE = 20
"""Training rows of a pattern of missing modalities below which there is little to learn of it."""
WAYS = ("fusion", "classical", "ensemble of singles")


@dataclass(frozen=True)
class Said:
    """What the sentence has to know of one method.

    Attributes:
        name, role, family, modalities: of the method; of an ensemble, the modalities its members see.
        value, low, high: the primary metric on test and its 95 % interval, where there is one.
        seeds: how many trainings.
        lucky: whether its training is random and there is one seed only.
        members: of an ensemble, ``{method: weight}``.
    """

    name: str
    role: str
    family: str
    modalities: tuple[str, ...]
    value: float
    low: float | None
    high: float | None
    seeds: int
    lucky: bool = False
    members: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The facts a comparison ends in.

    Attributes:
        outcome: in one or two words.
        primary, higher_is_better: the metric.
        reason: why this metric.
        rows, folds: of the test.
        modalities: all of them.
        fusion, single, classical, ensemble, singles: the best of each kind on dev; ``singles`` is the ensemble of
            single modalities. Where something beats ``single`` but not the rival, ``single`` is the rival.
        rival: the single-modality method that is best on test.
        earned: the method that helps, where one does.
        carrier: the modality that carries the target where nothing helps; None if none is shown to.
        gain, lead: of the method in question (``earned``, else the best fusion) over ``single``, and in the primary
            metric over the rival.
        over_rival: as ``gain``, over the rival.
        others: further paired tests, ``{"A over B": gain}``.
        reference: where variants of a system are compared, the first, which the others are tested against.
        winner: the method to use, best on dev of all; its model is kept.
        doubt: what it shows of the target, where it is not shown to be better than chance.
        leave_out: modalities that the winner does without.
        signal: what the best single modality shows of the target; None where that is not in question. Where the test
            rows show nothing and all rows do, what those show.
        suspect: what is to be said of columns that give the target away, see :mod:`weft.data.giveaway`.
        undefined: why the test rows do not define the primary metric, where they do not.
        said: facts of every method named here.
    """

    outcome: Outcome
    primary: str = ""
    higher_is_better: bool = True
    reason: str = ""
    rows: int = 0
    folds: int = 1
    modalities: tuple[str, ...] = ()
    fusion: str | None = None
    single: str | None = None
    classical: str | None = None
    ensemble: str | None = None
    singles: str | None = None
    rival: str | None = None
    earned: str | None = None
    carrier: str | None = None
    reference: str | None = None
    gain: Gain | None = None
    lead: float | None = None
    over_rival: Gain | None = None
    others: dict[str, Gain] = field(default_factory=dict)
    winner: str | None = None
    doubt: Signal | None = None
    leave_out: tuple[str, ...] = ()
    signal: Signal | None = None
    suspect: str | None = None
    undefined: str | None = None
    said: dict[str, Said] = field(default_factory=dict)

    @property
    def against(self) -> str | None:
        """What the gains of the table are over."""
        return self.reference or self.single

    @property
    def smallest(self) -> float | None:
        """The smallest gain over the rival that such a test set shows in 80 of 100 cases; None where that is not known,
        as where both score the same on every row.
        """
        gain = self.over_rival or self.gain
        return None if gain is None else gain.smallest or None

    @property
    def sentence(self) -> str:
        """The verdict in words. They are the report's, which stands above; so they are looked up when asked for."""
        return str(import_module("weft.report.sentence").write_sentence(self))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "smallest": self.smallest}


def shows_gain(gain: Gain, p: float | None = None) -> bool:
    """The rule of the module docstring, with ``p`` in place of the gain's own where tests were corrected."""
    return gain.gain > 0 and (gain.p if p is None else p) < LEVEL and gain.low > 0


def decide(evidence: Evidence, winner: str | None = None) -> Verdict:
    """The facts on what is finished; ``winner`` is the method that is kept, by default the best of all on dev."""
    best = {role: evidence.best(evidence.done(role)) for role in ("single", *WAYS, "ensemble", "system")}
    single, fusion, classical = best["single"], best["fusion"], best["classical"]
    features = evidence.setup.features
    winner = winner or evidence.best([name for name in best.values() if name is not None])
    facts: dict[str, Any] = {
        "primary": evidence.primary,
        "higher_is_better": evidence.sign > 0,
        "reason": evidence.task.reason,
        "rows": len(evidence.rows),
        "folds": len(evidence.setup.splits),
        "modalities": tuple(features.dims),
        "fusion": fusion,
        "single": single,
        "classical": classical,
        "ensemble": best["ensemble"],
        "singles": best["ensemble of singles"],
        "winner": winner,
        "suspect": evidence.suspect(),
    }
    named = [name for name in (*best.values(), winner) if name is not None]
    facts["said"] = {name: said(evidence, name) for name in named}
    facts["undefined"] = _undefined(evidence, facts["said"])
    if winner is not None:
        predicts, signal = _predicts(evidence, winner)
        facts["doubt"] = None if predicts or winner in evidence.done("chance") else signal
        seen = facts["said"][winner].modalities
        facts["leave_out"] = tuple(name for name in features.dims if name not in seen)
    if single is None:
        return Verdict("no result", **facts)
    if len(features.dims) == 1:
        carrier, signal = _carrier(evidence, single)
        everywhere = evidence.signal_everywhere() if carrier is None else None
        if everywhere is not None and everywhere.p < LEVEL:
            signal = everywhere
        return Verdict("one modality", **{**facts, "carrier": carrier, "signal": signal})
    if not any(best[way] for way in WAYS):
        return Verdict("no fusion finished", **facts)
    rival = max(evidence.done("single"), key=lambda name: evidence.sign * float(evidence.test(name).mean()))
    facts["rival"] = rival
    facts["said"].setdefault(rival, said(evidence, rival))
    ways = [name for way in WAYS if (name := best[way]) is not None]
    over = {name: evidence.compare(name, single) for name in ways}
    over_rival = over if rival == single else {name: evidence.compare(name, rival) for name in ways}
    adjusted = [holm(np.array([found[name].p for name in ways])) for found in (over, over_rival)]
    helping = [
        name
        for name, p, q in zip(ways, *adjusted, strict=True)
        if shows_gain(over[name], float(p)) and shows_gain(over_rival[name], float(q))
    ]
    asked = helping[0] if helping else ways[0]
    others = _others(evidence, best, winner, rival)
    facts |= {"gain": over[asked], "over_rival": over_rival[asked], "lead": over_rival[asked].gain, "others": others}
    if helping:
        outcomes: dict[str | None, Outcome] = {fusion: "helps", classical: "together"}
        return Verdict(outcomes.get(asked, "averaging"), **facts, earned=asked)
    if fusion is None:
        return Verdict("no fusion finished", **facts)
    if shows_gain(over[asked]):
        facts |= {"single": rival, "gain": over_rival[asked]}
    carrier, signal = _carrier(evidence, facts["single"])
    if carrier is None:
        everywhere = evidence.signal_everywhere()
        if everywhere is not None and everywhere.p < LEVEL:
            return Verdict("weak signal", **{**facts, "signal": everywhere})
        return Verdict("nothing shown", **{**facts, "signal": signal})
    return Verdict("does not help", **{**facts, "carrier": carrier, "signal": signal})


def decide_variants(reference: str, over: Mapping[str, Gain], **facts: Any) -> Verdict:
    """The facts on variants of a system.

    Args:
        reference: the first of them.
        over: the gain of each other one over it, ``p`` corrected for all; none where rows have no scores.
        facts: further attributes of :class:`Verdict`.
    """
    outcome: Outcome = "variants differ" if any(map(differs, over.values())) else "variants alike"
    others = {f"{name} over {reference}": gain for name, gain in over.items()}
    return Verdict(outcome, reference=reference, others=others, **facts)


def differs(gain: Gain) -> bool:
    """Whether one of two is shown to be better."""
    return shows_gain(gain) or shows_gain(-gain)


def said(evidence: Evidence, name: str) -> Said:
    """The facts of one method."""
    method = next(method for method in evidence.methods if method.name == name)
    value, low, high = evidence.figure(name)
    members: dict[str, float] = {}
    modalities = tuple(method.modalities)
    if method.family == "ensemble":
        members = dict(evidence.results[name][0][0][1]["settings"].get("weights", {}))
        seen = {m for other in evidence.methods if other.name in members for m in other.modalities}
        modalities = tuple(m for m in modalities if m in seen) or modalities
    seeds = len(evidence.results[name])
    lucky = method.random and seeds == 1
    return Said(name, method.role, method.family, modalities, value, low, high, seeds, lucky, members)


def _undefined(evidence: Evidence, found: Mapping[str, Said]) -> str | None:
    """Why the primary metric is NaN for some method: the classes that no test row has."""
    if not any(np.isnan(one.value) for one in found.values()):
        return None
    target = evidence.setup.target
    if evidence.task.reads != "classes":
        return why_undefined(target[evidence.rows])
    rows = Counter(map(str, target.tolist()))
    there = set(map(str, target[evidence.rows].tolist()))
    gone = [f"{name!r} (of {rows[name]} rows in all)" for name in evidence.task.labels if name not in there]
    return f"no test row has the class {', '.join(gone)}" if gone else why_undefined(target[evidence.rows])


def _carrier(evidence: Evidence, single: str) -> tuple[str | None, Signal]:
    """The modality of a single-modality method if it is shown to predict the target, and what it shows."""
    (modality,) = next(method for method in evidence.methods if method.name == single).modalities
    predicts, signal = _predicts(evidence, single)
    return (modality if predicts else None), signal


def _predicts(evidence: Evidence, name: str) -> tuple[bool, Signal]:
    """Whether a method is shown to predict the target, by the metric that sees it best or by a gain over chance."""
    chance = evidence.done("chance")
    signal = evidence.signal(name)
    return signal.p < LEVEL / 2 or bool(chance and shows_gain(evidence.compare(name, chance[0]))), signal


def _others(evidence: Evidence, best: dict[str, str | None], winner: str | None, rival: str | None) -> dict[str, Gain]:
    """The tests that say whether fusion or averaging earned it."""
    fusion, classical, ensemble, singles = (best[role] for role in ("fusion", "classical", "ensemble", WAYS[2]))
    pairs = [(fusion, classical), (fusion, singles), (ensemble, fusion), (ensemble, singles), (winner, rival)]
    return {f"{a} over {b}": evidence.compare(a, b) for a, b in pairs if a is not None and b is not None and a != b}


def notes(evidence: Evidence, verdict: Verdict) -> list[str]:
    """What the sentence leaves out and a reader should know; in words, as the report writes them."""
    written = notes_of(verdict, evidence.tied(), sorted(evidence.errors))
    words = import_module("weft.report.sentence")
    if evidence.setup.config.missing:
        names = [method.name for method in evidence.methods if method.name in evidence.results]
        degraded = [found for name in names if (found := evidence.degraded(name)) is not None]
        written += words.write_missing(verdict, degraded, rare_patterns(evidence.setup))
    return written


def notes_of(verdict: Verdict, tied: Sequence[str], failed: Sequence[str] = ()) -> list[str]:
    """The notes on any verdict: what is tied with the best on test, what failed."""
    written: list[str] = import_module("weft.report.sentence").write_notes(verdict, tied, failed)
    return written


def rare_patterns(setup: Setup) -> dict[str, tuple[int, int]]:
    """``{what is lacking: (train rows, test rows)}`` of the patterns on test with fewer than ``RARE`` training rows."""
    names, found = list(setup.features.dims), {}
    for split in setup.splits:
        train, test = (setup.features.presence[rows] for rows in (split.train, split.test))
        for row in np.unique(test, axis=0).tolist():
            counts = tuple(int((part == row).all(axis=1).sum()) for part in (train, test))
            if counts[0] < RARE:
                found["+".join(lacking(names, row))] = (counts[0], counts[1])
    return found

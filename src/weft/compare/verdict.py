"""The one sentence a comparison ends in.

The best fusion and the best single modality (network or classical) are chosen on the dev rows alone. With few dev rows
the choice of the opponent is noisy, and the gain over one that was chosen badly is too large; so the fusion also has to
beat the *rival*, the single-modality method that does best on the test rows, a choice that can only make it look worse.
**Fusion helps** if, on the test rows and against both,

1. the two-sided paired test gives ``p < 0.05`` in its favour (by itself wrong in 2.5 % of the sets where the two are
   equal),
2. and the 95 % interval of the gain in the primary metric, over rows and training runs, lies above zero, so that one
   lucky training run is no evidence.

Both tests have to succeed, so no correction for two of them is due (an intersection-union test). The size that the
sentence states first is the lead over the rival.

``benchmarks/verdict_calibration.py`` measures how often the claim is made where it is false, and where it is true.
Whether anything predicts the target at all is asked in the same way: the best single modality against chance.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from weft.compare.evidence import Evidence, Gain
from weft.compare.statistics import LEVEL

Outcome = Literal["helps", "does not help", "nothing predicts", "one modality", "no fusion finished", "no result"]


@dataclass(frozen=True)
class Verdict:
    """What a comparison found.

    Attributes:
        outcome: in one or two words.
        sentence: in plain words.
        fusion, single: the best of each on dev; where the fusion beats that single modality but not the rival, the
            rival.
        carrier: the modality that carries the target where fusion does not help; None if none does.
        gain: of ``fusion`` over ``single``.
        lead: of the best fusion over the rival, in the primary metric.
        winner: the method whose model is kept: the fusion if it helps, else the best network on one modality.
    """

    outcome: Outcome
    sentence: str
    fusion: str | None = None
    single: str | None = None
    carrier: str | None = None
    gain: Gain | None = None
    lead: float | None = None
    winner: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def shows_gain(gain: Gain) -> bool:
    """The rule of the module docstring."""
    return gain.gain > 0 and gain.p < LEVEL and gain.low > 0


def decide(evidence: Evidence) -> Verdict:
    """The verdict on what is finished."""
    singles, fused = evidence.done("single"), evidence.done("fusion")
    single, fusion = evidence.best(singles), evidence.best(fused)
    if single is None:
        if fusion is None:
            return Verdict("no result", "No method finished, so nothing can be said; the table has the errors.")
        sentence = f"No single modality finished, so whether fusion helps cannot be said; {_reach(evidence, fusion)}."
        return Verdict("no result", sentence, fusion=fusion, winner=fusion)
    modality, carrier, network = _carrier(evidence, single)
    if len(evidence.setup.features.dims) == 1:
        skill = _reach(evidence, single) + ("" if carrier else ", which is no better than chance")
        sentence = f"There is only one modality, {modality}, so there is nothing to fuse; {skill}."
        return Verdict("one modality", sentence, single=single, carrier=carrier, winner=network)
    if fusion is None:
        sentence = f"No fusion method finished, so whether fusion helps cannot be said; {_reach(evidence, single)}."
        return Verdict("no fusion finished", sentence, single=single, carrier=carrier, winner=network)
    gain = evidence.compare(fusion, single)
    rival = max(singles, key=lambda name: evidence.sign * evidence.test(name).mean())
    hardest = gain if rival == single else evidence.compare(fusion, rival)
    lead = hardest.gain
    if shows_gain(gain) and shows_gain(hardest):
        sentence = f"Fusion helps: {_reach(evidence, fusion)}, better by {lead:.3f} than the best single modality "
        sentence += f"({_name(evidence, rival)}: {_figure(evidence, rival)})"
        if rival != single:
            chosen = f"{_name(evidence, single)}: {_figure(evidence, single)}; p = {gain.p:.2g}"
            sentence += f" and by {gain.gain:.3f} than the one chosen on dev ({chosen})"
        sentence += f"; {_sure(evidence, hardest, fusion, rival)}."
        return Verdict("helps", sentence, fusion, single, None, gain, lead, fusion)
    if shows_gain(gain):
        single, gain = rival, hardest
        modality, carrier, network = _carrier(evidence, single)
    against = (
        f"the best fusion, {fusion}, has {evidence.primary} {_figure(evidence, fusion)} on {len(evidence.rows)} test "
        f"rows against {_figure(evidence, single)} by {_name(evidence, single)} (gain {gain.gain:+.3f}, "
        f"{_sure(evidence, gain, fusion, single)})"
    )
    classical = evidence.best(evidence.done("classical"))
    if classical is not None and shows_gain(together := evidence.compare(classical, single)):
        sentence = (
            f"No fusion network helps, but the modalities together do: the {classical} baseline on all of them reaches "
            f"{_figure(evidence, classical)} (p = {together.p:.2g} against the best single modality); {against}."
        )
        return Verdict("does not help", sentence, fusion, single, None, gain, lead, network or fusion)
    if carrier is None:
        sentence = f"Fusion does not help, and no modality predicts the target better than chance: {against}."
        return Verdict("nothing predicts", sentence, fusion, single, None, gain, lead, network or fusion)
    sentence = f"Fusion does not help: {modality} alone is enough; {against}."
    return Verdict("does not help", sentence, fusion, single, modality, gain, lead, network or fusion)


def notes(evidence: Evidence, verdict: Verdict) -> list[str]:
    """What the sentence leaves out and a reader should know."""
    found = []
    classical = evidence.best(evidence.done("classical"))
    if verdict.fusion is not None and classical is not None:
        reach = f"The classical baseline {classical!r} on all modalities reaches {_figure(evidence, classical)}"
        if shows_gain(evidence.compare(classical, verdict.fusion)):
            found.append(f"{reach}, better than the best fusion: features side by side are enough here.")
        elif verdict.outcome == "helps" and not shows_gain(evidence.compare(verdict.fusion, classical)):
            found.append(f"{reach}; the fusion is not shown to be better than that.")
    tied = evidence.tied()
    if len(tied) > 1:
        found.append(f"Not told apart from the best on test, {tied[0]}: {_join(tuple(tied[1:]))}.")
    few = [name for name in (verdict.fusion, verdict.single) if name and _one_seed(evidence, name)]
    if few:
        found.append(f"{' and '.join(few)}: one seed only, so the interval leaves the chance of training out.")
    failed = sorted(evidence.errors)
    if failed:
        found.append(f"Failed: {', '.join(failed)}; the table has the messages.")
    return found


def _carrier(evidence: Evidence, single: str) -> tuple[str, str | None, str | None]:
    """The modality of a single-modality method, again if it predicts the target, and the network to keep for it."""
    (modality,) = _method(evidence, single).modalities
    predicts = not evidence.done("chance") or shows_gain(evidence.compare(single, evidence.done("chance")[0]))
    networks = [name for name in evidence.done("single") if _method(evidence, name).family == "network"]
    return modality, modality if predicts else None, modality if modality in networks else evidence.best(networks)


def _method(evidence: Evidence, name: str) -> Any:
    return next(method for method in evidence.methods if method.name == name)


def _one_seed(evidence: Evidence, name: str) -> bool:
    return _method(evidence, name).random and len(evidence.results[name]) == 1


def _figure(evidence: Evidence, name: str) -> str:
    return f"{evidence.test(name).mean():.3f}"


def _name(evidence: Evidence, name: str) -> str:
    """A single modality's method in words: ``image, linear``."""
    method = _method(evidence, name)
    return method.modalities[0] + ("" if method.family == "network" else f" by the {method.family} baseline")


def _reach(evidence: Evidence, name: str) -> str:
    method = _method(evidence, name)
    label = f"{name} of {_join(method.modalities)}" if method.role == "fusion" else _name(evidence, name)
    return f"{label} reaches {evidence.primary} {_figure(evidence, name)} on {len(evidence.rows)} test rows"


def _sure(evidence: Evidence, gain: Gain, *names: str) -> str:
    seeds = max(len(evidence.results[name]) for name in names)
    folds = len(evidence.setup.splits)
    runs = f"{seeds} seed{'s' * (seeds > 1)}" + (f", {folds} folds" if folds > 1 else "")
    return f"p = {gain.p:.2g}, 95 % CI [{gain.low:+.3f}, {gain.high:+.3f}], {runs}"


def _join(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""The words of a verdict: one or two sentences that say what to use, what earned it, and what could have been seen.

Everything is taken from the facts (:class:`~weft.compare.verdict.Verdict`); nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weft.compare.evidence import Degraded, Gain
from weft.compare.signal import Signal
from weft.compare.statistics import LEVEL
from weft.compare.verdict import Said, Verdict, differs, shows_gain
from weft.errors import count

UNKNOWN = ("no result", "no fusion finished", "weak signal", "nothing shown")
"""Outcomes that say nothing of what a modality is worth."""
SOME = 3
"""Patterns that a note is written about."""
NAMED = 5
"""Most methods that a note names."""


def write_sentence(v: Verdict) -> str:
    """The verdict in words."""
    beware = "" if v.suspect is None else f"Beware: {v.suspect}."
    return " ".join(part for part in (_finding(v), _use(v), beware) if part)


def _finding(v: Verdict) -> str:
    if v.undefined is not None:
        return (
            f"The {count(v.rows, 'test row')} do not define {v.primary}, so nothing is judged by it: {v.undefined}. "
            "Give it more rows, leave a class that is so rare out, or ask for another metric."
        )
    if v.outcome == "no result":
        if v.winner is None:
            return "No method finished, so nothing can be said; the table has the errors."
        return f"No single modality finished, so whether fusion helps cannot be said; {_reach(v, v.winner)}."
    if v.outcome == "one modality":
        (modality,) = v.modalities
        shown = ""
        if not v.carrier and v.signal is not None and v.signal.p < LEVEL:
            shown = f"; {_weak(v, v.signal)}"
        elif not v.carrier:
            shown = f", which is not shown to be better than chance{_power(v.signal)}"
        return f"There is only one modality, {modality}, so there is nothing to fuse; {_reach(v, v.single)}{shown}."
    if v.outcome == "no fusion finished" and v.gain is None:
        return f"No fusion method finished, so whether fusion helps cannot be said; {_reach(v, v.single)}."
    if v.outcome in ("helps", "together", "averaging"):
        return _gained(v)
    if v.reference is not None:
        return _variants(v, v.reference)
    asked = v.fusion or v.classical or v.singles
    against = (
        f"the best {'fusion' if asked == v.fusion else 'method on several'}, {asked}, has {v.primary} "
        f"{_figure(v, asked)} on {count(v.rows, 'test row')} against {_figure(v, v.single)} by {_label(v, v.single)} "
        f"(gain {_plus(v.gain)}, {_sure(v, v.gain, asked, v.single)})"
    )
    if v.outcome == "no fusion finished":
        return f"No fusion network finished. Without one, {against}."
    could = "" if v.smallest is None else f" A gain of {v.smallest:.3f} would have been seen in 80 of 100 such tests."
    if (rival := v.over_rival or v.gain) is not None and rival.low == rival.gain == rival.high == 0:
        could = " Both score the same on every test row."
    if v.outcome == "does not help":
        more = v.winner in v.said and v.said[str(v.winner)].modalities != (v.carrier,)
        alone = f"no gain over {v.carrier} alone" if more else f"{v.carrier} alone is enough"
        return f"Fusion is not shown to help: {alone}; {against}.{could}"
    if v.outcome == "weak signal" and v.signal is not None:
        weak = _weak(v, v.signal)
        return f"{weak[0].upper()}{weak[1:]}. Whether fusion helps cannot be told here: {against}.{could}"
    return f"No modality is shown to predict the target{_power(v.signal)}, nor does fusion: {against}.{could}"


def _weak(v: Verdict, signal: Signal) -> str:
    return (
        f"the {v.rows:,} test rows show nothing, but there is a weak signal: over all {signal.rows:,} rows, out of "
        f"fold, {signal.name} reaches {signal.metric} {signal.value:.3f} where chance is {signal.chance:.3f} "
        f"(p = {signal.p:.2g})"
    )


def _gained(v: Verdict) -> str:
    """Something on several modalities is better than one."""
    how = {
        "helps": f"Fusion helps: {_method(v, v.earned)} of",
        "together": f"The modalities together help, without a fusion network: {_method(v, v.earned)} on",
        "averaging": "Averaging helps, fusing is not shown to: the mean of single-modality models of",
    }[v.outcome]
    if v.earned is None or v.over_rival is None or v.rival is None:
        return ""
    text = (
        f"{how} {_join(v.said[v.earned].modalities)} reaches {v.primary} {_figure(v, v.earned)} on "
        f"{count(v.rows, 'test row')}, better by {abs(v.over_rival.gain):.3f} than the best single modality "
        f"({_label(v, v.rival)}: {_figure(v, v.rival)})"
    )
    if v.rival != v.single and v.gain is not None:
        text += f" and by {v.gain.gain:.3f} than the one chosen on dev ({_label(v, v.single)}: {_figure(v, v.single)}; "
        text += f"p = {v.gain.p:.2g})"
    text += f"; {_sure(v, v.over_rival, v.earned, v.rival)}."
    averaged = v.others.get(f"{v.fusion} over {v.singles}")
    if v.outcome == "helps" and averaged is not None and not shows_gain(averaged):
        text += f" It is not shown to be better than averaging models of single modalities ({_figure(v, v.singles)})."
    return text


def _variants(v: Verdict, first: str) -> str:
    """Variants of a system against the first of them."""
    gains = {name: gain for name in v.said if (gain := v.others.get(f"{name} over {first}")) is not None}
    best = (max if v.higher_is_better else min)(v.said, key=lambda name: v.said[name].value)
    text = (
        f"On {count(v.rows, 'test row')} {best} has the best {v.primary}, {v.said[best].value:.3f} ({_runs(v, best)})."
    )
    for words, names in (
        ("is shown to be better than", [name for name in gains if shows_gain(-gains[name])]),
        ("is shown to be worse than", [name for name in gains if shows_gain(gains[name])]),
        ("is not shown to differ from", [name for name in gains if not differs(gains[name])]),
    ):
        each = [f"{n} (gain {_plus(-gains[n])}, {_tested(-gains[n])})" for n in names]
        text += f" {first} {words} {_join(each)}." if each else ""
    return text


def _use(v: Verdict) -> str:
    """Which model to use, and what it does without."""
    if v.winner not in v.said or v.winner is None or v.outcome == "one modality":
        return ""
    winner = v.said[v.winner]
    kind = {
        "single": f"{_label(v, v.winner)} alone",
        "ensemble": f"the ensemble of {len(winner.members)} models" if winner.members else "the ensemble",
        "ensemble of singles": "the average of single-modality models",
        "classical": f"{_named(winner)} on {_join(winner.modalities)}",
    }.get(winner.role, f"{_method(v, v.winner)} of {_join(winner.modalities)}")
    kind = winner.name if winner.role == "system" else kind
    text = f"Use {kind}, best on dev"
    if v.winner not in (v.earned, v.single, v.fusion):
        text += f" ({v.primary} {winner.value:.3f} on test)"
    if v.leave_out and v.outcome not in UNKNOWN:
        text += f"; leave out {_join(v.leave_out)}"
    if v.doubt is not None:
        text += f"; on the test rows it is not told apart from chance ({_shown(v.doubt)})"
    return text + "."


def write_notes(v: Verdict, tied: Sequence[str], failed: Sequence[str]) -> list[str]:
    """What the sentence leaves out and a reader should know."""
    found = []
    if v.reason and v.reason != "as asked":
        found.append(f"Judged by {v.primary}: {v.reason}.")
    if v.classical is not None and v.fusion is not None and v.outcome == "helps":
        gain = v.others.get(f"{v.fusion} over {v.classical}")
        reach = f"The classical model {_method(v, v.classical)!r} on {_join(v.said[v.classical].modalities)} reaches "
        if gain is not None and not shows_gain(gain):
            found.append(f"{reach}{_figure(v, v.classical)}; the fusion is not shown to be better than that.")
    for rival in (v.fusion, v.singles):
        gain = v.others.get(f"{v.ensemble} over {rival}")
        if v.ensemble is not None and rival is not None and gain is not None:
            word = "better than" if shows_gain(gain) else "not shown to be better than"
            what = "averaging single modalities" if rival == v.singles else f"the best fusion, {rival}"
            found.append(f"The ensemble ({_figure(v, v.ensemble)}) is {word} {what} ({_figure(v, rival)}).")
    if len(tied) > 1:
        rest = [*tied[1 : NAMED + 1], f"{len(tied) - 1 - NAMED} more"] if len(tied) > NAMED + 2 else tied[1:]
        found.append(f"Not told apart from the best on test, {tied[0]}: {_join(rest)}.")
    few = [name for name in dict.fromkeys((v.fusion, v.single, v.reference)) if name and v.said[name].lucky]
    if few:
        found.append(f"{' and '.join(few)}: one seed only, so the interval leaves the chance of training out.")
    if failed:
        found.append(f"Failed: {', '.join(failed)}; the table has the messages.")
    return found


def write_missing(v: Verdict, found: Sequence[Degraded], rare: Mapping[str, tuple[int, int]]) -> list[str]:
    """How methods bear missing modalities, and which patterns training has hardly seen."""
    notes, known = [], {entry.name: entry for entry in found}
    named = [name for name in dict.fromkeys((v.winner, v.fusion, v.classical, v.singles)) if name in known]
    if named:
        parts = [_loss_of(known[name]) for name in named if name is not None]
        notes.append(f"With modalities hidden, {v.primary}, mean over the patterns: {'; '.join(parts)}.")
    if found:
        best = (max if v.higher_is_better else min)(found, key=lambda entry: entry.hidden)
        notes.append(f"Best where modalities are missing: {_loss_of(best)}.")
    for pattern, (train, test) in list(rare.items())[:SOME]:
        lack = f"lack {pattern}" if pattern else "lack nothing"
        notes.append(f"Only {train} training rows {lack}, as {test} test rows do: little is learned of them.")
    return notes


def _loss_of(entry: Degraded) -> str:
    worst = f"worst {entry.worst:.3f}, without {entry.pattern}"
    return f"{entry.name} {entry.hidden:.3f} instead of {entry.full:.3f} ({worst})"


def _power(signal: Signal | None) -> str:
    """In brackets, what the best modality shows and what could have been seen."""
    if signal is None:
        return ""
    could = "" if signal.smallest != signal.smallest else (
        f"; {signal.smallest:.3f} would have been seen in 80 of 100 such tests"
    )  # fmt: skip
    return f" ({signal.name}: {_shown(signal)}{could})"


def _shown(signal: Signal) -> str:
    """The metric and its test, or that the rows do not define it, as where all are of one class."""
    if signal.value != signal.value:
        return f"the test rows do not define {signal.metric}"
    return f"{signal.metric} {signal.value:.3f}, p = {signal.p:.2g}"


def _figure(v: Verdict, name: str | None) -> str:
    return "" if name is None else f"{v.said[name].value:.3f}"


def _method(v: Verdict, name: str | None) -> str:
    """A method's name before its modalities are said: ``boosting`` of ``boosting on photo+note``."""
    return "" if name is None else name.removesuffix(f" on {'+'.join(v.said[name].modalities)}")


def _named(method: Said) -> str:
    """A classical model's family, whatever its subset is called."""
    return {"linear": "a linear model", "boosting": "boosted trees"}.get(method.family, method.name)


def _label(v: Verdict, name: str | None) -> str:
    """A single modality's method in words: ``image by a linear model``."""
    if name is None:
        return ""
    method = v.said[name]
    return method.modalities[0] + ("" if method.family == "network" else f" by {_named(method)}")


def _reach(v: Verdict, name: str | None) -> str:
    if name is None:
        return ""
    method = v.said[name]
    label = _label(v, name) if len(method.modalities) == 1 else f"{_method(v, name)} of {_join(method.modalities)}"
    return f"{label} reaches {v.primary} {method.value:.3f} on {count(v.rows, 'test row')}"


def _plus(gain: Gain | None) -> str:
    return "" if gain is None else f"{gain.gain:+.3f}"


def _sure(v: Verdict, gain: Gain | None, *names: str | None) -> str:
    if gain is None:
        return ""
    return f"{_tested(gain)}, {_runs(v, *names)}"


def _tested(gain: Gain) -> str:
    return f"p = {gain.p:.2g}, 95 % CI [{gain.low:+.3f}, {gain.high:+.3f}]"


def _runs(v: Verdict, *names: str | None) -> str:
    seeds = max(v.said[name].seeds for name in names if name is not None)
    return f"{seeds} seed{'s' * (seeds > 1)}" + (f", {v.folds} folds" if v.folds > 1 else "")


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

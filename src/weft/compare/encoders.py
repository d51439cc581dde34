"""Which encoder to take for each modality, before anything is trained: ``weft encoders``.

Two questions are asked of every candidate, on training and dev rows alone (at most ``ROWS``; test rows choose nothing):

* a linear probe, where there is a target: ridge regressions on its pooled features, each row answered by one that has
  not seen it (five folds, groups whole; an encoder that learns is fitted again in each), judged by the task's metric.
  Candidates that paired tests do not tell apart from the best (Holm, 5 %) are marked.
* the nearest neighbours that it shares with another modality (:mod:`weft.ops.neighbours`), under the encoder that is
  taken there: what is near in both is aligned with few pairs.

With a target the best probe is taken; without, the encoders that share most. Each candidate has a store of its own, so
a second run encodes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from weft.compare.signal import out_of_fold
from weft.compare.statistics import exchange_test, not_told_apart, sign_flip_test
from weft.data import make_splits
from weft.data.dataset import Dataset
from weft.encoders import create_encoder, encoders
from weft.errors import UserError, did_you_mean
from weft.files import read_json, write_json
from weft.ops.neighbours import mutual_knn
from weft.store import Store, encode
from weft.tasks.base import Task, create_task

ROWS, FEWEST, DRAWS = 2000, 50, 999
Spec = tuple[str, dict[str, Any]]
"""An encoder's name and options, as :func:`weft.encoders.create_encoder` takes them."""


@dataclass(frozen=True)
class Candidate:
    """One encoder of one modality.

    Attributes:
        modality, encoder: names; options behind the name.
        rows: that it encoded.
        width: of its tokens.
        per_second: values encoded per second, as it was measured when they were.
        score: the task's metric of a linear probe; None without a target or with too few rows.
        tied: whether paired tests do not tell it apart from the best of the modality; the best is tied with itself.
        neighbours: ``{other modality: share of nearest neighbours that are the same}``, under the encoder taken there.
        chance: what that share is by chance.
        taken: whether this one is recommended.
        error: why it could not be tried; nothing else is known then.
    """

    modality: str
    encoder: str
    rows: int = 0
    width: int = 0
    per_second: float = 0.0
    score: float | None = None
    tied: bool = False
    neighbours: dict[str, float] | None = None
    chance: float | None = None
    taken: bool = False
    error: str | None = None


@dataclass(frozen=True)
class EncoderReport:
    """What :func:`compare_encoders` found.

    Attributes:
        metric: of the probe; None without one.
        higher_is_better: whether more of it is better.
        rows: that were looked at.
        candidates: by modality, the best first.
        sentence: which to take.
    """

    metric: str | None
    higher_is_better: bool
    rows: int
    candidates: list[Candidate]
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return asdict(self)


def candidates_of(dataset: Dataset, chosen: Mapping[str, Sequence[Spec]]) -> dict[str, list[Spec]]:
    """The built-in encoders of every modality, those that are chosen before them.

    Raises:
        UserError: one is chosen for a modality that is not there.
    """
    for name in chosen:
        if name not in dataset.modalities:
            raise UserError("--encoder names no modality", name, did_you_mean(name, dataset.modalities, "modalities"))
    found: dict[str, list[Spec]] = {}
    for name, modality in dataset.modalities.items():
        free = [e for e in encoders.names() if modality.kind in encoders.get(e).kinds and not e.startswith("hf-")]
        found[name] = [*chosen.get(name, ())]
        found[name] += [(spec, {}) for spec in free if (spec, {}) not in found[name]]
    return found


def compare_encoders(
    dataset: Dataset,
    candidates: Mapping[str, Sequence[Spec]],
    folder: Path,
    *,
    rows: int = ROWS,
    seed: int = 0,
    progress: bool = True,
) -> EncoderReport:
    """Compare encoders of each modality; see the module docstring.

    Args:
        dataset: the raw rows.
        candidates: ``{modality: encoders}``, see :func:`candidates_of`.
        folder: for the stores of the candidates.
        rows: at most so many rows are looked at.
        seed: of their choice.
        progress: show bars.

    Raises:
        UserError: no candidate of a modality could be tried, or there are too few rows.
    """
    part = _rows(dataset, rows, seed)
    target = next(iter(dataset.targets), None) if dataset.task != "retrieval" else None
    task = (
        None if target is None else create_task(dataset.task, part.targets[target], labels=dataset.labels.get(target))
    )
    found: dict[str, list[tuple[Candidate, Store | None]]] = {}
    for name, specs in candidates.items():
        found[name] = [_tried(part, name, spec, options, folder, progress) for spec, options in specs]
        if all(store is None for _, store in found[name]):
            raise UserError(f"no encoder of {name!r} could be tried", str(found[name][0][0].error), "name another one")
        if task is not None and target is not None:
            found[name] = _probed(found[name], task, target)
    shared = _shared(found)
    taken = {name: _best(name, tries, shared, task) for name, tries in found.items()}
    sign = 1.0 if task is None or task.metric.higher_is_better else -1.0
    table = []
    for tries in found.values():
        told = [_with_neighbours(candidate, taken, shared) for candidate, _ in tries]
        table += sorted(told, key=lambda c: (c.error is not None, not c.taken, -sign * (c.score or 0.0)))
    metric, higher = (None, True) if task is None else (task.primary, task.metric.higher_is_better)
    return EncoderReport(metric, higher, len(part), table, _sentence(table, metric))


def _rows(dataset: Dataset, most: int, seed: int) -> Dataset:
    """Training and dev rows, as far as they are looked at."""
    parts = make_splits(dataset)
    pool = np.sort(np.concatenate([parts.train, parts.dev]))
    if len(pool) > most:
        pool = np.sort(np.random.default_rng(seed).choice(pool, most, replace=False))
    if len(pool) < FEWEST:
        found = f"{len(pool)} training and dev rows"
        raise UserError(f"encoders are compared on {FEWEST} rows or more", found, "give more rows")
    return replace(dataset.take(pool), split=None, time=None)


def _tried(
    part: Dataset, name: str, spec: str, options: dict[str, Any], folder: Path, progress: bool
) -> tuple[Candidate, Store | None]:
    """A candidate and its store."""
    label = spec + (f" {', '.join(f'{key}={value}' for key, value in options.items())}" if options else "")
    there = part.take(np.flatnonzero(part.modalities[name].presence))
    alone = replace(there, modalities={name: there.modalities[name]})
    place = folder / quote(f"{name} {label}", safe=" ")
    try:
        encoder = create_encoder(spec, part.modalities[name].kind, **options)
        learn = np.arange(len(alone))
        store = encode(alone, {name: encoder}, place, on_error="skip", train_rows=learn, progress=progress)
    except UserError as error:
        return Candidate(name, label, error=f"{error.what}: {error.found}"), None
    speed = place / "speed.json"
    if store.report is not None and store.report.modalities[name].encoded:
        write_json(speed, {"per_second": store.report.modalities[name].per_second})
    per_second = read_json(speed)["per_second"] if speed.is_file() else 0.0
    return Candidate(name, label, len(store), store.dims[name], per_second), store


def _probed(
    tries: list[tuple[Candidate, Store | None]], task: Task, target: str
) -> list[tuple[Candidate, Store | None]]:
    """The same with scores, on the rows that all candidates could encode."""
    stores = {candidate.encoder: store for candidate, store in tries if store is not None}
    common = sorted(set.intersection(*(set(store.ids) for store in stores.values())))
    answers: dict[str, tuple[np.ndarray, ...]] = {}
    truth = group = None
    for label, store in stores.items():
        at = {row: place for place, row in enumerate(store.ids)}
        rows = np.array([at[row] for row in common])
        values = store.targets[target][rows]
        group = None if store.group is None else store.group[rows]
        (name,) = store.dims

        def features(seen: np.ndarray, store: Store = store, rows: np.ndarray = rows, name: str = name) -> np.ndarray:
            return store.fitted(rows[seen]).pooled(rows)[name]

        outputs = out_of_fold(task, features, values, group)
        if outputs is None:
            return tries
        truth, answers[label] = task.judged(outputs, values)
    metric = task.metric
    scores = {label: metric.whole(truth, *found) for label, found in answers.items()}
    order = sorted(scores, key=lambda label: -scores[label] if metric.higher_is_better else scores[label])

    def p_value(a: str, b: str) -> float:
        if metric.rows is not None:
            return sign_flip_test(metric.rows(truth, *answers[a]) - metric.rows(truth, *answers[b]), group)

        def difference(swap: np.ndarray) -> float:
            first, second = [], []
            for x, y in zip(answers[a], answers[b], strict=True):
                here = swap.reshape(-1, *[1] * (x.ndim - 1))
                first.append(np.where(here, y, x))
                second.append(np.where(here, x, y))
            return float(metric.whole(truth, *first) - metric.whole(truth, *second))

        return exchange_test(difference, len(common), group, resamples=DRAWS)

    tied = set(not_told_apart(order, p_value))
    return [
        (replace(c, score=scores.get(c.encoder), tied=c.encoder in tied) if store is not None else c, store)
        for c, store in tries
    ]


Pair = tuple[tuple[str, str], tuple[str, str]]


def _shared(found: Mapping[str, list[tuple[Candidate, Store | None]]]) -> dict[Pair, tuple[float, float]]:
    """Shares of nearest neighbours, and by chance, of every two candidates of two modalities, in both orders."""
    shared: dict[Pair, tuple[float, float]] = {}
    for first, second in combinations(found, 2):
        for a, one in found[first]:
            for b, two in found[second]:
                if one is None or two is None:
                    continue
                place = {row: at for at, row in enumerate(two.ids)}
                both = np.array([(at, place[row]) for at, row in enumerate(one.ids) if row in place]).reshape(-1, 2)
                if one.group is not None:
                    both = both[np.sort(np.unique(one.group[both[:, 0]], return_index=True)[1])]
                if len(both) < FEWEST:
                    continue
                x, y = one.pooled(both[:, 0])[first], two.pooled(both[:, 1])[second]
                k = ceil(2 * len(both) ** (1 / 3))
                share = mutual_knn(torch.from_numpy(x), torch.from_numpy(y), k), k / (len(both) - 1)
                shared[(first, a.encoder), (second, b.encoder)] = share
                shared[(second, b.encoder), (first, a.encoder)] = share
    return shared


def _best(
    name: str,
    tries: Sequence[tuple[Candidate, Store | None]],
    shared: Mapping[Pair, tuple[float, float]],
    task: Task | None,
) -> str:
    """The encoder to take: by the probe, else by the neighbours it shares with the others' encoders, at best."""
    able = [candidate for candidate, store in tries if store is not None]
    scored = [candidate for candidate in able if candidate.score is not None and np.isfinite(candidate.score)]
    if task is not None and scored:
        sign = 1.0 if task.metric.higher_is_better else -1.0
        return max(scored, key=lambda c: sign * float(c.score or 0.0)).encoder

    def most(candidate: Candidate) -> float:
        own = [(other, share) for (one, other), (share, _) in shared.items() if one == (name, candidate.encoder)]
        others = {modality for (modality, _), _ in own}
        return float(np.mean([max(s for (m, _), s in own if m == modality) for modality in others])) if others else 0.0

    return max(able, key=most).encoder


def _with_neighbours(
    candidate: Candidate, taken: Mapping[str, str], shared: Mapping[Pair, tuple[float, float]]
) -> Candidate:
    own = (candidate.modality, candidate.encoder)
    found = {other: shared.get((own, (other, encoder))) for other, encoder in taken.items() if other != own[0]}
    there = {other: share for other, share in found.items() if share is not None}
    return replace(
        candidate,
        neighbours={other: share for other, (share, _) in there.items()} or None,
        chance=float(np.mean([chance for _, chance in there.values()])) if there else None,
        taken=taken[candidate.modality] == candidate.encoder,
    )


def _sentence(table: Sequence[Candidate], metric: str | None) -> str:
    """Which encoder to take for each modality, and which others are as good as far as these rows can tell."""
    parts = []
    for best in (candidate for candidate in table if candidate.taken):
        others = [c.encoder for c in table if c.modality == best.modality and c.tied and not c.taken]
        if best.score is not None:
            why = f"{metric} {best.score:.3f}"
        elif best.neighbours:
            why = f"shares {np.mean(list(best.neighbours.values())):.3f} of its neighbours, {best.chance:.3f} by chance"
        else:
            why = "the first that works: nothing tells them apart"
        tied = f", not told apart from {' and '.join(others)}" if others else ""
        parts.append(f"{best.encoder} for {best.modality} ({why}{tied})")
    return f"Take {'; '.join(parts)}."

r"""The model that is kept, fitted on train and dev rows: each of its methods once without every part of them.

.. math:: P_i(x_n) = p_i^{(-k(n))}(x_n), \qquad
          \hat p(x) = \sum_i w_i\, \frac1K \sum_{k=1}^{K} p_i^{(-k)}(x)

The rows of train and dev are dealt to ``K`` parts, groups apart and classes spread; ``p_i^{(-k)}`` is method ``i``, at
the settings that it was chosen with, fitted without part ``k``, which ends its training as dev rows do. The weights
``w`` are chosen by ensemble selection on the out-of-fold answers ``P`` of all these rows, several times as many as dev
has; thresholds of sets and intervals come from the same answers, none of which its model has seen. Test rows are in no
part, so the figures of the kept model on them are as honest as before; those of the table are of models without dev
rows.

Rows of a temporal split are dealt like any others: what is kept knows the latest rows, but its weights and thresholds
are chosen as if the future were like the past.

The fits are jobs of a ledger of their own (``again/``), so they run in several processes and go on where they stopped.

Breiman, "Stacked regressions", Machine Learning 1996; Caruana et al., ICML 2004 (the selection); AutoGluon bags so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weft.compare.ensembles import BAGS, select
from weft.compare.jobs import FEW, Setup, by_loss
from weft.compare.ledger import Job, Ledger
from weft.data import Split
from weft.data.splits import deal
from weft.files import canonical, sha256

FOLDS, MOST = 5, 30
"""Parts, and methods at most."""
FREE = ("rounds", "strength")
"""What every fit finds for itself, on the part it is fitted without."""
Parts = Sequence[tuple[Job, float]]


@dataclass(frozen=True)
class Again:
    """A model fitted on train and dev rows.

    Attributes:
        setup: of its jobs.
        parts: the jobs, weighed.
        rows: train and dev rows, ``(n,)``.
        outputs: out-of-fold outputs ``(n, K)`` of the mean on them.
    """

    setup: Setup
    parts: Parts
    rows: np.ndarray
    outputs: np.ndarray


def inside(setup: Setup, fold: int) -> Setup | None:
    """The train and dev rows of a fold dealt to parts: dev of each fold is one part, test stays; None for too few."""
    split = setup.splits[fold]
    rows = np.union1d(split.train, split.dev)
    parts = deal(setup.features, rows, FOLDS)
    if any(len(part) == 0 for part in parts) or len(parts) < FOLDS:
        return None
    splits = [Split(np.setdiff1d(rows, part), part, split.test) for part in parts]
    identity = {**setup.ledger.identity, "parts": [sha256(part.tobytes())[:16] for part in parts]}
    return replace(
        setup,
        splits=splits,
        tasks=[setup.tasks[fold]] * FOLDS,
        teachers=[setup.teachers[fold]] * FOLDS,
        ledger=Ledger(setup.ledger.folder / "again", identity, setup.config),
    )


def again(setup: Setup, wanted: Iterable[Job], seconds: float, before: Sequence[Job] = ()) -> list[Job]:
    """The jobs that fit others of ``setup`` once per part, one method after the other.

    Args:
        setup: of the comparison.
        wanted: jobs that are done, the most wanted first.
        seconds: what all fits may take, on one process; the first method of all is in whatever it takes.
        before: jobs of earlier calls, whose methods are left out.
    """
    found: list[Job] = []
    known = {job.method for job in before}
    for job in wanted:
        result = setup.ledger.get(job)
        if result is None or result["status"] != "done" or job.method in known:
            continue
        if len(found) + len(before) == MOST * FOLDS:
            break
        takes = seconds_of(result)
        if (found or before) and takes > seconds:
            continue
        seconds -= takes
        found += [Job(job.method, 0, part, _given(result["settings"])) for part in range(FOLDS)]
    return found


def seconds_of(result: Mapping[str, Any]) -> float:
    """What the fits of one method take, on one process, by what its job found: at one setting of those it tried."""
    tried = {canonical(_given(trial)) for trial in result["trials"]}
    return FOLDS * float(result["seconds"]) / max(1, len(tried))


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a fit is told; of a trial, without what it scored."""
    return {key: value for key, value in settings.items() if key not in (*FREE, "dev", "loss")}


def unseen(inner: Setup, jobs: Sequence[Job]) -> np.ndarray:
    """Out-of-fold outputs ``(n, K)`` of one method on all rows that are dealt, in their order."""
    rows = np.concatenate([inner.splits[job.fold].dev for job in jobs])
    outputs = np.concatenate([inner.ledger.outputs(job)["dev"] for job in jobs])
    return np.asarray(outputs[np.argsort(rows)])


def weighed(inner: Setup, jobs: Iterable[Job]) -> Again | None:
    """The methods that were fitted without every part, weighed; None where there is no such method."""
    by_method: dict[str, list[Job]] = {}
    for job in jobs:
        result = inner.ledger.get(job)
        if result is not None and result["status"] == "done" and not result.get("cut"):
            by_method.setdefault(job.method.name, []).append(job)
    whole: Mapping[str, list[Job]] = {name: jobs for name, jobs in by_method.items() if len(jobs) == FOLDS}
    if not whole:
        return None
    task, rows = inner.tasks[0], np.sort(np.concatenate([split.dev for split in inner.splits]))
    outputs, target = np.stack([unseen(inner, jobs) for jobs in whole.values()]), inner.target[rows]
    n = len(rows)
    weights = select(task, outputs, target, bags=BAGS if n < FEW else 0, loss_alone=by_loss(task, n))
    used = [(job, w / FOLDS) for jobs, w in zip(whole.values(), weights.tolist(), strict=True) if w for job in jobs]
    return Again(inner, used, rows, task.average(outputs[weights > 0], weights[weights > 0]))

r"""Before anything is trained: what two modalities say about the target, alone and together.

Each modality becomes a few cells: what a ridge regression that has not seen a row predicts for it (the class, split by
confidence, or thirds of the predicted value), and on which side of the median the row lies in the direction that counts
together with the other modality. For without that side a modality that says nothing alone (XOR) would be noise. With
whitened principal components ``z`` (at most ``AXES``), the directions are the first left singular vectors of

.. math:: \big[M_1 \dots M_K\big] \text{ and } \big[M_1^\top \dots M_K^\top\big], \qquad
          M_k = \frac{1}{n} \sum_i (y_{ik} - \bar y_k)\, z_{1i} z_{2i}^\top

of rows in other folds (classes as zeros and ones). That is consistent with what models can use, and needs no
clustering; with more than ``CELLS / 2`` classes there are cells for the predicted class alone. The decomposition of
:mod:`weft.ops.information` is then compared with two nulls of ``DRAWS`` draws each:

1. the target permuted: every term should be zero, what remains is the bias of few rows;
2. the second modality permuted within each class of the target: both keep what they say alone and are independent given
   the target. Synergy is *not* zero there, but there adding up the log-odds of single modalities (late fusion) is
   optimal; so only synergy above this null, and by ``SMALLEST``, is an argument for joint fusion.

The spread of the synergy is that of the bootstrap over rows, or groups. Rows that lack one of the two modalities are
left out. Cells and nulls are ours; the decomposition is Bertschinger et al. 2014, on multimodal data Liang et al. 2023.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from weft.compare.signal import FOLDS, out_of_fold
from weft.errors import UserError, did_you_mean, some
from weft.ops.information import Decomposition, decompose
from weft.store import Features
from weft.tasks.base import Task, create_task, guess_task

DRAWS, CELLS, FIFTHS, THIRDS, AXES = 200, 10, 5, 3, 20
SMALLEST = 0.05
"""Bits above what late fusion explains that are worth a word. On real pairs fewer that were no chance came with a loss,
four times of four; all generated pairs that gained had more (docs/results/synergy.md, where it is taken from)."""
LOOSE = (1e-5, 300)
"""Tolerance and rounds of the draws, far below their spread."""


@dataclass(frozen=True)
class PairInformation:
    """What two modalities say about the target, in bits.

    Attributes:
        first, second: the modalities.
        rows: that have both.
        redundant, unique_first, unique_second, synergy: the terms.
        bias: ``{term: mean}`` where the target is permuted.
        late: mean synergy where the modalities are independent given the target.
        late_spread, late_most: its standard deviation and its 95 % quantile.
        spread: standard deviation of ``synergy`` over the bootstrap.
    """

    first: str
    second: str
    rows: int
    redundant: float
    unique_first: float
    unique_second: float
    synergy: float
    bias: dict[str, float]
    late: float
    late_spread: float
    late_most: float
    spread: float

    @property
    def joint_may_help(self) -> bool:
        """Whether there is more synergy than late fusion explains, by chance too, and by enough to be of use."""
        return self.synergy > self.late_most and self.synergy - self.late >= SMALLEST

    @property
    def sentence(self) -> str:
        """In words."""
        ends = "joint fusion may gain" if self.joint_may_help else "joint fusion has little to gain over late"
        return (
            f"{self.first} and {self.second}: synergy {self.synergy:.3f} bit (sd {self.spread:.3f}), late fusion "
            f"explains {self.late:.3f} +- {self.late_spread:.3f}: {ends}."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "joint_may_help": self.joint_may_help, "sentence": self.sentence}


def inspect_target(features: Features, target: str | None = None, seed: int = 0) -> list[PairInformation]:
    """The decomposition of every pair of modalities.

    Args:
        features: a store, or features in memory.
        target: its column; None: the first.
        seed: of the draws.

    Raises:
        UserError: no such column, fewer than two modalities, a target with several values per row, or a pair with fewer
            than 50 rows.
    """
    if len(features.dims) < 2 or not features.targets:
        found = f"{some(features.dims)}; targets {some(features.targets) or 'none'}"
        raise UserError("information is shared by two modalities about a target", found, "encode another modality")
    column = target or next(iter(features.targets))
    if column not in features.targets:
        raise UserError(
            "there is no such target column", repr(column), did_you_mean(column, features.targets, "columns")
        )
    values = features.targets[column]
    if values.ndim != 1:
        raise UserError(
            "information is measured about one value per row", f"{column!r} {values.shape}", "name another target"
        )
    name = features.task if column == next(iter(features.targets)) else guess_task(values)
    task = create_task(name, values, labels=features.labels.get(column))
    presence = {name: features.subset([name]).presence[:, 0] for name in features.dims}
    pairs = []
    for first, second in combinations(features.dims, 2):
        rows = np.flatnonzero(presence[first] & presence[second])
        group = None if features.group is None else features.group[rows]
        pooled = features.pooled(rows)
        sides = _sides(task, pooled[first], pooled[second], values[rows], group)
        one, two = (
            _cells(task, pooled[name], values[rows], group, name, side)
            for name, side in zip((first, second), sides, strict=True)
        )
        pairs.append(measure_pair(first, second, one, two, _states(task, values[rows]), group, seed))
    return pairs


def measure_pair(
    first: str,
    second: str,
    x1: np.ndarray,
    x2: np.ndarray,
    y: np.ndarray,
    group: np.ndarray | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> PairInformation:
    """The decomposition of cells ``x1``, ``x2`` and states ``y``, all ``(N,)`` int from 0, with its nulls."""
    rng, shape = np.random.default_rng(seed), (int(x1.max()) + 1, int(x2.max()) + 1, int(y.max()) + 1)

    def counted(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        code = np.ravel_multi_index((a, b, c), shape)
        return np.bincount(code, minlength=int(np.prod(shape))).reshape(shape)

    def within(states: np.ndarray) -> np.ndarray:
        """A permutation that keeps the state of every row."""
        order, shuffled = np.argsort(states, kind="stable"), np.lexsort((rng.random(len(states)), states))
        found = np.empty(len(states), dtype=np.int64)
        found[order] = shuffled
        return found

    units = np.arange(len(y)) if group is None else np.unique(group, return_inverse=True)[1].reshape(-1)
    members = np.split(np.argsort(units, kind="stable"), np.cumsum(np.bincount(units))[:-1])

    def redrawn() -> np.ndarray:
        rows = np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])
        return counted(x1[rows], x2[rows], y[rows])

    whole = decompose(counted(x1, x2, y))
    permuted = decompose(np.stack([counted(x1, x2, y[rng.permutation(len(y))]) for _ in range(draws)]), *LOOSE)
    apart = decompose(np.stack([counted(x1, x2[within(y)], y) for _ in range(draws)]), *LOOSE).synergy
    boot = decompose(np.stack([redrawn() for _ in range(draws)]), *LOOSE).synergy
    return PairInformation(
        first,
        second,
        len(y),
        redundant=float(whole.redundant),
        unique_first=float(whole.unique_first),
        unique_second=float(whole.unique_second),
        synergy=float(whole.synergy),
        bias={name: float(term.mean()) for name, term in zip(Decomposition._fields, permuted, strict=True)},
        late=float(apart.mean()),
        late_spread=float(apart.std()),
        late_most=float(np.quantile(apart, 0.95)),
        spread=float(boot.std()),
    )


def render(pairs: list[PairInformation]) -> Table:
    """A table for a terminal."""
    table = Table(title="what pairs of modalities say about the target, in bits", title_justify="left")
    for column in ("pair", "rows", "redundant", "unique", "unique", "synergy", "late explains", "joint may gain"):
        table.add_column(column, justify="left" if column == "pair" else "right")
    for pair in pairs:
        terms = (pair.redundant, pair.unique_first, pair.unique_second)
        table.add_row(
            escape(f"{pair.first} + {pair.second}"),
            f"{pair.rows:,}",
            *(f"{term:.3f}" for term in terms),
            f"{pair.synergy:.3f} ± {pair.spread:.3f}",
            f"{pair.late:.3f} ± {pair.late_spread:.3f}",
            "yes" if pair.joint_may_help else "no",
        )
    return table


def _sides(
    task: Task, x1: np.ndarray, x2: np.ndarray, target: np.ndarray, group: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of each modality, the side ``(n,)`` 0 or 1 on which a row lies; see the module docstring."""
    y = task.response(target)
    hot = np.eye(len(task.labels))[y] if task.estimator == "classifier" else y.astype(np.float64).reshape(len(y), -1)
    z1, z2 = _whitened(x1), _whitened(x2)
    units = np.arange(len(hot)) if group is None else np.unique(group, return_inverse=True)[1].reshape(-1)
    fold = np.random.default_rng(0).permutation(units.max() + 1)[units] % FOLDS
    places = (np.zeros(len(hot)), np.zeros(len(hot)))
    first: list[np.ndarray] = []
    for k in range(FOLDS):
        seen = fold != k
        moments = np.einsum("nk,ni,nj->kij", hot[seen] - hot[seen].mean(axis=0), z1[seen], z2[seen])
        wide = (np.concatenate(list(moments), axis=1), np.concatenate([m.T for m in moments], axis=1))
        axes = [np.linalg.svd(m, full_matrices=False)[0][:, 0] for m in wide]
        first = first or axes
        for place, z, axis, like in zip(places, (z1, z2), axes, first, strict=True):
            place[~seen] = z[~seen] @ axis * (1 if axis @ like >= 0 else -1)  # a direction has no sign of its own
    one, two = ((place > np.median(place)).astype(np.int64) for place in places)
    return one, two


def _whitened(x: np.ndarray) -> np.ndarray:
    """Principal components of unit variance ``(n, at most AXES)``; the target is not looked at."""
    x = x.astype(np.float64)
    scale = x.std(axis=0)
    left, singular, _ = np.linalg.svd((x - x.mean(axis=0)) / np.where(scale > 0, scale, 1.0), full_matrices=False)
    kept = np.flatnonzero(singular > 1e-6 * max(singular[0], 1e-12))[:AXES]
    return np.asarray(left[:, kept] * np.sqrt(len(x))) if len(kept) else np.zeros((len(x), 1))


def _cells(
    task: Task, x: np.ndarray, target: np.ndarray, group: np.ndarray | None, name: str, side: np.ndarray
) -> np.ndarray:
    """What a modality predicts of each row, and its side, as a few codes."""
    outputs = out_of_fold(task, x, target, group)
    if outputs is None:
        raise UserError(
            "information needs 50 rows and 5 groups that have both modalities",
            f"{name}: {len(x)} rows",
            "use more rows",
        )
    decided = task.decide(outputs)
    if "probability" not in decided:
        return np.unique(2 * _quantiles(decided["prediction"], THIRDS) + side, return_inverse=True)[1].reshape(-1)
    p = decided["probability"]
    sides = CELLS // p.shape[1] >= 2
    guess, parts = p.argmax(axis=1), max(1, CELLS // p.shape[1] // 2)
    cells = np.zeros(len(p), dtype=np.int64)
    for k in np.unique(guess).tolist():
        here = guess == k
        cells[here] = k * parts + _quantiles(p[here, k], parts)
    return np.unique(2 * cells + side if sides else cells, return_inverse=True)[1].reshape(-1)


def _states(task: Task, target: np.ndarray) -> np.ndarray:
    """The target as codes: its classes, or its fifths."""
    values = task.response(target)
    return values if task.estimator == "classifier" else _quantiles(values[:, 0], FIFTHS)


def _quantiles(values: np.ndarray, parts: int) -> np.ndarray:
    """Codes ``0 .. parts - 1`` of equally many rows; equal values get equal codes."""
    edges = np.quantile(values, np.arange(1, parts) / parts)
    return np.searchsorted(edges, values, side="right")

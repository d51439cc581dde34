"""Retrieval: find the items of one modality by an item of another.

There is no head and no target column: the question is put to the embeddings of an aligner, and rows of one group are
each other's right answers. The primary metric is ``sum of recalls``, over all pairs, both directions and all ``k``.
The metrics themselves are in :mod:`weft.retrieval.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from weft.errors import UserError, did_you_mean, some
from weft.retrieval.hub import Hubs
from weft.retrieval.metrics import Array, Positives, Ranking, Ties, rank
from weft.tasks import plots


@dataclass(frozen=True)
class RetrievalTask:
    """Which modalities search each other, and how that is measured.

    Args:
        pairs: the modalities that pair up; each pair is asked in both directions.
        unique: modalities of which a group has one item, repeated in each of its rows (the image of five captions): the
            first row of every group is kept.
        ks: the ``k`` of the recalls.
        ties: see :mod:`weft.retrieval.metrics`.

    Raises:
        UserError: there is no pair, or a pair of a modality with itself.
    """

    pairs: tuple[tuple[str, str], ...]
    unique: tuple[str, ...] = ()
    ks: tuple[int, ...] = (1, 5, 10)
    ties: Ties = "mean"

    primary: ClassVar[str] = "sum of recalls"
    higher_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        same = [pair for pair in self.pairs if pair[0] == pair[1]]
        if not self.pairs or same:
            raise UserError(
                "retrieval goes between two modalities, and there is at least one pair",
                f"pairs {some(same) or 'none'}",
                "give pairs such as (('text', 'image'),); an item searched by itself is always found first",
            )

    def rankings(
        self,
        embeddings: Mapping[str, Array],
        groups: Sequence[Any] | np.ndarray,
        presence: Mapping[str, np.ndarray] | None = None,
        chunk: int = 1024,
        hubs: Hubs | None = None,
    ) -> Iterator[tuple[str, np.ndarray, Ranking]]:
        """Each direction's name ``"text->image"``, the rows that asked, and what they found.

        Args:
            embeddings: ``{name: (N, D)}``, row ``i`` of every modality being sample ``i``.
            groups: ``(N,)``; rows of one group are positives of each other.
            presence: ``{name: (N,) bool}``, where a modality is there; everywhere, if not given. A query whose group
                has nothing in the other modality asks nothing.
            hubs: a correction, with its bank of training and dev rows.

        Raises:
            UserError: a modality of a pair has no embeddings, a pair has no common group, or values are NaN.
        """
        groups = np.asarray(groups)
        for name in (name for pair in self.pairs for name in pair):
            if name not in embeddings:
                raise UserError(
                    f"modality {name!r} is in a pair but has no embeddings",
                    f"embeddings of {some(embeddings)}",
                    did_you_mean(name, embeddings, "modalities"),
                )
        for a, b, asked, items in self.directions(groups, presence):
            queries, gallery = embeddings[a][asked], embeddings[b][items]
            if hubs is not None:
                queries, gallery = hubs.apply(a, b, queries, gallery)
            positives = Positives.from_groups(groups[asked], groups[items])
            yield f"{a}->{b}", asked, rank(queries, gallery, positives, self.ks, chunk=chunk, ties=self.ties)

    def directions(
        self, groups: np.ndarray, presence: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
        """Both modalities of each direction, the rows that ask, and those that are searched; see :meth:`rankings`.

        Raises:
            UserError: no group has both modalities of a pair.
        """
        kept = {name: self._rows(name, groups, presence) for pair in self.pairs for name in pair}
        for a, b in ((x, y) for pair in self.pairs for x, y in (pair, pair[::-1])):
            asked = kept[a][np.isin(groups[kept[a]], groups[kept[b]])]
            if not len(asked):
                raise UserError(
                    f"no group has both {a!r} and {b!r}",
                    f"{len(kept[a])} and {len(kept[b])} rows",
                    "check the group column and the presence of the two modalities",
                )
            yield a, b, asked, kept[b]

    def metrics(
        self,
        embeddings: Mapping[str, Array],
        groups: Sequence[Any] | np.ndarray,
        presence: Mapping[str, np.ndarray] | None = None,
        chunk: int = 1024,
        hubs: Hubs | None = None,
    ) -> dict[str, float]:
        """``{"text->image R@1": ...}`` for each direction and metric, and ``"sum of recalls"``."""
        found: dict[str, float] = {}
        for direction, _, ranking in self.rankings(embeddings, groups, presence, chunk, hubs):
            found |= {f"{direction} {name}": value for name, value in ranking.summary().items()}
        found[self.primary] = sum(value for name, value in found.items() if " R@" in name)
        return found

    def closeness(self, embeddings: Mapping[str, Array], groups: Sequence[Any] | np.ndarray) -> float:
        """Minus the mean log rank of each query's first partner, over all directions; 0 where all stand first.

        It hears every query, while a recall on few rows hangs on the handful near the cut: what settings are chosen by.
        """
        ranks = [np.log(ranking.first) for _, _, ranking in self.rankings(embeddings, groups)]
        return -float(np.mean([rank.mean() for rank in ranks]))

    def figures(
        self,
        embeddings: Mapping[str, Array],
        groups: Sequence[Any] | np.ndarray,
        folder: Path,
        presence: Mapping[str, np.ndarray] | None = None,
        chunk: int = 1024,
    ) -> list[Path]:
        """``recall.png``: recall at every ``k``, one curve per direction."""
        lines = {}
        for direction, _, ranking in self.rankings(embeddings, groups, presence, chunk):
            k = np.arange(1, max(int(np.ceil(ranking.first.max())), 2) + 1)
            share = np.searchsorted(np.sort(ranking.first), k, side="right") / len(ranking.first)
            lines[f"{direction}, median rank {np.median(ranking.first):g}"] = (k, share)
        return [plots.curves(lines, "recall", folder, xlabel="k", ylabel="recall at k", title="Retrieval")]

    def config(self) -> dict[str, Any]:
        """JSON that :meth:`from_config` reads."""
        return {"name": "retrieval", **asdict(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RetrievalTask:
        """The task that wrote ``config``."""
        return cls(
            tuple((a, b) for a, b in config["pairs"]), tuple(config["unique"]), tuple(config["ks"]), config["ties"]
        )

    def _rows(self, name: str, groups: np.ndarray, presence: Mapping[str, np.ndarray] | None) -> np.ndarray:
        rows = np.arange(len(groups)) if presence is None else np.flatnonzero(presence[name])
        if name in self.unique:
            rows = np.sort(rows[np.unique(groups[rows], return_index=True)[1]])
        return rows

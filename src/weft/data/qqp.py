"""Quora question pairs: are two questions duplicates?

Target ``label``: 1 where they are. Four layouts are read: the original ``quora_duplicate_questions.tsv`` (quoted, one
file), GLUE's ``train.tsv`` and ``dev.tsv``, the hub's Parquet files, and ``qqp_23k.tsv`` (no header, quoting off). In
the layouts with two parts the public validation part is test, since GLUE's own test labels are hidden; a dev part is
cut out of train by ``make_splits``. Group, where questions have ids: questions that are linked by pairs, so that no
question crosses a split.

Iyer, Dandekar, Csernai 2017, First Quora Dataset Release: Question Pairs. Non-commercial use.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from weft.data.dataset import Dataset, FolderReader, datasets
from weft.data.text_pairs import Pair, complete, existing, pairs_dataset, parquet, table

PARTS = (("train", "train", "train"), ("dev", "validation", "test"))


@datasets.register("qqp")
class Qqp(FolderReader):
    """Quora question pairs: duplicates or not; classification."""

    paper = "Iyer, Dandekar, Csernai 2017, First Quora Dataset Release: Question Pairs"
    layout = "quora_duplicate_questions.tsv, {train,dev}.tsv, {train,validation}-00000-of-00001.parquet or qqp_23k.tsv"

    def read(self, root: Path) -> Dataset:
        """Read the folder."""
        rows = list(self._rows(root))
        kept = complete(pair for _, pair in rows)
        links = {pair.id: link for link, pair in rows}
        linked = [link for pair in kept if (link := links[pair.id]) is not None]
        group = _components(linked) if len(linked) == len(kept) else None
        return pairs_dataset("qqp", kept, "label", "classification", int, group)

    def _rows(self, root: Path) -> Iterator[tuple[tuple[str, str] | None, Pair]]:
        """The ids of the two questions, where they have any, and the pair."""
        whole = existing(root, "quora_duplicate_questions.tsv")
        path = whole or existing(root, "qqp_23k.tsv")
        if path is not None:
            original = whole is not None
            for key, a, b, first, second, label in (r[:6] for r in table(path, 6, quoted=original, header=original)):
                yield (a, b), Pair(key, first, second, label, "")
            return
        for official, hub, part in PARTS:
            path = existing(root, f"{hub}-00000-of-00001.parquet")
            if path is not None:
                for first, second, label, key in parquet(path, ("question1", "question2", "label", "idx")):
                    yield None, Pair(f"{official}-{key}", first, second, label, part)
            elif (path := existing(root, f"{official}.tsv")) is not None:
                for key, a, b, first, second, label in (row[:6] for row in table(path, 6, quoted=True)):
                    yield (a, b), Pair(f"{official}-{key}", first, second, label, part)
            elif part == "test":
                self.file(root, f"{official}.tsv", f"{hub}-00000-of-00001.parquet")


def _components(links: list[tuple[str, str]]) -> np.ndarray:
    """The connected component of each link, ``(N,)``, named by its first question."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, codes = np.unique(np.array(links), return_inverse=True)
    ends = codes.reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(len(names), len(names)))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return names[first][component[ends[:, 0]]]

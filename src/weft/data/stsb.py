"""STS benchmark: how alike are two sentences, from 0 (nothing in common) to 5 (the same)?

Target ``score``. Layouts: the original ``sts-{train,dev,test}`` files, ``.csv`` or ``.tsv``, plain or gzipped
(tab-separated, no header, quoting off: genre, file, year, id, score, two sentences, and in some rows more), and the
hub's Parquet files with the column ``similarity_score`` or ``label``.

Cer, Diab, Agirre, Lopez-Gazpio, Specia 2017, SemEval-2017 Task 1 (SemEval).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from weft.data.dataset import Dataset, FolderReader, datasets
from weft.data.text_pairs import Pair, complete, existing, pairs_dataset, parquet, table

PARTS = {"train": ("train",), "dev": ("dev", "validation"), "test": ("test",)}


@datasets.register("stsb")
class Stsb(FolderReader):
    """STS benchmark: how alike two sentences are, 0 to 5; regression."""

    paper = "Cer, Diab, Agirre, Lopez-Gazpio, Specia 2017, SemEval-2017 Task 1 (SemEval)"
    layout = "sts-{train,dev,test}.{csv,tsv}[.gz], or {train,dev,test}-00000-of-00001.parquet"

    def read(self, root: Path) -> Dataset:
        """Read the folder."""
        return pairs_dataset("stsb", complete(self._rows(root)), "score", "regression", float)

    def _rows(self, root: Path) -> Iterator[Pair]:
        hub = {
            part: existing(root, *(f"{name}-00000-of-00001.parquet" for name in names)) for part, names in PARTS.items()
        }
        if any(hub.values()):
            for part, path in ((part, path) for part, path in hub.items() if path is not None):
                score = "similarity_score" if "similarity_score" in pq.read_schema(path).names else "label"
                for row, (first, second, value) in enumerate(parquet(path, ("sentence1", "sentence2", score))):
                    yield Pair(f"{part}-{row}", first, second, value, part)
            return
        for part in PARTS:
            names = (f"sts-{part}{suffix}{gz}" for suffix in (".csv", ".tsv") for gz in ("", ".gz"))
            for row, (*_, score, first, second) in enumerate(
                r[:7] for r in table(self.file(root, *names), 7, header=False)
            ):
                yield Pair(f"{part}-{row}", first, second, score, part)

"""Microsoft Research paraphrase corpus: do two news sentences say the same?

Target ``label``: 1 for a paraphrase. Layouts: the original ``msr_paraphrase_{train,test}.txt``, plain or gzipped (UTF-8
with a byte order mark, quotes are literal), and the hub's Parquet files ``{train,validation,test}-...``, whose
validation part (408 rows, cut by GLUE out of Microsoft's train part) is dev.

Dolan, Brockett 2005, Automatically Constructing a Corpus of Sentential Paraphrases (IWP). Non-commercial research.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weft.data.dataset import Dataset, FolderReader, datasets
from weft.data.text_pairs import Pair, complete, existing, pairs_dataset, parquet, table

HUB = {"train": "train", "validation": "dev", "test": "test"}


@datasets.register("mrpc")
class Mrpc(FolderReader):
    """Microsoft Research paraphrase corpus: paraphrases or not; classification."""

    paper = "Dolan, Brockett 2005, Automatically Constructing a Corpus of Sentential Paraphrases (IWP)"
    layout = "msr_paraphrase_{train,test}.txt[.gz], or {train,validation,test}-00000-of-00001.parquet"

    def read(self, root: Path) -> Dataset:
        """Read the folder."""
        return pairs_dataset("mrpc", complete(self._rows(root)), "label", "classification", int)

    def _rows(self, root: Path) -> Iterator[Pair]:
        hub = {part: existing(root, f"{name}-00000-of-00001.parquet") for name, part in HUB.items()}
        if any(hub.values()):
            for part, path in ((part, path) for part, path in hub.items() if path is not None):
                for first, second, label, key in parquet(path, ("sentence1", "sentence2", "label", "idx")):
                    yield Pair(f"{part}-{key}", first, second, label, part)
            return
        for part in ("train", "test"):
            path = self.file(root, f"msr_paraphrase_{part}.txt", f"msr_paraphrase_{part}.txt.gz")
            for label, a, b, first, second in (row[:5] for row in table(path, 5)):
                yield Pair(f"{part}-{a}-{b}", first, second, label, part)

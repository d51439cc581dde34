"""NLVR2: is a sentence about two photos true?

``{train,dev,test1}.json``, one JSON object in each line (``identifier``, ``sentence``, ``label``), and the photos
``<identifier without its last number>-img{0,1}.png`` anywhere below the root. One row per sentence: ``image``,
``other``, ``text``, target ``label`` (True or False). test1, whose labels are public, is test. Group: the two photos.

Suhr et al. 2019, A Corpus for Reasoning about Natural Language Grounded in Photographs (ACL, arXiv 1811.00491).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.data.files import json_lines
from weft.errors import UserError

PARTS = {"train": "train", "dev": "dev", "test1": "test"}


@datasets.register("nlvr2")
class Nlvr2(FolderReader):
    """Sentences about two photos; classification."""

    paper = "Suhr et al. 2019, NLVR2 (ACL, arXiv 1811.00491)"
    layout = "{train,dev,test1}.json and images/**/<pair>-img{0,1}.png"

    def read(self, root: Path) -> Dataset:
        """Read the folder.

        Raises:
            UserError: a line is not as published, or a photo is missing; it is named.
        """
        photos = {path.stem: path for path in root.rglob("*-img[01].*")}
        found = [
            (*row, part)
            for official, part in PARTS.items()
            for row in json_lines(self.file(root, f"{official}.json", f"data/{official}.json"), told, self.layout)
        ]
        if not found:
            raise UserError("NLVR2 has sentences", f"{root}: empty files", f"expected {self.layout}")
        ids, texts, labels, split = (list(column) for column in zip(*found, strict=True))
        pairs = [name.rpartition("-")[0] for name in ids]
        gone = [name for pair in pairs for name in (f"{pair}-img0", f"{pair}-img1") if name not in photos]
        if gone:
            raise UserError(f"{len(gone)} photos of NLVR2 are missing", gone[0], f"expected {self.layout}")
        sides = [Modality("image", [photos[f"{pair}-img{side}"] for pair in pairs]) for side in (0, 1)]
        return Dataset(
            name="nlvr2",
            ids=ids,
            modalities={"image": sides[0], "other": sides[1], "text": Modality("text", texts)},
            targets={"label": np.array(labels)},
            split=np.array(split),
            group=np.array(pairs),
            task="classification",
        )


def told(item: dict[str, str]) -> tuple[str, str, str]:
    """Identifier, sentence and label of a line."""
    return item["identifier"], item["sentence"], str(item["label"])

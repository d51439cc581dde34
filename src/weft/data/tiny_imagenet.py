"""Tiny ImageNet: 110,000 photos of 64 x 64 pixels in 200 classes.

One modality, ``image``; targets ``class``, the WordNet id, and ``name``, its words without the synonyms (two ids may
share a name). Classes are sorted by id in both parts. The official val part, whose labels are public, is test; the
test part has none and is not read. A dev part is cut out of train by ``make_splits``.

Le, Yang 2015, Tiny ImageNet Visual Recognition Challenge (CS 231N, Stanford).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.errors import UserError, some


@datasets.register("tiny_imagenet")
class TinyImageNet(FolderReader):
    """Tiny ImageNet: small photos in 200 classes; classification."""

    paper = "Le, Yang 2015, Tiny ImageNet Visual Recognition Challenge (CS 231N, Stanford)"
    layout = (
        "wnids.txt, words.txt, train/<wnid>/images/*.JPEG, val/val_annotations.txt and val/images/*.JPEG, "
        "inside tiny-imagenet-200/"
    )

    def read(self, root: Path) -> Dataset:
        """Read the folder.

        Raises:
            UserError: a class of the images is not listed.
        """
        root = root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
        known = sorted(self.file(root, "wnids.txt").read_text(encoding="utf-8").split())
        words = dict(
            line.split("\t", 1) for line in self.file(root, "words.txt").read_text(encoding="utf-8").splitlines()
        )
        rows = [
            (path, wnid, "train") for wnid in known for path in sorted((root / "train" / wnid / "images").glob("*"))
        ]
        annotations = self.file(root, "val/val_annotations.txt").read_text(encoding="utf-8").splitlines()
        for name, wnid in (line.split("\t")[:2] for line in annotations):
            rows.append((root / "val" / "images" / name, wnid, "test"))
        unknown = sorted({wnid for _, wnid, _ in rows} - set(known) | set(known) - set(words))
        if unknown:
            raise UserError(
                "Tiny ImageNet: classes are listed in wnids.txt and words.txt", some(unknown), "restore the files"
            )
        return Dataset(
            name="tiny_imagenet",
            ids=[path.name for path, _, _ in rows],
            modalities={"image": Modality("image", [path for path, _, _ in rows])},
            targets={
                "class": np.array([wnid for _, wnid, _ in rows]),
                "name": np.array([words[wnid].split(",")[0].strip() for _, wnid, _ in rows]),
            },
            split=np.array([part for _, _, part in rows]),
            group=None,
            task="classification",
        )

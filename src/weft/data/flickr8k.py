"""Flickr8k: photos with five captions each, for retrieval.

One row per caption: ``image`` (N distinct files, each named five times) and ``text``. Row ids are ``file.jpg#k``, as in
the official token file. Split by the official lists of images; images on no list are left out. Group: the image.

Hodosh, Young, Hockenmaier 2013, Framing Image Description as a Ranking Task (JAIR 47). Research use only.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.errors import UserError, some


@datasets.register("flickr8k")
class Flickr8k(FolderReader):
    """Flickr8k: photos with five captions each; retrieval."""

    paper = "Hodosh, Young, Hockenmaier 2013, Framing Image Description as a Ranking Task (JAIR 47)"
    layout = "Images/*.jpg, captions.txt (image,caption), Flickr_8k.{train,dev,test}Images.txt"

    def read(self, root: Path) -> Dataset:
        """Read the folder.

        Raises:
            UserError: a listed image has no caption, or is in two splits.
        """
        part: dict[str, str] = {}
        for name in ("train", "dev", "test"):
            for image in self.file(root, f"Flickr_8k.{name}Images.txt").read_text(encoding="utf-8").split():
                if part.setdefault(image, name) != name:
                    raise UserError("Flickr8k: an image is in two splits", image, "restore the official lists")
        with self.file(root, "captions.txt").open(encoding="utf-8-sig", newline="") as file:
            captions = [(row["image"], row["caption"]) for row in csv.DictReader(file)]
        silent = sorted(set(part) - {image for image, _ in captions})
        if silent:
            raise UserError("Flickr8k: images of the split lists have no caption", some(silent), "restore captions.txt")
        captions = [(image, caption) for image, caption in captions if image in part]
        paths = {image: root / "Images" / image for image in part}
        seen: Counter[str] = Counter()
        ids = []
        for image, _ in captions:
            ids.append(f"{image}#{seen[image]}")
            seen[image] += 1
        return Dataset(
            name="flickr8k",
            ids=ids,
            modalities={
                "image": Modality("image", [paths[image] for image, _ in captions]),
                "text": Modality("text", [caption.strip() or None for _, caption in captions]),
            },
            targets={},
            split=np.array([part[image] for image, _ in captions]),
            group=np.array([image for image, _ in captions]),
            task="retrieval",
        )

"""COCO captions: photos with about five captions each, for retrieval.

One row per caption: ``image`` and ``text``. Row ids are ``<image id>#k``. The official train part is train and the
official val part, whose captions are public, is test; a dev part is cut out of train by ``make_splits``. Group: the
image.

Chen et al. 2015, Microsoft COCO Captions: Data Collection and Evaluation Server (arXiv:1504.00325).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from weft.data.dataset import Dataset, FolderReader, Modality, datasets


@datasets.register("coco")
class Coco(FolderReader):
    """COCO captions; retrieval.

    Args:
        year: of the release, part of the file names.
        captions: the first so many of an image, in the order of the file; None: all.
    """

    paper = "Chen et al. 2015, Microsoft COCO Captions (arXiv:1504.00325)"
    layout = "annotations/captions_{train,val}<year>.json and {train,val}<year>/*.jpg"

    def __init__(self, *, year: int = 2017, captions: Annotated[int, Field(ge=1)] | None = None) -> None:
        self.year, self.captions = year, captions

    def read(self, root: Path) -> Dataset:
        """Read the folder."""
        ids: list[str] = []
        paths: list[Path] = []
        captions: list[str | None] = []
        parts: list[str] = []
        groups: list[str] = []
        for official, part in (("train", "train"), ("val", "test")):
            listing = self.file(root, f"annotations/captions_{official}{self.year}.json")
            content = json.loads(listing.read_text(encoding="utf-8"))
            files = {image["id"]: root / f"{official}{self.year}" / image["file_name"] for image in content["images"]}
            seen: Counter[int] = Counter()
            for annotation in content["annotations"]:
                image = annotation["image_id"]
                if self.captions is not None and seen[image] >= self.captions:
                    continue
                ids.append(f"{image}#{seen[image]}")
                seen[image] += 1
                paths.append(files[image])
                captions.append(annotation["caption"].strip() or None)
                parts.append(part)
                groups.append(str(image))
        return Dataset(
            name="coco",
            ids=ids,
            modalities={"image": Modality("image", paths), "text": Modality("text", captions)},
            targets={},
            split=np.array(parts),
            group=np.array(groups),
            task="retrieval",
        )

"""Data sets as CoOp splits them: ``split_zhou_<Name>.json`` beside a folder of images."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from weft.data import Dataset, Modality
from weft.data.dataset import FolderReader, datasets
from weft.errors import UserError
from weft.registry import Seed
from weft.systems.cocoop.protocols import PARTS, base_and_new, few_shot, read_split

NAMES = {"train": "train", "val": "dev", "test": "test"}
DEV_SHOTS = 4


@datasets.register("coop-splits")
class CoopSplits(FolderReader):
    """Images of one of the splits of CoOp; classification.

    Args:
        shots: training images of a class, drawn of all classes, and at most four for dev; None: all.
        seed: of the draw; the papers take 1, 2 and 3.
        classes: the first half of the classes, the second, or all.
        images: the folder that the paths begin in.
    """

    paper = "Zhou et al. 2022, Learning to Prompt for Vision-Language Models (IJCV, arXiv 2109.01134)"
    layout = "split_zhou_<Name>.json and images/<path>"

    def __init__(
        self,
        *,
        shots: Annotated[int, Field(ge=1)] | None = None,
        seed: Seed = 1,
        classes: Literal["all", "base", "new"] = "all",
        images: str = "images",
    ) -> None:
        self.shots, self.seed, self.classes, self.images = shots, seed, classes, images

    def read(self, root: Path) -> Dataset:
        """Read the folder.

        Raises:
            UserError: no split file or several; or as :func:`~weft.systems.cocoop.protocols.read_split`.
        """
        files = sorted(root.glob("split_zhou_*.json"))
        if len(files) != 1:
            raise UserError(
                "a data set of CoOp has one split file",
                f"{root} has {len(files)}",
                f"expected {self.layout}",
            )
        parts = read_split(files[0])
        train, dev, test = (parts[part] for part in PARTS)
        if self.shots is not None:
            rng = random.Random(self.seed)
            train, dev = few_shot(train, self.shots, rng), few_shot(dev, min(self.shots, DEV_SHOTS), rng)
        chosen = [train, dev, test]
        if self.classes != "all":
            chosen = base_and_new(train, dev, test)[self.classes == "new"]
        rows = [(item, NAMES[part]) for part, items in zip(PARTS, chosen, strict=True) for item in items]
        return Dataset(
            name=files[0].stem.removeprefix("split_zhou_"),
            ids=[item.path for item, _ in rows],
            modalities={"image": Modality("image", [root / self.images / item.path for item, _ in rows])},
            targets={"class": np.array([item.name for item, _ in rows])},
            split=np.array([part for _, part in rows]),
            group=None,
            task="classification",
        )

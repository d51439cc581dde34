"""Questions with explanations as they were published: VQA-X, ACT-X, e-SNLI-VE.

``<root>/nle_data/<set>/<prefix>_{train,val,test}.json``, ``{id: {question | hypothesis, answers, image_name,
explanation}}``, and photos anywhere below ``<root>/images``, found by name. Rows whose photo is not there are left out,
and a note says how many. Columns: ``image``, ``question`` (absent in ACT-X), ``answer`` and ``explanation``, one per
line of a cell. Rows of one photo never cross a split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from weft.data import Dataset, Modality
from weft.data.dataset import FolderReader, datasets
from weft.data.files import IMAGE_SUFFIXES
from weft.errors import UserError
from weft.files import read_json

PARTS = {"train": "train", "val": "dev", "test": "test"}


class Explained(FolderReader):
    """Base of the three.

    Args:
        images: folder of the photos, below the root or anywhere.
    """

    paper = "Sammani et al. 2022, NLX-GPT (CVPR, arXiv 2203.05081)"
    folder: ClassVar[str]
    prefix: ClassVar[str]
    asks: ClassVar[str | None]

    def __init__(self, *, images: str = "images") -> None:
        self.images = images

    def read(self, root: Path) -> Dataset:
        """Read the three files.

        Raises:
            UserError: a file is missing or an item has not what it should have, or no photo is there.
        """
        photos = {path.name: path for path in (root / self.images).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES}
        rows: list[dict[str, Any]] = []
        lost = 0
        for part, split in PARTS.items():
            file = self.file(root, f"nle_data/{self.folder}/{self.prefix}_{part}.json")
            for key, item in read_json(file).items():
                try:
                    made = {**self.cells(item), "image": photos.get(item["image_name"])}
                except (KeyError, TypeError, AttributeError) as error:
                    raise UserError(
                        f"an item of {file.name} is not as published", f"{key}: {error!r}", f"expected {self.layout}"
                    ) from None
                if made["image"] is None:
                    lost += 1
                else:
                    rows.append({**made, "id": str(key), "split": split, "group": item["image_name"]})
        if not rows:
            raise UserError(
                "no photo of any item is there",
                f"{lost} items, {len(photos)} photos below {root / self.images}",
                "name the folder of the photos by the option images",
            )
        column = {name: [row[name] for row in rows] for name in rows[0]}
        return Dataset(
            name=self.folder,
            ids=column["id"],
            modalities={
                "image": Modality("image", column["image"]),
                **{name: Modality("text", column[name]) for name in ("question", "answer", "explanation")},
            },
            targets={},
            split=np.array(column["split"]),
            group=np.array(column["group"]),
            task="explanations",
            notes=(f"{lost} items without their photo are left out",) if lost else (),
        )

    def cells(self, item: dict[str, Any]) -> dict[str, str | None]:
        """Question, answers and explanations of an item, one per line."""
        answers = item["answers"]
        said = [a["answer"] for a in answers] if isinstance(answers, list) else [self.answer(str(answers))]
        why = item["explanation"]
        return {
            "question": None if self.asks is None else str(item[self.asks]),
            "answer": "\n".join(said),
            "explanation": "\n".join(why if isinstance(why, list) else [why]),
        }

    def answer(self, text: str) -> str:
        """The answer that is learned."""
        return text


@datasets.register("vqa-x")
class VqaX(Explained):
    """VQA-X: questions on photos of COCO, answers of ten people, explanations."""

    folder, prefix, asks = "VQA-X", "vqaX", "question"
    layout = "nle_data/VQA-X/vqaX_{train,val,test}.json and images/"


@datasets.register("act-x")
class ActX(Explained):
    """ACT-X: what people do in photos of MPI, and how one sees it."""

    folder, prefix, asks = "ACT-X", "actX", None
    layout = "nle_data/ACT-X/actX_{train,val,test}.json and images/"

    def answer(self, text: str) -> str:
        """The activity: what stands before the first comma."""
        return text.partition(",")[0].strip()


@datasets.register("e-snli-ve")
class ESnliVe(Explained):
    """e-SNLI-VE: whether a photo of Flickr30k entails a sentence."""

    folder, prefix, asks = "eSNLI-VE", "esnlive", "hypothesis"
    layout = "nle_data/eSNLI-VE/esnlive_{train,val,test}.json and images/"

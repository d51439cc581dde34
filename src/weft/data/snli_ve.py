"""SNLI-VE: does a photo of Flickr30k entail a sentence?

``snli_ve_{train,dev,test}.jsonl`` (``Flickr30K_ID``, ``sentence2``, ``gold_label``, ``pairID``) and the photos
``<Flickr30K_ID>.jpg`` in ``flickr30k_images/`` or ``images/``. One row per sentence: ``image``, ``text``, target
``label`` (entailment, neutral, contradiction). Sentences without a gold label ("-") are left out, as usual. Group: the
photo.

Xie et al. 2019, Visual Entailment: A Novel Task for Fine-Grained Image Understanding (arXiv 1901.06706).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.data.files import json_lines
from weft.errors import UserError


@datasets.register("snli-ve")
class SnliVe(FolderReader):
    """Visual entailment; classification."""

    paper = "Xie et al. 2019, Visual Entailment (arXiv 1901.06706)"
    layout = "snli_ve_{train,dev,test}.jsonl and flickr30k_images/<Flickr30K_ID>.jpg"

    def read(self, root: Path) -> Dataset:
        """Read the folder.

        Raises:
            UserError: a line is not as published; it is named.
        """
        photos = next((root / name for name in ("flickr30k_images", "images") if (root / name).is_dir()), root)
        rows = [
            (pair or f"{part}-{number}", image, text, label, part)
            for part in ("train", "dev", "test")
            for number, (pair, image, text, label) in enumerate(
                json_lines(self.file(root, f"snli_ve_{part}.jsonl"), told, self.layout), 1
            )
            if label != "-"
        ]
        if not rows:
            raise UserError("SNLI-VE has sentences with a label", f"{root}: none", f"expected {self.layout}")
        ids, images, texts, labels, split = (list(column) for column in zip(*rows, strict=True))
        return Dataset(
            name="snli-ve",
            ids=ids,
            modalities={
                "image": Modality("image", [photos / f"{name}.jpg" for name in images]),
                "text": Modality("text", texts),
            },
            targets={"label": np.array(labels)},
            split=np.array(split),
            group=np.array(images),
            task="classification",
        )


def told(item: dict[str, str]) -> tuple[str, str, str, str]:
    """Pair, photo, sentence and label of a line."""
    return str(item.get("pairID", "")), str(item["Flickr30K_ID"]), str(item["sentence2"]), str(item["gold_label"])

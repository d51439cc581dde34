"""Images in folders named by their class: ``<root>/{train,test}/<class>/*``, or ``<root>/<class>/*`` without a split.

One modality, ``image``; target ``class``, the folder's name. Row ids are paths relative to the root. ``val``, ``valid``
and ``validation`` are dev. The layout of torchvision's ``ImageFolder`` and of Hugging Face's ``imagefolder``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.data.files import IMAGE_SUFFIXES
from weft.errors import UserError

PARTS = {"train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test"}


@datasets.register("image_folder")
class ImageFolder(FolderReader):
    """Images in folders named by their class; classification.

    Args:
        per_class: of each class in each part, only the first this many files by name; None: all.
    """

    layout = "{train,test}/<class>/<image>, or <class>/<image>"

    def __init__(self, *, per_class: Annotated[int, Field(ge=1)] | None = None) -> None:
        self.per_class = per_class

    def read(self, root: Path) -> Dataset:
        """Read the folder.

        Raises:
            UserError: no images in it.
        """
        parts = {folder: PARTS[folder.name] for folder in _folders(root) if folder.name in PARTS}
        places = [
            (path, folder.name, part)
            for top, part in (parts or {root: ""}).items()
            for folder in _folders(top)
            for path in self._images(folder)
        ]
        if not places:
            raise UserError("image_folder: no images", str(root), f"expected {self.layout}")
        paths, classes, split = zip(*places, strict=True)
        return Dataset(
            name=root.name,
            ids=[path.relative_to(root).as_posix() for path in paths],
            modalities={"image": Modality("image", list(paths))},
            targets={"class": np.array(classes)},
            split=np.array(split) if parts else None,
            group=None,
            task="classification",
        )

    def _images(self, folder: Path) -> list[Path]:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)[: self.per_class]


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))

"""RGBNT201: persons seen at once in visible, near-infrared and thermal light, for re-identification.

``<root>/{train_171,test}/{RGB,NI,TI}/<identity>_cam<camera>_*.jpg``, the three views of a sample under one name. Every
test image is both query and gallery. Modalities, targets and group as in :mod:`.rgbn`; ``part`` is "train" or "both".

Zheng et al. 2021, Robust Multi-Modality Person Re-identification (AAAI).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weft.data.dataset import Dataset, FolderReader, datasets
from weft.data.files import images_of
from weft.systems.cross_spectral_reid.rgbn import parse_names, reid_dataset

VIEWS = {"rgb": "RGB", "nir": "NI", "tir": "TI"}


@datasets.register("rgbnt201")
class Rgbnt201(FolderReader):
    """Persons in visible, near-infrared and thermal light; retrieval."""

    paper = "Zheng et al. 2021, Robust Multi-Modality Person Re-identification (AAAI)"
    layout = "{train_171,test}/{RGB,NI,TI}/<identity>_cam<camera>_*.jpg"

    def read(self, root: Path) -> Dataset:
        """Read the folder; a sample without one of its views is refused by the check of all files."""
        folders = {"train": root / "train_171", "both": root / "test"}
        files = [(path, part) for part, top in folders.items() for path in images_of(top / "RGB", self.layout)]
        identity, camera = parse_names([path for path, _ in files])
        return reid_dataset(
            name="rgbnt201",
            ids=[f"{folders[part].name}/{path.stem}" for path, part in files],
            views={
                view: [folders[part] / folder / path.name for path, part in files] for view, folder in VIEWS.items()
            },
            identity=identity,
            camera=camera,
            part=np.array([part for _, part in files]),
        )

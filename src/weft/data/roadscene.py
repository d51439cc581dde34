"""RoadScene: aligned visible and thermal photos of roads, ``<root>/{visible,infrared}/<name>``.

Modalities ``visible`` and ``infrared``, matched by file name; retrieval of one by the other; no official split.

Xu et al. 2020, U2Fusion: A Unified Unsupervised Image Fusion Network (TPAMI).
"""

from __future__ import annotations

from pathlib import Path

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.data.files import images_of


@datasets.register("roadscene")
class RoadScene(FolderReader):
    """Visible and thermal photos of the same scenes; retrieval."""

    paper = "Xu et al. 2020, U2Fusion: A Unified Unsupervised Image Fusion Network (TPAMI)"
    layout = "{visible,infrared}/<name>.jpg, the same names in both"

    def read(self, root: Path) -> Dataset:
        """Read the folder; a photo without its thermal image is refused by the check of all files."""
        visible = images_of(root / "visible", self.layout)
        return Dataset(
            name="roadscene",
            ids=[path.stem for path in visible],
            modalities={
                "visible": Modality("image", visible),
                "infrared": Modality("image", [root / "infrared" / path.name for path in visible]),
            },
            targets={},
            split=None,
            group=None,
            task="retrieval",
        )

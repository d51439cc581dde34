"""RGBN300 and RGBNT100: vehicles seen at once in visible, near-infrared (and thermal) light, for re-identification.

``<root>/rgbir/{bounding_box_train,query,bounding_box_test}/*.jpg`` (or without ``rgbir/``). One file per sample, the
views side by side, each 256 pixels wide and 128 high: RGB | NIR | TIR. A name starts with ``<identity>_c<camera>``.
Identity 0 is a distractor, kept in the gallery alone; -1 is junk, left out. RGBN300 has no third view: read as RGBNT100
its thermal images would all be black, which is refused.

Modalities ``rgb``, ``nir`` (``tir``); targets ``identity``, ``camera`` and ``part`` ("train", "query", "gallery");
group: the identity. The train part is train, query and gallery are test.

Li et al. 2020, Multi-Spectral Vehicle Re-Identification: A Challenge (AAAI).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.data.files import Crop, images_of
from weft.errors import UserError, some

VIEW = (256, 128)
PARTS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
NAME = re.compile(r"^(-?\d+)_c(?:am)?(\d+)")


@datasets.register("rgbn300")
class Rgbn300(FolderReader):
    """Vehicles in visible and near-infrared light; retrieval."""

    paper = "Li et al. 2020, Multi-Spectral Vehicle Re-Identification: A Challenge (AAAI)"
    layout = "[rgbir/]{bounding_box_train,query,bounding_box_test}/<identity>_c<camera>*.jpg"
    views: ClassVar[tuple[str, ...]] = ("rgb", "nir")

    def read(self, root: Path) -> Dataset:
        """Read the folder."""
        top = root / "rgbir" if (root / "rgbir").is_dir() else root
        files = [(path, part) for folder, part in PARTS.items() for path in images_of(top / folder, self.layout)]
        identity, camera = parse_names([path for path, _ in files])
        kept = [i for i, (_, part) in enumerate(files) if identity[i] > 0 or (identity[i] == 0 and part == "gallery")]
        self._check_width([files[i][0] for i in kept])
        width, height = VIEW
        return reid_dataset(
            name=type(self).__name__.lower(),
            ids=[f"{files[i][0].parent.name}/{files[i][0].stem}" for i in kept],
            views={
                view: [Crop(files[i][0], (k * width, 0, (k + 1) * width, height)) for i in kept]
                for k, view in enumerate(self.views)
            },
            identity=identity[kept],
            camera=camera[kept],
            part=np.array([files[i][1] for i in kept]),
        )

    def _check_width(self, paths: list[Path]) -> None:
        """The first file of each folder is as wide as its views."""
        needed = VIEW[0] * len(self.views)
        for path in {path.parent: path for path in reversed(paths)}.values():
            with Image.open(path) as image:
                if image.width < needed:
                    raise UserError(
                        f"{type(self).__name__}: a file holds {len(self.views)} views of {VIEW[0]} pixels side by side",
                        f"{path}: {image.width} x {image.height}",
                        "read sets without thermal images as rgbn300",
                    )


@datasets.register("rgbnt100")
class Rgbnt100(Rgbn300):
    """Vehicles in visible, near-infrared and thermal light; retrieval."""

    views = ("rgb", "nir", "tir")


def parse_names(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Identity and camera ``(N,)`` of files called ``<identity>_c<camera>...`` or ``<identity>_cam<camera>...``.

    Raises:
        UserError: a file is called otherwise.
    """
    matches = [NAME.match(path.name) for path in paths]
    odd = [path.name for path, match in zip(paths, matches, strict=True) if match is None]
    if odd:
        raise UserError(
            "a file name starts with its identity and camera", some(odd), "expected e.g. 0042_c3_001.jpg; remove others"
        )
    pairs = np.array([[int(match[1]), int(match[2])] for match in matches if match], dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def reid_dataset(
    name: str, ids: list[str], views: dict[str, list], identity: np.ndarray, camera: np.ndarray, part: np.ndarray
) -> Dataset:
    """A re-identification set: identity, camera and part ``(N,)`` as targets, the identity as group."""
    return Dataset(
        name=name,
        ids=ids,
        modalities={view: Modality("image", values) for view, values in views.items()},
        targets={"identity": identity, "camera": camera, "part": part},
        split=np.where(part == "train", "train", "test"),
        group=identity.astype(str),
        task="retrieval",
    )

"""Pictures to train on, and exposures to fuse.

* ``photos``: any folder of photos, flat or deep; modality ``photo``. What TransMEF is trained on.
* ``exposures``: ``<root>/A<i>.png``, ``B<i>.png``, ... as the authors of MEFB's resized release keep them, a modality
  per letter; or ``<root>/<name>/<file>`` for series of a scene, a modality per name (``visible``, ``infrared``), files
  matched by stem.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from weft.data import Dataset, Modality
from weft.data.dataset import FolderReader, datasets
from weft.data.files import IMAGE_SUFFIXES
from weft.errors import UserError, some
from weft.registry import natural


@datasets.register("photos")
class Photos(FolderReader):
    """All photos below a folder, for systems that learn from photos alone."""

    layout = "any images, in any folders"

    def read(self, root: Path) -> Dataset:
        """Files are listed, not opened; ids are paths below the root.

        Raises:
            UserError: no images.
        """
        paths = _images(root.rglob("*"))
        if not paths:
            raise UserError("photos: no images", str(root), f"expected {self.layout}")
        ids = [path.relative_to(root).as_posix() for path in paths]
        return Dataset(root.name, ids, {"photo": Modality("image", list(paths))}, {}, None, None, "exposure-fusion")


@datasets.register("exposures")
class Exposures(FolderReader):
    """Pictures of the same scenes to be made one."""

    paper = "Zhang 2021, Benchmarking and comparing multi-exposure image fusion algorithms (MEFB), Information Fusion"
    layout = "A<i>.png, B<i>.png, ... in one folder, or <name>/<stem>.png, the same stems in two or more folders"

    def read(self, root: Path) -> Dataset:
        """A scene that lacks one of the pictures has an absent modality there; one alone is refused, by name."""
        series: dict[str, dict[str, Path]] = {}
        for path in _images(root.iterdir()):
            found = re.fullmatch(r"([A-Za-z])(\d+)", path.stem)
            if found:
                series.setdefault(found[1].upper(), {})[found[2]] = path
        for folder in sorted(f for f in root.iterdir() if f.is_dir()):
            if files := {path.stem: path for path in _images(folder.iterdir())}:
                series[folder.name] = files
        if len(series) < 2:
            raise UserError("exposures: no two pictures of one scene", str(root), f"expected {self.layout}")
        ids = sorted(set().union(*series.values()), key=natural)
        alone = [scene for scene in ids if sum(scene in files for files in series.values()) < 2]
        if alone:
            raise UserError(
                "exposures: a scene needs two or more pictures", f"{len(alone)} with one: {some(alone)}", "remove them"
            )
        columns = {name: Modality("image", [files.get(scene) for scene in ids]) for name, files in series.items()}
        return Dataset(root.name, ids, columns, {}, None, None, "exposure-fusion")


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted((p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES), key=lambda p: natural(str(p)))

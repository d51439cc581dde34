"""Multi-view sets in MATLAB files: ``X``, a cell of views ``(N, D_v)``, and ``y``, the class of every row.

Views are modalities of kind vector; target ``class``: the name of ``class_meaning``, where the file has one, else the
number of ``y``. Names and split of two files are known: Handwritten (UCI Multiple Features: 2,000 digits, six feature
sets, no split) and Wikipedia (2,866 articles: SIFT histogram of the ``image``, topics of the ``text``; the file's own
``view_meaning`` has the two interchanged; rows from 2,173 on are the test part). Other files name their views by
``view_meaning``, or ``view0``, ``view1``, and have no split.

van Breukelen et al. 1998, Handwritten digit recognition by combined classifiers (Kybernetika). Rasiwasia et al. 2010, A
new approach to cross-modal multimedia retrieval (ACM MM).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weft.data.dataset import Dataset, FolderReader, Modality, datasets, numbered
from weft.errors import UserError

KNOWN_VIEWS = {
    "Handwritten": ["profile", "fourier", "karhunen", "morphology", "pixels", "zernike"],
    "Wikipedia": ["image", "text"],
}
FIRST_TEST_ROW = {"Wikipedia": 2173}


@datasets.register("multiview")
class Multiview(FolderReader):
    """Multi-view feature sets in .mat files: Handwritten, Wikipedia, and others alike; classification.

    Args:
        file: the ``.mat`` file in the folder, without its ending.
        views: names of the views, in the order of ``X``.
    """

    paper = "van Breukelen et al. 1998 (Kybernetika); Rasiwasia et al. 2010 (ACM MM)"
    layout = "<file>.mat with X (a cell of views) and y"

    def __init__(self, *, file: str = "Handwritten", views: list[str] | None = None) -> None:
        self.name, self.views = file, views

    def read(self, root: Path) -> Dataset:
        """Read ``<file>.mat``.

        Raises:
            UserError: the file is not one of views and labels.
        """
        from scipy.io import loadmat

        path = self.file(root, f"{self.name}.mat")
        try:
            content = loadmat(path)
            arrays = [np.asarray(view, dtype=np.float32) for view in content["X"].ravel()]
            classes = content["y"].ravel().astype(np.int64)
        except (KeyError, ValueError, TypeError, NotImplementedError) as error:
            raise UserError(f"{path} is no multi-view file", repr(error), f"expected {self.layout}") from error
        names = self._names(content, len(arrays))
        meaning = _words(content.get("class_meaning"))
        first = FIRST_TEST_ROW.get(self.name)
        rows = np.arange(len(classes))
        return Dataset(
            name=f"multiview-{self.name}",
            ids=numbered("row", len(classes)),
            modalities={name: Modality("vector", list(a)) for name, a in zip(names, arrays, strict=True)},
            targets={"class": np.array(meaning)[classes - classes.min()] if meaning else classes},
            split=None if first is None else np.where(rows < first, "train", "test"),
            group=None,
            task="classification",
        )

    def _names(self, content: dict[str, Any], count: int) -> list[str]:
        names = self.views or KNOWN_VIEWS.get(self.name) or _words(content.get("view_meaning"))
        names = names or [f"view{k}" for k in range(count)]
        if len(set(names)) != count:
            found = f"{count} views in the file, {len(set(names))} names: {names}"
            raise UserError("multiview: every view has its own name", found, "give views=[...] in the order of X")
        return names


def _words(cell: np.ndarray | None) -> list[str]:
    """A MATLAB cell of strings."""
    return [] if cell is None else [str(np.ravel(word)[0]) for word in cell.ravel()]

"""Multi-view multi-label sets as their papers share them: ``<file>.mat`` with

* ``data``: a cell of views ``(N, D_v)``; ``target``: ``(N, Q)`` of zeros and ones (or of -1 and 1);
* ``idx``: a cell of folds, each the test rows counted from 1.

Files of MATLAB 7.3 (the large sets) are HDF5 and hold every array transposed; they are read by h5py where it is
installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from weft.data import Dataset, Modality
from weft.data.dataset import FolderReader, datasets, numbered
from weft.errors import UserError

LAYOUT = "<file>.mat with data (a cell of views), target (N, Q) and idx (a cell of folds)"


@datasets.register("multilabel-views")
class MultilabelViews(FolderReader):
    """Views of rows with any number of labels; multilabel.

    Args:
        file: the ``.mat`` file in the folder, without its ending.
        fold: whose rows are the test part, from 1; None: no split.
        views, labels: names; ``view0``, ... and ``label0``, ... if not given.
    """

    paper = "Tsoumakas et al. 2011, Mulan: a Java library for multi-label learning (JMLR)"
    layout = LAYOUT

    def __init__(
        self,
        *,
        file: str = "emotions",
        fold: Annotated[int, Field(ge=1)] | None = 1,
        views: list[str] | None = None,
        labels: list[str] | None = None,
    ) -> None:
        self.name, self.fold, self.views, self.labels = file, fold, views, labels

    def read(self, root: Path) -> Dataset:
        """Read ``<file>.mat``.

        Raises:
            UserError: no such file or layout, a fold that is not there, or as many names as views or labels.
        """
        path = self.file(root, f"{self.name}.mat")
        views, target, folds = _content(path)
        if self.fold is not None and self.fold > len(folds):
            raise UserError(f"{path} has {len(folds)} folds", f"fold={self.fold}", "choose another, or fold=null")
        split = None
        if self.fold is not None:
            split = np.full(len(target), "train", dtype="<U5")
            split[folds[self.fold - 1] - 1] = "test"
        names = _names("views", self.views, "view", len(views))
        labels = _names("labels", self.labels, "label", target.shape[1])
        return Dataset(
            name=self.name,
            ids=numbered("row", len(target)),
            modalities={name: Modality("vector", list(view)) for name, view in zip(names, views, strict=True)},
            targets={"labels": target},
            split=split,
            group=None,
            task="multilabel",
            labels={"labels": tuple(labels)},
        )


def _content(path: Path) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    from scipy.io import loadmat

    try:
        try:
            found: Any = loadmat(path)
            views, target, folds = found["data"].ravel(), found["target"], found["idx"].ravel()
        except NotImplementedError:
            views, target, folds = _content_of_hdf5(path)
        values = [np.asarray(view, dtype=np.float32) for view in views]
        return values, (np.asarray(target) > 0).astype(np.int64), [np.ravel(fold).astype(np.int64) for fold in folds]
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} is no multi-view multi-label file", repr(error), f"expected {LAYOUT}") from error


def _content_of_hdf5(path: Path) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path} is a MATLAB 7.3 file", "h5py is not installed", "pip install h5py") from None
    with h5py.File(path) as file:
        views, folds = ([np.array(file[place]).T for place in np.ravel(file[name])] for name in ("data", "idx"))
        return views, np.array(file["target"]).T, folds


def _names(what: str, given: list[str] | None, stem: str, count: int) -> list[str]:
    names = given or [f"{stem}{k}" for k in range(count)]
    if len(set(names)) != count:
        raise UserError(f"{what} have one name each", f"{count} {what}, names {names}", f"give {count} {what} names")
    return names

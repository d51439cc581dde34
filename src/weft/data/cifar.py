"""CIFAR-10 and CIFAR-100: 60,000 photos of 32 x 32 pixels in 10 or 100 classes.

One modality, ``image`` ``(32, 32, 3)`` uint8; target ``class``, the name (of CIFAR-100 the fine one; ``coarse`` is its
second target). The official test part is test; a dev part is cut out of train by ``make_splits``. Both official layouts
are read: the binary one, and the Python one, whose pickles are opened by an unpickler that knows arrays and nothing
else, so a file cannot run code.

Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images (technical report, University of Toronto).
"""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.errors import UserError

PIXELS = 3 * 32 * 32
ALLOWED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


class Cifar(FolderReader):
    """What both sets share.

    Class attributes:
        title, folders: name of the set, and the folders of its two archives.
        columns: ``{target: key}`` in the pickles; the binary layout has their bytes in the reverse order.
        names: ``{target: (key in the meta pickle, text file of the binary layout)}``.
        files: ``{part: file names}`` of the Python layout; the binary layout adds ``.bin``.
        meta: name of the pickle with the class names.
    """

    title: ClassVar[str]
    folders: ClassVar[tuple[str, str]]
    columns: ClassVar[dict[str, str]]
    names: ClassVar[dict[str, tuple[str, str]]]
    files: ClassVar[dict[str, tuple[str, ...]]]
    meta: ClassVar[str]

    def read(self, root: Path) -> Dataset:
        """Read the folder."""
        root = next((root / f for f in self.folders if (root / f).is_dir()), root)
        binary = (root / f"{self.files['test'][0]}.bin").is_file()
        images, split = [], []
        labels: dict[str, list[np.ndarray]] = {target: [] for target in self.columns}
        for part, files in self.files.items():
            for name in files:
                pixels, found = self._binary(root, name) if binary else self._python(root, name)
                images.append(pixels)
                split += [part] * len(pixels)
                for target, codes in found.items():
                    labels[target].append(codes)
        names = self._names(root, binary)
        pictures = np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Dataset(
            name=self.title,
            ids=[f"{part}-{i:05d}" for part, size in Counter(split).items() for i in range(size)],
            modalities={"image": Modality("image", list(np.ascontiguousarray(pictures)))},
            targets={target: names[target][np.concatenate(codes)] for target, codes in labels.items()},
            split=np.array(split),
            group=None,
            task="classification",
        )

    def _python(self, root: Path, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        content = unpickle(self.file(root, name))
        try:
            codes = {target: np.asarray(content[key], dtype=np.int64) for target, key in self.columns.items()}
            return np.asarray(content["data"], dtype=np.uint8).reshape(-1, PIXELS), codes
        except (KeyError, TypeError, ValueError) as error:
            found = f"{root / name}: {error!r}"
            raise UserError(f"{self.title}: a batch holds other entries", found, f"expected {self.layout}") from None

    def _binary(self, root: Path, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        path = self.file(root, f"{name}.bin")
        width = len(self.columns) + PIXELS
        content = np.fromfile(path, dtype=np.uint8)
        if not len(content) or len(content) % width:
            raise UserError(f"{self.title}: a file is cut off", f"{path}: {len(content)} bytes", f"rows have {width}")
        rows = content.reshape(-1, width)
        targets = list(reversed(self.columns))
        return rows[:, len(targets) :], {target: rows[:, i].astype(np.int64) for i, target in enumerate(targets)}

    def _names(self, root: Path, binary: bool) -> dict[str, np.ndarray]:
        if binary:
            texts = {t: self.file(root, file).read_text(encoding="utf-8") for t, (_, file) in self.names.items()}
            return {target: np.array(text.split()) for target, text in texts.items()}
        meta = unpickle(self.file(root, self.meta))
        return {target: np.array(meta[key]) for target, (key, _) in self.names.items()}


@datasets.register("cifar10")
class Cifar10(Cifar):
    """CIFAR-10: small photos in 10 classes; classification."""

    paper = "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images (technical report)"
    layout = "cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}, or cifar-10-batches-bin/*.bin"
    title, meta, folders = "cifar10", "batches.meta", ("cifar-10-batches-py", "cifar-10-batches-bin")
    columns = {"class": "labels"}
    names = {"class": ("label_names", "batches.meta.txt")}
    files = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}


@datasets.register("cifar100")
class Cifar100(Cifar):
    """CIFAR-100: small photos in 100 classes, 20 coarse ones; classification."""

    paper = "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images (technical report)"
    layout = "cifar-100-python/{train,test,meta}, or cifar-100-binary/{train,test}.bin and *_label_names.txt"
    title, meta, folders = "cifar100", "meta", ("cifar-100-python", "cifar-100-binary")
    columns = {"class": "fine_labels", "coarse": "coarse_labels"}
    names = {
        "class": ("fine_label_names", "fine_label_names.txt"),
        "coarse": ("coarse_label_names", "coarse_label_names.txt"),
    }
    files = {"train": ("train",), "test": ("test",)}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def unpickle(path: Path) -> dict[str, Any]:
    """A pickle of plain values and arrays, of Python 2 or 3.

    Raises:
        UserError: it asks for anything else, or is damaged.
    """
    try:
        with path.open("rb") as file:
            return _Arrays(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise UserError("not a CIFAR file", f"{path}: {error}", "fetch the official archive again") from None

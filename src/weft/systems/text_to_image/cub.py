"""CUB-200-2011 birds with ten captions each, in the layout that AttnGAN and DF-GAN prepare; for text-to-image.

One row per caption: ``image``, cut to the bird, and ``text``. Row ids are ``class/file#k``. Classes of train and test
are disjoint (150 and 50 of them). Group: the image. Target: ``class``.

The bird's square has half-side ``0.75 max(width, height)`` of its bounding box around the box's centre, clipped to the
photo, as the two papers' code cuts it.

The lists of names are pickle files. They are read and never unpickled: the string constants of the pickle are taken
from its opcodes, and a file with any opcode beyond a list of strings is refused, so nothing in it can run.

Wah, Branson, Welinder, Perona, Belongie 2011, The Caltech-UCSD Birds-200-2011 Dataset; captions: Reed, Akata, Lee,
Schiele 2016, Learning Deep Representations of Fine-Grained Visual Descriptions (CVPR). Non-commercial research.
"""

from __future__ import annotations

import pickletools
from pathlib import Path

import numpy as np
from PIL import Image

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.data.files import Crop
from weft.errors import UserError, some

LIST_OPCODES = frozenset(
    {
        "PROTO",
        "FRAME",
        "MARK",
        "EMPTY_LIST",
        "LIST",
        "APPEND",
        "APPENDS",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "MEMOIZE",
        "STOP",
    }
)
STRING_OPCODES = frozenset(
    {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
)


@datasets.register("cub")
class Cub(FolderReader):
    """Birds with ten captions each; retrieval, and text-to-image."""

    paper = "Wah et al. 2011, Caltech-UCSD Birds-200-2011; captions of Reed et al. 2016 (CVPR)"
    layout = (
        "CUB_200_2011/{images/<class>/<name>.jpg, images.txt, bounding_boxes.txt} (the folder may be doubled), "
        "text/<class>/<name>.txt, {train,test}/filenames.pickle"
    )

    def read(self, root: Path) -> Dataset:
        """Read the folder.

        Raises:
            UserError: an image is in two splits.
        """
        inner = "CUB_200_2011/CUB_200_2011" if (root / "CUB_200_2011/CUB_200_2011").is_dir() else "CUB_200_2011"
        photos = root / inner
        part: dict[str, str] = {}
        for split in ("train", "test"):
            for name in read_names(self.file(root, f"{split}/filenames.pickle")):
                if part.setdefault(name, split) != split:
                    raise UserError("CUB: an image is in two splits", name, "restore the lists")
        numbers = dict(self._lines(root, f"{inner}/images.txt", 2))
        boxes = {numbers.get(row[0]): row[1:] for row in self._lines(root, f"{inner}/bounding_boxes.txt", 5)}
        self._refuse("are on no line of bounding_boxes.txt", [name for name in part if f"{name}.jpg" not in boxes])
        images = {name: photos / "images" / f"{name}.jpg" for name in part}
        self._refuse("have no photo", [name for name, path in images.items() if not path.is_file()])
        captions = {name: captions_of(root / "text" / f"{name}.txt") for name in part}
        self._refuse("have no caption", [name for name, lines in captions.items() if not lines])
        crops = {name: Crop(path, bird(path, boxes[f"{name}.jpg"])) for name, path in images.items()}
        rows = [(name, k, caption) for name in part for k, caption in enumerate(captions[name])]
        return Dataset(
            name="cub",
            ids=[f"{name}#{k}" for name, k, _ in rows],
            modalities={
                "image": Modality("image", [crops[name] for name, _, _ in rows]),
                "text": Modality("text", [caption for _, _, caption in rows]),
            },
            targets={"class": np.array([name.split("/")[0] for name, _, _ in rows])},
            split=np.array([part[name] for name, _, _ in rows]),
            group=np.array([name for name, _, _ in rows]),
            task="retrieval",
        )

    def _lines(self, root: Path, name: str, cells: int) -> list[list[str]]:
        lines = [
            line.split() for line in self.file(root, name).read_text(encoding="utf-8").splitlines() if line.strip()
        ]
        odd = [" ".join(line) for line in lines if len(line) != cells]
        if odd:
            raise UserError(f"CUB: a line of {name} has {cells} cells", some(odd), "restore the file")
        return lines

    def _refuse(self, what: str, names: list[str]) -> None:
        if names:
            raise UserError(f"CUB: images of the lists {what}", some(names), f"restore the layout: {self.layout}")


def read_names(path: Path) -> list[str]:
    """The strings of a pickled list of strings, without unpickling it.

    Raises:
        UserError: the file is damaged, or holds anything else.
    """
    names = []
    try:
        for opcode, value, _ in pickletools.genops(path.read_bytes()):
            if opcode.name in STRING_OPCODES:
                names.append(str(value))
            elif opcode.name not in LIST_OPCODES:
                raise ValueError(f"opcode {opcode.name}")
    except ValueError as error:
        raise UserError(
            "the list of names is no pickled list of strings, and nothing else is read from a pickle",
            f"{path}: {error}",
            "restore the file, or write it again with pickle.dump(list of str)",
        ) from None
    return names


def captions_of(path: Path) -> list[str]:
    """The lines of a caption file that are not empty; none where there is no file."""
    if not path.is_file():
        return []
    return [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def bird(path: Path, cells: list[str]) -> tuple[int, int, int, int]:
    """The square around a bird, clipped to its photo, as left, upper, right, lower.

    Args:
        path: of the photo; its header is read.
        cells: x, y, width, height of the bounding box in pixels.

    Raises:
        UserError: the photo cannot be read, or the box is outside it.
    """
    try:
        x, y, width, height = (float(cell) for cell in cells)
        with Image.open(path) as photo:
            limits = photo.size
    except (OSError, ValueError) as error:
        raise UserError("CUB: a photo or its bounding box cannot be read", f"{path}: {error}", "restore it") from None
    half, centre = int(0.75 * max(width, height)), (int(x + width / 2), int(y + height / 2))
    left, upper = (max(0, at - half) for at in centre)
    right, lower = (min(limit, at + half) for at, limit in zip(centre, limits, strict=True))
    if left >= right or upper >= lower:
        raise UserError(
            "CUB: a bounding box lies in its photo",
            f"{path}: box {' '.join(cells)}, photo {limits}",
            "restore the file",
        )
    return left, upper, right, lower

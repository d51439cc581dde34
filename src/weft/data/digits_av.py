"""Audio-visual digits: a spoken digit (FSDD) and a handwritten one (MNIST) of the same class.

Modalities ``audio`` (WAV, 8 kHz) and ``image`` (28 x 28 uint8); target ``digit``. Each recording is paired with
``images`` images of its class, drawn by the seed without putting any back: no image is in two rows, so none is shared
by train and test. Split: takes 0 and 1 of every speaker and digit are the official FSDD test part; a dev part is cut
out of train by ``make_splits``. Group: the recording.

Jackson et al. 2018, Free Spoken Digit Dataset v1.0.8 (Zenodo). LeCun et al. 1998, Gradient-based learning applied to
document recognition (Proc. IEEE).
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.errors import UserError, some
from weft.registry import Seed

NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<take>\d+)\.wav")
TEST_TAKES = (0, 1)


@datasets.register("digits_av")
class DigitsAv(FolderReader):
    """Spoken (FSDD) and handwritten (MNIST) digits, paired by class; classification.

    Args:
        images: images paired with each recording, one row each.
        seed: of the pairing.
    """

    paper = "Jackson et al. 2018, Free Spoken Digit Dataset; LeCun et al. 1998, MNIST (Proc. IEEE)"
    layout = "fsdd/recordings/<digit>_<speaker>_<take>.wav and mnist/*-{images-idx3,labels-idx1}-ubyte.gz"

    def __init__(self, *, images: int = 1, seed: Seed = 0) -> None:
        if images < 1:
            raise UserError("digits_av: a recording has at least one image", f"images={images}", "choose 1 or more")
        self.images, self.seed = images, seed

    def read(self, root: Path) -> Dataset:
        """Read the folder.

        Raises:
            UserError: no recordings.
        """
        recordings = sorted(path for path in root.glob("fsdd/recordings/*.wav") if NAME.fullmatch(path.name))
        if not recordings:
            raise UserError("digits_av: no recordings", str(root), f"expected {self.layout}")
        said = [NAME.fullmatch(path.name) for path in recordings]
        digits = np.array([int(match["digit"]) for match in said if match])
        takes = np.array([int(match["take"]) for match in said if match])
        pixels, labels = self._mnist(root)
        drawn = self._pair(digits, labels)
        rows = np.repeat(np.arange(len(recordings)), self.images)
        suffix = [f"+{k}" if self.images > 1 else "" for k in range(self.images)]
        return Dataset(
            name="digits_av",
            ids=[recordings[i].stem + suffix[k % self.images] for k, i in enumerate(rows)],
            modalities={
                "audio": Modality("audio", [recordings[i] for i in rows]),
                "image": Modality("image", [pixels[i] for i in drawn]),
            },
            targets={"digit": digits[rows]},
            split=np.where(np.isin(takes[rows], TEST_TAKES), "test", "train"),
            group=np.array([recordings[i].stem for i in rows]),
            task="classification",
        )

    def _pair(self, digits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """An MNIST index for every row, none twice."""
        random = np.random.default_rng(self.seed)
        drawn = np.empty((len(digits), self.images), dtype=np.int64)
        for digit in np.unique(digits):
            said, written = np.flatnonzero(digits == digit), np.flatnonzero(labels == digit)
            if len(written) < len(said) * self.images:
                found = f"{len(said)} recordings x {self.images} of digit {digit}, {len(written)} images"
                raise UserError("digits_av: not enough images for one of its own in every row", found, "lower images")
            chosen = random.permutation(written)[: len(said) * self.images]
            drawn[said] = chosen.reshape(len(said), self.images)
        return drawn.ravel()

    def _mnist(self, root: Path) -> tuple[np.ndarray, np.ndarray]:
        """Images ``(n, 28, 28)`` uint8 and labels ``(n,)`` of every part of MNIST that is there."""
        prefixes = [name for name in ("train", "t10k") if (root / f"mnist/{name}-images-idx3-ubyte.gz").is_file()]
        found = [
            (
                _idx(root / f"mnist/{p}-images-idx3-ubyte.gz", 3),
                _idx(self.file(root, f"mnist/{p}-labels-idx1-ubyte.gz"), 1),
            )
            for p in prefixes
        ]
        if not found:
            raise UserError("digits_av: no MNIST images", some(sorted(root.iterdir())), f"expected {self.layout}")
        return np.concatenate([pixels for pixels, _ in found]), np.concatenate([labels for _, labels in found])


def _idx(path: Path, axes: int) -> np.ndarray:
    """A gzipped IDX file of bytes: magic 0 0 8 axes, one big-endian uint32 length per axis, the data."""
    try:
        content = gzip.decompress(path.read_bytes())
        shape = np.frombuffer(content, ">u4", axes, offset=4)
        data = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
        if content[:4] != bytes((0, 0, 8, axes)):
            raise ValueError(f"magic {content[:4].hex()}")
        return data.reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise UserError("a damaged IDX file", f"{path}: {error}", "copy the file again") from error

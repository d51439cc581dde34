"""Raw files behind a cell: images, audio, arrays. Whatever is wrong with one is said with its path and its row.

Encoders read through these helpers, one sample at a time, so a truncated file is found where it is used; ``where`` is
what the message calls the sample, e.g. ``"modality 'photo', row 'a17'"``.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from weft.errors import UserError, some

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
DAMAGED_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3"})


class Crop(NamedTuple):
    """A part of an image file, which sets that store several views in one file name instead of a path.

    Attributes:
        path: the image file.
        box: left, upper, right and lower pixel; what lies outside the image is black.
    """

    path: Path
    box: tuple[int, int, int, int]


@contextmanager
def _reading(kind: str, path: Path, where: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what a decoder raises into a :class:`UserError` that names the file and the row."""
    if not path.is_file():
        raise UserError(f"{where}: the {kind} file is missing", str(path), "restore the file, or empty the cell")
    try:
        yield
    except errors as error:
        found = f"{path} ({path.stat().st_size} bytes): {error}"
        remedy = "copy the file again, or empty the cell so that the modality counts as absent there"
        raise UserError(f"{where}: the {kind} file cannot be read (truncated or damaged)", found, remedy) from error


def read_image(value: Any, where: str = "image") -> Image.Image:
    """One image as 8-bit RGB, upright by its EXIF orientation.

    Args:
        value: a path, a :class:`Crop` of one, a PIL image, or an ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or
            ``(H, W, 4)`` uint8 array.
        where: what messages call the sample.

    Raises:
        UserError: the file is missing, truncated or no image, or the array has another shape or type.
    """
    if isinstance(value, Crop):
        return read_image(value.path, where).crop(value.box)
    if isinstance(value, np.ndarray):
        flat = value[..., 0] if value.ndim == 3 and value.shape[2] == 1 else value
        if flat.dtype != np.uint8 or not (flat.ndim == 2 or (flat.ndim == 3 and flat.shape[2] in (3, 4))):
            raise UserError(
                f"{where}: an image array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8",
                f"shape {value.shape}, {value.dtype}",
                "scale to 0..255 and cast to uint8, channels last",
            )
        return _rgb(Image.fromarray(flat))
    if isinstance(value, Image.Image):
        return _rgb(value)
    path = Path(value)
    with _reading("image", path, where, DAMAGED_IMAGE), Image.open(path) as image:
        return _rgb(image)


def read_grey(path: Path, where: str = "image") -> np.ndarray:
    """One grey image at its own precision, upright: ``(H, W)`` float32 in the units of the file.

    8 bits give 0..255, 16 and 32 bits (depth in millimetres, disparity) what is stored; colours become luma.

    Raises:
        UserError: the file is missing, truncated or no image.
    """
    with _reading("image", path, where, DAMAGED_IMAGE), Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        wide = upright.mode.startswith(("I", "F"))
        return np.asarray(upright if wide else upright.convert("L")).astype(np.float32)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: keep the upper byte instead of clipping at 255
        grey = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    return ImageOps.exif_transpose(image).convert("RGB")


def read_audio(value: Any, where: str = "audio") -> tuple[np.ndarray, int]:
    """One recording as mono float32 samples ``(n,)`` in [-1, 1] and its rate in Hz.

    Args:
        value: a path, or ``(samples (n,) or (n, channels), rate)``; integer samples are scaled by their type.
        where: what messages call the sample.

    Raises:
        UserError: the file is missing, truncated or no audio, it is empty, or samples are NaN or infinite. Files other
            than WAV need the extra ``audio``.
    """
    if isinstance(value, tuple):
        samples, rate = np.asarray(value[0]), int(value[1])
    else:
        path = Path(value)
        rate, samples = _read_wav(path, where) if path.suffix.lower() == ".wav" else _read_soundfile(path, where)
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128.0) / 128.0
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    samples = samples.astype(np.float32, copy=False)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if samples.ndim != 1 or samples.size == 0 or not np.isfinite(samples).all() or rate < 1:
        raise UserError(
            f"{where}: audio is one or more finite samples (n,) or (n, channels) at a positive rate",
            f"shape {samples.shape}, rate {rate}",
            "check the recording, or leave the modality absent in this row",
        )
    return samples, rate


def _read_wav(path: Path, where: str) -> tuple[int, np.ndarray]:
    from scipy.io import wavfile

    damaged = (ValueError, OSError, EOFError, struct.error, wavfile.WavFileWarning)
    with _reading("audio", path, where, damaged), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=wavfile.WavFileWarning)  # chunks of metadata
        warnings.filterwarnings("error", "Reached EOF", category=wavfile.WavFileWarning)
        return wavfile.read(path)


def _read_soundfile(path: Path, where: str) -> tuple[int, np.ndarray]:
    try:
        import soundfile
    except ImportError as error:
        remedy = "pip install 'weft[audio]', or convert to WAV"
        raise UserError(f"{where}: reading {path.suffix} needs soundfile", str(path), remedy) from error
    with _reading("audio", path, where, (RuntimeError, OSError)):
        samples, rate = soundfile.read(path, dtype="float32")
        return rate, samples


def read_array(path: Path, where: str = "array") -> np.ndarray:
    """The array of an ``.npy`` file; pickled objects are refused.

    Raises:
        UserError: the file is missing, truncated, or holds objects.
    """
    with _reading("npy", path, where, (ValueError, OSError, EOFError)):
        return np.load(path, allow_pickle=False)


def require_files(name: str, ids: Sequence[str], values: Sequence[Any]) -> None:
    """Refuse a modality whose paths do not all exist.

    Raises:
        UserError: naming the rows and the first missing path.
    """
    gone = [(i, v) for i, v in zip(ids, values, strict=True) if isinstance(v, Path) and not v.is_file()]
    if gone:
        raise UserError(
            f"modality {name!r}: {len(gone)} of {len(ids)} rows name a file that does not exist",
            f"rows {some(row for row, _ in gone)}; the first is {gone[0][1]}",
            "paths are relative to the folder of the table or data set; restore the files, or empty the cells",
        )

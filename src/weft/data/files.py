"""Raw files behind a cell: images, audio, arrays. Whatever is wrong with one is said with its path and its row.

Encoders read through these helpers, one sample at a time, so a truncated file is found where it is used; ``where`` is
what the message calls the sample, e.g. ``"modality 'photo', row 'a17'"``.
"""

from __future__ import annotations

import importlib.util
import io
import json
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageOps

from weft.data import ffmpeg
from weft.data.ffmpeg import Undecoded, even
from weft.data.remote import Remote, local
from weft.errors import UserError, some

T = TypeVar("T")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
DAMAGED_WAV = (ValueError, OSError, EOFError, struct.error)
DAMAGED_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
SOUNDFILE_SUFFIXES = frozenset({".flac", ".ogg", ".mp3", ".aiff", ".aif"})
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES | {".wav", ".m4a", ".aac", ".opus", ".wma"}
TEXT_SUFFIXES = frozenset({".txt", ".md"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
KNOWN_SUFFIXES = IMAGE_SUFFIXES | AUDIO_SUFFIXES | TEXT_SUFFIXES | VIDEO_SUFFIXES | {".npy"}
SOUNDS = (b"fLaC", b"OggS", b"ID3")
"""What files of sound begin with, beside WAV."""
RANGES = (255, 4095, 65535)
"""Largest values of 8, 12 and 16 bits."""
PIPED = 0x7FFFF000
"""A WAV written to a pipe says at least so many bytes, as its length was not known yet."""
MOST_CHANNELS = 32


class Crop(NamedTuple):
    """A part of an image file, which sets that store several views in one file name instead of a path.

    Attributes:
        path: the image file.
        box: left, upper, right and lower pixel; what lies outside the image is black.
    """

    path: Path
    box: tuple[int, int, int, int]


def is_file(path: Path) -> bool:
    """Whether a file is there; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def located(folder: Path, cell: str) -> Path:
    """The path that a cell names, relative to a folder.

    Where no file is there by that name, one that is there as another system writes it: ``pics\\a.jpg``,
    ``My%20Photos/a.jpg``, ``file:///pics/a.jpg``.
    """
    path, text = folder / cell, cell.strip()
    if is_file(path):
        return path
    text = text[len("file://") :] if text.lower().startswith("file://") else text
    names = (text, text.replace("\\", "/"), unquote(text), unquote(text.replace("\\", "/")))
    return next((folder / name for name in names if is_file(folder / name)), path)


@contextmanager
def _reading(kind: str, value: Any, where: str, errors: tuple[type[Exception], ...]) -> Iterator[Path]:
    """The file of a path or an address; what a decoder raises becomes a :class:`UserError` that names it and the row.

    A damaged one that was fetched is taken out of the cache.
    """
    path = local(value, where)
    if not is_file(path):
        raise UserError(f"{where}: the {kind} file is missing", str(path), "restore the file, or empty the cell")
    try:
        yield path
    except errors as error:
        found = f"{value} ({path.stat().st_size} bytes): {error}"
        if isinstance(value, Remote):
            path.unlink(missing_ok=True)
        remedy = "copy the file again, or empty the cell so that the modality counts as absent there"
        raise UserError(f"{where}: the {kind} file cannot be read (truncated or damaged)", found, remedy) from error


def read_image(value: Any, where: str = "image") -> Image.Image:
    """One image as 8-bit RGB, upright by its EXIF orientation, what is transparent on white.

    Grey levels of more than 8 bits are brought to 0..255 by their range: that of 8, 12 or 16 bits, the first that holds
    the largest value, or 0..1 for fractions.

    Args:
        value: a path or address, a :class:`Crop` of one, a PIL image, or an ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or
            ``(H, W, 4)`` uint8 array.
        where: what messages call the sample.

    Raises:
        UserError: the file is missing, truncated or no image, the array has another shape or type, or grey levels are
            negative, not finite or beyond 16 bits.
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
        return _rgb(Image.fromarray(flat), where)
    if isinstance(value, Image.Image):
        return _rgb(value, where)
    with _reading("image", value, where, DAMAGED_IMAGE) as path, Image.open(path) as image:
        return _rgb(image, where)


def read_grey(path: str | Path, where: str = "image") -> np.ndarray:
    """One grey image at its own precision, upright: ``(H, W)`` float32 in the units of the file.

    8 bits give 0..255, 16 and 32 bits (depth in millimetres, disparity) what is stored; colours become luma.

    Raises:
        UserError: the file is missing, truncated or no image.
    """
    with _reading("image", path, where, DAMAGED_IMAGE) as file, Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        wide = upright.mode.startswith(("I", "F"))
        return np.asarray(upright if wide else upright.convert("L")).astype(np.float32)


def content_of(cell: Any) -> bytes | None:
    """The bytes that a cell holds, as such or as Hugging Face writes them (``{"bytes": ..., "path": ...}``)."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    return bytes(content) if isinstance(content, bytes | bytearray | memoryview) else None


def is_picture(cell: Any) -> bool:
    """Whether a cell holds a picture: one of PIL, or the bytes of an image file."""
    if isinstance(cell, Image.Image):
        return True
    content = content_of(cell)
    try:
        return content is not None and Image.open(io.BytesIO(content)).size > (0, 0)
    except DAMAGED_IMAGE:
        return False


def is_sound(content: bytes) -> bool:
    """Whether bytes begin as a WAV, FLAC, Ogg or MP3 does."""
    return content.startswith(SOUNDS) or (content.startswith(b"RIFF") and content[8:12] == b"WAVE")


def open_sound(content: bytes, where: str) -> tuple[np.ndarray, int]:
    """Samples and rate of a sound file that is in memory: WAV, and FLAC, Ogg and MP3 where soundfile is there.

    Raises:
        UserError: it is none.
    """
    try:
        if not content.startswith(b"RIFF") and importlib.util.find_spec("soundfile") is not None:
            import soundfile

            samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        else:
            rate, samples = _wav(content)
    except (RuntimeError, *DAMAGED_WAV) as error:
        remedy = "write it again, as WAV; others need the extra audio, or files that the cells name"
        raise UserError(f"{where}: the embedded recording cannot be read", str(error), remedy) from error
    return samples, int(rate)


def open_image(content: bytes, where: str) -> Image.Image:
    """An image file that is in memory.

    Raises:
        UserError: it is no image.
    """
    try:
        return Image.open(io.BytesIO(content))
    except DAMAGED_IMAGE as error:
        raise UserError(f"{where}: the embedded image cannot be read", str(error), "write the image again") from error


def _rgb(image: Image.Image, where: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(np.asarray(image), where)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(grey: np.ndarray, where: str) -> np.ndarray:
    """Grey levels ``(H, W)`` of more than 8 bits, or fractions, as uint8."""
    levels = grey.astype(np.float64)
    most = levels.max(initial=0.0)
    if not np.isfinite(levels).all() or levels.min(initial=0.0) < 0 or most > RANGES[-1]:
        raise UserError(
            f"{where}: grey levels are 0..1, or 0 to {' or '.join(map(str, RANGES))}",
            f"{grey.dtype} from {levels.min(initial=0.0):g} to {most:g}",
            "scale the image; distances are a modality of kind 'depth'",
        )
    if grey.dtype.kind == "f" and most <= 1:
        return np.round(levels * 255).astype(np.uint8)
    top = next(top for top in RANGES if most <= top)
    return (levels * 256 / (top + 1)).astype(np.uint8)  # the upper 8 bits


def read_frames(value: Any, most: int, where: str = "video") -> np.ndarray:
    """Frames of a video, evenly taken: ``(T, H, W, 3)`` uint8, ``T <= most``.

    Args:
        value: an array ``(T, H, W[, 1 | 3 | 4])`` uint8, or a path or address: ``.npy``, an animated GIF, WebP or PNG,
            or another video, which :mod:`weft.data.ffmpeg` decodes.
        most: frames wanted.
        where: what messages call the sample.

    Raises:
        UserError: the file is missing, damaged, or needs ffmpeg; or the array has another shape.
    """
    if isinstance(value, np.ndarray):
        frames: Any = value
    elif (path := local(value, where)).suffix.lower() == ".npy":
        frames = read_array(path, where)
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        program = ffmpeg.program("a video", where, path)
        with _reading("video", value, where, (Undecoded, *DAMAGED_IMAGE)):
            frames = ffmpeg.frames(program, path, most)
    else:
        with _reading("video", value, where, DAMAGED_IMAGE), Image.open(path) as image:
            frames = [_frame(image, i, where) for i in even(getattr(image, "n_frames", 1), most)]
    if not len(frames) or np.ndim(frames[0]) not in (2, 3):
        found = f"shape {np.shape(frames)}"
        raise UserError(f"{where}: a video is (T, H, W) or (T, H, W, 3) uint8", found, "give one image per frame")
    return np.stack([np.asarray(read_image(np.asarray(frames[i]), where)) for i in even(len(frames), most)])


def _frame(image: Image.Image, number: int, where: str) -> np.ndarray:
    image.seek(number)
    return np.asarray(_rgb(image, where))


def read_audio(value: Any, where: str = "audio") -> tuple[np.ndarray, int]:
    """One recording as mono float32 samples ``(n,)`` in [-1, 1] and its rate in Hz.

    Args:
        value: a path or address, or ``(samples (n,) or (n, channels), rate)``; integer samples of 8, 16 or 32 bits are
            scaled by their type, unsigned ones around their middle.
        where: what messages call the sample.

    Raises:
        UserError: the file is missing, truncated or no audio, it is empty, samples are NaN or infinite, integers whose
            range nobody knows (Python ints, 64 bits), or more channels than samples. FLAC, MP3 and Ogg need the extra
            ``audio`` or ffmpeg, others (M4A, Opus, the sound of a video) ffmpeg.
    """
    if isinstance(value, tuple):
        samples, rate = np.asarray(value[0]), int(value[1])
    else:
        rate, samples = _read_sound(value, where)
    if samples.dtype.kind in "iu" and samples.dtype.itemsize <= 4:
        half = 2.0 ** (8 * samples.dtype.itemsize - 1)
        samples = ((samples.astype(np.float64) - (half if samples.dtype.kind == "u" else 0)) / half).astype(np.float32)
    shape, type_ = samples.shape, samples.dtype
    if not samples.size:
        what, found = ("recording", f"shape {shape}") if isinstance(value, tuple) else ("file", f"{value}")
        remedy = "restore the recording, or leave the modality absent in this row"
        raise UserError(f"{where}: the {what} has no samples", found, remedy)
    sound = type_.kind == "f" and samples.size > 0 and samples.ndim in (1, 2) and np.isfinite(samples).all()
    if not sound or rate < 1 or (samples.ndim == 2 and (shape[1] > MOST_CHANNELS or shape[1] > shape[0])):
        raise UserError(
            f"{where}: audio is one or more finite samples (n,) or (n, channels) at a positive rate, floats or "
            "integers of 8, 16 or 32 bits",
            f"shape {shape}, {type_}, rate {rate}",
            "check the recording, transpose it or name its type, or leave the modality absent in this row",
        )
    samples = samples.astype(np.float32)
    return (samples.mean(axis=1) if samples.ndim == 2 else samples), rate


def _read_sound(value: Any, where: str) -> tuple[int, np.ndarray]:
    """Rate and samples of a file: WAV by SciPy, what soundfile knows by it where it is there, others by ffmpeg."""
    path = local(value, where)
    suffix = path.suffix.lower()
    if suffix == ".wav":
        with _reading("audio", value, where, DAMAGED_WAV):
            return _wav(path.read_bytes())
    if suffix in SOUNDFILE_SUFFIXES and importlib.util.find_spec("soundfile") is not None:
        import soundfile

        with _reading("audio", value, where, (RuntimeError, OSError)):
            samples, rate = soundfile.read(path, dtype="float32")
            return rate, samples
    program = ffmpeg.program("sound", where, path)
    with _reading("audio", value, where, (Undecoded, *DAMAGED_WAV)):
        return _wav(ffmpeg.sound(program, path))


def _wav(content: bytes) -> tuple[int, np.ndarray]:
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=wavfile.WavFileWarning)  # chunks of metadata
        warnings.filterwarnings("error", "Reached EOF", category=wavfile.WavFileWarning)
        try:
            return wavfile.read(io.BytesIO(_with_length(content)))
        except wavfile.WavFileWarning as error:
            raise ValueError(str(error)) from error


def _with_length(content: bytes) -> bytes:
    """A WAV that was written to a pipe, with the lengths that its header could not know."""
    place = 12
    while place + 8 <= len(content):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        if content[place : place + 4] == b"data":
            left = len(content) - place - 8
            if size < PIPED or size <= left:
                return content
            riff, data = ((n).to_bytes(4, "little") for n in (len(content) - 8, left))
            return content[:4] + riff + content[8 : place + 4] + data + content[place + 8 :]
        place += 8 + size + size % 2
    return content


def read_text(value: Any, where: str = "text") -> str:
    """The text of a file, UTF-8.

    Args:
        value: a path or address.
        where: what messages call the sample.

    Raises:
        UserError: the file is missing, or no UTF-8.
    """
    with _reading("text", value, where, (OSError, ValueError)) as path:
        return path.read_text(encoding="utf-8-sig")


def read_array(path: Path, where: str = "array") -> np.ndarray:
    """The array of an ``.npy`` file, any shape; pickled objects are refused.

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
    gone = [(i, v) for i, v in zip(ids, values, strict=True) if isinstance(v, Path) and not is_file(v)]
    if gone and len(ids) == 1:
        where, path = f"modality {name!r}, row {ids[0]!r}", gone[0][1]
        raise UserError(f"{where}: the file does not exist", str(path), "restore it, or empty the cell")
    if gone:
        raise UserError(
            f"modality {name!r}: {len(gone)} of {len(ids)} rows name a file that does not exist",
            f"rows {some(row for row, _ in gone)}; the first is {gone[0][1]}",
            "paths are relative to the folder of the table or data set; restore the files, or empty the cells "
            "(weft encode and weft predict leave out what cannot be read: --on-error skip)",
        )


def images_of(folder: Path, layout: str) -> list[Path]:
    """The images of a folder, by name.

    Raises:
        UserError: there is no such folder, or it has no image.
    """
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    if not found:
        raise UserError("a folder of the official layout is missing or empty", str(folder), f"expected {layout}")
    return found


def json_lines(path: Path, read: Callable[[Any], T], layout: str) -> list[T]:
    """What ``read`` makes of the JSON object in each line of a file.

    Args:
        path: of the file.
        read: raises KeyError, IndexError, TypeError or ValueError for an object that is not as it should be.
        layout: what is expected, for the message.

    Raises:
        UserError: naming the line.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(read(json.loads(line)))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            where = f"{path.name}, line {number}: {error!r}"
            raise UserError(f"a line of {path.name} is not as published", where, f"expected {layout}") from None
    return found

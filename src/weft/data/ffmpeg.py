"""Sound and pictures of compressed files, by the ``ffmpeg`` program.

It is looked for on the ``PATH``, then in the package ``imageio-ffmpeg`` (``pip install 'weft[video]'``), which carries
one. It reads files alone, never addresses, whatever a file says.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from weft.errors import UserError

SECONDS = 600
"""A file that takes longer is given up."""
WAY_OUT = "install ffmpeg (apt install ffmpeg, brew install ffmpeg, or pip install 'weft[video]')"


class Undecoded(Exception):
    """What ffmpeg says of a file that it cannot read."""


def program(what: str, where: str, path: Path) -> str:
    """Where ffmpeg is.

    Raises:
        UserError: nowhere; the message says what for.
    """
    found = shutil.which("ffmpeg")
    if found is None:
        try:
            import imageio_ffmpeg

            found = imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError):
            what = f"{where}: reading {path.suffix or what} needs ffmpeg"
            found = f"{path}; no ffmpeg on the PATH, and no package imageio-ffmpeg"
            raise UserError(what, found, WAY_OUT) from None
    return str(found)


def sound(ffmpeg: str, path: Path) -> bytes:
    """The first sound of a file as WAV of 32-bit floats, channels and rate as they are.

    Raises:
        Undecoded: there is none, or it is damaged.
    """
    return _run(ffmpeg, path, "-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav", "pipe:1")


def frames(ffmpeg: str, path: Path, most: int) -> list[np.ndarray]:
    """At most ``most`` frames of the first video of a file, evenly spread, each ``(H, W, 3)`` uint8.

    Raises:
        Undecoded: there is none, or it is damaged.
    """
    told = _run(ffmpeg, path, "-map", "0:v:0", "-f", "null", "-progress", "pipe:1", "-").decode(errors="replace")
    counts = re.findall(r"^frame=\s*(\d+)", told, re.MULTILINE)
    count = int(counts[-1]) if counts else 0
    if not count:
        raise Undecoded("no frame")
    chosen = "+".join(f"eq(n,{number})" for number in even(count, most))
    options = ("-map", "0:v:0", "-vf", f"select='{chosen}'", "-c:v", "ppm", "-f", "image2pipe", "pipe:1")
    try:
        content = io.BytesIO(_run(ffmpeg, path, "-fps_mode", "passthrough", *options))
    except Undecoded as error:
        if "fps_mode" not in str(error):
            raise
        content = io.BytesIO(_run(ffmpeg, path, "-vsync", "passthrough", *options))  # before version 5.1
    found = []
    while content.tell() < len(content.getbuffer()):
        with Image.open(io.BytesIO(content.getbuffer()[content.tell() :])) as image:
            found.append(np.asarray(image.convert("RGB")))
            content.seek(len(f"P6\n{image.width} {image.height}\n255\n") + found[-1].size, io.SEEK_CUR)
    return found


def even(count: int, most: int) -> list[int]:
    """At most ``most`` numbers below ``count``, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def _run(ffmpeg: str, path: Path, *options: str) -> bytes:
    """What ffmpeg writes."""
    quiet = ("-nostdin", "-nostats", "-v", "error", "-xerror", "-protocol_whitelist", "file,pipe")
    command: Sequence[str] = (ffmpeg, *quiet, "-i", f"file:{path}", *options)
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Undecoded(f"ffmpeg was not done after {SECONDS} s") from None
    except OSError as error:
        raise Undecoded(f"ffmpeg cannot be started: {error}") from None
    if done.returncode:
        said = re.sub(r"\[[^\]]* @ 0x[0-9a-f]+\] ", "", done.stderr.decode(errors="replace")).strip().splitlines()
        raise Undecoded(f"ffmpeg says: {'; '.join(said)[:300] or f'status {done.returncode}'}")
    return done.stdout

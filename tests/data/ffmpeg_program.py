"""A stand-in for ``ffmpeg`` where it is not installed: it knows the few calls that weft makes, and GIF and WAV files.

A real ffmpeg goes by what is in a file, not by its name, so the tests give both the same files.
"""

import io
import re
import sys

import numpy as np
from PIL import Image
from scipy.io import wavfile


def fail(text: str) -> None:
    sys.stderr.write(f"[in#0 @ 0x55d0] {text}\n")
    raise SystemExit(1)


def main(arguments: list[str]) -> None:
    assert "-nostdin" in arguments
    assert arguments[arguments.index("-protocol_whitelist") + 1] == "file,pipe"
    path = arguments[arguments.index("-i") + 1]
    assert path.startswith("file:")
    content = open(path.removeprefix("file:"), "rb").read()  # noqa: SIM115
    asked = arguments[arguments.index("-map") + 1]
    is_sound, out = content.startswith(b"RIFF"), sys.stdout.buffer
    if not is_sound and not content.startswith(b"GIF"):
        fail("Invalid data found when processing input")
    if is_sound != (asked == "0:a:0"):
        fail(f"Stream map '{asked}' matches no streams.")
    if is_sound:
        rate, samples = wavfile.read(io.BytesIO(content))
        sink = io.BytesIO()
        wavfile.write(sink, rate, (samples / 2.0**15).astype(np.float32))
        out.write(sink.getvalue())
        return
    image = Image.open(io.BytesIO(content))
    if "null" in arguments:
        out.write(f"frame=1\nprogress=continue\nframe={image.n_frames}\nprogress=end\n".encode())
        return
    assert arguments[arguments.index("-fps_mode") + 1] == "passthrough"
    for number in map(int, re.findall(r"eq\(n,(\d+)\)", arguments[arguments.index("-vf") + 1])):
        image.seek(number)
        image.convert("RGB").save(out, "ppm")


main(sys.argv[1:])

"""Sound at the rate an encoder wants."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from weft.data.files import read_audio


def read_clip(value: Any, rate: int, where: str = "audio") -> np.ndarray:
    """Mono samples ``(n,)`` float32 at ``rate`` Hz of a path or ``(samples, rate)``, resampled by a polyphase filter.

    Raises:
        UserError: the clip cannot be read, see :func:`weft.data.files.read_audio`.
    """
    samples, found = read_audio(value, where)
    if found == rate:
        return samples
    from scipy.signal import resample_poly

    ratio = Fraction(rate, found)
    resampled: np.ndarray = resample_poly(samples, ratio.numerator, ratio.denominator).astype(np.float32)
    return resampled

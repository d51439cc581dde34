r"""How near enhanced speech is to the clean speech behind it.

* **SI-SDR** in decibels (Le Roux et al. 2019), of signals without their means:

  .. math:: 10 \log_{10} \frac{\|\alpha s\|^2}{\|\alpha s - \hat s\|^2}, \qquad
            \alpha = \frac{\langle \hat s, s \rangle}{\|s\|^2}

  from -100 (nothing of ``s`` in it) up; its **gain** over the noisy speech.
* **STOI** (Taal et al. 2011) by ``pystoi``, and **PESQ** (ITU-T P.862; wide band at 16 kHz, narrow band at 8) by
  ``pesq``: the extra ``speech``. NaN where they do not judge a row (too short, no utterance in it); averages leave it
  out.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weft.encoders.audio import read_clip
from weft.errors import UserError
from weft.tasks.base import tasks
from weft.tasks.judge import Judge

Sound = tuple[np.ndarray, int]
FLOOR = 1e-10


def si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """``(B,)`` decibels of ``(B, n)`` samples."""
    target, estimate = (signal - signal.mean(dim=1, keepdim=True) for signal in (target, estimate))
    energy = target.square().sum(dim=1).clamp(min=FLOOR)
    there = ((estimate * target).sum(dim=1) / energy)[:, None] * target
    wrong = (there - estimate).square().sum(dim=1)
    return 10 * (there.square().sum(dim=1) / (wrong + FLOOR) + FLOOR).log10()


@tasks.register("speech-enhancement")
class EnhancementJudge(Judge):
    """SI-SDR, STOI and PESQ of enhanced speech; of a row, ``(clean, noisy)`` at any rates are what it is judged by.

    Args:
        perceptual: STOI and PESQ too, which the extra ``speech`` brings.
    """

    primary = "SI-SDR"

    def __init__(self, *, perceptual: bool = True) -> None:
        self.perceptual = perceptual

    def metrics(self, outputs: Sequence[Sound], target: Sequence[tuple[Sound, Sound]]) -> dict[str, float]:
        rows = self.row_scores(outputs, target)
        return {name: float(np.nanmean(s)) if np.isfinite(s).any() else float("nan") for name, s in rows.items()}

    def scores(self, outputs: Sequence[Sound], target: Sequence[tuple[Sound, Sound]]) -> np.ndarray:
        return np.array([_si_sdr(*pair) for pair in aligned(outputs, [clean for clean, _ in target])])

    def row_scores(self, outputs: Sequence[Sound], target: Sequence[tuple[Sound, Sound]]) -> dict[str, np.ndarray]:
        pairs = aligned(outputs, [clean for clean, _ in target])
        before = aligned([noisy for _, noisy in target], [clean for clean, _ in target])
        found = np.array([_si_sdr(*pair) for pair in pairs])
        rows = {"SI-SDR": found, "SI-SDR gain": found - np.array([_si_sdr(*pair) for pair in before])}
        if self.perceptual:
            rows["STOI"] = np.array([stoi(*pair) for pair in pairs])
            rows["PESQ"] = np.array([pesq(*pair) for pair in pairs])
        return rows

    def figures(self, outputs: Sequence[Sound], target: Sequence[tuple[Sound, Sound]], folder: Path) -> list[Path]:
        shown = [
            {"noisy": noisy, "enhanced": output, "clean": clean}
            for output, (clean, noisy) in list(zip(outputs, target, strict=True))[:4]
        ]
        return [draw_spectra(shown, folder / "spectra.png")]


def aligned(outputs: Sequence[Sound], target: Sequence[Sound]) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Answer and truth ``(n,)`` of each row at the rate of the answer.

    Raises:
        UserError: lengths that differ by more than a hundredth of a second, or a silent truth; the rows are numbered.
    """
    pairs = []
    for row, ((samples, rate), clean) in enumerate(zip(outputs, target, strict=True)):
        truth = read_clip(clean, rate)
        n = min(len(samples), len(truth))
        if abs(len(samples) - len(truth)) > rate // 100 + 1:
            raise UserError(
                "enhanced and clean speech have one length", f"row {row}: {len(samples)} and {len(truth)}", "cut them"
            )
        if not np.ptp(truth[:n]):
            raise UserError("speech is judged beside clean speech", f"row {row} is silent there", "leave the row out")
        pairs.append((np.asarray(samples[:n]), truth[:n], rate))
    return pairs


def _si_sdr(answer: np.ndarray, truth: np.ndarray, rate: int) -> float:
    a, b = (torch.from_numpy(np.asarray(x, dtype=np.float64))[None] for x in (answer, truth))
    return float(si_sdr(a, b))


def stoi(answer: np.ndarray, truth: np.ndarray, rate: int) -> float:
    """Short-time objective intelligibility of ``(n,)`` samples, in [0, 1]; NaN for less than about a third of a second
    of speech.

    Raises:
        UserError: the package for it is not installed.
    """
    try:
        import pystoi
    except ImportError as error:
        raise _missing("STOI", "pystoi") from error
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(pystoi.stoi(truth, answer, rate))
        except RuntimeWarning:
            return float("nan")


def pesq(answer: np.ndarray, truth: np.ndarray, rate: int) -> float:
    """Perceptual evaluation of speech quality of ``(n,)`` samples, 1 to 4.6; NaN where it finds no utterance.

    Raises:
        UserError: the package for it is not installed.
    """
    try:
        import pesq as library
    except ImportError as error:
        raise _missing("PESQ", "pesq") from error
    known = rate if rate in (8000, 16000) else 16000
    signals = [read_clip((np.asarray(x, dtype=np.float32), rate), known) for x in (truth, answer)]
    try:
        return float(library.pesq(known, *signals, "wb" if known == 16000 else "nb"))
    except (library.NoUtterancesError, library.BufferTooShortError):
        return float("nan")


def _missing(what: str, package: str) -> UserError:
    remedy = "pip install 'weft[speech]', or leave STOI and PESQ out: --judge perceptual=false"
    return UserError(f"{what} needs {package}", "it is not installed", remedy)


def draw_spectra(shown: Sequence[dict[str, Sound]], path: Path) -> Path:
    """Spectrograms, a row each, of named sounds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(shown[0])
    figure = Figure(figsize=(min(3.6 * columns, 13), 2.2 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, sounds in zip(figure.subplots(len(shown), columns, squeeze=False), shown, strict=True):
        rate = min(sound[1] if isinstance(sound, tuple) else 16000 for sound in sounds.values())
        for ax, (title, sound) in zip(axes, sounds.items(), strict=True):
            clip = torch.from_numpy(read_clip(sound, rate))
            size = 2 ** round(np.log2(rate / 31))
            spectrum = torch.stft(
                clip, size, size // 4, window=torch.hann_window(size), return_complex=True, pad_mode="constant"
            )
            decibels = 20 * (spectrum.abs() + 1e-5).log10()
            top = float(decibels.max())
            extent = (0, len(clip) / rate, 0, rate / 2000)
            ax.imshow(decibels, origin="lower", aspect="auto", extent=extent, vmin=top - 70, vmax=top, cmap="magma")
            ax.set_title(title, fontsize=9)
            ax.tick_params(labelsize=7)
        axes[0].set_ylabel("kHz", fontsize=8)
    for ax in figure.axes[-columns:]:
        ax.set_xlabel("s", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path

r"""FAF-Net as a system: noisy speech in, and clean speech of the same speaker to refer to; enhanced speech out.

Sounds of any rate are read as mono at ``rate``, and noisy speech and references are brought to one loudness; the answer
gets the loudness of the noisy speech again. References of a row are heard one after the other, ``reference_seconds`` at
most. A step reads ``seconds`` of each row, anywhere; with ``snr`` the noises (noisy less clean) change places among the
rows of the batch, at a ratio drawn from that range.

The loss, ours, since none is published: with ``S^.3`` a spectrum with its magnitudes compressed,

.. math:: L = -w_1 \, \mathrm{SI\text{-}SDR}(\hat y, y) + w_2 \,
          \mathrm{mean}\big(|\hat Y^{.3} - Y^{.3}|_{re, im} + ||\hat Y|^{.3} - |Y|^{.3}|\big)

With two stages the first is trained in the first half of the epochs and kept as it is in the second. Prediction cuts
long speech into pieces that overlap and fade into one another; a reference is encoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from weft.data import Dataset
from weft.encoders.audio import read_clip
from weft.errors import UserError, some
from weft.models.seen import Seen
from weft.registry import Count
from weft.systems.fafnet.metrics import Sound, si_sdr
from weft.systems.fafnet.network import FafNet, Mask, Norms, Select
from weft.systems.fafnet.spectra import PATCH, Spectra, match
from weft.training.phase import Optimizer, Phase
from weft.training.system import Need, System, systems

LOUDNESS = 0.05
POWER = 0.3


class Reference(NamedTuple):
    """A reference as both stages use it."""

    mfcc: Tensor
    frames: Tensor | None
    heard: list[list[Tensor]]


@systems.register("fafnet")
class Fafnet(System):
    """Speech enhanced by what the speaker said elsewhere; Yue et al. 2022.

    Args:
        rate, n_fft, hop: see :class:`~weft.systems.fafnet.spectra.Spectra`.
        stages: 1, as in the paper, or 2, as in its code.
        channels, candidates, reductions, blocks, mask, norms, select: see :class:`~weft.systems.fafnet.network.FafNet`;
            ``candidates=0`` does without references.
        seconds, reference_seconds: of noisy speech in a step, and most of a reference.
        snr: range of the remixing in decibels; None: rows as they are.
        si_sdr, spectrum: weights of the loss.
        piece, overlap: seconds of a piece in prediction, and how much of it the next one hears again.
    """

    reads = {"noisy": Need("audio"), "clean": Need("audio", target=True), "reference": Need("audio", several=True)}
    writes = "audio"
    judge = "speech-enhancement"
    reader = "voices"
    trained_with = {"lr": 1e-3, "weight_decay": 0.0, "batch_size": 8, "epochs": 100, "schedule": "cosine"}
    variants = {"fafnet": {}, "no reference": {"candidates": 0}}
    rows_at_once = 1
    paper = "Yue et al. 2022, Reference-Based Speech Enhancement via Feature Alignment and Fusion Network (AAAI)"

    def __init__(
        self,
        *,
        rate: Annotated[int, Field(ge=1000)] = 16000,
        n_fft: Annotated[int, Field(ge=32, multiple_of=16)] = 512,
        hop: Annotated[int, Field(ge=1)] = 128,
        stages: Literal[1, 2] = 2,
        channels: tuple[Count, Count, Count] = (32, 64, 128),
        candidates: Annotated[int, Field(ge=0)] = 5,
        reductions: tuple[Count, Count, Count] = (4, 8, 16),
        blocks: Annotated[int, Field(ge=0)] = 4,
        mask: Mask = "complex",
        norms: Norms = "shared",
        select: Select = "clean",
        seconds: Annotated[float, Field(gt=0)] = 2.0,
        reference_seconds: Annotated[float, Field(gt=0)] = 15.0,
        snr: tuple[float, float] | None = None,
        si_sdr: Annotated[float, Field(ge=0)] = 0.1,
        spectrum: Annotated[float, Field(ge=0)] = 10.0,
        piece: Annotated[float, Field(gt=0)] = 8.0,
        overlap: Annotated[float, Field(ge=0)] = 0.5,
    ) -> None:
        super().__init__()
        if hop > n_fft // 2 or overlap >= piece / 2:
            raise UserError(
                "frames overlap by half or more, and pieces by less than half",
                f"hop={hop} of n_fft={n_fft}, overlap={overlap} of piece={piece}",
                "lower hop, or overlap",
            )
        if snr is not None and snr[0] > snr[1]:
            raise UserError("snr is the least and the most", f"snr={snr}", f"snr={snr[::-1]}")
        self.rate, self.n_fft, self.hop, self.stages, self.candidates = rate, n_fft, hop, stages, candidates
        self.channels, self.reductions, self.blocks = tuple(channels), tuple(reductions), blocks
        self.mask, self.norms, self.select, self.snr = mask, norms, select, None if snr is None else tuple(snr)
        self.seconds, self.reference_seconds, self.piece, self.overlap = seconds, reference_seconds, piece, overlap
        self.si_sdr, self.spectrum = si_sdr, spectrum
        self.front = Spectra(rate=rate, n_fft=n_fft, hop=hop)
        shape: dict[str, Any] = {"channels": channels, "candidates": candidates, "reductions": reductions}
        shape |= {"blocks": blocks, "mask": mask, "norms": norms, "select": select}
        self.networks: Any = nn.ModuleList(FafNet(stage=stage + 1, **shape) for stage in range(stages))

    def phases(self) -> list[Phase]:
        share = 1 / self.stages
        return [
            Phase(
                f"stage {k + 1}",
                partial(self._loss, stages=k + 1),
                Optimizer(list(network.parameters()), weight_decay=0.0),
                start=k * share,
                stop=(k + 1) * share,
            )
            for k, network in enumerate(self.networks)
        ]

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self._loss(batch, self.stages)

    def _loss(self, batch: dict[str, Tensor], stages: int) -> Tensor:
        """``(B,)`` of the first stages; all but the last stay as they are."""
        reference = self._reference(batch["reference"], batch["frames"], stages) if self.candidates else None
        spectrum = self._estimate(batch["noisy"], reference, stages)
        found = self.front.inverse(spectrum, batch["clean"].shape[1])
        ours, truth = (compressed(self.front(samples)) for samples in (found, batch["clean"]))
        apart = (ours - truth).abs().mean(dim=(1, 2, 3)) * 2
        apart = apart + (torch.linalg.vector_norm(ours, dim=1) - torch.linalg.vector_norm(truth, dim=1)).abs().mean(
            (1, 2)
        )
        spoken = batch["clean"].square().mean(dim=1) > 1e-8
        return self.spectrum * apart - self.si_sdr * torch.where(spoken, si_sdr(found, batch["clean"]), 0.0)

    def _reference(self, samples: Tensor, frames: Tensor | None, stages: int) -> Reference:
        spectrum = self.front(samples)
        heard = []
        for k, network in enumerate(self.networks[:stages]):
            with still(network, k + 1 < stages):
                heard.append(network.listen(spectrum))
        return Reference(self.front.mfcc(spectrum), frames, heard)

    def _estimate(self, noisy: Tensor, reference: Reference | None, stages: int) -> Tensor:
        """Spectrum of enhanced speech of samples ``(B, n)``; all stages but the last are as they are."""
        spectrum, length = self.front(noisy), noisy.shape[1]
        estimate = self._stage(0, stages, spectrum, length, reference, None)
        for k in range(1, stages):
            estimate = self._stage(k, stages, spectrum, length, reference, estimate)
        return estimate

    def _stage(
        self, k: int, stages: int, spectrum: Tensor, length: int, reference: Reference | None, estimate: Tensor | None
    ) -> Tensor:
        """What stage ``k`` makes of the spectrum and of the estimate before it."""
        network = self.networks[k]
        with still(network, k + 1 < stages):
            alike = None
            if reference is not None:
                sound = spectrum if estimate is None else self.front(self.front.inverse(estimate, length))
                alike = match(self.front.mfcc(sound), reference.mfcc, self.candidates, reference.frames)
            found: Tensor = network(spectrum, reference.heard[k] if reference else [], alike, estimate)
            return found

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """Samples ``noisy``, ``clean`` ``(B, n)`` and ``reference`` ``(B, m)``, of which ``frames`` ``(B,)`` are there.

        A shorter clip gets silence at its end, a shorter reference is repeated.
        """
        columns, n = self.columns(data), self._samples(self.seconds)
        pairs = [self._pair(data, columns, row, n, rng) for row in rows]
        clean = np.stack([pair[1] for pair in pairs])
        noise = np.stack([pair[0] for pair in pairs]) - clean
        if rng is not None and self.snr is not None:
            noise = noise[rng.permutation(len(rows))]
            powers = (clean**2).mean(axis=1) / np.maximum((noise**2).mean(axis=1), 1e-12)
            gain = np.sqrt(powers / 10 ** (rng.uniform(self.snr[0], self.snr[1], len(rows)) / 10))
            noise = noise * np.where(powers > 0, gain, 1.0)[:, None]
        noisy = clean + noise
        scale = np.array([1 / loudness(samples) for samples in noisy])[:, None]
        found = {"noisy": noisy * scale, "clean": clean * scale}
        if self.candidates:
            heard = [self._heard(data, columns["reference"], row, rng) for row in rows]
            m = self._samples(self.reference_seconds)
            found["reference"] = np.stack([np.resize(samples, m) for samples in heard])
            found["frames"] = np.array([min(len(samples), m) // self.hop + 1 for samples in heard])
        return {
            name: torch.from_numpy(value.astype(np.int64 if name == "frames" else np.float32))
            for name, value in found.items()
        }

    def predict(self, data: Dataset, rows: np.ndarray) -> list[Sound]:
        """``(samples, rate)`` of each row, at the rate of the system."""
        columns, found = self.columns(data, target=False), []
        for row in rows:
            noisy = read_clip(data.modalities[columns["noisy"]].values[row], self.rate, f"noisy of {data.ids[row]!r}")
            heard = self._heard(data, columns["reference"], row, None) if self.candidates else None
            found.append((self.enhance(noisy, heard), self.rate))
        return found

    @torch.no_grad()
    def enhance(self, noisy: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
        """``(n,)`` samples at the system's rate, of any length, and ``(m,)`` of clean speech of the speaker.

        Raises:
            UserError: the reference is too short to compare three frames, or to offer all candidates.
        """
        heard = None
        if self.candidates:
            samples = np.zeros(0) if reference is None else reference
            self._check_reference(samples, "the reference")
            heard = self._reference(self._tensor(samples / loudness(samples)), None, self.stages)
        scale, n = loudness(noisy), len(noisy)
        size, overlap = self._samples(self.piece), round(self.overlap * self.rate) // self.hop * self.hop
        filled = np.pad(noisy / scale, (0, max(self.n_fft - n, -n % self.hop)))
        size = min(size, len(filled))
        starts = [*range(0, len(filled) - size, size - overlap), len(filled) - size]
        total, weight = np.zeros(len(filled)), np.zeros(len(filled))
        # the outer third of an overlap is left out: there a piece lacks its neighbourhood
        fade = np.clip(3 * (np.arange(size) + 1) / (overlap + 1) - 1, 1e-9, 1)
        for start in starts:
            spectrum = self._estimate(self._tensor(filled[start : start + size]), heard, self.stages)
            piece = self.front.inverse(spectrum, size)[0].double().cpu().numpy()
            ramp = (fade if start else 1.0) * (fade[::-1] if start < starts[-1] else 1.0)
            total[start : start + size] += ramp * piece
            weight[start : start + size] += ramp
        return (scale * total / weight)[:n].astype(np.float32)

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Seen | None = None) -> list[tuple[Sound, Sound]]:
        """Clean and noisy speech ``(samples (n,), rate)`` of every row."""
        columns = cls.columns(data)
        return [
            (data.modalities[columns["clean"]].values[row], data.modalities[columns["noisy"]].values[row])
            for row in rows
        ]

    def check(self, data: Dataset, rows: np.ndarray, *, target: bool = True) -> None:
        """Every row needs noisy speech and at least one reference, and clean speech where it is the target.

        Raises:
            UserError: such a sound is missing; the rows are named.
        """
        columns = self.columns(data, target=target)
        sides: dict[str, np.ndarray] = {
            name: data.modalities[columns[name]].presence for name in ("noisy", "clean") if name in columns
        }
        if self.candidates:
            sides["reference"] = np.any([data.modalities[name].presence for name in columns["reference"]], axis=0)
        for name, there in sides.items():
            gone = np.asarray(rows)[~there[rows]]
            if len(gone) and (target or name != "clean"):
                raise UserError(
                    f"{data.name}: Fafnet reads {name!r} of every row",
                    f"{len(gone)} rows without: {some(data.ids[row] for row in gone)}",
                    "leave these rows out, or bring the recordings",
                )

    def _samples(self, seconds: float) -> int:
        """Whole hops, and more than half a frame."""
        return max(round(seconds * self.rate) // self.hop * self.hop, self.n_fft)

    def _tensor(self, samples: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(samples)).to(self.device, torch.float32)[None]

    def _pair(
        self, data: Dataset, columns: dict[str, Any], row: int, n: int, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """``n`` samples of noisy and of clean speech."""
        noisy, clean = (
            read_clip(data.modalities[columns[name]].values[row], self.rate, f"{name} of row {data.ids[row]!r}")
            for name in ("noisy", "clean")
        )
        if abs(len(noisy) - len(clean)) > self.hop:
            raise UserError(
                "noisy and clean speech have one length",
                f"row {data.ids[row]!r}: {len(noisy)} and {len(clean)} samples at {self.rate} Hz",
                "cut them alike, or leave the row out",
            )
        free = max(0, min(len(noisy), len(clean)) - n)
        start = int(rng.integers(free + 1)) if rng is not None else free // 2
        pieces = [samples[start : start + n] for samples in (noisy, clean)]
        return tuple(np.pad(piece.astype(np.float64), (0, n - len(piece))) for piece in pieces)  # type: ignore[return-value]

    def _heard(self, data: Dataset, names: Sequence[str], row: int, rng: np.random.Generator | None) -> np.ndarray:
        """The references of a row one after the other, each at one loudness; in training in any order."""
        values = [data.modalities[name].values[row] for name in names]
        values = [value for value in values if value is not None]
        if rng is not None:
            values = [values[k] for k in rng.permutation(len(values))]
        most, clips = self._samples(self.reference_seconds), list[np.ndarray]()
        for value in values:
            if sum(map(len, clips)) < most:
                clip = read_clip(value, self.rate, f"reference of row {data.ids[row]!r}")
                clips.append(clip / loudness(clip))
        samples = np.concatenate(clips)
        self._check_reference(samples, f"the reference of row {data.ids[row]!r}")
        return samples[:most]

    def _check_reference(self, samples: np.ndarray, what: str) -> None:
        """Refuse what is too short, see :meth:`enhance`."""
        frames, needed = len(samples) // self.hop + 1, max(PATCH, self.candidates)
        if frames < needed or len(samples) <= self.n_fft // 2:
            raise UserError(
                f"{what} has {needed} frames or more, {max(needed - 1, self.n_fft // 2 // self.hop + 1) * self.hop} "
                f"samples at {self.rate} Hz",
                f"{frames if len(samples) else 0} frames, {len(samples)} samples",
                "bring some seconds of clean speech of the same speaker; candidates=0 does without",
            )


def loudness(samples: np.ndarray) -> float:
    """What samples ``(n,)`` are divided by so that their root mean square is that of all; 1 for silence."""
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return power**0.5 / LOUDNESS if power > 1e-16 else 1.0


def compressed(spectrum: Tensor) -> Tensor:
    """Complex ``(B, F, T)`` to ``(B, 2, F, T)`` with magnitudes to the power .3."""
    parts = torch.stack([spectrum.real, spectrum.imag], dim=1)
    return parts * (parts.square().sum(dim=1, keepdim=True) + 1e-8) ** ((POWER - 1) / 2)


@contextmanager
def still(network: nn.Module, so: bool) -> Iterator[None]:
    """A network as it is, if so: no gradient, running statistics unmoved."""
    if not so:
        yield
        return
    mode = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(mode)

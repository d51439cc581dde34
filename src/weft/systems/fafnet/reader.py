"""Voices to enhance, in two layouts; columns ``noisy``, ``clean`` and ``reference``, ``reference1``, ...

* Recordings that are noisy, as VoiceBank+DEMAND is kept: ``noisy*/<name>.wav`` and, of equal name,
  ``clean*/<name>.wav``. Folders named ``*train*`` and ``*test*`` are those parts. ``clean*`` may be missing where there
  is nothing to judge. References are ``reference/<name>.wav``; without that folder, other clean utterances of the part
  and speaker. Whose voice it is says the name up to the first ``_`` or ``-``.
* Clean voices, which are mixed: ``<speaker>/*``, and ``noise/*``. Every utterance comes once per signal-to-noise ratio,
  with a piece of noise that the seed draws; test speakers get test noises, the others the other noises.

WAV, and what the extra ``audio`` reads; any rate, and channels are averaged. Mixtures are made when the folder is read
and stay in memory, 64 kB a second: of a large corpus, keep mixed files in the first layout.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from weft.data import Dataset, Modality
from weft.data.dataset import FolderReader, datasets
from weft.data.files import AUDIO_SUFFIXES
from weft.encoders.audio import read_clip
from weft.errors import UserError, did_you_mean, some
from weft.registry import Seed, natural


@datasets.register("voices")
class Voices(FolderReader):
    """Noisy speech, the clean speech behind it, and other clean speech of the same speaker.

    Args:
        snr: signal-to-noise ratios in decibels at which voices are mixed.
        rate: samples per second of the mixtures.
        test_speakers: names of folders; without any, the last third.
        test_noises: names of noises without suffix; without any, the last half, and a single noise is in both parts.
        references: most utterances of a reference.
        voice: whose references: the speaker's own, or, to see what they are worth, another's of the same part.
        seed: of noises and references.
    """

    paper = "Valentini-Botinhao 2017, Noisy speech database (VoiceBank+DEMAND)"
    layout = (
        "noisy*/*.wav with clean*/*.wav or reference/*.wav of the same speakers, or <speaker>/*.wav with noise/*.wav"
    )

    def __init__(
        self,
        *,
        snr: tuple[float, ...] = (0.0, 5.0, 10.0),
        rate: Annotated[int, Field(ge=1000)] = 16000,
        test_speakers: tuple[str, ...] = (),
        test_noises: tuple[str, ...] = (),
        references: Annotated[int, Field(ge=1)] = 5,
        voice: Literal["own", "other"] = "own",
        seed: Seed = 0,
    ) -> None:
        self.snr, self.rate, self.references, self.voice, self.seed = tuple(snr), rate, references, voice, seed
        self.test_speakers, self.test_noises = tuple(test_speakers), tuple(test_noises)

    def read(self, root: Path) -> Dataset:
        """Files of the first layout are listed, not opened; those of the second are read and mixed.

        Raises:
            UserError: neither layout, a speaker with nothing to refer to, an unknown name, or silent noise.
        """
        noisy = sorted(folder for folder in root.glob("noisy*") if folder.is_dir())
        return self._paired(root, noisy) if noisy else self._mixed(root)

    def _paired(self, root: Path, folders: list[Path]) -> Dataset:
        files = [path for folder in folders for path in sounds(folder)]
        clean = [root / path.parent.name.replace("noisy", "clean", 1) / path.name for path in files]
        given = sounds(root / "reference") if (root / "reference").is_dir() else None
        part = [next((p for p in ("train", "test") if p in path.parent.name), "") for path in files]
        places = [f"{p}/{speaker_of(path)}" for p, path in zip(part, files, strict=True)]
        pool: dict[str, list[Path]] = defaultdict(list)
        for place, path in zip(places, clean, strict=True):
            own = [ref for ref in given or () if speaker_of(ref) == speaker_of(path)]
            pool[place] = own or ([] if given is not None else [*pool[place], path])
        there = [path.is_file() for path in clean]
        if any(there) and not all(there):
            gone = [path for path, found in zip(clean, there, strict=True) if not found]
            raise UserError("voices: every noisy file has its clean one, or none has", some(gone), "restore these")
        columns = {"noisy": Modality("audio", files)}
        if all(there):
            columns["clean"] = Modality("audio", clean)
        elif given is None:
            raise UserError("voices: no clean speech to refer to", str(root), f"expected {self.layout}")
        names = [path.stem if len(folders) == 1 else f"{path.parent.name}/{path.stem}" for path in files]
        split = np.array(part) if all(part) and len(set(part)) > 1 else None
        return self._dataset(root, names, columns, places, clean, pool, split)

    def _mixed(self, root: Path) -> Dataset:
        noises = {path.stem: path for path in sounds(root / "noise")} if (root / "noise").is_dir() else {}
        found = [f for f in root.iterdir() if f.is_dir() and f.name != "noise"]
        speakers = {f.name: files for f in sorted(found, key=lambda f: natural(f.name)) if (files := sounds(f))}
        if len(speakers) < 2 or not noises or not self.snr:
            raise UserError("voices: two speakers and a noise at least", str(root), f"expected {self.layout}")
        test_speakers = chosen("speaker", self.test_speakers, list(speakers), max(1, len(speakers) // 3))
        test_noises = chosen("noise", self.test_noises, list(noises), max(1, len(noises) // 2))
        train_noises = [name for name in noises if name not in test_noises] or test_noises
        sound = {name: read_clip(path, self.rate) for name, path in noises.items()}
        rng = np.random.default_rng(self.seed)
        rows: dict[str, Any] = {}
        places, clean, split = [], [], []
        for speaker, files in speakers.items():
            test = speaker in test_speakers
            for path in files:
                voice = read_clip(path, self.rate)
                for snr in self.snr:
                    noise = str(rng.choice(test_noises if test else train_noises))
                    rows[f"{speaker}/{path.stem}_{noise}_{snr:g}dB"] = mixed(voice, sound[noise], snr, rng, noise)
                    places.append(f"{'test' if test else 'train'}/{speaker}")
                    clean.append(path)
                    split.append("test" if test else "train")
        columns = {
            "noisy": Modality("audio", [(samples, self.rate) for samples in rows.values()]),
            "clean": Modality("audio", clean),
        }
        pool = dict(zip(places, (speakers[place.split("/")[1]] for place in places), strict=True))
        return self._dataset(root, list(rows), columns, places, clean, pool, np.array(split))

    def _dataset(
        self,
        root: Path,
        ids: list[str],
        columns: dict[str, Modality],
        places: list[str],
        clean: Sequence[Path],
        pool: dict[str, list[Path]],
        split: np.ndarray | None,
    ) -> Dataset:
        """With references, which are drawn per utterance; ``places`` are ``part/speaker``."""
        drawn: dict[tuple[str, Path], list[Path]] = {}
        for row, place, path in zip(ids, places, clean, strict=True):
            if (place, path) not in drawn:
                part = place.split("/")[0]
                others = [name for name in pool if name != place and name.split("/")[0] == part]
                rng = np.random.default_rng([self.seed, len(drawn)])
                whose = place if self.voice == "own" or not others else others[rng.integers(len(others))]
                able = [ref for ref in pool[whose] if ref != path]
                if not able or (self.voice == "other" and not others):
                    raise UserError(
                        f"voices: another utterance to refer to, of the {self.voice} voice",
                        f"row {row!r} of {place} has none",
                        f"add one, or leave the speaker out; expected {self.layout}",
                    )
                drawn[place, path] = [able[k] for k in rng.permutation(len(able))[: self.references]]
        lists = [drawn[place, path] for place, path in zip(places, clean, strict=True)]
        for k in range(max(map(len, lists))):
            values = [refs[k] if k < len(refs) else None for refs in lists]
            columns[f"reference{k or ''}"] = Modality("audio", values)
        return Dataset(root.name, ids, columns, {}, split, np.array(places), "speech-enhancement")


def mixed(voice: np.ndarray, noise: np.ndarray, snr: float, rng: np.random.Generator, name: str) -> np.ndarray:
    """``(n,)`` voice and a piece of noise, repeated if it is short, at a ratio of their powers in decibels.

    Raises:
        UserError: the noise is silent.
    """
    start = int(rng.integers(max(1, len(noise) - len(voice) + 1)))
    piece = np.resize(noise[start:], len(voice)).astype(np.float64)
    power = float(np.mean(piece**2))
    if power == 0:
        raise UserError("voices: a piece of noise is silent", f"{name!r} has a silent piece", "cut it, or leave it out")
    gain = np.sqrt(np.mean(voice.astype(np.float64) ** 2) / power / 10 ** (snr / 10))
    return (voice + gain * piece).astype(np.float32)


def sounds(folder: Path) -> list[Path]:
    """The recordings of a folder, in natural order."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES)
    return sorted(files, key=lambda path: natural(path.name))


def speaker_of(path: Path) -> str:
    """Whose voice a file is, by its name."""
    return re.split("[_-]", path.stem)[0]


def chosen(what: str, given: Sequence[str], known: list[str], last: int) -> list[str]:
    """The names given, or the last few of those there are.

    Raises:
        UserError: a name that is not there.
    """
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UserError(f"voices: unknown {what}", unknown[0], did_you_mean(unknown[0], known, f"{what}s"))
    return list(given) or known[-last:]

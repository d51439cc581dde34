"""The ledger of a comparison: what each job found, its outputs and its model, under a name that says what it was.

A job's key is a hash of all that decides its result (method, settings, seed, fold, rows, the fingerprint of all
features, the task), so other data or other settings in the same folder find no old jobs, and a method or a modality may
be called anything. Of each job there are::

    jobs/<key>.json           what it found; written last and in one step: a job is there or not
    jobs/<key>.safetensors    its outputs on the dev and test rows, and with modalities hidden
    jobs/<key>/               its model

A damaged or missing file means that the job was not done, so it is done again. Files are replaced in one step under a
name of the process, so two comparisons in one folder do the same work twice at worst.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from weft.compare.config import CompareConfig
from weft.compare.methods import Method
from weft.errors import UserError
from weft.files import canonical, read_json, read_tensors, sha256, write_json, write_tensors
from weft.models.pretrained import CONFIG, WEIGHTS

VERSION = 8
"""Of what a job does: a change that changes figures counts it up, and old jobs are done again."""


class Savable(Protocol):
    """A model that writes itself into a folder."""

    def save_pretrained(self, folder: Path | str) -> None: ...


@dataclass(frozen=True)
class Job:
    """One method at one seed in one fold; ``settings`` fixes what would be tuned (None: tune)."""

    method: Method
    seed: int
    fold: int
    settings: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """For progress and for the list of what did not run."""
        return f"{self.method.name}, seed {self.seed}" + (f", fold {self.fold}" if self.fold else "")


@dataclass
class Ledger:
    """Jobs of one comparison.

    Args:
        folder: of the comparison.
        identity: what the rows are, JSON.
        config: the settings; those that decide a job's result are part of its key.
    """

    folder: Path
    identity: dict[str, Any] = field(repr=False)
    config: CompareConfig
    _done: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    def key(self, job: Job) -> str:
        """A name of 24 letters for a job and all that decides its result."""
        what = {"method": job.method.describe(), "seed": job.seed, "fold": job.fold, "settings": job.settings}
        return sha256(canonical({"shared": self._shared, **what}))[:24]

    @cached_property
    def _shared(self) -> str:
        """Hash of what decides the result of every job."""
        settings = self.config.model_dump(include={"trials", "dim", "train"}, mode="json")
        if self.config.missing:
            settings["missing"] = True
        return sha256(canonical({"version": VERSION, **self.identity, **settings}))

    def get(self, job: Job) -> dict[str, Any] | None:
        """What a job found, failed ones included; None if it has not run, or its files are damaged."""
        key = self.key(job)
        if key in self._done:
            return self._done[key]
        path = self._path(key)
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = read_json(path)
            if found["status"] == "failed":
                return found
            read_tensors(path.with_suffix(".safetensors"))
        except (UserError, KeyError, TypeError):
            return None
        if found["status"] == "done":
            self._done[key] = found
        return found

    def finished(self, job: Job) -> bool:
        """Whether a job has nothing left to do: it was neither cut off nor did it fail."""
        found = self.get(job)
        return found is not None and found["status"] == "done" and not found.get("cut")

    def put(
        self, job: Job, found: dict[str, Any], outputs: dict[str, np.ndarray], model: Savable | None
    ) -> dict[str, Any]:
        """Keep what a job found, its outputs ``{"dev", "test", ...}`` ``(n, K)``, and its model, if it has its own.

        Raises:
            UserError: what was written cannot be read back.
        """
        key = self.key(job)
        self._done.pop(key, None)
        if model is not None:
            model.save_pretrained(self._path(key).with_suffix(""))
        write_tensors(self._path(key).with_suffix(".safetensors"), {k: torch.from_numpy(o) for k, o in outputs.items()})
        write_json(self._path(key), {**self._head(job), "status": "done", **found})
        kept = self.get(job)
        if kept is None:
            raise UserError("a job was not kept", str(self._path(key)), "check the disk, then run the comparison again")
        return kept

    def fail(self, job: Job, error: str, seconds: float) -> dict[str, Any]:
        """Keep why a job failed."""
        failed = {**self._head(job), "status": "failed", "error": error, "seconds": seconds}
        write_json(self._path(self.key(job)), failed)
        return failed

    def outputs(self, job: Job) -> dict[str, np.ndarray]:
        """``{"dev": (n, K), "test": (n, K), ...}`` of a job that is done."""
        tensors = read_tensors(self._path(self.key(job)).with_suffix(".safetensors"))[0]
        return {part: tensor.numpy() for part, tensor in tensors.items()}

    def model(self, job: Job) -> Path | None:
        """The folder of a job's model; None where it is gone."""
        folder = self._path(self.key(job)).with_suffix("")
        return folder if all((folder / name).is_file() for name in (CONFIG, WEIGHTS)) else None

    def forget(self, job: Job) -> None:
        """Have a job done again."""
        key = self.key(job)
        self._done.pop(key, None)
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / "jobs" / f"{key}.json"

    @staticmethod
    def _head(job: Job) -> dict[str, Any]:
        return {"method": job.method.name, "seed": job.seed, "fold": job.fold}

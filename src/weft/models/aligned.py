"""A complete aligner: standardiser and aligner, from raw features to unit vectors in the shared space.

A model folder holds ``model.safetensors`` and ``config.json``, as that of a :class:`~weft.models.fused.FusedModel`.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from weft.alignment import create_aligner
from weft.alignment.closed_form import ClosedForm
from weft.data import Dataset
from weft.errors import UserError, did_you_mean, some
from weft.models.pretrained import Pretrained, models
from weft.models.raw import encode_rows, read_frame
from weft.models.rows import select
from weft.models.standardise import Scaling, Standardiser
from weft.tasks.retrieval import RetrievalTask
from weft.tokens import Tokens, present

if TYPE_CHECKING:
    from weft.store import Features, MemoryFeatures

LOCAL = "hf:./"
"""An encoder that is part of the model folder, see :mod:`weft.training.towers`."""


@models.register("AlignedModel")
class AlignedModel(nn.Module, Pretrained):
    """Standardiser and aligner.

    Args:
        dims: width of each modality, ``{name: D_m}``.
        aligner: registered name.
        dim: width of the shared space.
        aligner_options: options of the aligner.
        encoders: ``{name: specification}`` of what made the features, to read raw rows later.
        table: JSON of the table configuration, to read new tables later.
    """

    format = "AlignedModel/1"
    own: Mapping[str, Path] = {}
    """Encoders that came in the model's folder."""

    def __init__(
        self,
        dims: Mapping[str, int],
        aligner: str = "two-tower",
        *,
        dim: int = 256,
        aligner_options: Mapping[str, Any] | None = None,
        scaling: Scaling | None = None,
        encoders: dict[str, Any] | None = None,
        table: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.dims, self.names, self.encoders, self.table = dict(dims), tuple(dims), encoders, table
        self.settings: dict[str, Any] = {"aligner": aligner, "dim": dim, "aligner_options": dict(aligner_options or {})}
        self.aligner = create_aligner(aligner, self.dims, dim, **(aligner_options or {}))
        self.settings["scaling"] = scaling or self.aligner.scaling
        self.standardise = Standardiser(self.dims, self.settings["scaling"])

    @classmethod
    def build(cls, *, dims: Mapping[str, int], seed: int = 0, **settings: Any) -> Self:
        """The model with initial weights that depend on ``seed`` alone; ``settings`` as for the constructor."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(dims, **settings)

    @property
    def width(self) -> int:
        """``dim`` of the shared space."""
        return self.aligner.dim

    def forward(self, inputs: dict[str, Tokens]) -> dict[str, Tensor]:
        """``{name: (B, dim)}`` unit vectors of some or all modalities; zeros where one is absent."""
        return self.aligner(self.tokens(inputs))

    def tokens(self, inputs: dict[str, Tokens]) -> dict[str, Tokens]:
        """What the aligner reads: the inputs ``(B, T, D)``, standardised."""
        return self.standardise(inputs)

    def output(self, name: str, tokens: Tokens) -> Tensor:
        """``(B, dim)`` embeddings of one modality before they are made unit vectors."""
        return self.aligner.embed(name, self.aligner.readable(self.tokens({name: tokens})[name]))

    @torch.no_grad()
    def embed(self, source: Any, rows: np.ndarray | None = None, *, batch_size: int = 512) -> dict[str, np.ndarray]:
        """``{name: (N, dim)}`` embeddings of rows (default: all), for the modalities that the source has.

        Args:
            source: features, or raw rows as for :meth:`encode`.
            rows: which; all by default.
            batch_size: rows at once.

        Raises:
            UserError: the source has none of the model's modalities, or raw rows cannot be read.
        """
        features: Features = source if hasattr(source, "dims") else self.encode(source)
        rows = np.arange(len(features)) if rows is None else np.asarray(rows)
        names = [name for name in self.names if name in features.dims]
        features = select(features, names or self.names)
        device, training = next(self.buffers()).device, self.training
        self.eval()
        parts: dict[str, list[np.ndarray]] = {name: [np.zeros((0, self.width), np.float32)] for name in names}
        for start in range(0, len(rows), batch_size):
            batch = features.gather(rows[start : start + batch_size])
            embedded = self({name: Tokens(*(part.to(device) for part in t)) for name, t in batch.items()})
            for name, vectors in embedded.items():
                parts[name].append(vectors.float().cpu().numpy())
        self.train(training)
        return {name: np.concatenate(part) for name, part in parts.items()}

    @torch.no_grad()
    def predict_modality(
        self, features: Features, source: str, target: str, rows: np.ndarray | None = None, *, batch_size: int = 512
    ) -> np.ndarray:
        """One modality's mean over its tokens, ``(N, D_target)``, as another one lets expect it; NaN where that is not.

        Args:
            features: of ``source`` at least.
            source, target: modalities.
            rows: which; all by default.
            batch_size: rows at once.

        Raises:
            UserError: an unknown modality, twice the same, or an aligner without a closed form.
        """
        for name in (source, target):
            if name not in self.names:
                raise UserError("the model has no such modality", name, did_you_mean(name, self.names, "modalities"))
        if source == target or not isinstance(self.aligner, ClosedForm) or self.aligner.widths != self.dims:
            raise UserError(
                "linear closed forms predict one modality from another",
                f"{self.settings['aligner']}, {target!r} from {source!r}",
                "train ridge, cca or whitened, and name two modalities",
            )
        rows = np.arange(len(features)) if rows is None else np.asarray(rows)
        features, mean, scale = features.subset([source]), *self.standardise.statistics(target)
        found = [np.zeros((0, self.dims[target]), np.float32)]
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            inputs = {n: Tokens(*(x.to(mean.device) for x in t)) for n, t in features.gather(part).items()}
            predicted = self.aligner.predict(source, target, self.tokens(inputs)[source]) * scale + mean
            predicted[~present(inputs[source])] = torch.nan
            found.append(predicted.float().cpu().numpy())
        return np.concatenate(found)

    def encode(self, rows: Any, *, progress: bool = True) -> MemoryFeatures:
        """Features of raw rows by the encoders the model was trained with, of the modalities that are there.

        Args:
            rows: a data set, or a table in memory with the columns of one modality at least.
            progress: show a bar.

        Raises:
            UserError: the model does not know its encoders, no modality is there, or a value cannot be read.
        """
        if not isinstance(rows, Dataset):
            rows = read_frame(rows, self.table, partly=True)
        known = self.encoders and {name: spec for name, spec in self.encoders.items() if name in rows.modalities}
        return encode_rows(known or self.encoders, rows, progress=progress)

    def evaluate(self, features: Features, rows: np.ndarray, figures: Path | str | None = None) -> dict[str, float]:
        """Retrieval metrics, every modality searched by every other; ``figures`` is a folder for the recall curves."""
        features = select(features, self.names)
        embeddings = self.embed(features, rows)
        task, groups, presence = retrieval_task(features, rows)
        if figures is not None:
            folder = Path(figures)
            folder.mkdir(parents=True, exist_ok=True)
            task.figures(embeddings, groups, folder, presence)
        return task.metrics(embeddings, groups, presence)

    def config(self) -> dict[str, Any]:
        """Everything but the weights, as JSON."""
        encoders = dict(self.encoders or {})
        encoders |= {name: {**encoders[name], "spec": f"{LOCAL}towers/{own.name}"} for name, own in self.own.items()}
        return {"dims": self.dims, **self.settings, "encoders": encoders or self.encoders, "table": self.table}

    def save_pretrained(self, folder: Path | str) -> None:
        """The encoders that came in the model's folder first, then the files of every model."""
        for own in self.own.values():
            place = Path(folder) / "towers" / own.name
            if place.resolve() != own.resolve():
                shutil.copytree(own, place, dirs_exist_ok=True)
        super().save_pretrained(folder)

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        found = {}
        for name, spec in (config.get("encoders") or {}).items():
            own = folder / spec["spec"].removeprefix(LOCAL)
            inside = own.resolve().is_relative_to(folder.resolve())
            if spec["spec"].startswith(LOCAL) and own.is_dir() and inside:
                spec["spec"], found[name] = f"hf:{own}", own
        model = cls(config.pop("dims"), config.pop("aligner"), **config)
        model.own = found
        return model


def refuse_single(names: Collection[str]) -> None:
    """Refuse to align what is no two modalities.

    Raises:
        UserError: there is one.
    """
    if len(names) < 2:
        raise UserError(
            "an aligner brings two modalities together, or more",
            f"there is one: {some(names)}",
            "in the YAML, give each side an entry under modalities, with its own columns, such as "
            "{photo: {kind: vector, columns: [i0, i1]}, words: {kind: vector, columns: [t0, t1]}}: weft init takes all "
            "columns of numbers as one",
        )


def retrieval_task(features: Features, rows: np.ndarray) -> tuple[RetrievalTask, np.ndarray, dict[str, np.ndarray]]:
    """The retrieval task over all pairs of modalities, the group of each row, and ``{name: (N,) bool}`` presence.

    A modality whose features are the same in all rows of a group (the image of five captions) is searched once.
    """
    refuse_single(features.dims)
    groups = np.arange(len(rows)) if features.group is None else np.unique(features.group[rows], return_inverse=True)[1]
    presence = {name: features.presence[rows, index] for index, name in enumerate(features.dims)}
    _, first = np.unique(groups, return_index=True)
    pooled = features.pooled(rows)
    same = [
        n for n, v in pooled.items() if len(first) < len(rows) and np.array_equal(v, v[first][groups], equal_nan=True)
    ]
    return RetrievalTask(tuple(combinations(features.dims, 2)), tuple(same)), groups, presence

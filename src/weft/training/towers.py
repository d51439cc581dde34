"""Aligners whose encoders train: raw rows instead of features, and the model with its towers.

Where encoders are frozen, features are made once and read from a store. Here every step reads raw rows and runs them
through transformers models with gradients; all else (objective, batches of one row per group, selection by the dev
rows, resuming) is that of an aligner on features. With the setting ``chunk`` a batch need not fit in memory
(:mod:`weft.alignment.grad_cache`).

The folder of a trained model is that of an :class:`~weft.models.aligned.AlignedModel` whose encoders are the trained
towers, kept beside it as transformers folders: ``AlignedModel.from_pretrained`` reads it, and every verb of an aligner
takes it. The tokens of a tower are not standardised, for they change in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from weft.alignment.closed_form import ClosedForm
from weft.data import Dataset
from weft.encoders import BadValue, create_encoder
from weft.encoders.tower import Tower
from weft.errors import UserError, did_you_mean, some
from weft.models.aligned import LOCAL, AlignedModel
from weft.store import Features
from weft.store.files import content_hash
from weft.store.unique import raw_fingerprint, unique_values
from weft.tokens import Tokens
from weft.training.aligned_task import AlignedTask
from weft.training.batches import Batches


class RawRows:
    """Rows of a data set as towers read them: to towers what :class:`~weft.store.Features` are to frozen encoders.

    Args:
        dataset: the rows.
        towers: ``{name: tower}`` of some or all modalities, in any order; the others are left out.

    Raises:
        UserError: a tower's modality is not in the data set, or of another kind.
    """

    def __init__(self, dataset: Dataset, towers: Mapping[str, Tower]) -> None:
        for name, tower in towers.items():
            if name not in dataset.modalities:
                remedy = did_you_mean(name, dataset.modalities, "modalities")
                raise UserError(f"{dataset.name} has no modality {name!r}", some(dataset.modalities), remedy)
            kind = dataset.modalities[name].kind
            if kind != tower.recipe.get("kind", kind):
                raise UserError(f"the tower of {name!r} reads {tower.recipe['kind']}", kind, "choose another encoder")
        self.dataset = dataset
        self.ids, self.targets, self.labels = dataset.ids, dataset.targets, dict(dataset.labels)
        self.split, self.group, self.task = dataset.split, dataset.group, dataset.task
        self._set_towers({name: towers[name] for name in dataset.modalities if name in towers})

    def _set_towers(self, towers: Mapping[str, Tower]) -> None:
        self.towers = dict(towers)
        self.__dict__.pop("fingerprint", None)
        self.dims = {name: tower.width for name, tower in self.towers.items()}
        self.presence = np.stack([self.dataset.modalities[name].presence for name in self.towers], axis=1)
        self.lengths = {name: np.ones(len(self), dtype=np.int64) for name in self.towers}

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the raw values, the weights that read them, ids, targets, labels, split, group and task."""
        readers = [(name, tower.identity()) for name, tower in self.towers.items()]
        return content_hash((raw_fingerprint(self.dataset, list(self.towers)), readers))

    def fitted(self, rows: np.ndarray) -> RawRows:
        """Towers learn by gradient: nothing is fitted before."""
        return self

    def gather(self, rows: np.ndarray) -> dict[str, Tokens]:
        """What the towers read of these rows, see :meth:`Tower.read`; zeros and an empty mask where one is absent.

        Raises:
            UserError: a value cannot be read; it names the row.
        """
        return {name: self._read(name, np.asarray(rows)) for name in self.towers}

    def _read(self, name: str, rows: np.ndarray) -> Tokens:
        values = self.dataset.modalities[name].values
        there = [place for place, row in enumerate(rows) if values[row] is not None]
        if not there:
            return Tokens(torch.zeros(len(rows), 1, dtype=torch.int64), torch.zeros(len(rows), 1, dtype=torch.bool))
        try:
            read = self.towers[name].read([values[rows[place]] for place in there])
        except BadValue as error:
            row = self.ids[rows[there[error.index]]]
            raise UserError(f"modality {name!r}, row {row!r}: {error.what}", error.found, error.remedy) from error
        place = torch.tensor(there)
        return Tokens(*(part.new_zeros(len(rows), *part.shape[1:]).index_copy(0, place, part) for part in read))

    def pooled(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """``{name: (n, 1)}``: the number of a row's value among the different ones, NaN where it is absent. Raw rows
        have no mean; which of them are the same is all that retrieval asks."""
        numbers = {name: unique_values(name, self.dataset).pointer[rows].astype(np.float64) for name in self.towers}
        return {name: np.where(n < 0, np.nan, n)[:, None] for name, n in numbers.items()}

    def subset(self, names: Iterable[str]) -> RawRows:
        """The same rows with fewer modalities, in the order given."""
        part = object.__new__(RawRows)
        part.__dict__.update(self.__dict__)
        part._set_towers({name: self.towers[name] for name in names})
        return part


class TowerModel(AlignedModel):
    """An aligner and the encoders below it, trained together.

    Args:
        dims, aligner, settings: as for :class:`~weft.models.aligned.AlignedModel`.
        towers: ``{name: tower}`` of some or all modalities; the others come as features.

    Raises:
        UserError: a tower for an unknown modality or of another width, or an aligner that is solved, not trained.
    """

    def __init__(
        self, dims: Mapping[str, int], aligner: str = "two-tower", *, towers: Mapping[str, Tower], **settings: Any
    ) -> None:
        kept = {name: spec for name, spec in (settings.pop("encoders", None) or {}).items() if name not in towers}
        started = {name: {**tower.recipe, "identity": tower.identity()} for name, tower in towers.items()}
        super().__init__(dims, aligner, encoders={**kept, **started}, **settings)
        wrong = {name: tower.width for name, tower in towers.items() if self.dims.get(name) != tower.width}
        if wrong:
            raise UserError("towers are as wide as the aligner's modalities", f"{wrong}; {self.dims}", "train it anew")
        if isinstance(self.aligner, ClosedForm) or self.settings["aligner_options"].get("start"):
            found = f"{aligner!r} is, or starts, in closed form"
            raise UserError("towers train by gradients", found, "choose convirt or two-tower, without start")
        self._at = {name: index for index, name in enumerate(towers)}
        self.towers = torch.nn.ModuleList(towers.values())

    @classmethod
    def of(cls, model: AlignedModel, towers: Mapping[str, Tower]) -> Self:
        """A copy of an aligner on frozen features, with towers instead of some of its encoders."""
        new = cls(model.dims, towers=towers, encoders=model.encoders, table=model.table, **model.settings)
        new.standardise.load_state_dict(model.standardise.state_dict())
        new.aligner.load_state_dict(model.aligner.state_dict())
        return new

    def tokens(self, inputs: dict[str, Tokens]) -> dict[str, Tokens]:
        return super().tokens({n: self.towers[self._at[n]](t) if n in self._at else t for n, t in inputs.items()})

    def embed(
        self, features: Features, rows: np.ndarray | None = None, *, batch_size: int = 64
    ) -> dict[str, np.ndarray]:
        return super().embed(features, rows, batch_size=batch_size)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the towers as transformers folders, then the model folder that names them as its encoders."""
        folder = Path(folder)
        encoders = dict(self.encoders or {})
        for name, index in self._at.items():
            tower: Any = self.towers[index]
            tower.save_pretrained(folder / "towers" / str(index))
            options, kind = tower.recipe["options"], tower.recipe["kind"]
            identity = create_encoder(f"hf:{folder / 'towers' / str(index)}", kind, **options).identity()
            encoders[name] = {
                "spec": f"{LOCAL}towers/{index}", "kind": kind, "options": options, "state": {}, "identity": identity,
                "dtype": "fp32",
            }  # fmt: skip
        plain = AlignedModel(self.dims, encoders=encoders, table=self.table, **self.settings)
        plain.standardise.load_state_dict(self.standardise.state_dict())
        plain.aligner.load_state_dict(self.aligner.state_dict())
        plain.seen = self.seen
        plain.save_pretrained(folder)


class TowerTask(AlignedTask):
    """A :class:`TowerModel` under an objective, on :class:`RawRows`.

    Raises:
        UserError: as for :class:`AlignedTask`; rows are mixed, or a regulariser looks at frozen features.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        config = self.config
        if config.mix or config.per_group == "mean" or config.regularisers:
            found = f"mix={config.mix}, per_group={config.per_group}, regularisers={list(config.regularisers)}"
            raise UserError("mixing and regularisers are for frozen features", found, "leave them out with towers")

    def prepare(self, device: torch.device) -> None:
        self._train, self._dev = (Batches(self._features, rows, device, False, 0) for rows in self._rows)

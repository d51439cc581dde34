"""Probing: heads trained on an aligner's embeddings of one modality, and what training the layers below adds.

Heads are trained on rows of train and dev and measured on test. On the data that the aligner was trained on, these are
its own parts. Data that are new to it are split by their column, or, without one, anew: 70 % to train, 15 % each to dev
and test.

The original calls its head-only protocol fine-tuning; the head ``official`` is that. ``fine-tune`` trains the aligner's
own encoder along, on the backbone's cached tokens; ``fine-tune-all`` trains the backbone as well, from raw images:
hundreds of times as costly.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from weft.data import Dataset, make_splits
from weft.encoders import create_encoder
from weft.encoders.tower import Tower
from weft.errors import UserError, did_you_mean
from weft.models.asked import column, modality_of, require_aligner, rows_of, same_encoders, values_of
from weft.models.embed import pooled_outputs
from weft.models.protocol import Protocol, Report, protocols
from weft.models.raw import make_encoder
from weft.registry import Count
from weft.store import encode
from weft.systems.lightcrl.probing import fine_tune, fit_probe, sklearn_probe
from weft.training.towers import RawRows, TowerModel

if TYPE_CHECKING:
    from weft.models import AlignedModel
    from weft.store import Store

HEADS = ("official", "linear", "sklearn", "fine-tune", "fine-tune-all")


@protocols.register("probe")
class Probe(Protocol):
    """What can be read off frozen embeddings, and what fine-tuning adds.

    Args:
        head: of official (two affine layers), linear, sklearn; fine-tune (the aligner too), fine-tune-all (the backbone
            too).
        hidden: width of the official head: 128 for CIFAR-100, 256 for Tiny ImageNet.
        epochs: when accuracy is measured; the last one ends training.
        lr: learning rate, of SGD for heads and of AdamW for fine-tuning.
        seeds: repetitions.
        features: the aligner's embedding, or its backbone's mean.
        target: column; the first if not given.
        modality: which; the image if not given.
        size: side in pixels that fine-tune-all resizes images to; the model's if not given.
        store: folder of the rows, encoded; beside the working folder if not given.
    """

    paper = "Faye et al. 2024, LightCRL (ESANN, arXiv 2403.04650)"

    def __init__(
        self,
        *,
        head: list[str] | str = ["official", "linear", "sklearn"],  # noqa: B006
        hidden: Count = 128,
        epochs: Annotated[list[Count], Field(min_length=1)] | Count = [20, 40, 60, 80, 100],  # noqa: B006
        lr: Annotated[float, Field(gt=0)] = 1e-3,
        seeds: Count = 1,
        features: Literal["aligned", "frozen"] = "aligned",
        target: str | None = None,
        modality: str | None = None,
        size: Count | None = None,
        store: str | None = None,
    ) -> None:
        self.heads = [head] if isinstance(head, str) else head
        unknown = [kind for kind in self.heads if kind not in HEADS]
        if unknown:
            raise UserError("unknown head", unknown[0], did_you_mean(unknown[0], HEADS, "heads"))
        self.hidden, self.lr, self.seeds, self.features = hidden, lr, seeds, features
        self.epochs = [epochs] if isinstance(epochs, int) else epochs
        self.target, self.modality, self.size, self.store = target, modality, size, store

    def run(self, model: Any, rows: Store | Dataset, split: str, folder: Path | None, *, progress: bool) -> Report:
        aligner, heads = require_aligner(model), self.heads
        name = modality_of(aligner, "image", self.modality)
        same_encoders(aligner, rows, name)
        raw: Any = rows_to_train(aligner, name, rows, self.size) if "fine-tune-all" in heads else None
        ready: Any = rows
        if isinstance(rows, Dataset) and heads != ["fine-tune-all"]:
            made = make_encoder(name, (aligner.encoders or {})[name])
            ready = encode(
                rows, {name: made}, Path(self.store or Path("runs") / rows.name / "store"), progress=progress
            )
        label = column(ready.targets, self.target)
        foreign = aligner.seen is not None and not aligner.seen.part_of(ready).any()
        parts = ("train", "dev", "test")
        cut = make_splits(ready)._asdict() if foreign else {p: rows_of(ready, p, aligner) for p in parts}
        there = values_of(raw.dataset if heads == ["fine-tune-all"] else ready, name)[0] >= 0
        train = np.sort(np.concatenate([cut["train"], cut["dev"]]))
        classes, codes = np.unique(ready.targets[label], return_inverse=True)
        places = {"train": train[there[train]], "test": cut["test"][there[cut["test"]]]}
        coded = {part: (index, codes[index]) for part, index in places.items()}
        vectors = {}
        if set(heads) - {"fine-tune", "fine-tune-all"}:
            for part, index in places.items():
                aligned = self.features == "aligned"
                vectors[part] = pooled_outputs(aligner, ready, name, index) if aligned else ready.pooled(index)[name]
        fixed = {part: (vectors[part], coded[part][1]) for part in vectors}
        result: dict[str, list[Any]] = {}
        for kind in heads:
            result[kind] = []
            for seed in range(1 if kind == "sklearn" else self.seeds):
                shared: dict[str, Any] = {"epochs": self.epochs, "lr": self.lr, "seed": seed}
                if kind in ("fine-tune", "fine-tune-all"):
                    frozen = kind == "fine-tune"
                    trained: Any = (aligner, ready) if frozen else (TowerModel.of(aligner, raw.towers), raw)
                    sets = coded["train"], coded["test"]
                    curve = fine_tune(trained[0], trained[1], name, *sets, progress=progress, **shared)
                elif kind == "sklearn":
                    curve = {0: {"top-1": sklearn_probe(fixed["train"], fixed["test"])}}
                else:
                    shape: Literal["official", "linear"] = "official" if kind == "official" else "linear"
                    curve = fit_probe(fixed["train"], fixed["test"], head=shape, hidden=self.hidden, **shared)
                result[kind].append(curve)
        table = []
        for kind, runs in result.items():
            for epoch in runs[0]:
                top = 100 * np.array([run[epoch]["top-1"] for run in runs])
                spread = f"{top.std(ddof=1):.2f}" if len(top) > 1 else ""
                table.append({"head": kind, "epoch": epoch or "", "top-1": f"{top.mean():.2f}", "sd": spread})
        counts = {part: len(index) for part, index in places.items()}
        title = f"{self.features} {name} features: {counts['train']} train, {counts['test']} test rows, percent"
        return Report(title, table, {**counts, "classes": classes, "curves": result})


def rows_to_train(aligner: AlignedModel, name: str, rows: Store | Dataset, size: int | None) -> RawRows:
    """Raw rows under the encoder that the aligner was trained on, to be trained itself.

    Raises:
        UserError: the rows are a store's, or the encoder has no weights to train.
    """
    if not isinstance(rows, Dataset):
        raise UserError("fine-tune-all trains on raw images", "a store of frozen features", "give the data set")
    spec = (aligner.encoders or {})[name]
    encoder = make_encoder(name, spec)
    if size is not None:
        encoder = create_encoder(spec["spec"], spec["kind"], **{**spec["options"], "size": size})
    return RawRows(rows, {name: Tower(encoder)})

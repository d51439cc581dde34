"""Pairs of texts judged by the cosine of their embeddings: labels give tables at a threshold, scores correlations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from weft.data import Dataset
from weft.encoders import create_encoder
from weft.encoders.pooled import pooled_vectors
from weft.errors import UserError, some
from weft.models.asked import column, require_aligner, rows_of
from weft.models.embed import embed_values
from weft.models.pretrained import load_model
from weft.models.protocol import Protocol, Report, protocols
from weft.registry import Count, Seed
from weft.tasks.pairs import pair_metrics, pair_scores
from weft.tasks.similarity import similarity_metrics, tolerance_figure

if TYPE_CHECKING:
    from weft.store import Store


@protocols.register("pairs")
class Pairs(Protocol):
    """Whether two texts mean the same: each text modality of the model, and both across, beside frozen encoders.

    Args:
        encoder: frozen encoders, mean-pooled, to stand beside the model.
        model: folders of further aligners.
        threshold: least cosine that counts as similar.
        target: column; the first if not given.
        rows: a random subset of this size, drawn by ``seed``; None: all.
    """

    paper = "Faye et al. 2024, LightCRL (ESANN, arXiv 2403.04650)"

    def __init__(
        self,
        *,
        encoder: list[str] | str = [],  # noqa: B006
        model: list[str] | str = [],  # noqa: B006
        threshold: Annotated[float, Field(ge=-1, le=1)] = 0.9,
        target: str | None = None,
        rows: Count | None = None,
        seed: Seed = 0,
    ) -> None:
        self.encoders, self.models = ([one] if isinstance(one, str) else one for one in (encoder, model))
        self.threshold, self.target, self.rows, self.seed = threshold, target, rows, seed

    def run(self, model: Any, rows: Store | Dataset, split: str, folder: Path | None, *, progress: bool) -> Report:
        if not isinstance(rows, Dataset):
            raise UserError("pairs are judged on raw texts", "a store of frozen features", "give the data set")
        sides = [name for name, modality in rows.modalities.items() if modality.kind == "text"]
        if len(sides) != 2:
            found = some(sides) or "none"
            raise UserError("pairs are two text modalities", found, "use a data set such as mrpc, stsb")
        aligners = {"model": require_aligner(model)}
        aligners |= {Path(place).name: require_aligner(load_model(place)) for place in self.models}
        name, chosen = column(rows.targets, self.target), rows_of(rows, split, *aligners.values())
        chosen = chosen[np.all([rows.modalities[side].presence[chosen] for side in sides], axis=0)]
        if self.rows is not None and self.rows < len(chosen):
            chosen = np.sort(np.random.default_rng(self.seed).choice(chosen, self.rows, replace=False))
        texts = [[rows.modalities[side].values[i] for i in chosen] for side in sides]
        gold = rows.targets[name][chosen]
        scores = {who: pair_scores(a, b) for who, a, b in self._embedded(aligners, *texts)}
        graded = rows.task == "regression"
        result = {
            who: similarity_metrics(s, gold) if graded else pair_metrics(s, gold, self.threshold)
            for who, s in scores.items()
        }
        files = [tolerance_figure(scores, gold, folder)] if folder is not None and graded else []
        title = f"{rows.name}, {split}, {len(chosen)} pairs"
        title += "" if graded else f", similar iff cosine >= {self.threshold}"
        table = [{"system": who, **{k: f"{v:.3f}" for k, v in row.items()}} for who, row in result.items()]
        threshold = None if graded else self.threshold
        return Report(title, table, {"rows": len(chosen), "threshold": threshold, "systems": result}, files)

    def _embedded(
        self, aligners: Mapping[str, Any], first: list[str], second: list[str]
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Every system's name and its vectors of both sides."""
        both = [*first, *second]
        for spec in self.encoders:
            vectors = pooled_vectors(create_encoder(spec, "text"), both)
            yield f"{spec.rstrip('/').rpartition('/')[2]}, mean", vectors[: len(first)], vectors[len(first) :]
        for who, aligner in aligners.items():
            names = [n for n in aligner.names if (aligner.encoders or {}).get(n, {}).get("kind") == "text"]
            if not names:
                raise UserError("the model has no text modality", who, "train one on text pairs: weft mine, weft fit")
            side: dict[str, Any] = {name: embed_values(aligner, name, both) for name in names}
            for a in names:
                for b in names[names.index(a) :]:
                    yield f"{who}: {a} x {b}", side[a][: len(first)], side[b][len(first) :]

"""UNITER on photos with captions: pre-training, and retrieval.

A step does one of the objectives, drawn by their weights, and masks words or regions, never both.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from weft.data import Dataset, read_image
from weft.errors import UserError, did_you_mean, some
from weft.ops.ipot import cosine_cost, ipot, transport_distance
from weft.registry import Count, Learned
from weft.systems.image_text import settled, texts_of
from weft.systems.image_text_pairs import PairSystem, repeated
from weft.systems.uniter.begin import PAPER, SHARED, TRAINED, begin, learned, set_up, show
from weft.systems.uniter.figures import draw_alignment
from weft.systems.uniter.heads import rank_loss
from weft.systems.uniter.masking import NOT_ASKED, mask_regions, mask_words
from weft.systems.uniter.network import Compacted
from weft.systems.uniter.objectives import WRA_WEIGHT, UniterForPretraining, mrc_kl_loss, mrc_loss
from weft.systems.uniter.regions import Regions, cell_classifier
from weft.tokens import Tokens
from weft.training.phase import Optimizer, Phase
from weft.training.system import systems, take

DRAWN = 3
"""Rows whose alignment `weft evaluate --figures` draws."""

OBJECTIVES = ("mlm", "itm", "mrfr", "mrc", "mrc-kl", "rank", "hard-rank")


@systems.register("uniter-pairs")
class UniterPairs(PairSystem):
    """Pre-training and retrieval on pictures with texts: masked words, masked regions, matching, alignment, ranking.

    Args:
        objectives: weights of ``mlm``, ``itm``, ``mrfr``, ``mrc``, ``mrc-kl`` (which need classes of regions), ``rank``
            (one wrong picture and one wrong text) and ``hard-rank``; a step draws one of them.
        wra: weight of word-region alignment in ``itm``.
        candidates, hard: of ``hard-rank``: of so many pictures and texts drawn for a row, so many of the most likely
            are ranked against; published 399 and 31.
        image, pixels, regions, text, dim, heads, hidden, layers, dropout, length, cut, begin: see :class:`Uniter`.
        vocabulary, encoder, width, classes: learned.
    """

    trained_with = {**TRAINED, "lr": 5e-5, "clip": 5.0, "epochs": 10, "batch_size": 256, "monitor": "loss"}
    variants = {"with alignment": {"wra": WRA_WEIGHT}, "without": {"wra": 0.0}}
    paper = PAPER

    def __init__(
        self,
        *,
        objectives: dict[str, float] | None = None,
        wra: Annotated[float, Field(ge=0)] = WRA_WEIGHT,
        candidates: Count = 399,
        hard: Count = 31,
        image: str = "image-patches",
        pixels: Count | None = None,
        regions: str | None = None,
        text: str | None = None,
        dim: Count = 768,
        heads: Count = 12,
        hidden: Count | None = None,
        layers: Count = 12,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        length: Annotated[int, Field(ge=3)] = 60,
        cut: bool = False,
        begin: str | None = None,
        vocabulary: Learned[tuple[str, ...]] = (),
        encoder: Learned[dict[str, Any] | None] = None,
        width: Learned[Annotated[int, Field(ge=0)]] = 0,
        classes: Learned[Annotated[int, Field(ge=0)]] = 0,
    ) -> None:
        super().__init__()
        self.objectives = objectives or {"mlm": 2, "itm": 2, "mrfr": 1}
        strange = [name for name in self.objectives if name not in OBJECTIVES]
        if strange:
            remedy = did_you_mean(strange[0], OBJECTIVES, "objectives")
            raise UserError("UNITER has no such objective", strange[0], remedy)
        if min(self.objectives.values()) <= 0:
            raise UserError("weights of objectives are positive", some(self.objectives.values()), "leave others out")
        self.wra, self.candidates, self.hard = wra, candidates, hard
        self.image, self.pixels, self.regions, self.text = image, pixels, regions, text
        self.dim, self.heads, self.hidden, self.layers, self.dropout = dim, heads, hidden, layers, dropout
        self.length, self.cut, self.begin = length, cut, begin
        self.vocabulary, self.encoder, self.width, self.classes = vocabulary, encoder, width, classes
        self._classifier: list[nn.Linear] = []
        if {"mrc", "mrc-kl"} & set(self.objectives) and not regions:
            self._classifier = [cell_classifier(image.removeprefix("hf:"), width)]
            self.classes = self._classifier[0].out_features
        self.network = UniterForPretraining(set_up(self), width, max(2, self.classes))
        self.rank_output = nn.Linear(dim, 1) if {"rank", "hard-rank"} & set(self.objectives) else None
        self._begin_ranking()

    @torch.no_grad()
    def _begin_ranking(self) -> None:
        if self.rank_output is not None:
            for own, its in zip(self.rank_output.parameters(), self.network.itm_output.parameters(), strict=True):
                own.copy_(its[1:])

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        columns = cls.columns(data)
        texts = texts_of(data, columns["text"], rows)
        learn = partial(learned, data, rows, columns, options, texts)
        other, options = settled(options, UniterPairs, SHARED, learn, texts)
        model = cls(**options)
        begin(model, data, rows, columns, other)
        if other is not None and other.rank_output is None:
            model._begin_ranking()
        return model

    def show(self, data: Dataset, rows: np.ndarray) -> Regions:
        return show(self, data, rows, next(iter(self._classifier), None))

    def score(self, words: Tokens, pictures: Regions) -> Tensor:
        sequence = self._pass(*words, pictures)
        if self.rank_output is not None:
            return self.rank_output(self.network.uniter.pooled(sequence))[:, 0]
        logits = self.network.itm(sequence)
        return logits[:, 1] - logits[:, 0]

    def evaluate(
        self, data: Dataset, rows: np.ndarray, figures: Path | str | None = None, **options: Any
    ) -> dict[str, float]:
        """As any system of pairs; ``figures``: the alignment of words and regions of the first few photos."""
        found = super().evaluate(data, rows, **options)
        if figures is not None:
            self.draw(data, np.asarray(rows)[:DRAWN], Path(figures))
        return found

    @torch.no_grad()
    def alignment(self, data: Dataset, rows: np.ndarray) -> list[tuple[list[str], np.ndarray, np.ndarray]]:
        """Of each row its ``M`` word pieces without the ends, the plan ``(K, M)``, the regions' places ``(K, 7)``."""
        ids, regions = self.words(data, rows), self.to_device(self.show(data, rows))
        padded = self.to_device(self.read.vocabulary.padded(ids))
        sequence = self._pass(padded.values, padded.mask, regions)
        words, image = sequence.text(), sequence.image()
        plans = ipot(cosine_cost(words, image), words.mask, image.mask).float().cpu().numpy()
        found = []
        for row, pieces in enumerate(ids):
            count = int(regions.mask[row].sum())
            named = self.read.vocabulary.pieces(pieces)[1:-1]
            found.append((named, plans[row, :count, 1 : len(pieces) - 1], regions.places[row, :count].cpu().numpy()))
        return found

    def draw(self, data: Dataset, rows: np.ndarray, folder: Path) -> list[Path]:
        """A figure ``alignment-<row>.png`` of each row: the photo, and where the mass of its words goes."""
        values, files = take(data, self.columns(data)["image"], rows), []
        self.eval()
        for row, value, found in zip(rows.tolist(), values, self.alignment(data, rows), strict=True):
            photo = np.asarray(read_image(value, f"image of row {data.ids[row]!r}"))
            files.append(draw_alignment(photo, *found, folder, f"alignment-{row}"))
        return files

    def asked(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator, *, every: bool) -> dict[str, Any]:
        names, weights = list(self.objectives), np.array(list(self.objectives.values()), dtype=float)
        chosen = names if every else [names[rng.choice(len(names), p=weights / weights.sum())]]
        return {name: self._ask(name, data, rows, rng) for name in chosen}

    def losses(self, asked: dict[str, Any]) -> dict[str, Tensor]:
        return {name: getattr(self, "_" + name.replace("-", "_"))(*inputs) for name, inputs in asked.items()}

    def phases(self) -> list[Phase]:
        return [Phase("loss", self.loss, Optimizer(list(self.parameters()), betas=(0.9, 0.98)))]

    def _ask(self, name: str, data: Dataset, rows: np.ndarray, rng: np.random.Generator) -> tuple[Any, ...]:
        vocabulary, dice = self.read.vocabulary, Random(int(rng.integers(2**62)))
        ids = self.words(data, rows)
        words = vocabulary.padded(ids)
        if name == "mlm":
            low, high = vocabulary.ordinary[0], vocabulary.ordinary[-1]
            span = range(low, high + 1)
            hidden = [mask_words(row[1:-1], dice, mask=vocabulary.mask, vocabulary=span) for row in ids]
            shown = [[row[0], *masked, row[-1]] for row, (masked, _) in zip(ids, hidden, strict=True)]
            labels = [[NOT_ASKED, *asked, NOT_ASKED] for _, asked in hidden]
            return (*vocabulary.padded(shown), self.show(data, rows), vocabulary.padded(labels, NOT_ASKED).values)
        if name == "itm":
            match = rng.random(len(rows)) < 0.5
            drawn = self.show(data, np.where(match, rows, self.others(data, rows, rng)))
            return (*words, drawn, torch.from_numpy(match.astype(np.int64)))
        regions = self.show(data, rows)
        if name in ("mrfr", "mrc", "mrc-kl"):
            if name != "mrfr":
                classes_of(regions)
            hidden_regions = torch.zeros_like(regions.mask)
            for row, there in enumerate(regions.mask):
                hidden_regions[row, : int(there.sum())] = torch.tensor(mask_regions(int(there.sum()), dice))
            return (*words, regions, hidden_regions)
        times = 1 if name == "rank" else self.candidates
        wrong = [np.concatenate([self.others(data, rows, rng) for _ in range(times)]) for _ in range(2)]
        return (*words, regions, *vocabulary.padded(self.words(data, wrong[0])), self.show(data, wrong[1]))

    def _pass(self, ids: Tensor, mask: Tensor, regions: Regions, hidden: Tensor | None = None) -> Compacted:
        return self.network(ids, mask, Tokens(regions.values, regions.mask), regions.places, hidden)

    def _mlm(self, ids: Tensor, mask: Tensor, regions: Regions, labels: Tensor) -> Tensor:
        return self.network.mlm(self._pass(ids, mask, regions), labels)[1].mean()

    def _mrfr(self, ids: Tensor, mask: Tensor, regions: Regions, hidden: Tensor) -> Tensor:
        return self.network.mrfr(self._pass(ids, mask, regions, hidden), hidden, regions.values[hidden])[1].mean()

    def _mrc(self, ids: Tensor, mask: Tensor, regions: Regions, hidden: Tensor) -> Tensor:
        logits = self.network.mrc(self._pass(ids, mask, regions, hidden), hidden)
        return mrc_loss(logits, classes_of(regions)[hidden]).mean()

    def _mrc_kl(self, ids: Tensor, mask: Tensor, regions: Regions, hidden: Tensor) -> Tensor:
        logits = self.network.mrc(self._pass(ids, mask, regions, hidden), hidden)
        return mrc_kl_loss(logits, classes_of(regions)[hidden]).mean()

    def _itm(self, ids: Tensor, mask: Tensor, regions: Regions, match: Tensor) -> Tensor:
        sequence = self._pass(ids, mask, regions)
        loss = F.cross_entropy(self.network.itm(sequence), match)
        if not self.wra:
            return loss
        distance = transport_distance(sequence.text(), sequence.image())
        return loss + self.wra * torch.where(match == 1, distance, -distance).mean()

    def _rank(
        self, ids: Tensor, mask: Tensor, regions: Regions, wrong_ids: Tensor, wrong_mask: Tensor, wrong: Regions
    ) -> Tensor:
        right = self.score(Tokens(ids, mask), regions)
        other_text = self.score(Tokens(wrong_ids, wrong_mask), regions)
        other_picture = self.score(Tokens(ids, mask), wrong)
        return rank_loss(torch.stack([right, other_text, other_picture], dim=1)).mean()

    def _hard_rank(
        self, ids: Tensor, mask: Tensor, regions: Regions, wrong_ids: Tensor, wrong_mask: Tensor, wrong: Regions
    ) -> Tensor:
        rows, words = len(ids), Tokens(ids, mask)
        right = self.score(words, regions)[:, None]
        texts = Tokens(wrong_ids, wrong_mask)
        losses = []
        for text_side in (True, False):

            def score(row: int, chosen: Tensor, text_side: bool = text_side) -> Tensor:
                place = chosen * rows + row
                if text_side:
                    return self.score(Tokens(*(t[place] for t in texts)), repeated(_one(regions, row), len(chosen)))
                return self.score(
                    Tokens(*(repeated(t[row : row + 1], len(chosen)) for t in words)), _take(wrong, place)
                )

            hard = self._hardest(score, rows, ids.device)
            found = torch.stack([score(row, chosen) for row, chosen in enumerate(hard)])
            losses.append(rank_loss(torch.cat([right, found], dim=1)).mean())
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _hardest(self, score: Any, rows: int, device: torch.device) -> list[Tensor]:
        """Of each row the candidates that score most, in evaluation mode."""
        was = self.training
        self.eval()
        everyone = torch.arange(self.candidates, device=device)
        found = [score(row, everyone).topk(min(self.hard, self.candidates)).indices for row in range(rows)]
        self.train(was)
        return found


def classes_of(regions: Regions) -> Tensor:
    """Shares ``(B, N, C)`` of the classes of regions.

    Raises:
        UserError: they have none.
    """
    if regions.classes is None:
        raise UserError(
            "masked region classification needs classes of the regions",
            "files of regions without soft_labels",
            "save soft_labels beside them, or leave mrc and mrc-kl out of the objectives",
        )
    return regions.classes


def _take(regions: Regions, rows: Tensor) -> Regions:
    return Regions(*(None if part is None else part[rows] for part in regions))  # type: ignore[arg-type]


def _one(regions: Regions, row: int) -> Regions:
    return _take(regions, torch.tensor([row], device=regions.mask.device))

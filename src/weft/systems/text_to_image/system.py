"""Text to image as a system: both networks with the frozen text encoder they listen to.

An epoch takes every training image once, in random order, each with one of its captions drawn at random. A step has
three phases: the discriminator, its gradient penalty (or both in one, with a weight), the generator. There is no dev
score to select by: two networks that play against each other have no loss that falls, and the model ends with its last
weights. What draws is the generator's exponential moving average: the generator itself goes on circling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from weft.data import Dataset, Split
from weft.encoders import create_encoder
from weft.errors import UserError, some
from weft.models.raw import encode_rows
from weft.models.seen import Seen
from weft.models.standardise import Standardiser
from weft.registry import Count, Learned
from weft.store import MemoryFeatures
from weft.systems.text_to_image.judge import Asked
from weft.systems.text_to_image.loss import discriminator_loss, generator_loss, gradient_penalty
from weft.systems.text_to_image.network import Caption, Discriminator, Generator
from weft.systems.text_to_image.pairs import ImagePairs
from weft.tokens import Tokens, mean_pool
from weft.training.phase import Average, Optimizer, Phase
from weft.training.system import Need, System, systems

SMALLEST = 8
ROLE = "text"


@dataclass
class Round:
    """A batch; ``fake`` is drawn once, by the first phase.

    Attributes:
        images: ``(B, 3, size, size)`` in [-1, 1].
        caption: of each.
        noise: ``(B, noise)``.
    """

    images: Tensor
    caption: Caption
    noise: Tensor
    fake: Tensor | None = None


@systems.register("text-to-image")
class TextToImage(System):
    """Images from captions by an adversarial pair, with ARAF's alignment between the up-blocks or without; ARAF 2023.

    Args:
        text_encoder: frozen encoder of the captions; ``hf:<name or folder>``, or a built-in one.
        size, base, noise, words, align_width, heads: see :class:`~weft.systems.text_to_image.network.Generator`; the
            words are asked at a 16th and a 4th of ``size``.
        gate: of the discriminator, see :class:`~weft.systems.text_to_image.network.Discriminator`.
        longest: most tokens of a caption, special ones included.
        augment: cut a random part out of a slightly larger image, and mirror it or not. Off where the captions say what
            is left and right.
        ratio: how many times faster the discriminator learns.
        beta1, beta2: of Adam.
        penalty: weight of the gradient penalty in the discriminator's step; None: a step of its own, as published.
        average: decay of the moving average of the generator's weights; 0: the last weights.
        caption_width: learned: width of the captions' features.
        encoders: learned: what makes them.
    """

    reads = {"image": Need("image", target=True), ROLE: Need("text")}
    writes = "image"
    judge = "text-to-image"
    trained_with = {
        "epochs": 500, "batch_size": 24, "lr": 2e-4, "schedule": "constant", "warmup": 0.0, "patience": 0, "clip": 0.0,
    }  # fmt: skip
    variants = {name: {"words": name} for name in ("araf", "attention", "none")}
    rows_at_once = 64
    paper = "ARAF 2023; Jin et al. 2023, SEAttnGAN (arXiv 2306.14708); Tao et al. 2022, DF-GAN (CVPR, arXiv 2008.05865)"

    def __init__(
        self,
        *,
        text_encoder: str = "hashed-text",
        size: int = 256,
        base: Count = 32,
        noise: Count = 100,
        words: Literal["araf", "attention", "none"] = "araf",
        align_width: Count = 64,
        heads: Count = 4,
        gate: float = 0.0,
        longest: Count = 64,
        augment: bool = False,
        ratio: Annotated[float, Field(gt=0)] = 4.0,
        beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        penalty: Annotated[float, Field(ge=0)] | None = None,
        average: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        caption_width: Learned[Annotated[int, Field(ge=0)]] = 0,
        encoders: Learned[dict[str, Any] | None] = None,
    ) -> None:
        super().__init__()
        self.options = {
            "text_encoder": text_encoder, "size": size, "base": base, "noise": noise, "words": words,
            "align_width": align_width, "heads": heads, "gate": gate, "longest": longest, "augment": augment,
            "ratio": ratio, "beta1": beta1, "beta2": beta2, "penalty": penalty, "average": average,
            "caption_width": caption_width, "encoders": encoders,
        }  # fmt: skip
        self.size, self.longest, self.augment, self.encoders = size, longest, augment, encoders
        self.ratio, self.betas, self.penalty = ratio, (beta1, beta2), penalty
        self.standardise = Standardiser({"words": caption_width, "sentence": caption_width})
        align_at = tuple(sorted({max(SMALLEST, size // 16), max(SMALLEST, size // 4)}))
        self.generator = Generator(
            caption_width,
            size=size,
            base=base,
            noise=noise,
            align_at=align_at,
            width=align_width,
            heads=heads,
            words=words,
        )
        self.discriminator = Discriminator(caption_width, size=size, base=base, gate=gate)
        self.average = Average(self.generator, average)
        self._texts: WeakKeyDictionary[Dataset, MemoryFeatures] = WeakKeyDictionary()
        self._pairs: WeakKeyDictionary[Dataset, ImagePairs] = WeakKeyDictionary()

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        with torch.random.fork_rng([]):  # whatever an encoder draws, the first weights are the same
            encoder = create_encoder(options.get("text_encoder", "hashed-text"), "text")
        column = cls.columns(data, target=False)[ROLE]
        values = data.modalities[column].values
        encoder.fit([values[row] for row in rows if values[row] is not None])
        spec = {**(encoder.recipe or {}), "state": encoder.state(), "identity": encoder.identity(), "dtype": "fp16"}
        texts = _features({ROLE: spec}, data, column)
        model = cls(**{**options, "caption_width": texts.dims[ROLE], "encoders": {ROLE: spec}})
        model._texts[data] = texts
        parts = (texts.gather(part)[ROLE] for part in np.array_split(rows, -(-len(rows) // 512)))
        model.standardise.fit({"words": words, "sentence": sentences(words)} for words in parts)
        return model

    def config(self) -> dict[str, Any]:
        return self.options

    def check(self, data: Dataset, rows: np.ndarray, *, target: bool = True) -> None:
        super().check(data, rows, target=target)
        lengths = self._features(data).lengths[ROLE][rows]
        long = [f"{data.ids[row]}: {n}" for row, n in zip(rows, lengths, strict=True) if n > self.longest]
        if long:
            raise UserError(
                f"a caption has at most {self.longest} tokens, special ones included",
                f"{len(long)} longer ones: {some(long)}",
                "shorten them, or train with a larger longest",
            )

    def check_split(self, data: Dataset, split: Split) -> None:
        self.check(data, split.train)

    def order(self, data: Dataset, rows: np.ndarray, batch_size: int, rng: np.random.Generator) -> np.ndarray:
        """``(n,)``: a row of every image; an incomplete last batch is left out.

        Raises:
            UserError: there are fewer images than a batch has.
        """
        if data not in self._pairs:
            self._pairs[data] = ImagePairs(data, rows, self.columns(data)["image"], self.size, self.augment)
        pairs = self._pairs[data]
        whole = len(pairs) // batch_size * batch_size
        if not whole:
            found = f"{len(pairs)} images, batch_size={batch_size}"
            raise UserError("an epoch needs at least one whole batch", found, "lower batch_size")
        return pairs.first[rng.permutation(len(pairs))[:whole]]

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> Round:
        rng, pairs = rng or np.random.default_rng(0), self._pairs[data]
        torch_rng, chosen = torch.Generator().manual_seed(int(rng.integers(2**62))), pairs.places(rows)
        caption = self.caption(self._features(data), pairs.captions(chosen, rng))
        images = pairs.images(chosen, rng).to(memory_format=torch.channels_last)
        return Round(images, caption, torch.randn(len(rows), self.generator.noise, generator=torch_rng))

    def phases(self) -> list[Phase]:
        for network in (self.generator, self.average, self.discriminator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        discriminator = Optimizer(list(self.discriminator.parameters()), self.ratio, self.betas, 0.0)
        generator = Optimizer(list(self.generator.parameters()), 1.0, self.betas, 0.0)
        last = Phase("generator", self._score, generator)
        if self.penalty is None:
            return [
                Phase("discriminator", self._hinge, discriminator), Phase("penalty", self._slope, discriminator), last,
            ]  # fmt: skip
        return [Phase("discriminator", self._both, discriminator), last]

    def validate(self, *args: Any, **options: Any) -> dict[str, float]:
        return {}

    def predict(self, data: Dataset, rows: np.ndarray) -> list[np.ndarray]:
        return list(self.predictions(data, rows))

    @torch.no_grad()
    def predictions(
        self, data: Dataset, rows: np.ndarray, *, batch_size: int | None = None, seed: int = 0
    ) -> Iterator[np.ndarray]:
        """Images ``(size, size, 3)`` uint8 of the captions of rows; the noise depends on ``seed`` and place."""
        self.check(data, rows, target=False)
        self.eval()
        features, size = self._features(data), batch_size or self.rows_at_once
        noise = torch.randn(len(rows), self.generator.noise, generator=torch.Generator().manual_seed(seed))
        for start in range(0, len(rows), size):
            with torch.no_grad():
                caption = self.caption(features, np.asarray(rows[start : start + size]))
                images = self.average(noise[start : start + size].to(self.device), caption)
            yield from ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Seen | None = None) -> Asked:
        columns = cls.columns(data)
        return Asked.of(data, rows, seen, columns["image"], columns[ROLE])

    def caption(self, features: MemoryFeatures, rows: np.ndarray) -> Caption:
        """The standardised words ``(n, T, D)`` and sentences ``(n, D)`` of rows, without gradient."""
        words = Tokens(*(part.to(self.device) for part in features.gather(rows)[ROLE]))
        inputs = self.standardise({"words": words, "sentence": sentences(words)})
        return Caption(inputs["words"], inputs["sentence"].values[:, 0])

    def _features(self, data: Dataset) -> MemoryFeatures:
        """Of the captions of all rows, encoded once."""
        if data not in self._texts:
            self._texts[data] = _features(self.encoders or {}, data, self.columns(data, target=False)[ROLE])
        return self._texts[data]

    def _hinge(self, batch: Round) -> Tensor:
        batch.fake = self.generator(batch.noise, batch.caption)
        return discriminator_loss(self.discriminator, batch.images, batch.fake, batch.caption.sentence)

    def _slope(self, batch: Round) -> Tensor:
        return gradient_penalty(self.discriminator, batch.images, batch.caption.sentence)

    def _both(self, batch: Round) -> Tensor:
        return self._hinge(batch) + (self.penalty or 0.0) * self._slope(batch)

    def _score(self, batch: Round) -> Tensor:
        fake = self.generator(batch.noise, batch.caption) if batch.fake is None else batch.fake
        return generator_loss(self.discriminator, fake, batch.caption.sentence)


def sentences(words: Tokens) -> Tokens:
    """The mean of the words ``(B, T, D)`` of each caption as one token ``(B, 1, D)``."""
    return Tokens(mean_pool(words).unsqueeze(1), words.mask.any(dim=1, keepdim=True))


def _features(specs: dict[str, Any], data: Dataset, column: str) -> MemoryFeatures:
    texts = replace(data.modalities[column], values=[v or "-" for v in data.modalities[column].values])
    alone = Dataset(data.name, data.ids, {ROLE: texts}, {}, None, None, "retrieval")
    return encode_rows(specs, alone, progress=False)

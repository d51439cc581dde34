"""Text-to-image models: both networks with the frozen text encoder they listen to, and their adversarial training.

An epoch takes every training image once, in an order drawn from ``(seed, epoch)``, each with one of its captions drawn
at random; a step draws noise from ``(seed, epoch, step)`` alone. So a run that was killed goes on from its last
checkpoint with the very numbers of one that was not. There is no dev score to select by: two networks that play against
each other have no loss that falls, and the model ends with its last weights.

What draws is the generator's exponential moving average: the generator itself goes on circling.

With a folder: ``best/`` (a model folder, the last weights), ``last/checkpoint.safetensors``, ``log.jsonl``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from weft.data import Dataset, Modality
from weft.data.dataset import numbered
from weft.errors import UserError, some
from weft.generation.araf_gan import Caption, Discriminator, Generator
from weft.generation.matching_aware import make_optimizer, update
from weft.store import Features
from weft.tokens import Tokens, mean_pool
from weft.training.checkpoint import Position, fingerprint, load_checkpoint, save_checkpoint
from weft.training.config import Settings
from weft.training.image_pairs import ImagePairs
from weft.training.log import RunLog
from weft.training.loop import History
from weft.training.pretrained import Pretrained, models
from weft.training.raw import encode_rows, encoder_specs
from weft.training.standardise import Standardiser

SMALLEST = 8


class GenerationConfig(Settings):
    """How an image generator is trained; the defaults are the published recipe.

    Attributes:
        epochs: passes over the training images.
        batch_size: images of a step; an incomplete last batch is left out.
        lr: of the generator.
        ratio: how many times faster the discriminator learns.
        beta1, beta2: of Adam.
        penalty: weight of the gradient penalty in the discriminator's step; None: a step of its own, as published.
        average: decay of the moving average of the generator's weights, less in the first steps; 0: the last weights.
        augment: cut a random part out of a slightly larger image, and mirror it or not. Off where the captions say what
            is left and right.
        seed: first weights, order, captions, noise.
        checkpoint_seconds: least time between two checkpoints; the end of training always writes one.
    """

    epochs: int = Field(500, ge=1)
    batch_size: int = Field(24, ge=2)
    lr: float = Field(2e-4, gt=0)
    ratio: float = Field(4.0, gt=0)
    beta1: float = Field(0.5, ge=0, lt=1)
    beta2: float = Field(0.99, gt=0, lt=1)
    penalty: float | None = Field(None, ge=0)
    average: float = Field(0.999, ge=0, lt=1)
    augment: bool = False
    seed: int = Field(0, ge=0)
    checkpoint_seconds: float = Field(60.0, ge=0)


@models.register("GenerationModel")
class GenerationModel(nn.Module, Pretrained):
    """A generator, its moving average and its discriminator behind frozen, standardised text features.

    Args:
        text: name of the text modality.
        width: ``S``, width of its features.
        size: height and width of the images in pixels, 4 times a power of two.
        base: channels of the last blocks of the generator and the first of the discriminator.
        noise: width of the noise.
        words: see :class:`~weft.generation.araf_gan.Generator`; the words are asked at a 16th and a 4th of ``size``.
        align_width, heads: of the alignment.
        gate: of the discriminator, see :class:`~weft.generation.araf_gan.Discriminator`.
        longest: most tokens of a caption, special ones included.
        seed: of the first weights.
        encoders: what made the text features, see :func:`~weft.training.raw.encoder_specs`.
    """

    format = "GenerationModel/1"

    def __init__(
        self,
        text: str,
        width: int,
        *,
        size: int = 256,
        base: int = 32,
        noise: int = 100,
        words: Literal["araf", "attention", "none"] = "araf",
        align_width: int = 64,
        heads: int = 4,
        gate: float = 0.0,
        longest: int = 64,
        seed: int = 0,
        encoders: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.text, self.size, self.longest, self.encoders = text, size, longest, encoders
        network = {"base": base, "noise": noise, "align_width": align_width, "heads": heads, "gate": gate}
        self.options = {"size": size, "words": words, "longest": longest, **network}
        self.standardise = Standardiser({"words": width, "sentence": width})
        align_at = tuple(sorted({max(SMALLEST, size // 16), max(SMALLEST, size // 4)}))
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            self.generator = Generator(
                width, size=size, base=base, noise=noise, align_at=align_at, width=align_width, heads=heads, words=words
            )
            self.discriminator = Discriminator(width, size=size, base=base, gate=gate)
        self.average = deepcopy(self.generator).requires_grad_(False)

    def caption(self, features: Features, rows: np.ndarray) -> Caption:
        """The standardised words and sentences of rows.

        Raises:
            UserError: rows without a text, or with more than ``longest`` tokens.
        """
        words = features.gather(rows)[self.text]
        self.check_lengths(words.mask.sum(dim=1).numpy(), [features.ids[row] for row in rows])
        words = Tokens(*(part.to(next(self.parameters()).device) for part in words))
        inputs = self.standardise({"words": words, "sentence": sentences(words)})
        return Caption(inputs["words"], inputs["sentence"].values[:, 0])

    def check_lengths(self, lengths: np.ndarray, ids: Sequence[str]) -> None:
        """Refuse captions without a token, and longer ones than the model reads."""
        silent = [row for row, length in zip(ids, lengths, strict=True) if length == 0]
        if silent:
            raise UserError(
                "every image has a caption, and every caption an image",
                f"no text {self.text!r} in {len(silent)} rows: {some(silent)}",
                "drop these rows, or write their captions",
            )
        long = [f"{row}: {length}" for row, length in zip(ids, lengths, strict=True) if length > self.longest]
        if long:
            raise UserError(
                f"a caption has at most {self.longest} tokens, special ones included",
                f"{len(long)} longer ones: {some(long)}",
                "shorten them, or train with a larger longest",
            )

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the average towards the generator: ``decay`` times itself, the rest of the generator."""
        for mean, new in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(new, 1 - decay)

    @torch.no_grad()
    def draw(self, features: Features, rows: np.ndarray, seed: int = 0, batch_size: int = 64) -> np.ndarray:
        """Images ``(n, size, size, 3)`` uint8 of the captions of rows; the noise depends on ``seed`` and place."""
        self.eval()
        device = next(self.parameters()).device
        noise = torch.randn(len(rows), self.generator.noise, generator=torch.Generator().manual_seed(seed))
        parts = [np.zeros((0, self.size, self.size, 3), np.uint8)]
        for start in range(0, len(rows), batch_size):
            caption = self.caption(features, rows[start : start + batch_size])
            images = self.average(noise[start : start + batch_size].to(device), caption)
            parts.append(((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(parts)

    def read(self, captions: Sequence[str], *, progress: bool = False) -> Features:
        """Features of new captions by the encoder the model was trained with.

        Raises:
            UserError: an empty caption, or the model does not know its encoder.
        """
        texts = Modality("text", list(captions))
        rows = Dataset("captions", numbered("caption ", len(captions)), {self.text: texts}, {}, None, None, "retrieval")
        return encode_rows(self.encoders, rows, progress=progress)

    def config(self) -> dict[str, Any]:
        known = {"text": self.text, "width": self.standardise.dims["words"], "encoders": self.encoders}
        return {**known, **self.options}


def sentences(words: Tokens) -> Tokens:
    """The mean of the words of each caption as one token."""
    mean = mean_pool(words).unsqueeze(1)
    return Tokens(mean, words.mask.any(dim=1, keepdim=True))


def fit_generation(
    model: GenerationModel,
    data: Dataset,
    features: Features,
    rows: np.ndarray,
    config: GenerationConfig | dict[str, Any] | None = None,
    folder: Path | str | None = None,
    progress: bool = True,
) -> History:
    """Train both networks on rows of pairs; the model ends with the last weights.

    Args:
        model: its standardiser is fitted on these rows if it is not yet.
        data: the images.
        features: of the text, row by row as ``data``.
        rows: of the training split.
        config: settings, or keywords of :class:`GenerationConfig`.
        folder: where checkpoints and the log go; a run killed there goes on from its last checkpoint.
        progress: show a progress bar.

    Raises:
        UserError: pairs that do not match, captions that are too long, images that are too small, a loss that is not
            finite, or a folder that holds another run.
    """
    settings = GenerationConfig.of(config)
    if list(features.ids) != list(data.ids):
        raise UserError(
            "text features and images are of the same rows",
            f"{len(features.ids)} rows of features, {len(data.ids)} of images",
            "encode this data set's own text",
        )
    rows = np.asarray(rows)
    model.check_lengths(features.lengths[model.text][rows], [data.ids[row] for row in rows])
    pairs = ImagePairs(data, rows, model.size, settings.augment)
    if not model.standardise.fitted:
        parts = (features.gather(part)[model.text] for part in np.array_split(rows, math.ceil(len(rows) / 512)))
        model.standardise.fit({"words": words, "sentence": sentences(words)} for words in parts)
    device = next(model.parameters()).device
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        return _Run(model, features, pairs, rows, settings, None if folder is None else Path(folder)).run(progress)


class _Run:
    def __init__(
        self,
        model: GenerationModel,
        features: Features,
        pairs: ImagePairs,
        rows: np.ndarray,
        config: GenerationConfig,
        folder: Path | None,
    ) -> None:
        self.model, self.features, self.pairs, self.config, self.folder = model, features, pairs, config, folder
        self.steps = len(pairs) // config.batch_size
        if not self.steps:
            raise UserError(
                "an epoch has a whole batch", f"{len(pairs)} images, batch_size={config.batch_size}", "lower batch_size"
            )
        for network in (model.generator, model.average, model.discriminator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(
            model.generator,
            model.discriminator,
            lr=config.lr,
            ratio=config.ratio,
            betas=(config.beta1, config.beta2),
        )
        self.scaler = torch.amp.GradScaler(enabled=False)
        self.position = Position()
        self.identity = {
            "settings": fingerprint(config.model_dump(exclude={"checkpoint_seconds"})),
            "model": fingerprint(model.options),
            "rows": fingerprint([features.ids[row] for row in rows.tolist()]),
        }
        self._saved_at = time.monotonic()

    def run(self, progress: bool) -> History:
        if self.folder is not None:
            found = load_checkpoint(self.folder / "last", self.model, [self.optimizer], self.scaler, self.identity)
            self.position = self.position if found is None else found[0]
        position = self.position
        started = time.monotonic() - position.seconds
        with RunLog(self.folder, self.config.epochs * self.steps, progress=progress) as log:
            log.resume(position.epochs)
            while not position.finished:
                self._epoch(log, started)
        self.model.eval()
        return History(position.epochs, len(position.epochs) - 1, position.seconds, False)

    def _epoch(self, log: RunLog, started: float) -> None:
        position, config = self.position, self.config
        order = np.random.default_rng([config.seed, position.epoch]).permutation(len(self.pairs))
        self.model.train()
        for step in range(position.step, self.steps):
            chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
            rng = np.random.default_rng([config.seed, position.epoch, step])
            torch.manual_seed(int(rng.integers(2**62)))
            caption = self.model.caption(self.features, self.pairs.captions(chosen, rng))
            images = self.pairs.images(chosen, rng).to(caption.sentence.device, memory_format=torch.channels_last)
            done = position.epoch * self.steps + step
            networks = self.model.generator, self.model.discriminator
            losses = update(*networks, self.optimizer, images, caption, config.penalty)
            if not np.isfinite(losses).all():
                raise UserError(
                    "the training loss is not finite",
                    f"{losses} in epoch {position.epoch}, step {step}",
                    f"lower lr (now {config.lr})",
                )
            self.model.follow(min(config.average, (1 + done) / (10 + done)))
            position.losses.extend(losses)
            position.step = step + 1
            log.step(done + 1)
            if step + 1 < self.steps and time.monotonic() - self._saved_at >= config.checkpoint_seconds:
                self._save(started)
        means = np.array(position.losses).reshape(-1, 3).mean(axis=0).tolist()
        seconds = time.monotonic() - started
        names = ("discriminator", "penalty", "generator")
        entry = {"epoch": position.epoch, **dict(zip(names, means, strict=True)), "seconds": seconds}
        position.epochs.append(entry)
        position.epoch, position.step, position.losses = position.epoch + 1, 0, []
        position.best_epoch, position.finished = position.epoch - 1, position.epoch >= config.epochs
        log.epoch(entry)
        if position.finished or time.monotonic() - self._saved_at >= config.checkpoint_seconds:
            self._save(started)

    def _save(self, started: float) -> None:
        if self.folder is None:
            return
        self.position.seconds = time.monotonic() - started
        self.model.save_pretrained(self.folder / "best")
        save_checkpoint(
            self.folder / "last", self.model, {}, [self.optimizer], self.scaler, self.position, self.identity
        )
        self._saved_at = time.monotonic()


def build_generation(features: Features, *, seed: int = 0, **options: Any) -> GenerationModel:
    """The model for the text features of a store, the only modality there.

    Args:
        features: of one modality.
        seed: of the first weights.
        options: of :class:`GenerationModel`.
    """
    (text, width), *more = features.dims.items()
    if more:
        raise UserError(
            "captions are one modality", f"features of {', '.join(features.dims)}", "features.subset([...])"
        )
    return GenerationModel(text, width, seed=seed, encoders=encoder_specs(features, [text]), **options)

"""L-Verse as systems: the autoencoder (``aug-vae``), pictures from texts (``l-verse``), texts from pictures
(``l-verse-captions``).

The last two train the same transformer, in both directions, over the codes of an autoencoder that was trained before;
each goes on from a folder of the other by ``start``.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from weft.data import Dataset
from weft.errors import UserError, some
from weft.models.aligned import AlignedModel
from weft.models.pretrained import load_model
from weft.models.seen import Seen
from weft.registry import Count, Dropout, Learned
from weft.systems.l_verse.augvae import AugVae
from weft.systems.l_verse.biart import UNKNOWN, WORDS, BiArt, Places
from weft.systems.l_verse.codebook import Init
from weft.systems.text_to_image.judge import Asked, embed_pairs
from weft.systems.text_to_image.pairs import pixels_of
from weft.tasks.base import tasks
from weft.tasks.captions import lines, words
from weft.tasks.judge import Judge
from weft.training.once import Once
from weft.training.system import Gather, Need, Scatter, System, alone, systems, take, whole

FEW = 0.05
"""A codebook of which the dev rows use a smaller share is nearly dead."""
PAPER = "Kim et al. 2022, L-Verse (CVPR, arXiv 2111.11133)"
TEXT = "text"


class Original(NamedTuple):
    """The pictures of rows, of any size."""

    data: Dataset
    rows: np.ndarray
    column: str


@tasks.register("reconstruction")
class ReconstructionJudge(Judge):
    """Pictures ``(S, S, 3)`` uint8 against the originals at their size.

    ``mse`` of values in [0, 1], and ``psnr``, in decibels, of the mean error.
    """

    primary = "mse"
    higher_is_better = False

    def metrics(self, outputs: Sequence[np.ndarray], target: Original) -> dict[str, float]:
        mse = -float(self.scores(outputs, target).mean())
        return {"mse": mse, "psnr": float(-10 * np.log10(max(mse, 1e-12)))}

    def scores(self, outputs: Sequence[np.ndarray], target: Original) -> np.ndarray:
        """``(N,)`` minus the squared error."""
        pairs = zip(outputs, pictures(*target, outputs[0].shape[0]), strict=True)
        return np.array([-np.square(a / 255.0 - b / 255.0).mean() for a, b in pairs])


@systems.register("aug-vae")
class AugVaeSystem(System):
    """Pictures to codes and back; the autoencoder of L-Verse.

    Published, at 256 pixels: ``pyramid=[64, 32, 16, 8] hidden=128 z=256 dim=256 codes=8192 widths=[1, 2, 4]
    residual=2``; the loss has a perceptual term there (LPIPS, whose weights are not part of weft), here the squared
    error alone.

    Args:
        size: side of the pictures in pixels; larger ones are cut to a square and reduced.
        pyramid, hidden, z, dim, codes, widths, residual, attention, groups, init, shared, level: see
            :class:`~weft.systems.l_verse.augvae.AugVae`.
        start: folder of an autoencoder of all levels, of which ``level`` is kept.
    """

    reads = {"image": Need("image")}
    writes = "image"
    judge = "reconstruction"
    trained_with = {"lr": 1e-3, "weight_decay": 1e-5, "epochs": 40, "batch_size": 32, "clip": 0.0}
    variants = {"one codebook": {"shared": True}, "a codebook per level": {"shared": False}}
    rows_at_once = 64
    paper = PAPER

    def __init__(
        self,
        *,
        size: int = 32,
        pyramid: Annotated[list[Count], Field(min_length=1)] = [16, 8, 4],  # noqa: B006
        hidden: Count = 32,
        z: Count = 32,
        dim: Count = 32,
        codes: Count = 128,
        widths: Annotated[list[Count], Field(min_length=1)] = [1, 2],  # noqa: B006
        residual: Count = 1,
        attention: bool = False,
        groups: Count = 32,
        init: Init = "data",
        shared: bool = True,
        level: int | None = None,
        start: str | None = None,
    ) -> None:
        super().__init__()
        self.size, self.pyramid, self.hidden, self.z, self.dim, self.codes = size, pyramid, hidden, z, dim, codes
        self.widths, self.residual, self.attention, self.groups = widths, residual, attention, groups
        self.init, self.shared, self.level, self.start = init, shared, level, start
        self.network = AugVae(
            size, pyramid, hidden=hidden, z=z, dim=dim, codes=codes, widths=widths, residual=residual,
            attention=attention, groups=groups, init=init, shared=shared, level=level,
        )  # fmt: skip

    @property
    def side(self) -> int | None:
        """Of the only level, None where there are several."""
        return self.pyramid[0] if len(self.pyramid) == 1 else self.level

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        if not options.get("start"):
            return cls(**options)
        whole = _loaded(options["start"], AugVaeSystem, "aug-vae")
        level = options.get("level")
        if level is None or whole.level is not None:
            raise UserError(
                "keeping one level begins from an autoencoder of all levels",
                f"level={level}; {options['start']} keeps {whole.level or 'all'}",
                f"level= one of {whole.pyramid[:-1]}",
            )
        model = cls(**{**whole.config(), **options})
        model.network.load_state_dict({**model.network.state_dict(), **whole.network.single(level)})
        return model

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
        return as_input(np.stack(pictures(data, rows, self.columns(data)["image"], self.size)))

    def loss(self, batch: Tensor) -> Tensor:
        found = self.network(batch)
        return F.mse_loss(found.picture, batch, reduction="none").mean(dim=(1, 2, 3)) + found.loss

    def predict(self, data: Dataset, rows: np.ndarray) -> list[np.ndarray]:
        return as_pixels(self.network(self.to_device(self.batch(data, rows))).picture)

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Seen | None = None) -> Original:
        return Original(data, rows, cls.columns(data)["image"])

    def validate(
        self, data: Dataset, rows: np.ndarray, batch_size: int, scatter: Scatter = alone, gather: Gather = whole
    ) -> dict[str, float]:
        """As of every system, with the codes that the dev rows use; few of them are told."""
        found = super().validate(data, rows, batch_size, scatter, gather)
        mine, size = scatter(np.arange(len(rows))), 4 * batch_size
        parts = [rows[mine[start : start + size]] for start in range(0, len(mine), size)]
        codes = [self.network.encoded(self.to_device(self.batch(data, part))) for part in parts]
        used = len(gather(torch.cat(codes), len(rows)).unique())
        if used < FEW * self.codes:
            warnings.warn(
                f"the codebook is nearly dead: {used} of {self.codes} codes are in use for {len(rows)} pictures; "
                "init=data revives codes in training, and fewer codes are easier to fill", stacklevel=2,
            )  # fmt: skip
        return {**found, "codes": float(used)}

    def codes_of(self, data: Dataset, rows: np.ndarray) -> list[Tensor]:
        """Codes ``(T,)`` of the picture of each row, in evaluation mode."""
        self.eval()
        with torch.no_grad():
            return list(self.network.encoded(self.to_device(self.batch(data, rows))).cpu())


class Verse(System):
    """Base of both directions.

    Args:
        codes: folder of an autoencoder (``aug-vae``) that keeps one level.
        start: folder of ``l-verse`` or ``l-verse-captions`` to go on from; it brings autoencoder and words along.
        width, layers, heads, dropout, segments, places: see :class:`~weft.systems.l_verse.biart.BiArt`.
        longest: words of a text; longer ones are cut.
        reference: weight of the loss on the reference block.
        temperature, top_k, top_p, guidance: how tokens are drawn, see :meth:`~weft.systems.l_verse.biart.BiArt.go_on`.
        empty: share of the training rows whose reference is left empty, for guidance.
        candidates: pictures drawn of every text, of which the one that is most like the text is kept.
        aligner: folder of any aligner of picture and text, which says how alike they are.
        vocabulary, vae: learned: the words of the training rows, and the autoencoder's settings.
    """

    trained_with = {"lr": 1e-3, "weight_decay": 0.01, "epochs": 60, "batch_size": 64}
    rows_at_once = 64
    paper = PAPER

    def __init__(
        self,
        *,
        codes: str | None = None,
        start: str | None = None,
        width: Count = 128,
        layers: Count = 4,
        heads: Count = 4,
        dropout: Dropout = 0.1,
        segments: bool = True,
        places: Places = "joint",
        longest: Annotated[int, Field(ge=1)] = 16,
        reference: Annotated[float, Field(ge=0)] = 0.1,
        temperature: Annotated[float, Field(ge=0)] = 1.0,
        top_k: Annotated[int, Field(ge=1)] | None = None,
        top_p: Annotated[float, Field(gt=0, le=1)] | None = None,
        guidance: Annotated[float, Field(ge=0)] = 1.0,
        empty: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        candidates: Annotated[int, Field(ge=1)] = 1,
        aligner: str | None = None,
        vocabulary: Learned[list[str] | None] = None,
        vae: Learned[dict[str, Any] | None] = None,
    ) -> None:
        super().__init__()
        self.codes, self.start, self.width, self.layers, self.heads, self.dropout = (
            codes, start, width, layers, heads, dropout
        )  # fmt: skip
        self.segments, self.places, self.longest, self.reference = segments, places, longest, reference
        self.temperature, self.top_k, self.top_p, self.guidance, self.empty = temperature, top_k, top_p, guidance, empty
        self.candidates, self.aligner = candidates, aligner
        if candidates > 1 and aligner is None:
            raise UserError(
                "somebody chooses among several candidates", f"candidates={candidates}, no aligner",
                "aligner=FOLDER, of weft align on pictures and texts",
            )  # fmt: skip
        self.vocabulary, self.vae = vocabulary or [], vae
        self.autoencoder = AugVaeSystem(**(vae or {"level": 8})).requires_grad_(False)
        side = self.autoencoder.side or 1
        self.network = BiArt(
            len(self.vocabulary), self.autoencoder.codes, longest, side * side, width=width, layers=layers, heads=heads,
            dropout=dropout, segments=segments, places=places,
        )  # fmt: skip
        self._ids = {word: WORDS + i for i, word in enumerate(self.vocabulary)}
        self._codes: Once[Tensor] = Once(self.autoencoder.codes_of, self.rows_at_once)

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        if options.get("start"):
            other = _loaded(options["start"], Verse, "l-verse")
            fixed = ("codes", "width", "layers", "heads", "segments", "places", "longest", "vocabulary", "vae")
            model = cls(**{**other.config(), **options, **{name: getattr(other, name) for name in fixed}})
            model.load_state_dict(other.state_dict())
            return model
        if not options.get("codes"):
            raise UserError(
                "pictures are read as the codes of an autoencoder", "codes is not given",
                "train one that keeps a level: weft fit SOURCE --system aug-vae, then --option start=... level=8",
            )  # fmt: skip
        autoencoder = _loaded(options["codes"], AugVaeSystem, "aug-vae")
        if autoencoder.side is None:
            raise UserError(
                "the autoencoder keeps one level", f"{options['codes']}: all of {autoencoder.pyramid}",
                f"fit aug-vae again with --option start={options['codes']} --option level={autoencoder.pyramid[-2]}",
            )  # fmt: skip
        column = cls.columns(data)[TEXT]
        texts = (line for row in rows for line in lines(data.modalities[column].values[row] or ""))
        counted = Counter(word for line in texts for word in words(line))
        model = cls(**{**options, "vocabulary": sorted(counted), "vae": {**autoencoder.config(), "start": None}})
        model.autoencoder.load_state_dict(autoencoder.state_dict())
        return model

    def train(self, mode: bool = True) -> Self:
        """The autoencoder stays as it is."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> Any:
        draws = rng.random(len(rows)) < 0.5 if rng else np.arange(len(rows)) % 2 == 0
        text = torch.stack([self.word_ids(data, int(row), rng) for row in rows])
        stream = self.network.pairs(text, self.code_ids(data, rows), torch.from_numpy(draws))
        if rng and self.empty:
            gone = torch.from_numpy(rng.random(len(rows)) < self.empty)[:, None]
            stream = stream._replace(ids=torch.where(gone, self.network.emptied(stream).ids, stream.ids))
        return stream

    def loss(self, batch: Any) -> Tensor:
        return self.network.loss(batch, self.reference)

    def validate(
        self, data: Dataset, rows: np.ndarray, batch_size: int, scatter: Scatter = alone, gather: Gather = whole
    ) -> dict[str, float]:
        """The mean loss of the dev rows: what is drawn has no score that is cheap."""
        mine, size = scatter(np.arange(len(rows))), 4 * batch_size
        found = torch.cat([
            self.loss(self.to_device(self.batch(data, rows[mine[i : i + size]]))) for i in range(0, len(mine), size)
        ])  # fmt: skip
        loss = float(gather(found, len(rows)).mean())
        return {"loss": loss, "score": -loss}

    def check(self, data: Dataset, rows: np.ndarray, *, target: bool = True) -> None:
        """As of every system; texts that are longer than their block are told."""
        super().check(data, rows, target=target)
        if TEXT in self.columns(data, target=target):
            texts = take(data, self.columns(data, target=target)[TEXT], rows)
            said = [max((len(words(line)) for line in lines(text or "")), default=0) for text in texts]
            long = [data.ids[row] for row, count in zip(rows, said, strict=True) if count > self.longest]
            if long:
                warnings.warn(
                    f"texts of more than longest={self.longest} words are cut, up to {max(said)} in {len(long)} of "
                    f"{len(rows)} rows: {some(long)}", stacklevel=2,
                )  # fmt: skip

    def word_ids(self, data: Dataset, row: int, rng: np.random.Generator | None = None) -> Tensor:
        """Words ``(longest,)`` of a row, padded; one of its texts, where its cell has several lines."""
        said = lines(data.modalities[self.columns(data, target=False)[TEXT]].values[row])
        text = said[rng.integers(len(said))] if rng else said[0]
        ids = [self._ids.get(word, UNKNOWN) for word in words(text)][: self.longest]
        return torch.tensor(ids + [0] * (self.longest - len(ids)))

    def code_ids(self, data: Dataset, rows: np.ndarray) -> Tensor:
        """Codes ``(B, T)`` of pictures, computed once."""
        return torch.stack(self._codes(data, rows))

    def drawn(self) -> dict[str, Any]:
        """How tokens are drawn."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p, "guidance": self.guidance}


@systems.register("l-verse")
class LVerse(Verse):
    """Pictures from texts; L-Verse, Kim et al. 2022.

    Args: those of :class:`Verse`.
    """

    reads = {"image": Need("image", target=True), TEXT: Need("text")}
    writes = "image"
    judge = "text-to-image"
    variants = {"l-verse": {}, "no roles": {"segments": False}}

    def predict(self, data: Dataset, rows: np.ndarray) -> list[np.ndarray]:
        text = torch.stack([self.word_ids(data, int(row)) for row in rows]).to(self.device)
        prompt, found = self.network.draw(text), []
        for _ in range(self.candidates):
            found.append(as_pixels(self.autoencoder.network.drawn(self.network.go_on(prompt, **self.drawn()))))
        if self.candidates == 1:
            return found[0]
        aligner, names = self._chooser(data)
        texts = take(data, names[1], rows)
        embedded = [embed_pairs(aligner, pictures, texts, names) for pictures in found]
        likeness = np.stack([(a * b).sum(axis=1) for a, b in embedded])
        return [found[best][row] for row, best in enumerate(likeness.argmax(axis=0))]

    def _chooser(self, data: Dataset) -> tuple[AlignedModel, tuple[str, str]]:
        """The aligner, and how it calls picture and text."""
        aligner = AlignedModel.from_pretrained(str(self.aligner))
        known = aligner.names
        text = self.columns(data, target=False)[TEXT]
        if text not in known or len(known) != 2:
            raise UserError(
                "the aligner knows pictures and the column of texts", f"{text!r}; it has {some(known)}",
                "rename the column, or align columns of these names",
            )  # fmt: skip
        return aligner, (next(name for name in known if name != text), text)

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Seen | None = None) -> Asked:
        return Asked.of(data, rows, seen, *(cls.columns(data)[role] for role in ("image", TEXT)))


@systems.register("l-verse-captions")
class LVerseCaptions(Verse):
    """Texts from pictures; L-Verse, Kim et al. 2022.

    Args: those of :class:`Verse`.
    """

    reads = {"image": Need("image"), TEXT: Need("text", target=True)}
    writes = "text"
    judge = "captions"
    variants = {"l-verse": {}, "no roles": {"segments": False}}

    def predict(self, data: Dataset, rows: np.ndarray) -> list[str]:
        codes = self.code_ids(data, np.asarray(rows)).to(self.device)
        ids = self.network.go_on(self.network.say(codes), temperature=0.0)
        return [" ".join(self.vocabulary[i - WORDS] for i in row if i >= WORDS) for row in ids.tolist()]


def pictures(data: Dataset, rows: np.ndarray, column: str, size: int) -> list[np.ndarray]:
    """``(size, size, 3)`` uint8, the middle square of each picture.

    Raises:
        UserError: a picture is smaller.
    """
    return [pixels_of(data.modalities[column].values[row], data.ids[row], size, size) for row in rows]


def as_input(pixels: np.ndarray) -> Tensor:
    """``(B, S, S, 3)`` uint8 to ``(B, 3, S, S)`` in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_pixels(images: Tensor) -> list[np.ndarray]:
    """``(B, 3, S, S)`` in [-1, 1] to ``(S, S, 3)`` uint8."""
    return list(((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def _loaded(folder: str, kind: type[Any], name: str) -> Any:
    model = load_model(folder)
    if not isinstance(model, kind):
        raise UserError(f"the folder holds a model of {name}", f"{folder}: {type(model).__name__}", "give another")
    return model

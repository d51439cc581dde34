"""METER as systems: answers to questions about photos, and pre-training on photos with captions.

``image`` is a frozen encoder whose tokens are made once, or a CLIP tower that is trained along; ``text`` a BERT or
RoBERTa of transformers, or a fresh one over the words of the training texts. Weights learn at three rates: those of
the encoders at ``lr``, of fusion ``cross_rate`` and of heads ``head_rate`` times that, as published; norms and biases
do not decay. RandAugment is not done. ``decoder`` is the encoder-decoder variant, reconstructed (:mod:`.decoder`).
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from weft.data import Dataset, read_image
from weft.encoders.hf import quiet
from weft.errors import UserError, did_you_mean
from weft.registry import Count, Learned
from weft.systems.image_text import AnswerSystem, Reader, Vocabulary, begun, image_encoder, settled, texts_of
from weft.systems.image_text_pairs import PairSystem, repeated
from weft.systems.meter.codes import MOST, Codes, patches_of
from weft.systems.meter.decoder import Decoder, hide_spans
from weft.systems.meter.encoders import ClipTower, Places, TextEncoder
from weft.systems.meter.masking import NOT_ASKED, hide, mask_patches, mask_whole_words
from weft.systems.meter.network import Joint, MeterNet
from weft.systems.meter.objectives import begin_ranking, code_mim_loss, in_batch_mim_loss, mlm_loss, rank_loss
from weft.tokens import Tokens, concatenate, everywhere
from weft.training.phase import Optimizer, Phase
from weft.training.system import systems

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SHARED = (
    "image", "pixels", "text", "fusion", "dim", "heads", "hidden", "layers", "decoder", "length", "vocabulary",
    "encoder", "width", "cells",
)  # fmt: skip
PAPER = "Dou et al. 2022, METER (CVPR, arXiv 2111.02387)"
WRONG_TEXTS = 15
Sizes = dict[str, Any]
FRESH = {"image": {"dim", "heads", "blocks", "patch"}, "text": {"dim", "heads", "hidden", "layers"}}


class Inputs(NamedTuple):
    """Ids and mask ``(B, L)``, and pixels or tokens."""

    ids: Tensor
    mask: Tensor
    image: Tensor | Tokens | None


def text_encoder(text: str | Sizes, vocabulary: Vocabulary, dim: int, heads: int, length: int, dropout: float) -> Any:
    """The encoder and its width.

    Raises:
        UserError: it cannot be loaded, sizes have other names, or it has fewer positions than ``length``.
    """
    if isinstance(text, str):
        import transformers

        try:
            with quiet():
                model = transformers.AutoModel.from_pretrained(text, use_safetensors=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            found = f"{text}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
            raise UserError("the text encoder cannot be loaded", found, "give a folder of a BERT or RoBERTa") from error
        made = TextEncoder.from_transformers(model.float())
        positions = model.config.max_position_embeddings - (0 if made.padding is None else made.padding + 1)
        if length > positions:
            found = f"length={length}, positions {positions}"
            raise UserError("a text is no longer than the encoder has positions", found, "choose a smaller length")
        return made, model.config.hidden_size
    _names("text", text)
    width, layers = text.get("dim", dim), text.get("layers", 2)
    inner, own = text.get("hidden", 4 * width), text.get("heads", heads)
    return TextEncoder(vocabulary.size, length, 1, width, own, inner, layers, None, dropout), width


def image_tower(image: Sizes, pixels: int) -> tuple[ClipTower, int]:
    """A CLIP tower to be trained, from weights of transformers (``{"clip": folder}``) or fresh.

    Raises:
        UserError: the weights cannot be loaded.
    """
    if "clip" in image:
        import transformers

        try:
            with quiet():
                model = transformers.CLIPVisionModel.from_pretrained(image["clip"], use_safetensors=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            found = f"{image['clip']}: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}"
            raise UserError("the CLIP cannot be loaded", found, "give a folder or a hub name") from error
        return ClipTower.from_transformers(model.float(), size=pixels), model.config.hidden_size
    _names("image", image)
    width = image.get("dim", 768)
    tower = ClipTower(
        width, image.get("heads", max(1, width // 64)), image.get("blocks", 11), image.get("patch", 16), pixels
    )
    return tower, width


def _names(which: str, sizes: Mapping[str, Any]) -> None:
    strange = sorted(set(sizes) - FRESH[which])
    if strange:
        raise UserError(f"sizes of a fresh {which} encoder", strange[0], did_you_mean(strange[0], FRESH[which]))


def build(system: Any, outputs: Mapping[str, int]) -> MeterNet:
    """The network of a system's options; and ``system.read``."""
    vocabulary = Vocabulary(system.text if isinstance(system.text, str) else "", system.vocabulary)
    encoder = system.encoder if isinstance(system.image, str) else None
    system.read = Reader(vocabulary, system.length, system.cut, encoder, system.width)
    tower: nn.Module
    text, wide = text_encoder(system.text, vocabulary, system.dim, system.heads, system.length, system.dropout)
    tower, seen = (
        (Places(system.cells, system.width), system.width)
        if encoder
        else image_tower(system.image, system.pixels or 288)
    )
    kind: Any = "merged" if system.fusion == "text" else system.fusion
    sizes = system.dim, system.heads, system.hidden, system.layers
    decoder = None
    if system.decoder:
        inner = system.hidden or 4 * system.dim
        stack = system.dim, system.heads, inner, system.decoder, system.dropout
        decoder = Decoder(vocabulary.size, system.length + 2, *stack)
    return MeterNet(
        text,
        tower,
        (wide, seen),
        *sizes,
        types=getattr(system, "types", 2),
        outputs=outputs,
        dropout=system.dropout,
        mean_image=bool(encoder),
        fusion=kind,
        decoder=decoder,
    )


def learned(data: Dataset, rows: np.ndarray, columns: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
    """Vocabulary and picture encoder, of the training rows."""
    found: dict[str, Any] = {}
    if not isinstance(options.get("text", {}), str):
        found["vocabulary"] = Vocabulary.learn(texts_of(data, columns["text"], rows))
    image = options.get("image", "image-patches")
    if isinstance(image, str):
        seen = data.modalities[columns["image"]].values
        sample = next(seen[row] for row in rows if seen[row] is not None)
        found["encoder"], found["cells"], found["width"] = image_encoder(image, sample, options.get("pixels"))
    return found


def prepared(
    data: Dataset, rows: np.ndarray, columns: dict[str, str], options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The model to begin from, or None, and all options; see :func:`settled`."""
    texts = texts_of(data, columns["text"], rows)
    return settled(options, MeterPairs, SHARED, lambda: learned(data, rows, columns, options), texts)


def show(system: Any, data: Dataset, rows: np.ndarray, column: str | None = None) -> Tensor | Tokens:
    """Pictures of rows ``(n,)``: tokens of the frozen encoder, or pixels: the middle square, with CLIP's mean and
    deviation. ``column``: another one of pictures.
    """
    column = column or system.columns(data, target=False)["image"]
    if system.read.encoder is not None:
        return system.read.pictures(data, column, rows)
    return torch.stack([
        square(read_image(data.modalities[column].values[row], f"image of row {data.ids[row]!r}"), system.pixels or 288)
        for row in rows
    ])  # fmt: skip


def square(image: Any, side: int) -> Tensor:
    """``(3, side, side)``: the shorter edge resized (bicubic), the middle cut out, standardised."""
    scale = side / min(image.size)
    wide, tall = (max(side, round(edge * scale)) for edge in image.size)
    left, upper = (wide - side) // 2, (tall - side) // 2
    cut = image.resize((wide, tall), Image.Resampling.BICUBIC).crop((left, upper, left + side, upper + side))
    pixels = torch.from_numpy(np.array(cut)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def optimizer(network: nn.Module, head_rate: float, cross_rate: float) -> Optimizer:
    """Rates by name: heads, all of ``cross_modal``, the rest (the ranking head among it, as published)."""
    heads = (
        "vqa_classifier",
        "nlvr2_classifier",
        "snli_classifier",
        "mlm_score",
        "itm_score",
        "mim_score",
        "mim_codes_score",
    )
    named = list(network.named_parameters())
    cross = [p for name, p in named if "cross_modal" in name]
    return Optimizer(
        [p for _, p in named],
        betas=(0.9, 0.98),
        layers=[(cross_rate, cross), (head_rate, [p for name, p in named if name.startswith(heads)])],
    )


@systems.register("meter")
class Meter(AnswerSystem):
    """Answers to texts about pictures by co-attention of their tokens; Dou et al. 2022.

    Args:
        image: a frozen encoder of images (``hf:<folder>``, ``image-patches``), or a CLIP tower to train:
            ``{clip: <folder or hub name>}``, or ``{dim, heads, blocks, patch}`` of a fresh one.
        pixels: side of the pictures; None: the encoder's own, 288 for a tower.
        text: a BERT or RoBERTa of transformers to train, by folder or hub name, or sizes of a fresh one: ``{dim, heads,
            hidden, layers}``.
        fusion: ``co`` or ``merged`` attention, or the ``text`` alone.
        dim, heads, hidden, layers, dropout: of fusion; the paper compares 12 merged layers with 6 of co-attention.
        decoder: layers of a decoder over the fused tokens, reconstructed; 0: encoder-only.
        length: most word pieces of a text; ``cut``: longer ones are cut, not refused.
        loss: ``bce`` against soft scores of the answers (VQA), or that of the ``task`` (SNLI-VE).
        head_rate, cross_rate: what the learning rate of heads and of fusion is multiplied by.
        begin: folder of a model of ``meter-pairs`` to begin from, whose sizes are taken over.
        task, vocabulary, encoder, width, cells: learned.
    """

    trained_with = {"lr": 5e-6, "epochs": 10, "batch_size": 512, "warmup": 0.1, "schedule": "linear", "clip": 0.0}
    variants = {"co-attention": {"fusion": "co"}, "merged": {"fusion": "merged"}, "text alone": {"fusion": "text"}}
    paper = PAPER
    head: ClassVar[str] = "vqa"
    types: ClassVar[int] = 2

    def __init__(
        self,
        *,
        image: str | Sizes = "image-patches",
        pixels: Count | None = None,
        text: str | Sizes | None = None,
        fusion: Literal["co", "merged", "text"] = "co",
        dim: Count = 768,
        heads: Count = 12,
        hidden: Count | None = None,
        layers: Count = 6,
        decoder: Annotated[int, Field(ge=0)] = 0,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        length: Annotated[int, Field(ge=3)] = 50,
        cut: bool = False,
        loss: Literal["bce", "task"] = "bce",
        head_rate: Annotated[float, Field(gt=0)] = 50.0,
        cross_rate: Annotated[float, Field(gt=0)] = 5.0,
        begin: str | None = None,
        task: Learned[dict[str, Any] | None] = None,
        vocabulary: Learned[tuple[str, ...]] = (),
        encoder: Learned[dict[str, Any] | None] = None,
        width: Learned[Annotated[int, Field(ge=0)]] = 0,
        cells: Learned[Annotated[int, Field(ge=0)]] = 0,
    ) -> None:
        super().__init__(task or {})
        self.image, self.pixels, self.text, self.fusion = image, pixels, text or {}, fusion
        self.dim, self.heads, self.hidden, self.layers, self.dropout = dim, heads, hidden, layers, dropout
        self.decoder = decoder
        self.length, self.cut, self.loss_kind = length, cut, loss
        self.head_rate, self.cross_rate, self.begin = head_rate, cross_rate, begin
        self.vocabulary, self.encoder, self.width, self.cells = vocabulary, encoder, width, cells
        self.network = build(self, {self.head: self.answers.outputs})

    def config(self) -> dict[str, Any]:
        kept = ("cut", "dropout", "head_rate", "cross_rate", "begin", "task")
        return {name: getattr(self, name) for name in (*SHARED, *kept)} | {"loss": self.loss_kind}

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        columns = cls.columns(data)
        other, options = prepared(data, rows, columns, options)
        model = super().fitted(data, rows, **options)
        if other is None:
            model.read.fit(data, columns["image"], rows)
        else:
            begun(model, other)
        return model

    def inputs(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> Inputs:
        words = self.read.vocabulary.padded(self.read.words(data, self.columns(data, target=False)["text"], rows))
        return Inputs(words.values, words.mask, None if self.fusion == "text" else show(self, data, rows))

    def forward(self, ids: Tensor, mask: Tensor, image: Tensor | Tokens | None) -> Tensor:
        """Logits ``(B, answers)``."""
        head: nn.Module = self.network.get_submodule("vqa_classifier")
        logits: Tensor = head(self.network(ids, mask, image).cls)
        return logits

    def phases(self) -> list[Phase]:
        return [Phase("loss", self.loss, optimizer(self.network, self.head_rate, self.cross_rate))]


OBJECTIVES = ("mlm", "itm", "mim", "mim-codes", "rank")


@systems.register("meter-pairs")
class MeterPairs(PairSystem):
    """Pre-training and retrieval on pictures with texts: masked words, matching, masked patches, ranking.

    Args:
        objectives: of ``mlm`` (whole words; spans under a decoder), ``itm``, ``mim`` (in-batch), ``mim-codes`` and
            ``rank`` (one right and 15 wrong texts); every step does all of them.
        codes: of ``mim-codes``; the paper has 8192.
        image, pixels, text, fusion, dim, heads, hidden, layers, decoder, dropout, length, cut, head_rate, cross_rate,
            begin: see :class:`Meter`; the paper pre-trains with both rates at 5.
        vocabulary, encoder, width, cells: learned.
    """

    trained_with = {
        "lr": 1e-5, "epochs": 10, "batch_size": 512, "warmup": 0.1, "schedule": "linear", "clip": 0.0,
        "monitor": "loss",
    }  # fmt: skip
    variants = {"MLM + ITM": {"objectives": ["mlm", "itm"]}, "ITM": {"objectives": ["itm"]}}
    paper = PAPER

    def __init__(
        self,
        *,
        objectives: tuple[str, ...] = ("mlm", "itm"),
        codes: Annotated[int, Field(ge=2)] = 256,
        image: str | Sizes = "image-patches",
        pixels: Count | None = None,
        text: str | Sizes | None = None,
        fusion: Literal["co", "merged"] = "co",
        dim: Count = 768,
        heads: Count = 12,
        hidden: Count | None = None,
        layers: Count = 6,
        decoder: Annotated[int, Field(ge=0)] = 0,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        length: Annotated[int, Field(ge=3)] = 50,
        cut: bool = False,
        head_rate: Annotated[float, Field(gt=0)] = 5.0,
        cross_rate: Annotated[float, Field(gt=0)] = 5.0,
        begin: str | None = None,
        vocabulary: Learned[tuple[str, ...]] = (),
        encoder: Learned[dict[str, Any] | None] = None,
        width: Learned[Annotated[int, Field(ge=0)]] = 0,
        cells: Learned[Annotated[int, Field(ge=0)]] = 0,
    ) -> None:
        super().__init__()
        strange = [name for name in objectives if name not in OBJECTIVES]
        if strange or not objectives:
            found = strange[0] if strange else "none"
            raise UserError("METER has no such objective", found, did_you_mean(found, OBJECTIVES, "objectives"))
        self.objectives, self.image, self.pixels, self.text, self.fusion = objectives, image, pixels, text or {}, fusion
        self.dim, self.heads, self.hidden, self.layers, self.dropout = dim, heads, hidden, layers, dropout
        self.decoder = decoder
        self.length, self.cut, self.head_rate, self.cross_rate = length, cut, head_rate, cross_rate
        self.begin, self.vocabulary = begin, vocabulary
        self.encoder, self.width, self.cells = encoder, width, cells
        size = Vocabulary(self.text if isinstance(self.text, str) else "", vocabulary).size
        outputs = {"mlm": size, "itm": 2, "mim": dim, "mim-codes": codes, "rank": 1}
        chosen = [name for name in OBJECTIVES if name in (*objectives, "itm")]
        self.network = build(self, {name.replace("-", "_"): outputs[name] for name in chosen})
        self.codes, self.codebook = codes, None
        if "mim-codes" in objectives:
            self.codebook = Codes(codes, width if encoder else 3 * self._side() ** 2)
        if "rank" in objectives:
            begin_ranking(self.network)

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        columns = cls.columns(data)
        other, options = prepared(data, rows, columns, options)
        model = cls(**options)
        if other is None:
            model.read.fit(data, columns["image"], rows)
        else:
            begun(model, other)
            if "rank" in model.objectives and "rank" not in other.objectives:
                begin_ranking(model.network)
        if model.codebook is not None and (other is None or other.codebook is None):
            some_rows = rows[:: max(1, len(rows) * model._patches(model.show(data, rows[:1])).shape[1] // MOST)]
            parts = np.array_split(some_rows, -(-len(some_rows) // 64))
            seen = [patches_of(model.show(data, part), model._side()).flatten(0, 1) for part in parts]
            model.codebook.fit(torch.cat(seen))
        return model

    def show(self, data: Dataset, rows: np.ndarray) -> Tensor | Tokens:
        return show(self, data, rows)

    def score(self, words: Tokens, pictures: Tensor | Tokens) -> Tensor:
        cls = self.network(*words, pictures).cls
        if "rank" in self.objectives:
            return self.network.rank_output(cls)[:, 0]
        logits: Tensor = self.network.get_submodule("itm_score.fc")(cls)
        return logits[:, 1] - logits[:, 0]

    def asked(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator, *, every: bool) -> dict[str, Any]:
        ids, vocabulary = self.words(data, rows), self.read.vocabulary
        found: dict[str, Any] = {}
        dice = Random(int(rng.integers(2**62)))
        image, words = self.show(data, rows), vocabulary.padded(ids)
        for name in self.objectives:
            if name == "mlm" and self.decoder:
                spans = [hide_spans(row[1:-1], dice, mask=vocabulary.mask) for row in ids]
                shown = [[row[0], *masked, row[-1]] for row, (masked, _) in zip(ids, spans, strict=True)]
                said = vocabulary.padded([[row[0], *words] for row, (_, words) in zip(ids, spans, strict=True)])
                labels = [[*words, row[-1]] for row, (_, words) in zip(ids, spans, strict=True)]
                found[name] = (*vocabulary.padded(shown), image, vocabulary.padded(labels, NOT_ASKED).values, *said)
            elif name == "mlm":
                hidden = [
                    mask_whole_words(
                        row[1:-1], dice, mask=vocabulary.mask, ordinary=vocabulary.ordinary,
                        continues=vocabulary.continues,
                    )
                    for row in ids
                ]  # fmt: skip
                shown = [[row[0], *masked, row[-1]] for row, (masked, _) in zip(ids, hidden, strict=True)]
                labels = [[NOT_ASKED, *asked, NOT_ASKED] for _, asked in hidden]
                found[name] = (*vocabulary.padded(shown), image, vocabulary.padded(labels, NOT_ASKED).values)
            elif name == "itm":
                match = rng.permutation(np.arange(len(rows)) < (len(rows) + 1) // 2)
                drawn = self.show(data, np.where(match, rows, self.others(data, rows, rng)))
                found[name] = (*words, drawn, torch.from_numpy(match.astype(np.int64)))
            elif name in ("mim", "mim-codes"):
                found[name] = (*words, image, mask_patches(self._patches(image), dice))
            else:
                wrong = np.stack([self.others(data, rows, rng) for _ in range(WRONG_TEXTS)], axis=1)
                texts = self.words(data, np.concatenate([rows[:, None], wrong], axis=1).reshape(-1))
                found[name] = (*vocabulary.padded(texts), image)
        return found

    def losses(self, asked: dict[str, Any]) -> dict[str, Tensor]:
        return {name: getattr(self, "_" + name.replace("-", "_"))(*inputs) for name, inputs in asked.items()}

    def phases(self) -> list[Phase]:
        return [Phase("loss", self.loss, optimizer(self.network, self.head_rate, self.cross_rate))]

    def _mlm(self, ids: Tensor, mask: Tensor, image: Tensor | Tokens, labels: Tensor, *said: Tensor) -> Tensor:
        if self.network.cross_modal_decoder is not None:
            memory = concatenate(self.network.join(ids, mask, image))
            return mlm_loss(self.network.mlm_score(self.network.cross_modal_decoder(*said, memory)), labels)
        return mlm_loss(self.network.mlm_score(self.network(ids, mask, image).text), labels)

    def _itm(self, ids: Tensor, mask: Tensor, image: Tensor | Tokens, match: Tensor) -> Tensor:
        head = self.network.get_submodule("itm_score.fc")
        return F.cross_entropy(head(self.network(ids, mask, image).cls), match)

    def _mim(self, ids: Tensor, mask: Tensor, image: Tensor | Tokens, hidden: Tensor) -> Tensor:
        joint = self._spoilt(ids, mask, image, hidden)
        if isinstance(image, Tokens):
            return in_batch_mim_loss(self.network, joint, image, hidden)
        whole = self.network.see(image)
        patches = Tokens(whole.values[:, 1:], whole.mask[:, 1:])  # without the class token
        return in_batch_mim_loss(self.network, joint, patches, hidden)

    def _mim_codes(self, ids: Tensor, mask: Tensor, image: Tensor | Tokens, hidden: Tensor) -> Tensor:
        if self.codebook is None:
            raise UserError("codes are asked for, and none are learned", "mim-codes", "name it in objectives")
        codes = self.codebook(patches_of(image, self._side()))
        return code_mim_loss(self.network, self._spoilt(ids, mask, image, hidden).image, codes, hidden)

    def _spoilt(self, ids: Tensor, mask: Tensor, image: Tensor | Tokens, hidden: Tensor) -> Joint:
        """What becomes of text and image without its hidden patches; of a tower without its class token."""
        if isinstance(image, Tokens):
            return self.network(ids, mask, Tokens(hide(image.values, hidden), image.mask))
        joint = self.network(ids, mask, hide(image, hidden, self._side()))
        return joint._replace(image=joint.image[:, 1:])

    def _side(self) -> int:
        """Pixels along a patch of the tower; 0 without one."""
        tower: Any = self.network.vit_model["visual"]
        return getattr(tower, "patch", 0)

    def _rank(self, ids: Tensor, mask: Tensor, image: Tensor | Tokens) -> Tensor:
        cls = self.network(ids, mask, repeated(image, 1 + WRONG_TEXTS)).cls
        return rank_loss(self.network.rank_output(cls).view(-1, 1 + WRONG_TEXTS))

    def _patches(self, image: Tensor | Tokens) -> Tensor:
        if isinstance(image, Tokens):
            return image.mask
        return everywhere(len(image), (image.shape[-1] // self._side()) ** 2, device=image.device)

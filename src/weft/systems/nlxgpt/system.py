"""NLX-GPT as systems: an image and a question to an answer with its explanation, and its pre-training on captions.

The image features are those of a frozen encoder, computed once and kept (:class:`~weft.encoders.Encoder`, published:
CLIP ViT-B/16). The decoder is a GPT-2 of transformers with its tokenizer, published: DistilGPT-2; without one, a small
one starts at random over the words of the training rows. Each step draws one of a row's explanations; the published
bookkeeping, by which all epochs but the first see only one of them, is not repeated.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from weft.data import Dataset
from weft.encoders import create_encoder, restore_encoder
from weft.encoders.hf import quiet
from weft.errors import UserError, some
from weft.models.pretrained import load_model
from weft.registry import Learned
from weft.systems.nlxgpt.concepts import Concepts, of_clip
from weft.systems.nlxgpt.metrics import Said
from weft.systems.nlxgpt.network import Decoder, Marks, generate
from weft.systems.nlxgpt.sequence import (
    SPECIAL,
    TOLD,
    Row,
    Sequences,
    majority,
    plain_answers,
    plain_explanation,
    plain_explanations,
    plain_question,
    word_tokenizer,
)  # fmt: skip
from weft.tasks.captions import lines
from weft.tokens import Tokens, pad
from weft.training.once import Once
from weft.training.phase import Optimizer, Phase
from weft.training.system import Need, System, systems, take

TOKENIZER = "tokenizer"
SMALL: dict[str, Any] = {"n_embd": 96, "n_layer": 2, "n_head": 4}


class Teller(System):
    """Base of systems that say something about an image.

    Args:
        decoder: a GPT-2 of transformers with its tokenizer: a folder, or a hub name; None: a small one, untrained.
        vision: encoder of the image, ``"hf:<name or folder>"`` or a registered one; of a CLIP, its patches after the
            last norm.
        start: folder of a model to go on from, e.g. one trained on captions; it brings decoder and encoder along.
        longest: tokens of a training text.
        steps: most tokens of a generated one.
        temperature, top_p: how tokens are drawn; 0: the most probable one.
        places: image tokens learn where they are; for encoders whose tokens do not say it, as those without weights.
        blind: the picture is withheld (its features are zeros): what the words alone say.
        concepts: folder of a model of ``nlx-gpt-concepts``, whose 20 likeliest names are put before the question; there
            are no segments then, as published for e-SNLI-VE.
        gpt2, encoder, seen_by: learned: the decoder's settings, the encoder with what it fitted, and the settings of
            the model of concepts, which is kept along.
    """

    writes = "text"
    trained_with = {"lr": 2e-5, "weight_decay": 0.0, "epochs": 30, "batch_size": 32, "schedule": "linear", "warmup": 0}
    paper = "Sammani et al. 2022, NLX-GPT (CVPR, arXiv 2203.05081)"

    def __init__(
        self,
        *,
        decoder: str | None = None,
        vision: str = "image-patches",
        start: str | None = None,
        longest: Annotated[int, Field(ge=12)] = 40,
        steps: Annotated[int, Field(ge=1)] = 20,
        temperature: Annotated[float, Field(ge=0)] = 0.0,
        top_p: Annotated[float, Field(gt=0, le=1)] | None = None,
        places: bool = False,
        blind: bool = False,
        concepts: str | None = None,
        seen_by: Learned[dict[str, Any] | None] = None,
        gpt2: Learned[dict[str, Any] | None] = None,
        encoder: Learned[dict[str, Any] | None] = None,
    ) -> None:
        super().__init__()
        self.decoder, self.vision, self.start = decoder, vision, start
        self.longest, self.steps, self.temperature, self.top_p = longest, steps, temperature, top_p
        self.places, self.blind, self.concepts = places, blind, concepts
        self.seen_by = seen_by
        self.tagger = Concepts(**seen_by).requires_grad_(False) if seen_by else None
        self._told: Once[str] = Once(
            lambda data, rows: self.tagger.told(data, rows) if self.tagger else [""] * len(rows)
        )
        self.gpt2, self.encoder = gpt2 or {**SMALL, "vocab_size": 1, "n_positions": 2 * longest + TOLD}, encoder
        eye = (
            restore_encoder("image", encoder, "this model was trained with")
            if encoder
            else create_encoder(vision, "image", **of_clip(vision))
        )
        width, tokens = encoder["shape"] if encoder else (1, 1)
        self.network = Decoder(self.gpt2, width, places=tokens if places else 0)
        more = TOLD if seen_by else 0
        if more + longest + steps > self.network.positions:
            raise UserError(
                "a text does not fit the positions of the decoder",
                f"longest={longest}, steps={steps}, {more} of concepts, {self.network.positions} positions",
                "ask for shorter texts",
            )
        if top_p is not None and temperature == 0:
            raise UserError(
                "top_p draws, and a temperature of 0 takes the most probable token",
                f"top_p={top_p}, temperature=0",
                "give a temperature above 0, or no top_p",
            )
        self.build: Sequences
        self._features: Once[np.ndarray] = Once(
            lambda data, rows: eye.encode(take(data, self.columns(data, target=False)["image"], rows))
        )

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        tagger = load_concepts(options["concepts"]) if options.get("concepts") else None
        if tagger is not None:
            options["seen_by"] = tagger.config()
        words = cls._words(data, rows, tagger)
        model = cls._from_model(words, options) if options.get("start") else cls._fresh(data, rows, words, options)
        if tagger is not None and model.tagger is not None:
            model.tagger.load_state_dict(tagger.state_dict())
        return model

    @classmethod
    def _fresh(cls, data: Dataset, rows: np.ndarray, words: list[str], options: dict[str, Any]) -> Self:
        """The decoder of transformers, or a small one over the words."""
        image = cls.columns(data)["image"]
        values = [v for v in (data.modalities[image].values[row] for row in rows) if v is not None]
        vision = options.get("vision", "image-patches")
        eye = create_encoder(vision, "image", **of_clip(vision))
        eye.fit(values)
        kept = {**(eye.recipe or {}), "state": eye.state(), "identity": eye.identity()}
        kept["shape"] = eye.encode(values[:1])[0].shape[::-1] if values else (eye.width, 1)
        longest = options.get("longest", 40)
        if options.get("decoder") is None:
            tokenizer, state = word_tokenizer(words), None
            gpt2 = {**SMALL, "vocab_size": len(tokenizer), "n_positions": TOLD + longest + options.get("steps", 20)}
        else:
            tokenizer, gpt2, state = load_gpt2(options["decoder"])
        model = cls(**{**options, "gpt2": gpt2, "encoder": kept})
        model.build = Sequences(tokenizer, longest)
        if state is not None:
            model.network.load_official(state)
        return model

    @classmethod
    def _from_model(cls, heard: list[str], options: dict[str, Any]) -> Self:
        """The decoder of another model, with rows for the words it does not know."""
        other = load_model(options["start"])
        if not isinstance(other, Teller):
            raise UserError(
                "training only continues from another NLX-GPT system",
                f"{options['start']}: {type(other).__name__}",
                "name one",
            )
        tokenizer = other.build.tokenizer
        if other.decoder is None:
            known = tokenizer.get_vocab()
            words = sorted(known, key=known.__getitem__)[len(SPECIAL) + 2 :]
            tokenizer = word_tokenizer([*words, *(word for word in heard if word not in known)])
            other.network.transformer.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        gpt2 = {**other.gpt2, "vocab_size": len(tokenizer)}
        given = {name: getattr(other, name) for name in ("decoder", "vision", "longest", "steps", "places")}
        model = cls(**{**given, **options, "gpt2": gpt2, "encoder": other.encoder})
        model.build = Sequences(tokenizer, model.longest)
        model.network.load_state_dict(other.network.state_dict())
        return model

    @classmethod
    def _words(cls, data: Dataset, rows: np.ndarray, tagger: Concepts | None = None) -> list[str]:
        """The vocabulary: every word of the training texts and concepts, at the start of a text and after a blank."""
        found = {word for row in rows for text in cls.texts(data, int(row)) for word in text.split()}
        if tagger is not None:
            found |= {word for name in tagger.answers.labels for word in str(name).replace("_", " ").split()}
        found |= {"the", "answer", "is", "because"}
        return sorted(found) + sorted(f"Ġ{word}" for word in found)

    @classmethod
    @abstractmethod
    def texts(cls, data: Dataset, row: int) -> list[str]:
        """All that is said of a row, as it is tokenised."""

    @abstractmethod
    def row(self, data: Dataset, row: int, rng: np.random.Generator | None) -> Row:
        """The sequence of a row; ``rng`` draws among several texts, None takes the first."""

    @abstractmethod
    def prompt(self, data: Dataset, row: int) -> tuple[list[int], list[int] | None]:
        """What a text is asked for by."""

    @property
    def marks(self) -> Marks:
        """Where texts end and segments change; under concepts there are no segments."""
        return self.build.marks if self.tagger is None else Marks(self.build.marks.stop)

    def phases(self) -> list[Phase]:
        return [Phase("loss", self.loss, Optimizer(list(self.network.parameters())))]

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, Any]:
        made = self.build.padded([self.row(data, int(row), rng) for row in rows])
        ids, labels, segments = (torch.tensor(part) for part in made)
        return {"ids": ids, "labels": labels, "segments": segments, "image": self._images(data, rows)}

    def loss(self, batch: dict[str, Any]) -> Tensor:
        segments = None if self.marks.because is None else batch["segments"]
        return self.network.loss(batch["ids"], segments, batch["image"], batch["labels"])

    def predict(self, data: Dataset, rows: np.ndarray) -> list[str]:
        return self.answers(data, rows)

    def answers(self, data: Dataset, rows: np.ndarray, questions: Sequence[int] | None = None) -> list[str]:
        """Texts for the pictures of rows ``(n,)``, asked the questions of others; None: their own."""
        prompts = [self.prompt(data, int(row)) for row in (rows if questions is None else questions)]
        image = self.to_device(self._images(data, rows))
        found = generate(
            self.network, prompts, image, self.marks, steps=self.steps, temperature=self.temperature, top_p=self.top_p
        )
        return [self.build.text(ids) for ids in found]

    def told(self, data: Dataset, row: int) -> str:
        """The concepts of the picture of a row, if there are any."""
        return self._told(data, np.array([row]))[0]

    def features(self, data: Dataset, rows: np.ndarray) -> list[np.ndarray]:
        """Features ``(P, D)`` of each picture, computed once."""
        return self._features(data, rows)

    def save_pretrained(self, folder: Path | str) -> None:
        super().save_pretrained(folder)
        self.build.tokenizer.save_pretrained(Path(folder) / TOKENIZER)

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        model = super().from_config(config, folder)
        model.build = Sequences(load_tokenizer(folder / TOKENIZER), model.longest)
        return model

    def _images(self, data: Dataset, rows: np.ndarray) -> Tokens:
        """Features ``(B, P, D)`` as the decoder sees them."""
        found = pad([torch.from_numpy(tokens).float() for tokens in self.features(data, rows)])
        return Tokens(torch.zeros_like(found.values), found.mask) if self.blind else found


@systems.register("nlx-gpt")
class NlxGpt(Teller):
    """Answers to questions on images with explanations; NLX-GPT, Sammani et al. 2022.

    Columns ``question``, ``answer`` and ``explanation`` are texts; several answers (of annotators: the most frequent
    one is learned) and several explanations stand in lines of their cells. A row may lack a question: what is done
    in the picture, and why.
    """

    reads = {
        "image": Need("image"),
        "question": Need("text", optional=True),
        "answer": Need("text", target=True),
        "explanation": Need("text", target=True),
    }
    judge = "explanations"
    reader = "vqa-x"
    variants = {"nlx-gpt": {}, "without the picture": {"blind": True}}

    def check(self, data: Dataset, rows: np.ndarray, *, target: bool = True) -> None:
        """As of every system; an answer or explanation of which nothing is left is none."""
        super().check(data, rows, target=target)
        for role, plain in (("answer", plain_answers), ("explanation", plain_explanations)) if target else ():
            gone = [row for row in rows if not plain(self._cells(data, int(row))[role])]
            if gone:
                raise UserError(
                    f"{data.name}: {role!r} says something in every row, punctuation and articles aside",
                    f"{len(gone)} rows without: {some(data.ids[row] for row in gone)}",
                    "leave these rows out, or bring the values",
                )

    @classmethod
    def texts(cls, data: Dataset, row: int) -> list[str]:
        cells = cls._cells(data, row)
        said = plain_answers(cells["answer"]) + plain_explanations(cells["explanation"])
        return [plain_question(cells["question"]), *said]

    @classmethod
    def truth(cls, data: Dataset, rows: np.ndarray, seen: Any = None) -> Said:
        cells = [cls._cells(data, int(row)) for row in rows]
        return Said([cell["answer"] for cell in cells], [cell["explanation"] for cell in cells])

    def row(self, data: Dataset, row: int, rng: np.random.Generator | None) -> Row:
        cells = self._cells(data, row)
        why = plain_explanations(cells["explanation"])
        chosen = why[rng.integers(len(why))] if rng else why[0]
        return self.build.explained(cells["question"], majority(cells["answer"]), chosen, self.told(data, row))

    def prompt(self, data: Dataset, row: int) -> tuple[list[int], list[int] | None]:
        return self.build.prompt(self.question(data, row), self.told(data, row))

    def question(self, data: Dataset, row: int) -> str:
        """That of a row."""
        return self._cells(data, row, target=False)["question"]

    @classmethod
    def _cells(cls, data: Dataset, row: int, *, target: bool = True) -> Mapping[str, str]:
        columns = cls.columns(data, target=target)
        found = {role: data.modalities[column].values[row] for role, column in columns.items() if role != "image"}
        return {"question": "", **{role: value or "" for role, value in found.items()}}


@systems.register("nlx-gpt-captions")
class CaptionGpt(Teller):
    """Captions of images: the pre-training of NLX-GPT, ``nlx-gpt`` goes on from it by ``start``."""

    reads = {"image": Need("image"), "caption": Need("text", target=True)}
    judge = "captions"
    reader = "flickr8k"
    trained_with = {**Teller.trained_with, "lr": 1e-4}
    variants = {"captions": {}, "without the picture": {"blind": True}}

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        if options.get("concepts"):
            raise UserError("concepts come before a question", options["concepts"], "give them to nlx-gpt")
        return super().fitted(data, rows, **options)

    @classmethod
    def texts(cls, data: Dataset, row: int) -> list[str]:
        cell = data.modalities[cls.columns(data)["caption"]].values[row]
        return [plain_explanation(line) for line in lines(cell or "")]

    def row(self, data: Dataset, row: int, rng: np.random.Generator | None) -> Row:
        said = self.texts(data, row)
        return self.build.caption(said[rng.integers(len(said))] if rng else said[0])

    def prompt(self, data: Dataset, row: int) -> tuple[list[int], list[int] | None]:
        return [self.build.end], None

    @property
    def marks(self) -> Marks:
        return Marks(self.build.marks.stop)


def load_concepts(folder: str) -> Concepts:
    """A model of concepts.

    Raises:
        UserError: the folder holds another one.
    """
    model = load_model(folder)
    if not isinstance(model, Concepts):
        remedy = "weft fit SOURCE --system nlx-gpt-concepts"
        raise UserError("concepts are told by a model of them", f"{folder}: {type(model).__name__}", remedy)
    return model


def load_gpt2(source: str) -> tuple[Any, dict[str, Any], dict[str, Tensor]]:
    """Tokenizer, settings and weights of a GPT-2, with rows for the tokens that mark segments.

    Raises:
        UserError: it cannot be loaded, or is another kind of model.
    """
    import transformers

    tokenizer = load_tokenizer(source)
    tokenizer.add_special_tokens({"pad_token": SPECIAL[0], "additional_special_tokens": list(SPECIAL[1:])})
    try:
        with quiet():
            model = transformers.AutoModelForCausalLM.from_pretrained(source, use_safetensors=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unread(source, error) from error
    if model.config.model_type != "gpt2":
        raise UserError("the decoder is a GPT-2", f"{source}: {model.config.model_type}", "name one, e.g. distilgpt2")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    names = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "activation_function")
    return tokenizer, {name: getattr(model.config, name) for name in names}, model.float().state_dict()


def load_tokenizer(source: str | Path) -> Any:
    """A tokenizer of transformers.

    Raises:
        UserError: it cannot be loaded.
    """
    import transformers

    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(str(source))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unread(source, error) from error


def _unread(source: str | Path, error: Exception) -> UserError:
    said: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(
        "the decoder cannot be loaded",
        f"{source}: {said[0]}",
        "give a folder with config.json, model.safetensors and tokenizer, or a hub name while connected",
    )

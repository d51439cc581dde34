"""What systems of vision and language share: words as ids, pictures as tokens, answers.

An :class:`AnswerSystem` reads a picture, a text and a label (question and answer, statement and judgement).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.data import Dataset
from weft.encoders import create_encoder
from weft.encoders.hf import quiet
from weft.errors import UserError, some
from weft.files import canonical
from weft.models.pretrained import load_model
from weft.models.raw import encode_rows
from weft.models.standardise import Standardiser
from weft.store import MemoryFeatures
from weft.tokens import Tokens
from weft.training.system import Need, TaskSystem

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TWICE = 2
"""A word of the training texts is known if it is there as often; so the unknown one is learned too."""

SOFT = (0.0, 0.3, 0.6, 0.9, 1.0)
"""The score of an answer that 0, 1, 2, 3, or 4 and more annotators gave (Antol et al. 2015; METER, UNITER)."""

KEPT: WeakKeyDictionary[Dataset, dict[Any, MemoryFeatures]] = WeakKeyDictionary()
"""Picture tokens of data sets in use, by what made them: a comparison makes them once for all its models."""


class Vocabulary:
    """Texts to ids of word pieces.

    Args:
        source: a tokenizer of transformers, a folder or a hub name; "": of ``words``.
        words: known ones, of :meth:`learn`.

    Attributes:
        size: how many ids there are.
        pad, first, last, mask: ids of what is no word.
        ordinary: ids of what is one.
        continues: ids of pieces that go on a word.

    Raises:
        UserError: the tokenizer cannot be loaded, or has no mask.
    """

    def __init__(self, source: str, words: Sequence[str] = ()) -> None:
        import transformers

        if source:
            try:
                with quiet():
                    self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source)
            except (OSError, ValueError, KeyError, ImportError) as error:
                found = (
                    f"{source}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
                )
                raise UserError(
                    "the tokenizer cannot be loaded", found, "give a folder of a BERT or RoBERTa"
                ) from error
        else:
            known = {word: number for number, word in enumerate([*SPECIAL, *words])}
            self._tokenizer = transformers.BertTokenizer(vocab=known)
        ends = (getattr(self._tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask"))
        self.pad, self.first, self.last, self.mask = ends
        if None in (self.pad, self.first, self.last, self.mask):
            raise UserError(
                "the tokenizer has padding, ends and a mask", f"{source} lacks one", "take BERT's or RoBERTa's"
            )
        special, pieces = set(self._tokenizer.all_special_ids), self._tokenizer.get_vocab()
        self.size = len(self._tokenizer)
        self.ordinary = [n for word, n in pieces.items() if n not in special and not word.startswith("[unused")]
        self.ordinary.sort()
        self.continues = {n for word, n in pieces.items() if word.startswith("##")}

    @staticmethod
    def learn(texts: Iterable[str]) -> tuple[str, ...]:
        """The words that are there at least :data:`TWICE`, in alphabetical order."""
        import transformers

        backend = transformers.BertTokenizer(vocab={word: n for n, word in enumerate(SPECIAL)}).backend_tokenizer
        counts: Counter[str] = Counter()
        for text in texts:
            split = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
            counts.update(word for word, _ in split)
        return tuple(sorted(word for word, count in counts.items() if count >= TWICE and word not in SPECIAL))

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, ends included."""
        found: list[list[int]] = self._tokenizer(list(texts))["input_ids"] if texts else []
        return found

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What ids stand for."""
        found: list[str] = self._tokenizer.convert_ids_to_tokens(list(ids))
        return found

    def padded(self, rows: Sequence[Sequence[int]], fill: int | None = None) -> Tokens:
        """Ids ``(B, T)`` int64 and which of them are real."""
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.pad if fill is None else fill)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
        return Tokens(ids, torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None])


class Reader(nn.Module):
    """Words and frozen picture tokens of the rows of a data set, each made once.

    Args:
        vocabulary: of the words.
        length: most ids of a text, ends included.
        cut: longer ones are cut; else refused.
        encoder: what makes the picture tokens, see :func:`image_encoder`; None: they are not made here.
        width: of them.
    """

    def __init__(
        self, vocabulary: Vocabulary, length: int, cut: bool, encoder: dict[str, Any] | None, width: int
    ) -> None:
        super().__init__()
        self.vocabulary, self.length, self.cut, self.encoder = vocabulary, length, cut, encoder
        self.standardise = Standardiser({"image": width}) if encoder else Standardiser({})
        self._words: WeakKeyDictionary[Dataset, dict[str, list[list[int]]]] = WeakKeyDictionary()

    def words(self, data: Dataset, column: str, rows: np.ndarray) -> list[list[int]]:
        """Ids of the word pieces of the texts of rows ``(n,)``."""
        found = [self._made(data, column)[row] for row in rows]
        return [[*ids[: self.length - 1], ids[-1]] if len(ids) > self.length else ids for ids in found]

    def _made(self, data: Dataset, column: str) -> list[list[int]]:
        kept = self._words.setdefault(data, {})
        if column not in kept:
            kept[column] = self.vocabulary([value or "" for value in data.modalities[column].values])
        return kept[column]

    def check(self, data: Dataset, column: str, rows: np.ndarray) -> None:
        """Refuse texts that are too long.

        Raises:
            UserError: naming the rows.
        """
        lengths = {data.ids[row]: len(self._made(data, column)[row]) for row in rows}
        long = [f"{row}: {count}" for row, count in lengths.items() if count > self.length]
        if long and not self.cut:
            raise UserError(
                f"a text has at most {self.length} word pieces, its ends included",
                f"{len(long)} longer ones: {some(long)}",
                "shorten them, train with a larger length, or with cut=true",
            )

    def raw(self, data: Dataset, column: str, rows: np.ndarray) -> Tokens:
        """Tokens of the pictures of rows ``(B, N, width)``, as the encoder makes them."""
        return features_of(data, column, self.encoder or {}).gather(rows)["image"]

    def pictures(self, data: Dataset, column: str, rows: np.ndarray) -> Tokens:
        """``(n, T, D)`` tokens of the pictures, standardised by what the training rows have."""
        tokens = self.raw(data, column, rows)
        mean, scale = (part.cpu() for part in self.standardise.statistics("image"))
        return Tokens((tokens.values - mean) / scale * tokens.mask.unsqueeze(-1), tokens.mask)

    def fit(self, data: Dataset, column: str, rows: np.ndarray) -> None:
        """Learn means and scales ``(D,)`` of the picture tokens."""
        if self.encoder is not None:
            parts = np.array_split(rows, -(-len(rows) // 64))
            self.standardise.fit({"image": self.raw(data, column, part)} for part in parts)


def features_of(data: Dataset, column: str, spec: dict[str, Any]) -> MemoryFeatures:
    """Tokens of all values of a column, by the encoder of a :func:`frozen_encoder`, under the name of its kind."""
    kept, key = KEPT.setdefault(data, {}), canonical([column, spec])
    if key not in kept:
        alone = Dataset(data.name, data.ids, {spec["kind"]: _there(data, column)}, {}, None, None, "retrieval")
        kept[key] = encode_rows({spec["kind"]: spec}, alone, progress=False)
    return kept[key]


def _there(data: Dataset, column: str) -> Any:
    """The values, the first one where there is none: such rows are refused before they are read."""
    modality = data.modalities[column]
    first = next(value for value in modality.values if value is not None)
    return replace(modality, values=[first if value is None else value for value in modality.values])


def frozen_encoder(
    name: str, kind: str, sample: Any, *, learn_from: Sequence[Any] | None = None, **options: Any
) -> tuple[dict[str, Any], int, int]:
    """What makes frozen tokens, as JSON, how many there are of a sample, and their width.

    Args:
        name: ``hf:<folder or hub name>``, or a built-in encoder of the kind.
        kind: ``"image"``, ``"text"``, ...
        sample: a value.
        learn_from: values of the training rows, for encoders that learn.
        options: of the encoder.
    """
    with torch.random.fork_rng([]):  # whatever an encoder draws, the first weights are the same
        encoder = create_encoder(name, kind, **options)
    if learn_from is not None:
        encoder.fit(learn_from)
    spec = {**(encoder.recipe or {}), "state": encoder.state(), "identity": encoder.identity(), "dtype": "fp32"}
    return spec, len(encoder.encode([sample])[0]), encoder.width


def image_encoder(name: str, sample: Any, pixels: int | None = None) -> tuple[dict[str, Any], int, int]:
    """As :func:`frozen_encoder`; ``pixels``: side that pictures are resized to, for models of transformers that take
    any.
    """
    options: dict[str, Any] = {} if pixels is None else {"size": pixels}
    return frozen_encoder(name, "image", sample, **options)


def begun(model: Any, other: Any) -> None:
    """Take over every weight of another model with the same name and shape; of tables of words or types, its rows."""
    own, given = model.state_dict(), other.state_dict()
    words = other.read.vocabulary.size, model.read.vocabulary.size
    for name in own.keys() & given.keys():
        ours, theirs = own[name], given[name]
        if ours.shape == theirs.shape:
            own[name] = theirs
        elif ours.shape[1:] == theirs.shape[1:] and ((len(theirs), len(ours)) == words or "token_type" in name):
            own[name] = torch.cat([theirs, ours[len(theirs) :]])
    model.load_state_dict(own)


def begin_options(folder: str, kind: type, shared: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """A model to begin from, and those of its options that its weights depend on.

    Raises:
        UserError: the folder holds another kind of model.
    """
    other: Any = load_model(Path(folder))
    if not issubclass(kind, type(other)):
        raise UserError(
            f"training begins from a {kind.__name__}", f"{folder}: {type(other).__name__}", "train one first"
        )
    config: dict[str, Any] = other.config()
    return other, {name: config[name] for name in shared}


def settled(
    options: dict[str, Any],
    kind: type,
    shared: Sequence[str],
    learn: Callable[[], dict[str, Any]],
    texts: Iterable[str],
) -> tuple[Any, dict[str, Any]]:
    """The model that ``options["begin"]`` names, or None; and all options, those its weights depend on or learned ones.

    Args:
        options: as given.
        kind: of models that can be begun from.
        shared: names of the options that weights depend on.
        learn: what the training rows decide.
        texts: of the training rows: words that a model to begin from does not know follow those it knows.

    Raises:
        UserError: as :func:`begin_options`.
    """
    if options.get("begin"):
        other, known = begin_options(options["begin"], kind, shared)
        if known["vocabulary"]:
            old = tuple(known["vocabulary"])
            known["vocabulary"] = (*old, *(word for word in Vocabulary.learn(texts) if word not in old))
        return other, {**options, **known}
    return None, {**options, **learn()}


def texts_of(data: Dataset, column: str, rows: np.ndarray) -> list[str]:
    """The texts of rows, without empty ones."""
    values = data.modalities[column].values
    return [values[row] for row in rows if values[row]]


class AnswerSystem(TaskSystem):
    """Base: an answer to a text about a picture.

    A subclass has ``read`` (a :class:`Reader`), ``loss_kind``, and the options ``task`` and ``loss``.
    """

    reads = {"image": Need("image"), "text": Need("text"), "label": Need("label", target=True)}
    reader = "vqa"
    read: Reader
    loss_kind: Literal["bce", "task"]

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> tuple[Any, Tensor]:
        column = self.columns(data)["label"]
        if self.loss_kind == "bce":
            return self.inputs(data, rows, rng), soft_targets(self.answers, data, column, rows)
        return self.inputs(data, rows, rng), self.answers.encode(data.targets[column][rows])

    def loss(self, batch: tuple[Any, Tensor]) -> Tensor:
        outputs = self(*batch[0])
        if self.loss_kind == "bce":
            return F.binary_cross_entropy_with_logits(outputs, batch[1], reduction="none").sum(dim=1)
        return self.answers.loss(outputs, batch[1])

    def check(self, data: Dataset, rows: np.ndarray, *, target: bool = True) -> None:
        """As any system; and texts are not too long, answers are there and known."""
        super().check(data, rows, target=target)
        columns = self.columns(data, target=target)
        self.read.check(data, columns["text"], np.asarray(rows))
        if target:
            check_answers(self.answers, data, columns["label"], np.asarray(rows))


def check_answers(answers: Any, data: Dataset, column: str, rows: np.ndarray) -> None:
    """Refuse questions without an answer, and answers that were not in the training rows.

    Raises:
        UserError: naming the rows.
    """
    labels = {int(row): data.targets[column][row] for row in rows}
    without = [data.ids[row] for row, label in labels.items() if label is None or label != label or label == ""]
    if without:
        raise UserError(
            "every question has an answer to be trained or judged by",
            f"{len(without)} without: {some(without)}",
            f"fill {column!r} in, or leave these rows out; weft predict needs no answer",
        )
    if answers.reads == "classes":
        known = set(answers.labels)
        strange = [f"{data.ids[row]}: {label}" for row, label in labels.items() if str(label) not in known]
        if strange:
            raise UserError(
                "the model only knows the answers of the training rows",
                f"{len(strange)} rows have other answers: {some(strange)}; known: {some(answers.labels)}",
                "leave these rows out, or train on rows that have their answers",
            )


def soft_targets(answers: Any, data: Dataset, column: str, rows: np.ndarray) -> Tensor:
    """Scores ``(B, K)`` in [0, 1] of every answer: by the annotators where the target ``answers`` holds them, else 1
    for the label.

    Raises:
        UserError: the task has no classes.
    """
    if answers.reads != "classes":
        found = type(answers).__name__
        raise UserError("binary cross-entropy is over answers to choose from", found, "train with loss=task")
    given = data.targets.get("answers")
    if given is None or given.ndim != 2:
        return F.one_hot(answers.encode(data.targets[column][rows]), len(answers.labels)).float()
    place, scores = {label: k for k, label in enumerate(answers.labels)}, torch.zeros(len(rows), len(answers.labels))
    for line, row in enumerate(rows):
        for answer, count in Counter(given[row].tolist()).items():
            if answer in place:
                scores[line, place[answer]] = SOFT[min(count, len(SOFT) - 1)]
    return scores

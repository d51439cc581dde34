"""Answers and explanations as one text: ``question <bos> the answer is A because E <eos>``, its labels and segments.

Source: Sammani et al. 2022 (arXiv 2203.05081), section 3; see :mod:`weft.systems.nlxgpt.network`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from weft.systems.nlxgpt.network import IGNORED, Marks
from weft.tasks.captions import lines

PAD, QUESTION, ANSWER, EXPLANATION = SPECIAL = ("<pad>", "<question>", "<answer>", "<explanation>")
END = "<|endoftext|>"
BECAUSE = "because"
TOLD = 20
"""Tokens that concepts take at most, as published; and how many are told."""
ROOM = 8
"""Tokens that a question leaves, at the least, for its answer."""

DELETED = str.maketrans("-/", "  ", ".,'!?\"()*#:;")
ARTICLES = ("a", "an", "the")
NUMBERS = {name: str(i) for i, name in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
)} | {"none": "0"}  # fmt: skip
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't
    not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
    there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word for word in CONTRACTED.split() for i, letter in enumerate(word) if letter == "'"
}
"""What has lost one apostrophe, and with it: those that the evaluation of visual question answering mends."""


class Row(NamedTuple):
    """Tokens of a row, their labels (-100: not trained) and segments, unpadded."""

    ids: list[int]
    labels: list[int]
    segments: list[int]


def plain_question(text: str) -> str:
    """Lower case, punctuation deleted, ``-`` and ``/`` made blanks.

    >>> plain_question("Is this a well-known meal?")
    'is this a well known meal'
    """
    return " ".join(text.lower().translate(DELETED).split())


def plain_answer(text: str) -> str:
    """As answers of visual question answering are compared: lower case, digits for numbers, no article, no punctuation
    but within numbers, apostrophes where they belong. Antol et al. 2015 (arXiv 1505.00468), its public evaluation.

    >>> plain_answer("The two dogs dont.")
    "2 dogs don't"
    """
    plain, thousands = text.lower(), re.search(r"\d,\d", text)
    for mark in PUNCTUATION:
        apart = thousands or f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if apart else " ")
    words = [NUMBERS.get(word, word) for word in re.sub(r"\.(?!\d)", "", plain).split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def plain_answers(cell: str) -> list[str]:
    """The answers of a cell with one per line, without those of which nothing is left (``?``, ``the``)."""
    return [plain for plain in map(plain_answer, lines(cell)) if plain]


def plain_explanation(text: str) -> str:
    """Lower case without full stops."""
    return " ".join(text.lower().replace(".", " ").split())


def plain_explanations(cell: str) -> list[str]:
    """The explanations of a cell with one per line, without those of which nothing is left."""
    return [plain for plain in map(plain_explanation, lines(cell)) if plain]


def majority(cell: str) -> str:
    """The most frequent answer of a cell with one per line; the first of equally frequent ones."""
    return Counter(plain_answers(cell)).most_common(1)[0][0]


def spoken(text: str) -> tuple[str, str]:
    """Answer and explanation of a generated text: before the first "because", and after the last.

    >>> spoken("yes because it is red because of the lamp")
    ('yes', 'of the lamp')
    >>> spoken("yes it is red")
    ('yes it is red', 'is red')
    """
    answer, _, rest = text.partition(BECAUSE)
    explanation = rest.rpartition(BECAUSE)[2] if rest else " ".join(text.split()[2:])
    return answer.strip(), explanation.strip()


class Sequences:
    """Builds sequences by a tokenizer.

    Args:
        tokenizer: of transformers, that knows ``SPECIAL`` and ``<|endoftext|>``.
        longest: most tokens of a sequence; longer ones are cut.
    """

    def __init__(self, tokenizer: Any, longest: int = 40) -> None:
        self.tokenizer, self.longest = tokenizer, longest
        self.pad, self.question, self.answer, self.explanation = tokenizer.convert_tokens_to_ids(list(SPECIAL))
        self.end = tokenizer.convert_tokens_to_ids(END)
        because = self.tokens(f" {BECAUSE}")
        self.marks = Marks(
            {self.end, self.pad, self.question, self.answer, self.explanation}, because[0], self.answer,
            self.explanation,
        )  # fmt: skip

    def tokens(self, text: str) -> list[int]:
        """Of a text, nothing added."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def explained(self, question: str, answer: str, explanation: str, concepts: str = "") -> Row:
        """A row to train on. Without a question it begins at ``<bos>``; concepts come before all, and count beside the
        longest.
        """
        ids, segments = self._start(question, f"the answer is {answer}")
        why = [*self.tokens(f" {BECAUSE} {explanation}"), self.end]
        asked, seen = segments.count(self.question) + 1, self.concepts(concepts)
        labels = [IGNORED] * asked + ids[asked:] + why
        segments = segments + [self.explanation] * len(why)
        first = [IGNORED] * len(seen), [self.question] * len(seen)
        parts = zip((seen, *first), (ids + why, labels, segments), strict=True)
        return Row(*(before + part[: self.longest] for before, part in parts))

    def prompt(self, question: str, concepts: str = "") -> tuple[list[int], list[int]]:
        """What a text is asked for by: concepts, the question and "the answer is", and their segments."""
        ids, segments = self._start(question, "the answer is")
        seen = self.concepts(concepts)
        return seen + ids, [self.question] * len(seen) + segments

    def concepts(self, text: str) -> list[int]:
        """The first tokens of concepts, at most :data:`TOLD`."""
        return self.tokens(text)[:TOLD] if text else []

    def caption(self, text: str) -> Row:
        """A caption to train on, without segments."""
        words = self.tokens(text)[: self.longest - 2]
        return Row([self.end, *words, self.end], [IGNORED, *words, self.end], [])

    def text(self, ids: Sequence[int]) -> str:
        """What tokens say."""
        found: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return found.strip()

    def padded(self, parts: Sequence[Row]) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
        """Ids, labels and segments of one length, padded on the right."""
        longest = max(len(part.ids) for part in parts)
        fill = (self.pad, IGNORED, self.explanation)
        ids, labels, segments = (
            [list(part[i]) + [fill[i]] * (longest - len(part[i])) for part in parts] for i in range(3)
        )
        return ids, labels, segments

    def _start(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        asked = self.tokens(plain_question(question))[: self.longest - ROOM] if question.strip() else []
        reply = self.tokens(f" {answer}" if asked else answer)
        ids = [*asked, self.end, *reply]
        return ids, [self.question] * len(asked) + [self.answer] * (1 + len(reply))


def word_tokenizer(words: Sequence[str]) -> Any:
    """A tokenizer of whole words, those of a vocabulary: ``Ġword`` after a blank, ``word`` at the start of a text."""
    import tokenizers
    import transformers

    vocabulary = [END, *SPECIAL, "<unk>", *words]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    core = tokenizers.Tokenizer(model)
    core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(replacement="Ġ", prepend_scheme="never")
    core.decoder = tokenizers.decoders.Metaspace(replacement="Ġ", prepend_scheme="never")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, bos_token=END, unk_token="<unk>", pad_token=PAD,
        additional_special_tokens=list(SPECIAL[1:]),
    )  # fmt: skip

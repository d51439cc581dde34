r"""Generated text against what people wrote: BLEU, ROUGE-L and CIDEr-D as the COCO caption evaluation defines them.

* BLEU-n (Papineni et al. 2002), of the corpus: geometric mean of the clipped precisions of 1..n-grams, times
  :math:`\min(1, e^{1 - r/c})`; :math:`c` all words generated, :math:`r` those of the reference of the nearest length.
* ROUGE-L (Lin 2004): with :math:`P, R` the best precision and recall of the longest common subsequence with a
  reference, :math:`(1+\beta^2) P R / (R + \beta^2 P)`, :math:`\beta = 1.2`; mean over rows.
* CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726): n-gram counts weighted by :math:`\log(N / \mathrm{df})`, ``df`` the
  rows that have the n-gram in a reference; cosine with the generated counts clipped to the reference's, times
  :math:`e^{-(l_c - l_r)^2 / 2 \sigma^2}`, :math:`\sigma = 6`; 10 times the mean over references, n = 1..4 and rows.

Words are runs of letters and digits, lower case; the published evaluation has the tokeniser of the Penn Treebank, which
differs in contractions. METEOR and SPICE need word nets and parsers, and are not here. Written here since no kept
library has the three: pycocoevalcap, whose figures these meet, has one release, of 2020, and runs Java for its words;
sacrebleu has BLEU (over words of its own) without ROUGE and CIDEr, rouge-score ROUGE with :math:`\beta = 1`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from weft.errors import UserError, some
from weft.tasks.base import tasks
from weft.tasks.judge import Judge

ORDERS = 4
BETA, SIGMA = 1.2, 6.0
Gram = tuple[str, ...]
WORD = re.compile(r"\w+(?:'\w+)?")


def words(text: str) -> list[str]:
    """Lower case, without punctuation.

    >>> words("The dog's bowl, twice!")
    ['the', "dog's", 'bowl', 'twice']
    """
    return WORD.findall(text.lower())


def lines(text: str) -> list[str]:
    """The texts of a cell that holds one per line, without the empty ones."""
    return [line.strip() for line in str(text).splitlines() if line.strip()]


def caption_scores(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """All metrics of texts ``(N,)``, each against one reference or more; NaN without rows.

    >>> found = caption_scores(["a red square"], [["a red square", "the square is red"]])
    >>> round(found["bleu_3"], 6), round(found["rouge_l"], 6)
    (1.0, 1.0)

    Raises:
        UserError: unequal lengths, or a row without a reference.
    """
    lonely = [i for i, refs in enumerate(references) if not refs]
    if lonely or len(outputs) != len(references):
        found = f"rows {some(lonely)}" if lonely else f"{len(outputs)} texts, {len(references)} rows"
        raise UserError("every generated text has a reference", found, "leave out rows without a description")
    said = [words(text) for text in outputs]
    wanted = [[words(text) for text in refs] for refs in references]
    if not said:
        return {**{f"bleu_{n}": math.nan for n in range(1, ORDERS + 1)}, "rouge_l": math.nan, "cider": math.nan}
    scores = {f"bleu_{n}": value for n, value in enumerate(bleu(said, wanted), 1)}
    return {**scores, "rouge_l": float(rouge_l(said, wanted).mean()), "cider": float(cider(said, wanted).mean())}


def bleu(said: Sequence[list[str]], wanted: Sequence[Sequence[list[str]]]) -> list[float]:
    """BLEU-1 to BLEU-4 of the corpus."""
    spoken = sum(map(len, said))
    nearest = sum(min((abs(len(r) - len(s)), len(r)) for r in refs)[1] for s, refs in zip(said, wanted, strict=True))
    brevity = min(1.0, math.exp(1 - nearest / spoken)) if spoken else 0.0
    found, logs = [], 0.0
    for n in range(1, ORDERS + 1):
        right = total = 0
        for s, refs in zip(said, wanted, strict=True):
            most: Counter[Gram] = Counter()
            for r in refs:
                most |= _grams(r, n)
            right, total = right + (_grams(s, n) & most).total(), total + max(0, len(s) - n + 1)
        logs += math.log(right / total) if right else -math.inf
        found.append(brevity * math.exp(logs / n))
    return found


def rouge_l(said: Sequence[list[str]], wanted: Sequence[Sequence[list[str]]]) -> np.ndarray:
    """ROUGE-L of each row ``(N,)``."""
    found = np.zeros(len(said))
    for i, (s, refs) in enumerate(zip(said, wanted, strict=True)):
        common = [_common(s, r) for r in refs]
        precision = max(common) / len(s) if s else 0.0
        recall = max((c / len(r) for c, r in zip(common, refs, strict=True) if r), default=0.0)
        if precision and recall:
            found[i] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return found


def cider(said: Sequence[list[str]], wanted: Sequence[Sequence[list[str]]]) -> np.ndarray:
    """CIDEr-D of each row ``(N,)``, 0 to 10."""
    found = np.zeros(len(said))
    for n in range(1, ORDERS + 1):
        rows = Counter(gram for refs in wanted for gram in set().union(*(_grams(r, n) for r in refs)))
        weight = {gram: math.log(len(wanted) / count) for gram, count in rows.items()}
        rare = math.log(len(wanted))
        for i, (s, refs) in enumerate(zip(said, wanted, strict=True)):
            mine = _weighted(_grams(s, n), weight, rare)
            size = math.sqrt(sum(v * v for v in mine.values()))
            for r in refs:
                theirs = _weighted(_grams(r, n), weight, rare)
                norm = size * math.sqrt(sum(v * v for v in theirs.values()))
                cosine = sum(min(mine.get(g, 0.0), v) * v for g, v in theirs.items()) / norm if norm else 0.0
                length = max(0, len(s) - 1) - max(0, len(r) - 1)
                found[i] += cosine * math.exp(-(length**2) / (2 * SIGMA**2)) / len(refs)
    return 10 * found / ORDERS


def _grams(text: Sequence[str], n: int) -> Counter[Gram]:
    return Counter(zip(*(text[i:] for i in range(n)), strict=False))


def _weighted(grams: Counter[Gram], weight: dict[Gram, float], rare: float) -> dict[Gram, float]:
    return {gram: count * weight.get(gram, rare) for gram, count in grams.items()}


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = row
        row = [0]
        for j, other in enumerate(b):
            row.append(before[j] + 1 if word == other else max(before[j + 1], row[j]))
    return row[-1]


@tasks.register("captions")
class CaptionJudge(Judge):
    """Texts against references, one per line of the column that holds them."""

    primary = "cider"

    def metrics(self, outputs: Sequence[str], target: Sequence[str]) -> dict[str, float]:
        return caption_scores(outputs, [lines(text) for text in target])

    def scores(self, outputs: Sequence[str], target: Sequence[str]) -> np.ndarray:
        return cider([words(text) for text in outputs], [[words(line) for line in lines(text)] for text in target])

"""Answers with explanations: ``weft fit VQA-X --system nlx-gpt``, pre-trained by ``--system nlx-gpt-captions``.

Readers of the published sets (:mod:`.reader`) and a drawn one (:mod:`.drawn`), texts and their segments
(:mod:`.sequence`), the decoder and the concept head (:mod:`.network`), which ``--system nlx-gpt-concepts`` trains
(:mod:`.concepts`), judge (:mod:`.metrics`), protocols (:mod:`.protocols`) and the classifier of one of them
(:mod:`.answer_reader`), held together in :mod:`.system`.
"""

from weft.systems.nlxgpt.answer_reader import AnswerReader
from weft.systems.nlxgpt.concepts import Concepts
from weft.systems.nlxgpt.drawn import ShapeQuestions
from weft.systems.nlxgpt.metrics import ExplanationJudge, attack_score
from weft.systems.nlxgpt.network import ConceptHead, Decoder, generate
from weft.systems.nlxgpt.protocols import ExplainPredict, RetrievalAttack
from weft.systems.nlxgpt.reader import ActX, ESnliVe, VqaX
from weft.systems.nlxgpt.system import CaptionGpt, NlxGpt

__all__ = [
    "ActX", "AnswerReader", "CaptionGpt", "ConceptHead", "Concepts", "Decoder", "ESnliVe", "ExplainPredict",
    "ExplanationJudge", "NlxGpt", "RetrievalAttack", "ShapeQuestions", "VqaX", "attack_score", "generate",
]  # fmt: skip

"""Prompts for CLIP that are learned, the same for every image (CoOp) or made for each (CoCoOp).

``weft fit IMAGES --system cocoop --option clip=FOLDER``. The prompt learner over any CLIP or SigLIP of transformers
(:mod:`.network`), how it is judged: few shots, base and new classes, harmonic mean (:mod:`.protocols`), the published
split files (:mod:`.reader`), held together in :mod:`.system`.
"""

from weft.systems.cocoop.network import CoopNet, MetaNet, PromptLearner, Prompts, tokenise
from weft.systems.cocoop.protocols import Item, base_and_new, few_shot, harmonic_mean, learning_rate, read_split
from weft.systems.cocoop.reader import CoopSplits
from weft.systems.cocoop.system import Cocoop

__all__ = [
    "Cocoop",
    "CoopNet",
    "CoopSplits",
    "Item",
    "MetaNet",
    "PromptLearner",
    "Prompts",
    "base_and_new",
    "few_shot",
    "harmonic_mean",
    "learning_rate",
    "read_split",
    "tokenise",
]

"""Prompts for CLIP that are learned, the same for every image (CoOp) or made for each (CoCoOp).

Here are the prompt learner over any CLIP or SigLIP of transformers (:mod:`.network`), and how it is judged: published
split files, few shots, base and new classes, harmonic mean, learning rate (:mod:`.protocols`).
"""

from weft.systems.cocoop.network import CoopNet, MetaNet, PromptLearner, Prompts, tokenise
from weft.systems.cocoop.protocols import Item, base_and_new, few_shot, harmonic_mean, learning_rate, read_split

__all__ = [
    "CoopNet",
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

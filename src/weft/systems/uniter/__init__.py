"""UNITER, words and regions of a picture in one transformer.

The network (:mod:`.network`), what it is pre-trained for (:mod:`.objectives`) and what is hidden for that
(:mod:`.masking`), its heads of fine-tuning (:mod:`.heads`); the alignment of words and regions is :mod:`weft.ops.ipot`.
"""

from weft.systems.uniter.heads import UniterFor
from weft.systems.uniter.network import Compacted, UniterNet
from weft.systems.uniter.objectives import UniterForPretraining

__all__ = ["Compacted", "UniterFor", "UniterForPretraining", "UniterNet"]

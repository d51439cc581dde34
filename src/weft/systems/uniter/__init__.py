"""UNITER, words and regions of a picture in one transformer: the network and its pre-training losses.

Here are the network with its pre-training heads (:mod:`.network`) and the word-region alignment it uses
(:mod:`weft.ops.ipot`). There is no registered system yet: no reader of regions, no sampling of tasks, no fine-tuning.
"""

from weft.systems.uniter.network import Compacted, UniterForPretraining, UniterNet

__all__ = ["Compacted", "UniterForPretraining", "UniterNet"]

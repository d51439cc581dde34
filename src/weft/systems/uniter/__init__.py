"""UNITER, words and regions of a picture in one transformer.

The network (:mod:`.network`), what it is pre-trained for (:mod:`.objectives`) and what is hidden for that
(:mod:`.masking`), its heads of fine-tuning (:mod:`.heads`), where regions come from (:mod:`.regions`); ``uniter`` and
``uniter-pairs`` for ``weft fit`` (:mod:`.system`), and for other answers :mod:`.tasks`. The
alignment of words and regions is :mod:`weft.ops.ipot`.
"""

from weft.systems.uniter.heads import UniterFor
from weft.systems.uniter.network import Compacted, UniterNet
from weft.systems.uniter.objectives import UniterForPretraining
from weft.systems.uniter.pairs import UniterPairs
from weft.systems.uniter.system import Uniter
from weft.systems.uniter.tasks import UniterChoices, UniterRefers, UniterTwo, UniterTwoPair, UniterTwoTriplet

__all__ = [
    "Compacted", "Uniter", "UniterChoices", "UniterFor", "UniterForPretraining", "UniterNet", "UniterPairs",
    "UniterRefers", "UniterTwo", "UniterTwoPair", "UniterTwoTriplet",
]  # fmt: skip

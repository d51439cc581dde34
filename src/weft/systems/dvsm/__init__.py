"""D-VSM: several views of a row, each with a node and a prediction of its own: ``weft fit FOLDER --system dvsm``.

A reader of multi-view multi-label files (:mod:`.reader`), the graph (:mod:`.graph`) and the network (:mod:`.network`),
held together in :mod:`.system`.
"""

from weft.systems.dvsm.reader import MultilabelViews
from weft.systems.dvsm.system import Dvsm

__all__ = ["Dvsm", "MultilabelViews"]

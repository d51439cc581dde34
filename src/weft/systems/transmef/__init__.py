"""Pictures of several exposures made one: ``weft fit PHOTOS --system transmef``, ``weft predict MODEL PAIRS``.

Readers of photos and of exposures (:mod:`.reader`), the network (:mod:`.network`), how photos are spoilt
(:mod:`.corruptions`), the loss (:mod:`.loss`), colour (:mod:`.colour`) and the field's metrics (:mod:`.metrics`), held
together in :mod:`.system`.
"""

from weft.systems.transmef.metrics import ExposureFusionJudge
from weft.systems.transmef.reader import Exposures, Photos
from weft.systems.transmef.system import TransMef

__all__ = ["ExposureFusionJudge", "Exposures", "Photos", "TransMef"]

"""Speech enhanced with the help of other speech of the same speaker: ``weft fit VOICES --system fafnet``.

A reader that mixes voices with noise or takes mixed ones (:mod:`.reader`), spectra, cepstra and the matching of frames
(:mod:`.spectra`), layers over complex maps (:mod:`.layers`), the network (:mod:`.network`) and the field's metrics
(:mod:`.metrics`), held together in :mod:`.system`.
"""

from weft.systems.fafnet.metrics import EnhancementJudge
from weft.systems.fafnet.reader import Voices
from weft.systems.fafnet.system import Fafnet

__all__ = ["EnhancementJudge", "Fafnet", "Voices"]

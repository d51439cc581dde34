"""Re-identification across spectra with MutualFormer, whole: ``weft fit rgbnt100 --system cross-spectral-reid``.

Readers of its sets (:mod:`.rgbn`, :mod:`.rgbnt201`) and a generated one whose answer is known (:mod:`.spectra`), the
network (:mod:`.network`), its loss and batches (:mod:`.loss`), the field's metrics (:mod:`.metrics`), all held together
in :mod:`.system`; ``recipes/`` repeat the paper's tables, and ``README.md`` says what they gave.
"""

from weft.systems.cross_spectral_reid import rgbn, rgbnt201, spectra
from weft.systems.cross_spectral_reid.system import CrossSpectralReId

__all__ = ["CrossSpectralReId", "rgbn", "rgbnt201", "spectra"]

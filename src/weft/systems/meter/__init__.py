"""METER: a text and an image encoder, co-attention over their tokens, poolers and heads.

The encoders (:mod:`.encoders`), the network (:mod:`.network`) and its heads (:mod:`.heads`) under the parameter names
of the published checkpoints, what it is trained for (:mod:`.objectives`) and what is hidden for that
(:mod:`.masking`); ``meter``, ``meter-pairs`` and ``meter-two`` for ``weft fit`` (:mod:`.system`, :mod:`.two`).
Co-attention and merged attention over stored tokens are fusions: ``co-attention`` and ``merged-attention``.
"""

from weft.systems.meter.encoders import ClipTower, TextEncoder
from weft.systems.meter.network import MeterNet
from weft.systems.meter.system import Meter, MeterPairs
from weft.systems.meter.two import MeterTwo

__all__ = ["ClipTower", "Meter", "MeterNet", "MeterPairs", "MeterTwo", "TextEncoder"]

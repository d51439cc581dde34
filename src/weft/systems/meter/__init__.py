"""METER: a text and an image encoder, co-attention over their tokens, poolers and heads.

The encoders (:mod:`.encoders`), the network (:mod:`.network`) and its heads (:mod:`.heads`) under the parameter names
of the published checkpoints, what it is trained for (:mod:`.objectives`) and what is hidden for that
(:mod:`.masking`); ``meter`` and
``meter-pairs`` for ``weft fit`` (:mod:`.system`).
Co-attention and merged attention over stored tokens are fusions: ``co-attention`` and ``merged-attention``.
"""

from weft.systems.meter.encoders import ClipTower, TextEncoder
from weft.systems.meter.network import MeterNet
from weft.systems.meter.system import Meter, MeterPairs

__all__ = ["ClipTower", "Meter", "MeterNet", "MeterPairs", "TextEncoder"]

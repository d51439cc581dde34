"""METER: a text and an image encoder, co-attention over their tokens, poolers and heads.

The encoders (:mod:`.encoders`), the network (:mod:`.network`) and its heads (:mod:`.heads`) under the parameter names
of the published checkpoints, what it is trained for (:mod:`.objectives`) and what is hidden for that (:mod:`.masking`).
Co-attention and merged attention over stored tokens are fusions: ``co-attention`` and ``merged-attention``.
"""

from weft.systems.meter.encoders import ClipTower, TextEncoder
from weft.systems.meter.network import MeterNet

__all__ = ["ClipTower", "MeterNet", "TextEncoder"]

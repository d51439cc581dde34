"""ARAF whole: an image and a numeric sequence to a class or a value, ``weft fit SOURCE --system araf``.

The published network (:mod:`.network`), and the encoder of its figures (:mod:`.encoder`), which with the fusion
:mod:`weft.fusion.araf` makes the network that the paper draws; held together in :mod:`.system`. :mod:`.stages` shows
how the modalities come together inside a trained fusion.
"""

from weft.systems.araf.stages import Stages
from weft.systems.araf.system import Araf

__all__ = ["Araf", "Stages"]

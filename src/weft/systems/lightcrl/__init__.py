"""LightCRL's published evaluations of an aligner: ``weft evaluate MODEL SOURCE --protocol zero-shot | probe | pairs``.

The aligner itself is :mod:`weft.alignment.lightcrl`: one of several behind one interface, and so are its evaluations.
Search, which measures retrieval too, is a verb of its own.
"""

from weft.systems.lightcrl.pairs import Pairs
from weft.systems.lightcrl.probe import Probe
from weft.systems.lightcrl.zero_shot import ZeroShot

__all__ = ["Pairs", "Probe", "ZeroShot"]

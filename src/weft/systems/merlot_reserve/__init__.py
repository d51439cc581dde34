"""Frames, sound and words of videos in one network: ``weft fit SOURCE --system merlot-reserve``.

Encoders (:mod:`.network`), and the four kinds of sequences with their three losses (:mod:`.pretrain`), equal to the
published code; subtitles, spans and the builder of the sequences (:mod:`.script`), a made world (:mod:`.world`) and one
of real digits (:mod:`.digits`), held together in :mod:`.system`; what is asked of it afterwards in :mod:`.heads`.
"""

from weft.systems.merlot_reserve.digits import DigitScripts
from weft.systems.merlot_reserve.heads import ReserveChoices, ReserveClasses
from weft.systems.merlot_reserve.network import AudioEncoder, SpanEncoder, Transformer, VisionEncoder, from_flax
from weft.systems.merlot_reserve.pretrain import MerlotNet, Videos, Words
from weft.systems.merlot_reserve.system import LeftOutSpan, MerlotReserve
from weft.systems.merlot_reserve.world import MadeScripts

__all__ = [
    "AudioEncoder", "DigitScripts", "LeftOutSpan", "MadeScripts", "MerlotNet", "MerlotReserve", "ReserveChoices",
    "ReserveClasses", "SpanEncoder", "Transformer", "Videos", "VisionEncoder", "Words", "from_flax",
]  # fmt: skip

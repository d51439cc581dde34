"""Frames, sound and words of videos in one network: the encoders and pre-training of MERLOT Reserve.

Encoders (:mod:`.network`), and the four kinds of sequences with their three losses (:mod:`.pretrain`), equal to the
published code; subtitles, spans and the builder of the sequences (:mod:`.script`). The system that reads videos is not
here yet.
"""

from weft.systems.merlot_reserve.network import AudioEncoder, SpanEncoder, Transformer, VisionEncoder, from_flax
from weft.systems.merlot_reserve.pretrain import MerlotNet, Videos, Words

__all__ = ["AudioEncoder", "MerlotNet", "SpanEncoder", "Transformer", "Videos", "VisionEncoder", "Words", "from_flax"]

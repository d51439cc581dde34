"""The fusions of weft over frozen encoders as a system: what published networks are compared with, in one comparison.

``weft compare vqa --system meter --variant fusion=co --variant system=frozen-fusion,fusion=cross-attention``.
"""

from weft.systems.frozen_fusion.system import FrozenFusion

__all__ = ["FrozenFusion"]

"""Joint architectures: many modalities to one vector. One file per published method."""

from weft.fusion.base import Fusion, create_fusion, fusions, list_fusions

__all__ = ["Fusion", "create_fusion", "fusions", "list_fusions"]

"""What a column can be, one file per kind."""

from weft.data.kinds.base import Kind, Place, kind_named, kinds

__all__ = ["Kind", "Place", "kind_named", "kinds"]

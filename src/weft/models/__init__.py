"""Models: what answers for rows or embeds them, how it is kept in a folder, and what it knows of the rows it saw."""

from weft.models.aligned import AlignedModel
from weft.models.fused import FusedModel
from weft.models.pretrained import Pretrained, load_model, models
from weft.models.seen import Seen

__all__ = ["AlignedModel", "FusedModel", "Pretrained", "Seen", "load_model", "models"]

"""Training: one loop for fused models and aligners, exact resume, model folders without pickle."""

from weft.training.config import TrainConfig
from weft.training.loop import History, fit
from weft.training.model import FusedModel

__all__ = ["FusedModel", "History", "TrainConfig", "fit"]

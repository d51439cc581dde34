"""Training: one loop for fused models and aligners, exact resume, model folders without pickle."""

from weft.training.aligned import AlignedModel
from weft.training.config import TrainConfig
from weft.training.loop import History, fit, fit_aligner
from weft.training.model import FusedModel
from weft.training.train import train_model

__all__ = ["AlignedModel", "FusedModel", "History", "TrainConfig", "fit", "fit_aligner", "train_model"]

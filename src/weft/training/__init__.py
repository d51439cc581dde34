"""Training: one loop for fused models, aligners and systems, with exact resume."""

from weft.training.config import TrainConfig
from weft.training.loop import History, fit, fit_aligner
from weft.training.train import train_model

__all__ = ["History", "TrainConfig", "fit", "fit_aligner", "train_model"]

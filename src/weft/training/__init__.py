"""Training: one loop for fused models and aligners, exact resume, model folders without pickle."""

from weft.training.aligned import AlignedModel
from weft.training.config import TrainConfig
from weft.training.loop import History, fit, fit_aligner
from weft.training.model import FusedModel
from weft.training.pretrained import Pretrained, load_model, models
from weft.training.seen import Seen
from weft.training.train import train_model

__all__ = [
    "AlignedModel",
    "FusedModel",
    "History",
    "Pretrained",
    "Seen",
    "TrainConfig",
    "fit",
    "fit_aligner",
    "load_model",
    "models",
    "train_model",
]

"""weft: align and fuse modalities, and say with evidence what helps.

The public names are imported when first used, so ``import weft`` costs nothing by itself.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Tokens": "weft.tokens",
    "Fused": "weft.tokens",
    "UserError": "weft.errors",
    "Fusion": "weft.fusion",
    "create_fusion": "weft.fusion",
    "list_fusions": "weft.fusion",
    "Aligner": "weft.alignment",
    "create_aligner": "weft.alignment",
    "create_objective": "weft.alignment",
    "list_aligners": "weft.alignment",
    "AlignedModel": "weft.models",
    "FusedModel": "weft.models",
    "load_model": "weft.models",
    "load": "weft.models.push",
    "push": "weft.models.push",
    "train_model": "weft.training",
    "create_encoder": "weft.encoders",
    "Store": "weft.store",
    "encode": "weft.store",
    "load_dataset": "weft.data",
    "compare": "weft.compare",
    "fit": "weft.compare",
    "WeftClassifier": "weft.estimators",
    "WeftRegressor": "weft.estimators",
    "ClosedFormAligner": "weft.estimators",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    return {"compare": module, "fit": getattr(module, "fit_frame", None)}.get(name) or getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)

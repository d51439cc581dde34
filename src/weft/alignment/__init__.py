"""Coordinated architectures: many modalities to one shared space. Aligners and their objectives."""

from weft.alignment.base import (
    Aligner,
    Objective,
    Regulariser,
    aligners,
    create_aligner,
    create_objective,
    create_regulariser,
    list_aligners,
    objectives,
    regularisers,
)

__all__ = [
    "Aligner",
    "Objective",
    "Regulariser",
    "aligners",
    "create_aligner",
    "create_objective",
    "create_regulariser",
    "list_aligners",
    "objectives",
    "regularisers",
]

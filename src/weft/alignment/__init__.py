"""Coordinated architectures: many modalities to one shared space. Aligners and their objectives."""

from weft.alignment.base import (
    Aligner,
    Objective,
    aligners,
    create_aligner,
    create_objective,
    list_aligners,
    objectives,
)

__all__ = [
    "Aligner",
    "Objective",
    "aligners",
    "create_aligner",
    "create_objective",
    "list_aligners",
    "objectives",
]

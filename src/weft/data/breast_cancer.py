"""Breast cancer Wisconsin (diagnostic): is a tumour malignant? 569 rows, part of scikit-learn.

Ten measurements of the cell nuclei in an image, seen three ways; the modalities are tabular with ten fields each: their
``mean`` over the nuclei, the standard ``error`` of that mean, and the ``worst`` value. Target ``diagnosis``: 212
malignant, 357 benign.

Street, Wolberg, Mangasarian 1993, Nuclear feature extraction for breast tumor diagnosis.
"""

from __future__ import annotations

import numpy as np

from weft.data.dataset import BuiltIn, Dataset, Modality, datasets, numbered

VIEWS = ("mean", "error", "worst")
FIELDS = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)


@datasets.register("breast_cancer")
class BreastCancer(BuiltIn):
    """Breast cancer Wisconsin: mean, error and worst value of ten measurements; classification."""

    paper = "Street, Wolberg, Mangasarian 1993, Nuclear feature extraction for breast tumor diagnosis"

    def make(self) -> Dataset:
        """The 569 rows."""
        from sklearn.datasets import load_breast_cancer

        bunch = load_breast_cancer()
        views = np.split(bunch.data, len(VIEWS), axis=1)
        return Dataset(
            name="breast_cancer",
            ids=numbered("patient", len(bunch.data)),
            modalities={
                name: Modality("tabular", [tuple(row) for row in view.tolist()], FIELDS)
                for name, view in zip(VIEWS, views, strict=True)
            },
            targets={"diagnosis": np.asarray(bunch.target_names)[bunch.target].astype(str)},
            split=None,
            group=None,
            task="classification",
        )

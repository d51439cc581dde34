"""Diabetes progression one year after baseline: 442 rows, part of scikit-learn.

Two tabular modalities in their own units: ``clinical`` (age in years, sex, body mass index, mean blood pressure) and
``serum`` (total cholesterol, LDL, HDL, cholesterol/HDL, log triglycerides, glucose). Target ``progression``, 25 to 346.

Efron, Hastie, Johnstone, Tibshirani 2004, Least Angle Regression (Annals of Statistics).
"""

from __future__ import annotations

import numpy as np

from weft.data.dataset import BuiltIn, Dataset, Modality, datasets, numbered

VIEWS = {
    "clinical": ("age", "sex", "bmi", "pressure"),
    "serum": ("cholesterol", "ldl", "hdl", "ratio", "triglycerides", "glucose"),
}


@datasets.register("diabetes")
class Diabetes(BuiltIn):
    """Diabetes progression from clinical and serum measurements; regression."""

    paper = "Efron, Hastie, Johnstone, Tibshirani 2004, Least Angle Regression (Annals of Statistics)"

    def make(self) -> Dataset:
        """The 442 rows."""
        from sklearn.datasets import load_diabetes

        bunch = load_diabetes(scaled=False)
        border = len(VIEWS["clinical"])
        parts = {"clinical": bunch.data[:, :border], "serum": bunch.data[:, border:]}
        return Dataset(
            name="diabetes",
            ids=numbered("patient", len(bunch.data)),
            modalities={
                name: Modality("tabular", [tuple(row) for row in part.tolist()], VIEWS[name])
                for name, part in parts.items()
            },
            targets={"progression": bunch.target.astype(np.float64)},
            split=None,
            group=None,
            task="regression",
        )

"""The features of one modality as an aligner with a closed form expects them from another."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from weft.data import Dataset
from weft.errors import UserError
from weft.models.aligned import AlignedModel
from weft.models.asked import rows_of, same_encoders
from weft.store import Store


def predict_modality(
    aligner: AlignedModel,
    source: Store | Dataset,
    find: str | None,
    by: str | None,
    split: str,
    *,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Ids ``(n,)``, predictions ``(n, D)``, and how much of the true features they explain, where these are there.

    Args:
        aligner: what predicts.
        source: the rows.
        find, by: the modality to predict, and the one it is predicted from (default: the other one).
        split: which rows, by what they were to the aligner.
        progress: show a bar while encoding.

    Raises:
        UserError: the modalities are not clear, or the aligner cannot predict.
    """
    others = [name for name in aligner.names if name != find]
    if find is None or (by is None and len(others) != 1):
        found = f"--find {find or '?'}, --by {by or '?'}; {', '.join(aligner.names)}"
        raise UserError(
            "name the modality to predict, and the one it is predicted from", found, "--find text --by image"
        )
    same_encoders(aligner, source, by or others[0])
    rows = rows_of(source, split, aligner)
    features = aligner.encode(source, progress=progress) if isinstance(source, Dataset) else source
    predicted = aligner.predict_modality(features, by or others[0], find, rows)
    ids = np.array([features.ids[row] for row in rows.tolist()])
    if find not in features.dims:
        return ids, predicted, {}
    share = explained(features.pooled(rows)[find], predicted, aligner.standardise.statistics(find)[0])
    return ids, predicted, {"explained": share}


def explained(truth: np.ndarray, predicted: np.ndarray, mean: Tensor) -> float:
    """Share of the variance around the training mean ``(D,)`` of ``(n, D)``, over all features; rows that lack a side
    are left out.
    """
    there = np.isfinite(truth).all(axis=1) & np.isfinite(predicted).all(axis=1)
    around = truth[there] - mean.cpu().numpy()
    return float(1 - np.square(truth[there] - predicted[there]).sum() / np.square(around).sum())

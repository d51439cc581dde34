"""Raw values of one modality to vectors of an aligner's space, a chunk at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from weft.data import Dataset, Modality
from weft.data.dataset import numbered
from weft.errors import UserError, did_you_mean
from weft.models.aligned import AlignedModel
from weft.models.raw import encode_rows
from weft.store import Features
from weft.tokens import Tokens

CHUNK = 2048
"""Values whose tokens are in memory at once."""


def embed_values(model: AlignedModel, name: str, values: Sequence[Any], *, progress: bool = False) -> np.ndarray:
    """Unit vectors ``(N, dim)`` of raw values of modality ``name``; equal hashable values are embedded once.

    Raises:
        UserError: the model has no such modality or does not know its encoders, or a value cannot be read (an empty
            text, a missing file).
    """
    if name not in model.names:
        remedy = did_you_mean(name, model.names, "modalities")
        raise UserError(f"the model has no modality {name!r}", f"it has {', '.join(model.names)}", remedy)
    spec = None if model.encoders is None else {name: model.encoders[name]}
    kind = "" if spec is None else spec[name]["kind"]
    unique = list(dict.fromkeys(values)) if all(isinstance(v, str) for v in values) else list(values)
    parts = []
    for start in range(0, len(unique), CHUNK):
        chunk = unique[start : start + CHUNK]
        rows = Dataset("values", numbered("", len(chunk)), {name: Modality(kind, chunk)}, {}, None, None, "retrieval")
        parts.append(model.embed(encode_rows(spec, rows, progress=progress))[name])
    vectors = np.concatenate(parts)
    if len(unique) == len(values):
        return vectors
    place = {value: i for i, value in enumerate(unique)}
    return vectors[[place[value] for value in values]]


@torch.no_grad()
def pooled_outputs(
    model: AlignedModel, features: Features, name: str, rows: np.ndarray, *, batch_size: int = 256
) -> np.ndarray:
    """Embeddings ``(n, dim)`` of modality ``name`` before they are made unit vectors: what probes are trained on."""
    model.eval()
    features, device = features.subset([name]), next(model.buffers()).device
    parts = [np.zeros((0, model.aligner.dim), np.float32)]
    for start in range(0, len(rows), batch_size):
        batch = features.gather(rows[start : start + batch_size])
        outputs = model.output(name, Tokens(*(part.to(device) for part in batch[name])))
        parts.append(outputs.float().cpu().numpy())
    return np.concatenate(parts)

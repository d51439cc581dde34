"""Regions of a picture: a detector's, as a user has them, or the cells of a frozen backbone's grid.

A detector's file is ``<name of the picture>.npz`` as UNITER's extractor writes it: ``features`` ``(K, F)``, ``norm_bb``
``(K, 4 or more)`` (left, top, right, bottom as shares of the picture), most confident first, and where they are known
``conf`` ``(K,)`` and ``soft_labels`` ``(K, C)``, the distribution over classes, background first. Of its regions those
of a confidence above 0.2 are read, but 10 at least and 100 at most.

Source: Chen et al., "UNITER", ECCV 2020, arXiv 1909.11740; Anderson et al., "Bottom-Up and Top-Down Attention", CVPR
2018.
"""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from weft.encoders.hf import quiet
from weft.errors import UserError, some
from weft.tokens import pad

CONFIDENT, FEWEST, MOST = 0.2, 10, 100


class Regions(NamedTuple):
    """``values`` ``(B, K, F)``, ``mask`` ``(B, K)``, ``places`` ``(B, K, 7)``, ``classes`` ``(B, K, C)``."""

    values: Tensor
    mask: Tensor
    places: Tensor
    classes: Tensor | None = None


def with_area(boxes: np.ndarray) -> np.ndarray:
    """``(K, 7)`` of left, top, right, bottom ``(K, 4)``: width, height and area beside them."""
    wide, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return np.stack([*boxes[:, :4].T, wide, tall, wide * tall], axis=1).astype(np.float32)


def grid(count: int) -> np.ndarray:
    """Places ``(count, 7)`` of the cells of a square grid, row by row; a token before them is the whole picture."""
    side = isqrt(count)
    cells = np.arange(side * side)
    left, top = cells % side / side, cells // side / side
    boxes = np.stack([left, top, left + 1 / side, top + 1 / side], axis=1)
    whole = np.tile([[0.0, 0.0, 1.0, 1.0]], (count - side * side, 1))
    return with_area(np.concatenate([whole, boxes]))


def read_regions(path: Path, row: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Features ``(K, F)``, places ``(K, 7)`` and classes of a picture's regions.

    Raises:
        UserError: there is no file, it is another one, or it has no region; the row is named.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, BadZipFile) as error:
        what = f"the regions of row {row!r} cannot be read"
        raise UserError(what, f"{path}: {error}", "one .npz for each picture, named as it is") from error
    if not {"features", "norm_bb"} <= set(found):
        remedy = "save features (K, F) and norm_bb (K, 4), and conf and soft_labels if there are any"
        raise UserError(f"the regions of row {row!r} lack arrays", f"{path}: {some(found)}", remedy)
    features, boxes = found["features"].astype(np.float32), found["norm_bb"].astype(np.float32)
    if features.ndim != 2 or boxes.ndim != 2 or len(features) != len(boxes) or not len(features) or boxes.shape[1] < 4:
        shapes = f"{path}: features {features.shape}, norm_bb {boxes.shape}"
        raise UserError(
            f"row {row!r} has one region or more, each with its place", shapes, "detect again, or leave it out"
        )
    kept = len(features)
    if "conf" in found:
        kept = int(np.clip((found["conf"] > CONFIDENT).sum(), FEWEST, MOST))
    classes = found.get("soft_labels")
    return features[:kept], with_area(boxes[:kept]), None if classes is None else classes[:kept].astype(np.float32)


def collate(found: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]) -> Regions:
    """Rows of regions as a batch ``(B, K, F)``; classes only if all have them."""
    values, mask = pad([torch.from_numpy(features) for features, _, _ in found])
    places = pad([torch.from_numpy(boxes) for _, boxes, _ in found]).values
    known = [torch.from_numpy(classes) for _, _, classes in found if classes is not None]
    return Regions(values, mask, places, pad(known).values if len(known) == len(found) else None)


def cell_classifier(model: str, width: int) -> nn.Linear:
    """The last layer of a convolutional image classifier, which reads a cell as it reads the mean of all.

    Raises:
        UserError: the model has no such layer.
    """
    import transformers

    try:
        with quiet():
            whole: Any = transformers.AutoModelForImageClassification.from_pretrained(model, use_safetensors=True)
        layer = whole.classifier
        if isinstance(layer, nn.Linear) and layer.in_features == width:
            return layer.float().requires_grad_(False)
        found = f"{model}: {type(layer).__name__}"
    except (OSError, ValueError, KeyError, AttributeError) as error:
        found = f"{model}: {error}"
    raise UserError(
        "classes of regions come from a detector, or of cells from the classifier of a convolutional network",
        found,
        "give regions with soft_labels, image=hf:<such a network>, or leave mrc and mrc-kl out",
    )

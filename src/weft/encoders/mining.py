"""Pairs of captions that mean the same, written as a table: what ``weft mine`` does."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from weft.data import Dataset
from weft.data.caption_pairs import positive_pairs
from weft.encoders import create_encoder
from weft.encoders.pooled import pooled_vectors
from weft.errors import UserError
from weft.files import write_bytes


def mine_pairs(dataset: Dataset, encoder: str, out: Path, threshold: float, *, identical: bool) -> tuple[int, int, int]:
    """Write the pairs of a data set's captions, and a YAML beside them.

    Args:
        dataset: one text per row, rows of one image in a group.
        encoder: name of the sentence encoder.
        out: the CSV.
        threshold: least cosine of a pair.
        identical: keep the pairs of a caption with itself.

    Returns:
        How many pairs there are, how many of them are of a caption with itself, and of how many images.

    Raises:
        UserError: rows have no groups, or not one text.
    """
    texts = [modality for modality in dataset.modalities.values() if modality.kind == "text"]
    if dataset.group is None or len(texts) != 1:
        found = f"{len(texts)} text modalities, {'no ' if dataset.group is None else ''}groups"
        raise UserError(
            "pairs are mined from captions, grouped by image", found, "use a data set such as flickr8k, coco"
        )
    present = np.flatnonzero(texts[0].presence)
    rows = {group: present[dataset.group[present] == group] for group in dict.fromkeys(dataset.group[present].tolist())}
    groups = list(rows)
    captions = [[texts[0].values[i] for i in rows[group]] for group in groups]
    made = create_encoder(encoder, "text")
    mined = list(positive_pairs(captions, lambda t: pooled_vectors(made, t), threshold, identical=identical))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "first", "second", *(["split"] if dataset.split is not None else [])])
        for image, i, j in mined:
            group, pair = groups[image], (captions[image][i], captions[image][j])
            part = [] if dataset.split is None else [dataset.split[rows[group][0]]]
            writer.writerow([f"{group}#{i}-{j}", group, *pair, *part])
    config: dict[str, Any] = {"table": out.name, "id": "id", "group": "image", "task": "retrieval"}
    config |= {"split": "split"} if dataset.split is not None else {}
    config["modalities"] = {name: {"kind": "text", "column": name} for name in ("first", "second")}
    write_bytes(out.with_suffix(".yaml"), yaml.safe_dump(config, sort_keys=False).encode())
    return len(mined), sum(pair.first == pair.second for pair in mined), len(groups)

"""What both systems of UNITER share: what of a photo is read, and what their network begins with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig

from weft.data import Dataset
from weft.encoders.hf import quiet
from weft.errors import UserError
from weft.fusion.attention import check_heads
from weft.systems.image_text import (
    Reader,
    Vocabulary,
    begun,
    image_encoder,
)
from weft.systems.uniter.regions import Regions, collate, grid, read_regions

SHARED = (
    "image", "pixels", "regions", "text", "dim", "heads", "hidden", "layers", "length", "vocabulary", "encoder",
    "width", "classes",
)  # fmt: skip
PAPER = "Chen et al. 2020, UNITER (ECCV, arXiv 1909.11740)"
TABLE = "embeddings.token_type_embeddings.weight"
TYPES = 2
"""Rows of the table of types: text and picture."""
TRAINED: dict[str, Any] = {"lr": 8e-5, "warmup": 0.1, "schedule": "linear", "clip": 2.0, "weight_decay": 0.01}


class Inputs(NamedTuple):
    """Ids and mask ``(B, T)``, and regions."""

    ids: Tensor
    mask: Tensor
    regions: Regions


def set_up(system: Any) -> BertConfig:
    """The BERT of a system's options; and ``system.read``.

    Raises:
        UserError: the text is longer than the positions of the BERT to begin from, or its heads do not divide ``dim``.
    """
    check_heads(system.dim, system.heads)
    vocabulary = Vocabulary(system.text or "", system.vocabulary)
    encoder = None if system.regions else system.encoder
    system.read = Reader(vocabulary, system.length, system.cut, encoder, system.width)
    config = BertConfig(
        vocab_size=vocabulary.size, hidden_size=system.dim, num_hidden_layers=system.layers,
        num_attention_heads=system.heads, intermediate_size=system.hidden or 4 * system.dim,
        hidden_dropout_prob=system.dropout, attention_probs_dropout_prob=system.dropout,
        max_position_embeddings=512 if system.text else system.length * getattr(system, "parts", 1),
        type_vocab_size=TYPES + len(getattr(system, "more_types", ())),
    )  # fmt: skip
    if system.length > config.max_position_embeddings:
        found = f"length={system.length}, positions {config.max_position_embeddings}"
        raise UserError("a text is no longer than UNITER has positions", found, "choose a smaller length")
    return config


def learned(
    data: Dataset, rows: np.ndarray, columns: dict[str, str], options: dict[str, Any], texts: Sequence[str]
) -> dict[str, Any]:
    """Sizes of a BERT to begin from; vocabulary, what makes regions, and their width, of the training rows."""
    found: dict[str, Any] = bert_sizes(options["text"]) if options.get("text") else {}
    if not options.get("text"):
        found["vocabulary"] = Vocabulary.learn(texts)
    seen = data.modalities[columns["image"]].values
    first = next(row for row in rows if seen[row] is not None)
    if options.get("regions"):
        features, _, classes = read_regions(
            region_file(options["regions"], seen[first], data.ids[first]), data.ids[first]
        )
        return {**found, "width": features.shape[1], "classes": 0 if classes is None else classes.shape[1]}
    name = options.get("image", "image-patches")
    found["encoder"], _, found["width"] = image_encoder(name, seen[first], options.get("pixels"))
    return found


def region_file(folder: str, picture: Any, row: str) -> Path:
    """Where the regions of a picture are.

    Raises:
        UserError: the picture is no file, so it has no name.
    """
    if not isinstance(picture, str | Path):
        found = f"row {row!r}: {type(picture).__name__}"
        raise UserError("regions are found by the name of the picture's file", found, "give pictures as files")
    return Path(folder) / f"{Path(picture).stem}.npz"


def show(
    system: Any, data: Dataset, rows: np.ndarray, classifier: nn.Linear | None = None, column: str | None = None
) -> Regions:
    """The regions ``(n, K, F)`` of rows; of another column of pictures, where one is named."""
    column = column or system.columns(data, target=False)["image"]
    if system.regions:
        values = data.modalities[column].values
        return collate([
            read_regions(region_file(system.regions, values[row], data.ids[row]), data.ids[row]) for row in rows
        ])  # fmt: skip
    tokens = system.read.pictures(data, column, rows)
    places = torch.from_numpy(grid(tokens.mask.shape[1])).expand(len(rows), -1, -1)
    classes = None
    if classifier is not None:
        with torch.no_grad():
            classes = classifier(system.read.raw(data, column, rows).values).softmax(dim=-1)
    return Regions(tokens.values, tokens.mask, places, classes)


def begin(system: Any, data: Dataset, rows: np.ndarray, columns: dict[str, str], other: Any) -> None:
    """First weights: of another model, or of a BERT; means and scales of the training rows."""
    own, more = system.network.uniter, list(getattr(system, "more_types", ()))
    if other is not None:
        begun(system, other)
        given = other.network.uniter.state_dict()
    else:
        system.read.fit(data, columns["image"], rows)
        if not system.text:
            return
        with quiet():
            given = AutoModel.from_pretrained(system.text, use_safetensors=True).float().state_dict()
        own.load_state_dict({name: tensor for name, tensor in given.items() if name != TABLE}, strict=False)
    with torch.no_grad():
        own.get_parameter(TABLE).copy_(torch.cat([given[TABLE][:TYPES], given[TABLE][more]]))


def bert_sizes(text: str) -> dict[str, int]:
    """Options that a BERT to begin from decides."""
    with quiet():
        c = AutoModel.from_pretrained(text, use_safetensors=True).config
    return {
        "dim": c.hidden_size, "heads": c.num_attention_heads, "hidden": c.intermediate_size,
        "layers": c.num_hidden_layers,
    }  # fmt: skip

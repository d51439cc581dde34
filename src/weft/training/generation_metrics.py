"""What a text-to-image model draws of captions it never saw, measured beside the real images of those captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from weft.data import Dataset, Modality, Split
from weft.encoders import Encoder
from weft.errors import UserError, did_you_mean
from weft.tasks.generation import frechet_distance, kernel_distance, r_precision
from weft.training.aligned import AlignedModel
from weft.training.attributes import AttributeReader
from weft.training.generation import GenerationModel
from weft.training.image_pairs import image_of, modality_of, pixels_of
from weft.training.rows import refuse_no_rows


def evaluate_generation(
    model: GenerationModel,
    data: Dataset,
    split: Split,
    *,
    encoder: Encoder | None = None,
    aligner: AlignedModel | None = None,
    attributes: Sequence[str] = (),
    candidates: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw one image for every test caption and measure; every figure stands beside that of the real images.

    Args:
        model: trained on ``split.train`` or on other data; it knows its text encoder.
        data: images and captions.
        split: its test rows are drawn; its training rows are the real images that nothing is asked about.
        encoder: the space of the distances, means over its tokens.
        aligner: of image and text, trained on real images: R-precision.
        attributes: target columns a reader is trained to see, on the real training images.
        candidates: captions that R-precision chooses among.
        seed: of noise, reader and candidates.

    Returns:
        ``"drawn"``, and what real images reach: ``"real"``, each with ``distance`` (``frechet``, ``kernel``: to the
        real test images; of the real ones: so many real training images), ``agreement`` and ``r_precision``, where
        asked for.
    """
    refuse_no_rows("test", split.test)
    rows, name, text = np.asarray(split.test), image_of(data), modality_of(data, "text")
    captions = [data.modalities[text].values[row] for row in rows]
    drawn = model.draw(model.read(captions), np.arange(len(rows)), seed=seed)
    real = _real(data, rows, model.size)
    found: dict[str, Any] = {"rows": len(rows), "drawn": {}, "real": {}}
    if encoder is not None:
        others = np.random.default_rng(seed).choice(split.train, min(len(rows), len(split.train)), replace=False)
        space, test = encoder.identity(), encode_images(encoder, real)
        found["space"] = {"encoder": space.get("model", space["name"]), "output": "mean over tokens"}
        for key, images in (("drawn", drawn), ("real", _real(data, others, model.size))):
            vectors = encode_images(encoder, images)
            distances = {"frechet": frechet_distance(test, vectors), "kernel": kernel_distance(test, vectors)}
            found[key]["distance"] = distances
    if attributes:
        unknown = [column for column in attributes if column not in data.targets]
        if unknown:
            raise UserError("no such attribute", unknown[0], did_you_mean(unknown[0], data.targets, "targets"))
        train, columns = np.asarray(split.train), {column: data.targets[column] for column in attributes}
        reader = AttributeReader.train_on(
            _real(data, train, model.size), {column: v[train] for column, v in columns.items()}, seed=seed
        )
        asked = {column: v[rows] for column, v in columns.items()}
        found["drawn"]["agreement"], found["real"]["agreement"] = (
            reader.agreement(images, asked) for images in (drawn, real)
        )
    if aligner is not None:
        groups = np.array(captions) if data.group is None else data.group[rows]
        for key, images in (("drawn", drawn), ("real", real)):
            shown = {name: Modality("image", list(images)), text: Modality("text", captions)}
            pairs = replace(data.take(rows), modalities=shown)
            embedded = aligner.embed(aligner.encode(pairs, progress=False))
            found[key]["r_precision"] = r_precision(
                embedded[name], embedded[text], groups, candidates=candidates, seed=seed
            )
    return found


def encode_images(encoder: Encoder, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """``(n, D)`` means over the tokens of ``(n, size, size, 3)`` uint8 images."""
    parts = [encoder.encode(list(images[start : start + batch_size])) for start in range(0, len(images), batch_size)]
    return np.stack([tokens.mean(axis=0) for part in parts for tokens in part])


def _real(data: Dataset, rows: np.ndarray, size: int) -> np.ndarray:
    values = data.modalities[image_of(data)].values
    return np.stack([pixels_of(values[row], data.ids[row], size, size) for row in rows])

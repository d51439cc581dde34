"""Who judges drawn images: their distance to real ones, whether they show what was asked, whether the caption is found.

Every figure stands beside that of real images: the distance between two draws of them, what a reader sees in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import numpy as np
from PIL import Image, ImageFilter
from pydantic import Field

from weft.data import Dataset, Modality
from weft.data.dataset import numbered
from weft.encoders import Encoder, create_encoder
from weft.errors import UserError, did_you_mean
from weft.models.aligned import AlignedModel
from weft.models.seen import Seen
from weft.registry import Count, Seed
from weft.systems.text_to_image.attributes import AttributeReader
from weft.systems.text_to_image.figures import draw_grid
from weft.systems.text_to_image.metrics import frechet_distance, kernel_distance, r_precision
from weft.systems.text_to_image.pairs import pixels_of
from weft.tasks.base import tasks
from weft.tasks.judge import Judge

SHOWN = 8


@dataclass(frozen=True)
class Asked:
    """What was to be drawn.

    Attributes:
        data: images and captions.
        rows: whose captions were drawn.
        train: rows whose images are the real ones that nothing is asked about.
        image, text: the columns.
    """

    data: Dataset
    rows: np.ndarray
    train: np.ndarray
    image: str
    text: str

    @classmethod
    def of(cls, data: Dataset, rows: np.ndarray, seen: Seen | None, image: str, text: str) -> Asked:
        """What was asked of a model that has seen these rows.

        Raises:
            UserError: it is not known which rows it has seen.
        """
        if seen is None:
            raise UserError(
                "drawn images are judged beside real ones of the training rows",
                "it is not known which rows this model was trained on",
                "keep seen.safetensors beside the model, or train it again",
            )
        return cls(data, rows, np.flatnonzero(seen.part_of(data) == "train"), image, text)

    @property
    def captions(self) -> list[str]:
        """Of the rows."""
        return [self.data.modalities[self.text].values[row] for row in self.rows]

    def real(self, rows: np.ndarray, size: int) -> np.ndarray:
        """Real images ``(n, size, size, 3)`` uint8."""
        values = self.data.modalities[self.image].values
        return np.stack([pixels_of(values[row], self.data.ids[row], size, size) for row in rows])


@tasks.register("text-to-image")
class TextToImageJudge(Judge):
    """Distances of distributions, attributes that a reader sees, and R-precision, drawn beside real.

    Args:
        space: image encoder in whose pooled features distances are measured.
        aligner: folder of an aligner of image and text, trained on real images: R-precision.
        attributes: target columns a reader is trained to see, on the real training images; their agreement is the score
            of a row.
        candidates: captions that R-precision chooses among.
        blurs: standard deviations in pixels; d_F also after a Gaussian blur of both sides, as FID-k of DALL-E
            (Ramesh et al., arXiv 2102.12092), which leaves out what a codebook cannot keep.
        seed: of reader and candidates.
    """

    primary = "distance kernel"
    higher_is_better = False

    def __init__(
        self,
        *,
        space: str = "image-patches",
        aligner: str | Path | None = None,
        attributes: tuple[str, ...] = (),
        candidates: Count = 100,
        blurs: tuple[Annotated[float, Field(gt=0)], ...] = (),
        seed: Seed = 0,
    ) -> None:
        self.space, self.attributes, self.candidates, self.seed = space, attributes, candidates, seed
        self.blurs = blurs
        self.aligner = None if aligner is None else AlignedModel.from_pretrained(aligner)

    def metrics(self, outputs: Sequence[np.ndarray], target: Asked) -> dict[str, float]:
        """Of drawn images ``(size, size, 3)`` uint8: ``distance frechet``, ``distance kernel``, ``distance frechet blur
        <b>``, ``agreement <column>``, ``r_precision``, and the same of real images under ``real ...``."""
        drawn = np.stack(outputs)
        size = drawn.shape[1]
        real = target.real(target.rows, size)
        found = self._distances(drawn, real, target, size)
        if self.attributes:
            reader = self._reader(target, size)
            for kind, images in (("", drawn), ("real ", real)):
                shares = reader.agreement(images, self._values(target, target.rows))
                found |= {f"{kind}agreement {name}": value for name, value in shares.items()}
        if self.aligner is not None:
            found |= {f"{kind}r_precision": self._found(i, target) for kind, i in (("", drawn), ("real ", real))}
        return found

    def scores(self, outputs: Sequence[np.ndarray], target: Asked) -> np.ndarray:
        """``(N,)`` share of the attributes that a drawn image shows.

        Raises:
            UserError: no attribute is asked for: a distance of distributions is nothing that one row has.
        """
        if not self.attributes:
            raise UserError(
                "drawn images have a score each only by the attributes they show",
                "attributes=()",
                "name target columns",
            )
        drawn = np.stack(outputs)
        return self._reader(target, drawn.shape[1]).shown(drawn, self._values(target, target.rows))

    def figures(self, outputs: Sequence[np.ndarray], target: Asked, folder: Path) -> list[Path]:
        """Captions, what was drawn and the real images, ``drawn.png``."""
        drawn = np.stack(outputs[:SHOWN])
        rows = {"drawn": drawn, "real": target.real(target.rows[:SHOWN], drawn.shape[1])}
        return [draw_grid(target.captions[:SHOWN], rows, folder / "drawn.png")]

    def _distances(self, drawn: np.ndarray, real: np.ndarray, target: Asked, size: int) -> dict[str, float]:
        others = np.random.default_rng(self.seed).choice(
            target.train, min(len(target.rows), len(target.train)), replace=False
        )
        encoder, found = create_encoder(self.space, "image"), {}
        sides = (("", drawn), ("real ", target.real(others, size)))
        for blur in (0.0, *self.blurs):
            test = encode_images(encoder, blurred(real, blur))
            for kind, images in sides:
                vectors = encode_images(encoder, blurred(images, blur))
                name = f"{kind}distance frechet"
                if blur:
                    found[f"{name} blur {blur:g}"] = frechet_distance(test, vectors)
                else:
                    found[name] = frechet_distance(test, vectors)
                    found[f"{kind}distance kernel"] = kernel_distance(test, vectors)
        return found

    def _values(self, target: Asked, rows: np.ndarray) -> dict[str, np.ndarray]:
        unknown = [column for column in self.attributes if column not in target.data.targets]
        if unknown:
            raise UserError("no such attribute", unknown[0], did_you_mean(unknown[0], target.data.targets, "targets"))
        return {column: target.data.targets[column][rows] for column in self.attributes}

    def _reader(self, target: Asked, size: int) -> AttributeReader:
        values = self._values(target, target.train)
        return AttributeReader.train_on(target.real(target.train, size), values, seed=self.seed)

    def _found(self, images: np.ndarray, target: Asked) -> float:
        captions = target.captions
        groups = np.array(captions) if target.data.group is None else target.data.group[target.rows]
        aligner = cast(AlignedModel, self.aligner)
        vectors = embed_pairs(aligner, list(images), captions, (target.image, target.text))
        return r_precision(*vectors, groups, candidates=self.candidates, seed=self.seed)


def embed_pairs(
    aligner: AlignedModel, images: Sequence[np.ndarray], captions: Sequence[str], names: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors ``(n, D)`` of images ``(H, W, 3)`` and of captions, by an aligner that knows both by these names."""
    image, text = names
    columns = {image: Modality("image", list(images)), text: Modality("text", list(captions))}
    pairs = Dataset("drawn", numbered("row ", len(captions)), columns, {}, None, None, "retrieval")
    embedded = aligner.embed(aligner.encode(pairs, progress=False))
    return embedded[image], embedded[text]


def blurred(images: np.ndarray, blur: float) -> np.ndarray:
    """``(n, size, size, 3)`` uint8 images after a Gaussian blur of so many pixels; zero: as they are."""
    if not blur:
        return images
    return np.stack([np.asarray(Image.fromarray(one).filter(ImageFilter.GaussianBlur(blur))) for one in images])


def encode_images(encoder: Encoder, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """``(n, D)`` means over the tokens of ``(n, size, size, 3)`` uint8 images."""
    parts = [encoder.encode(list(images[start : start + batch_size])) for start in range(0, len(images), batch_size)]
    return np.stack([tokens.mean(axis=0) for part in parts for tokens in part])

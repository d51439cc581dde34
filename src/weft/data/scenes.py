"""Scenes: two coloured objects and a sentence that says how they stand.

An object has a shape (3) and a colour (3), the two differ in colour, and one stands left of the other or above it. The
sentence begins with either ("a red circle left of a blue square", "a blue square right of a red circle"). Targets say
what a picture shows in one way: ``relation`` ("red left of blue", 12 values), ``first shape``, of the left or upper
object, and ``second shape``.
"""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from weft.data.dataset import Dataset, Modality, datasets, numbered
from weft.data.generated import Generated
from weft.data.shapes import COLOURS, SHAPES, SMALLEST_IMAGE, paint
from weft.errors import UserError
from weft.registry import Seed

WAYS = (("left of", "right of"), ("above", "below"))
"""Each as the left or upper object says it, and as the other does."""
PARTS = ("relation", "first shape", "second shape")
TEMPLATES = ("a {} {} a {}", "there is a {} {} a {}", "the picture shows a {} {} a {}")
THING = rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
SAID = re.compile(rf"{THING} ({'|'.join(word for way in WAYS for word in way)}) a {THING}")
SIDE = 0.27
"""Side of an object's area, of the picture's."""


@datasets.register("scenes")
class Scenes(Generated):
    """Pictures of two objects and sentences of how they stand; retrieval, or one made from the other.

    Args:
        rows, seed: as for every generated set.
        size: side of the pictures in pixels.
    """

    def __init__(self, *, rows: int = 900, seed: Seed = 0, size: int = 64) -> None:
        super().__init__(rows=rows, seed=seed)
        if size < SMALLEST_IMAGE:
            raise UserError(
                f"scenes: images have at least {SMALLEST_IMAGE} pixels a side", f"size={size}", "draw larger"
            )
        self.size = size

    def make(self) -> Dataset:
        """Modalities ``image``, ``caption``; targets ``relation``, ``first shape``, ``second shape``."""
        random = np.random.default_rng(self.seed)
        shape = random.integers(len(SHAPES), size=(self.rows, 2))
        colour = np.array([random.permutation(len(COLOURS))[:2] for _ in range(self.rows)])
        way, turned, template = (random.integers(count, size=self.rows) for count in (2, 2, len(TEMPLATES)))
        captions = []
        for row in range(self.rows):
            things = [f"{COLOURS[c]} {SHAPES[s]}" for c, s in zip(colour[row], shape[row], strict=True)]
            one, two = things[::-1] if turned[row] else things
            captions.append(TEMPLATES[template[row]].format(one, WAYS[way[row]][turned[row]], two))
        images = [_draw(random, self.size, *parts) for parts in zip(shape, colour, way, strict=True)]
        told = [described(caption) for caption in captions]
        return Dataset(
            name="scenes",
            ids=numbered("scene", self.rows),
            modalities={"image": Modality("image", images), "caption": Modality("text", captions)},
            targets={name: np.array([one[name] for one in told]) for name in PARTS},
            split=None,
            group=None,
            task="retrieval",
        )


def described(text: str) -> dict[str, str | None]:
    """What a sentence says, as the targets name it, whichever object it begins with; None: nothing."""
    found = SAID.search(text)
    if found is None:
        return dict.fromkeys(PARTS)
    colour, shape, word, other, second = found.groups()
    way = next(way for way in WAYS if word in way)
    if word == way[1]:
        colour, shape, other, second = other, second, colour, shape
    return dict(zip(PARTS, (f"{colour} {way[0]} {other}", shape, second), strict=True))


def _draw(random: np.random.Generator, side: int, shapes: np.ndarray, colours: np.ndarray, way: int) -> np.ndarray:
    """``(side, side, 3)`` uint8: a grey ground, each object bright in its channel alone."""
    ground, lights = int(random.uniform(40, 90)), random.uniform(150, 230, size=2).astype(int)
    channels = [Image.new("L", (side, side), ground) for _ in COLOURS]
    for number, (shape, colour) in enumerate(zip(shapes, colours, strict=True)):
        along, across = 0.27 + 0.46 * number, random.uniform(0.4, 0.6)
        along, across = np.array([along, across]) + random.uniform(-0.04, 0.04, size=2)
        x, y = (across, along) if way else (along, across)
        paint(channels[colour], SHAPES[shape], side * x, side * y, (side * SIDE) ** 2, int(lights[number]))
    clean = np.stack([np.asarray(channel, dtype=np.float64) for channel in channels], axis=2)
    return (clean + random.normal(scale=8.0, size=clean.shape)).clip(0, 255).astype(np.uint8)

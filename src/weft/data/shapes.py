"""Shapes: a drawn image, a caption and a sensor that see different sides of the same object.

Every row is one object with a shape (3), a colour (3), a position (4) and a size (2), all independent and fair.

=========  ===================================================================  =========================
modality   what it is                                                           what it tells
=========  ===================================================================  =========================
image      grey photo ``(size, size)``: the object on a darker, noisy ground    shape, position, size
caption    a sentence from one of five templates                                colour, position, size
sensor     series ``(32, 3)``: red, green and blue light, drifting and noisy    colour, 83 % of the time
=========  ===================================================================  =========================

The default target, ``object`` ("red circle", 9 classes), needs image and caption: with perfect encoders the image alone
reaches 1/3, the caption alone 1/3, both 1. The sensor is a poor copy of what the caption says: it adds nothing beside
the caption and stands in for it where it is absent. Further targets: ``shape`` (image only), ``colour`` (caption,
sensor) and ``position`` (image, caption). Image and caption share position and size, so they can be aligned, too.

With ``complete`` image and caption both tell everything: the photo is in colour, the caption names the shape, and there
is no sensor. That is the set to generate one from the other.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from weft.data.dataset import Dataset, Modality, datasets, numbered
from weft.data.generated import Generated
from weft.errors import UserError
from weft.registry import Seed

SHAPES = ("circle", "square", "triangle")
COLOURS = ("red", "green", "blue")
POSITIONS = ("top left", "top right", "bottom left", "bottom right")
SIZES = ("small", "large")
TEMPLATES = (
    "a {size} {colour} object in the {position}",
    "there is something {colour} and {size} at the {position}",
    "the {position} corner holds a {size} thing painted {colour}",
    "{colour}, {size}, seen at the {position} of the picture",
    "in the {position} of the scene lies a {size} {colour} item",
)
COMPLETE = (
    "a {size} {colour} {shape} in the {position}",
    "there is a {shape}, {colour} and {size}, at the {position}",
    "the {position} corner holds a {size} {shape} painted {colour}",
    "a {shape}, {colour}, {size}, seen at the {position} of the picture",
    "in the {position} of the scene lies a {size} {colour} {shape}",
)
"""The templates with the shape named."""

SMALLEST_IMAGE = 16
STEPS = 32
LIGHT = 0.65
"""Extra light in the object's own channel; offsets of the channels decide how often it is the brightest."""


@datasets.register("shapes")
class Shapes(Generated):
    """Image, caption and sensor of drawn objects: the default target needs image and caption; classification.

    Args:
        rows, seed: as for every generated set.
        size: side of the images in pixels.
        complete: photos in colour, ``(size, size, 3)``, captions that name the shape, no sensor.
    """

    def __init__(self, *, rows: int = 900, seed: Seed = 0, size: int = 64, complete: bool = False) -> None:
        super().__init__(rows=rows, seed=seed)
        if size < SMALLEST_IMAGE:
            raise UserError(
                f"shapes: images have at least {SMALLEST_IMAGE} pixels a side", f"size={size}", "draw larger"
            )
        self.size, self.complete = size, complete

    def make(self) -> Dataset:
        """Modalities ``image``, ``caption``, ``sensor`` (unless complete); targets ``object`` and its parts."""
        random = np.random.default_rng(self.seed)
        shape, colour, position, size = (
            random.integers(len(names), size=self.rows) for names in (SHAPES, COLOURS, POSITIONS, SIZES)
        )
        template = random.integers(len(TEMPLATES), size=self.rows)
        objects = list(zip(shape, colour, position, size, template, strict=True))
        templates = COMPLETE if self.complete else TEMPLATES
        captions = [
            templates[t].format(shape=SHAPES[s], size=SIZES[z], colour=COLOURS[c], position=POSITIONS[p])
            for s, c, p, z, t in objects
        ]
        hues = [c if self.complete else None for _, c, _, _, _ in objects]
        images = [_draw(random, self.size, s, p, z, hue) for (s, _, p, z, _), hue in zip(objects, hues, strict=True)]
        modalities = {"image": Modality("image", images), "caption": Modality("text", captions)}
        if not self.complete:
            modalities["sensor"] = Modality("series", [_sense(random, c) for _, c, _, _, _ in objects])
        return Dataset(
            name="shapes",
            ids=numbered("shape", self.rows),
            modalities=modalities,
            targets={
                "object": np.array([f"{COLOURS[c]} {SHAPES[s]}" for s, c, _, _, _ in objects]),
                "shape": np.array(SHAPES)[shape],
                "colour": np.array(COLOURS)[colour],
                "position": np.array(POSITIONS)[position],
            },
            split=None,
            group=None,
            task="classification",
        )


def _draw(random: np.random.Generator, side: int, shape: int, position: int, size: int, hue: int | None) -> np.ndarray:
    """``(side, side)`` uint8, with a hue ``(side, side, 3)``: a grey ground, the object bright in that channel alone.

    All shapes of a size have the same area: brightness does not tell them apart.
    """
    grounds = random.uniform(40, 90), random.uniform(150, 230)
    image = Image.new("L", (side, side), int(grounds[0]))
    row, column = divmod(position, 2)
    jitter = random.uniform(-0.04, 0.04, size=2)
    x, y = (side * (0.27 + 0.46 * at + shift) for at, shift in zip((column, row), jitter, strict=True))
    paint(image, SHAPES[shape], x, y, (side * (0.18 if size == 0 else 0.27)) ** 2, int(grounds[1]))
    clean = np.asarray(image, dtype=np.float64)
    if hue is not None:
        ground = np.minimum(clean, int(grounds[0]))
        clean = np.stack([clean if channel == hue else ground for channel in range(3)], axis=2)
    noisy = clean + random.normal(scale=8.0, size=clean.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def paint(image: Image.Image, shape: str, x: float, y: float, area: float, fill: int) -> None:
    """One object with its middle at ``x, y``; all shapes of an area have as many pixels."""
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        radius = (area / np.pi) ** 0.5
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape == "square":
        half = area**0.5 / 2
        draw.rectangle((x - half, y - half, x + half, y + half), fill=fill)
    else:
        edge = (4 * area / 3**0.5) ** 0.5
        height = edge * 3**0.5 / 2
        bottom = y + height / 3
        draw.polygon([(x - edge / 2, bottom), (x + edge / 2, bottom), (x, bottom - height)], fill=fill)


def _sense(random: np.random.Generator, colour: int) -> np.ndarray:
    """``(32, 3)`` float32: light of each channel, with an offset and a slow swing of its own, and noise."""
    time = np.linspace(0, 2 * np.pi, STEPS)[:, None]
    offset, phase = random.normal(scale=0.35, size=3), random.uniform(0, 2 * np.pi, size=3)
    light = 1.0 + offset + LIGHT * (np.arange(3) == colour)
    return (light + 0.3 * np.sin(time + phase) + random.normal(scale=0.2, size=(STEPS, 3))).astype(np.float32)

"""Spectra: vehicles seen at once in visible and near-infrared light by four cameras, for re-identification.

A vehicle has two ends. Each end has one of five paints, which only visible light tells apart, and one of five
reflective marks, which only infrared light shows; the two ends never have the same paint or mark. Every vehicle drives
to either side, so an image may show it mirrored (both spectra alike: they are taken at once).

Every camera has its own background, gain and colour cast, distance and direction; every image its own light, place and
noise. With ``share`` at 3, in each part (vehicles to train on, vehicles to test with; none is in both):

=========================================  ==================================  =========================
what is known of a vehicle                 told by                             vehicles that look so
=========================================  ==================================  =========================
which two paints                           ``rgb`` alone                       6
which two marks                            ``nir`` alone                       6
both                                       a sum of what either tells          2
which mark is on which paint               both, compared place by place       1
=========================================  ==================================  =========================

So the ceiling of each kind of feature is known (:meth:`Spectra.codes`). The third row holds for a sum that is the same
for a vehicle and its mirror image: swap the marks of the two ends, and either spectrum sees a mirrored image of before.

Modalities ``rgb`` and ``nir`` (three equal channels), ``(size, size, 3)`` uint8; targets, parts and group as in
:mod:`.rgbn`: of each test vehicle and camera the first image is a query, the others are the gallery.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from weft.data.dataset import BuiltIn, Dataset, datasets
from weft.errors import UserError
from weft.registry import Seed
from weft.systems.cross_spectral_reid.rgbn import reid_dataset

PAINTS = np.array([(200, 50, 45), (205, 185, 50), (50, 160, 70), (50, 85, 205), (200, 200, 200)], dtype=np.float64)
"""Red, yellow, green, blue and white; infrared light does not tell them apart."""

MARKS = ("top bar", "bottom bar", "post", "frame", "spot")
"""Each its own mirror image."""

CAMERAS = 4
PAIRS = list(combinations(range(len(PAINTS)), 2))
MOST_SHARE = len(PAIRS) // 2
SMALLEST = 16


@datasets.register("spectra")
class Spectra(BuiltIn):
    """Vehicles in visible and near-infrared light: an identity needs both, compared by place; retrieval.

    Args:
        share: of each pair of paints there are ``2 share`` vehicles in each part, and of each pair of marks; each part
            has ``20 share`` vehicles. 1 to 5.
        images: of each vehicle by each camera; 2 or more, so that there are queries and a gallery.
        size: side of the images in pixels.
        seed: the same seed gives the same bytes.
    """

    def __init__(self, *, share: int = 3, images: int = 2, size: int = 32, seed: Seed = 0) -> None:
        if not 1 <= share <= MOST_SHARE or images < 2 or size < SMALLEST:
            raise UserError(
                f"spectra: share is 1 to {MOST_SHARE}, images at least 2, size at least {SMALLEST}",
                f"share={share}, images={images}, size={size}",
                "choose others",
            )
        self.share, self.images, self.size, self.seed = share, images, size, seed

    def make(self) -> Dataset:
        """Modalities ``rgb`` and ``nir``; targets ``identity``, ``camera``, ``part``."""
        random = np.random.default_rng(self.seed)
        vehicles = _vehicles(random, self.share)
        cameras = [_Camera(random) for _ in range(CAMERAS)]
        rows = [(v, c, k) for v in range(len(vehicles)) for c in range(CAMERAS) for k in range(self.images)]
        pictures = [cameras[c].look(random, vehicles[v], self.size) for v, c, _ in rows]
        identity, camera, number = np.array(rows).T
        test = identity >= len(vehicles) // 2
        return reid_dataset(
            name="spectra",
            ids=[f"{v + 1:04d}_c{c + 1}_{k}" for v, c, k in rows],
            views={"rgb": [rgb for rgb, _ in pictures], "nir": [nir for _, nir in pictures]},
            identity=identity + 1,
            camera=camera + 1,
            part=np.where(~test, "train", np.where(number == 0, "query", "gallery")),
        )

    def codes(self) -> dict[str, np.ndarray]:
        """What an ideal eye reads off vehicle ``i`` (identity ``i + 1``), as numbers ``(40 share,)`` of equal looks.

        ``"rgb"`` the pair of paints, ``"nir"`` the pair of marks, ``"sum"`` both, ``"bound"`` the vehicle itself.
        """
        ends = _vehicles(np.random.default_rng(self.seed), self.share)
        looks = {
            "rgb": np.sort(ends[:, :, 0], axis=1),
            "nir": np.sort(ends[:, :, 1], axis=1),
            "sum": np.sort(ends, axis=1).reshape(len(ends), -1),
            "bound": np.sort(ends @ [len(MARKS), 1], axis=1),
        }
        return {name: np.unique(look, axis=0, return_inverse=True)[1].reshape(-1) for name, look in looks.items()}


def _vehicles(random: np.random.Generator, share: int) -> np.ndarray:
    """``(40 share, 2, 2)``: paint and mark of both ends. Pair ``i`` of paints meets pairs ``i + s`` of marks, ``share``
    values of ``s`` in each part, in both ways of putting the marks on the paints."""
    paints, marks = random.permutation(PAIRS), random.permutation(PAIRS)
    vehicles = []
    for shift in range(2 * share):
        for i, paint in enumerate(paints):
            mark = marks[(i + shift) % len(marks)]
            vehicles += [np.stack([paint, order], axis=1) for order in (mark, mark[::-1])]
    found = np.array(vehicles)
    part = len(found) // 2
    return np.concatenate([random.permutation(found[:part]), random.permutation(found[part:])])


class _Camera:
    """One camera: how it renders a vehicle in both spectra."""

    def __init__(self, random: np.random.Generator) -> None:
        self.cast = random.uniform(0.8, 1.2, size=3)
        self.gain = random.uniform(0.8, 1.2)
        self.ground = random.uniform(50, 110) + random.uniform(-25, 25, size=3), random.uniform(50, 110)
        self.slope = random.uniform(-40, 40, size=2)
        self.scale = random.uniform(0.85, 1.1)
        self.shift = random.uniform(-0.04, 0.04, size=2)

    def look(self, random: np.random.Generator, ends: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """``rgb`` and ``nir`` of a vehicle, ``(size, size, 3)`` uint8."""
        if random.random() < 0.5:
            ends = ends[::-1]
        y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
        ramp = self.slope[0] * y + self.slope[1] * x
        rgb, nir = ramp[..., None] + self.ground[0], ramp + self.ground[1]
        away = self.shift + random.uniform(-0.05, 0.05, size=2)
        y, x = (y - away[0]) / self.scale, (x - away[1]) / self.scale
        wheels = ((np.abs(x) - 0.22) ** 2 + (y - 0.22) ** 2) < 0.09**2
        rgb[wheels], nir[wheels] = 25, 25
        for (paint, mark), side in zip(ends, (-1, 1), strict=True):
            body = (np.abs(y) < 0.22) & (side * x >= 0) & (side * x < 0.42)
            rgb[body], nir[body] = PAINTS[paint], 110
            nir[body & _marked(MARKS[mark], x - side * 0.21, y)] = 215
        rgb = rgb * self.cast * random.uniform(0.6, 1.1)
        nir = nir * self.gain * random.uniform(0.7, 1.1)
        return _picture(random, rgb), np.repeat(_picture(random, nir)[..., None], 3, axis=2)


def _marked(mark: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the mark is, ``(H, W)`` bool, from the middle of its end: the end reaches from -0.21 to 0.21 in x and y."""
    if mark == "top bar":
        return np.abs(y + 0.11) < 0.06
    if mark == "bottom bar":
        return np.abs(y - 0.11) < 0.06
    if mark == "post":
        return np.abs(x) < 0.05
    if mark == "frame":
        return np.maximum(np.abs(x), np.abs(y)) > 0.14
    return x**2 + y**2 < 0.1**2


def _picture(random: np.random.Generator, clean: np.ndarray) -> np.ndarray:
    return (clean + random.normal(scale=8.0, size=clean.shape)).clip(0, 255).astype(np.uint8)

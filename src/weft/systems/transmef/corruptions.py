r"""Three ways to spoil a photo in ten rectangles; to restore it is what the network learns.

* **gamma**: ``255 (p / 255)^g``, ``g ~ U[0, 3)``, in four of five rectangles: exposed too much or too little in places.
* **Fourier**: the amplitude of a rectangle, over its largest value, is blurred (Gaussian, .5), and its phases change
  places with neighbours, one to five rounds; what comes back is ``|IFFT(A' exp(i phi'))|``.
* **shuffle**: two rectangles of a size change places.

Rectangles are up to ``largest`` (a tenth) of the picture high and wide and are read from the picture as it was, so
where they overlap the last one counts. All numbers are cut, not rounded, to whole grey
values, as in the published code.

Source: Qu et al., AAAI 2022 (arXiv 2112.01030). Jigsaw and blur are written out here: the library that the published
code takes them from is no longer kept.
"""

from __future__ import annotations

import numpy as np

RECTANGLES = 10
LARGEST = 0.1
PLACES = ((-1, 0), (1, 0), (0, -1), (0, 1))


def rectangles(
    shape: tuple[int, ...], rng: np.random.Generator, places: int = 1, largest: float = LARGEST
) -> np.ndarray:
    """Ten draws ``(10, 2 + 2 places)``: height, width, and row and column of each place."""
    height, width = shape
    tall, wide = (rng.integers(1, max(1, int(largest * side)) + 1, RECTANGLES) for side in shape)
    corners = [
        rng.integers(0, limit - size + 1) for _ in range(places) for limit, size in ((height, tall), (width, wide))
    ]
    return np.stack([tall, wide, *corners], axis=1)


def gamma(image: np.ndarray, rng: np.random.Generator, largest: float = LARGEST) -> np.ndarray:
    """A spoilt copy of a grey picture ``(H, W)`` uint8."""
    draws = rectangles(image.shape, rng, largest=largest)
    powers = np.where(rng.random(RECTANGLES) < 0.8, rng.uniform(0, 3, RECTANGLES), 1.0)
    return with_gamma(image, draws, powers)


def with_gamma(image: np.ndarray, draws: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """The rectangles ``draws`` ``(R, 4)`` under powers ``(R,)``; 1 leaves one as it is."""
    out = image.copy()
    for (tall, wide, row, column), power in zip(draws, powers, strict=True):
        place = np.s_[row : row + tall, column : column + wide]
        out[place] = (255 * (image[place] / 255.0) ** power).astype(np.uint8) if power != 1 else image[place]
    return out


def fourier(image: np.ndarray, rng: np.random.Generator, largest: float = LARGEST) -> np.ndarray:
    """A spoilt copy of a grey picture ``(H, W)`` uint8."""
    draws = rectangles(image.shape, rng, largest=largest)
    return with_fourier(image, draws, [scrambled(int(tall), int(wide), rng) for tall, wide, *_ in draws])


def with_fourier(image: np.ndarray, draws: np.ndarray, sources: list[np.ndarray]) -> np.ndarray:
    """The rectangles ``draws`` ``(R, 4)`` with phases taken from flat places ``sources``, one array per rectangle."""
    out = image.copy()
    for (tall, wide, row, column), source in zip(draws, sources, strict=True):
        place = np.s_[row : row + tall, column : column + wide]
        out[place] = spectrum(image[place], source).astype(np.int64).astype(np.uint8)
    return out


def spectrum(window: np.ndarray, source: np.ndarray) -> np.ndarray:
    """A rectangle ``(h, w)`` with blurred amplitude and with the phases of the flat places ``source`` ``(h, w)``."""
    waves = np.fft.fft2(window.astype(np.float64))
    phases = np.angle(waves).ravel()[source]
    amplitude = np.abs(waves)
    peak = amplitude.max() + 1e-4
    return np.abs(np.fft.ifft2(peak * blurred(amplitude / peak) * np.exp(1j * phases)))


def blurred(amplitude: np.ndarray) -> np.ndarray:
    """``(H, W)`` by a Gaussian of .5 over five places each way, mirrored at the borders."""
    weights = np.exp(-2.0 * np.arange(-2, 3) ** 2)
    weights /= weights.sum()
    out = amplitude
    for axis in (0, 1):
        pad = [(2, 2) if side == axis else (0, 0) for side in (0, 1)]
        padded = np.pad(out, pad, mode="reflect" if out.shape[axis] > 1 else "edge")
        out = sum(w * np.take(padded, np.arange(k, k + out.shape[axis]), axis=axis) for k, w in enumerate(weights))
    return out


def scrambled(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Flat places ``(h, w)`` after one to five rounds in which each changes places with a neighbour."""
    places = np.arange(height * width).reshape(height, width)
    for _ in range(rng.integers(1, 6)):
        for flat in rng.permutation(height * width):
            row, column = divmod(int(flat), width)
            down, right = PLACES[rng.integers(4)]
            other = row + down, column + right
            if 0 <= other[0] < height and 0 <= other[1] < width:
                places[row, column], places[other] = places[other], places[row, column]
    return places


def shuffle(image: np.ndarray, rng: np.random.Generator, largest: float = LARGEST) -> np.ndarray:
    """A spoilt copy of a grey picture ``(H, W)`` uint8."""
    return with_shuffle(image, rectangles(image.shape, rng, 2, largest))


def with_shuffle(image: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The pairs of rectangles ``draws`` ``(R, 6)`` change places."""
    out = image.copy()
    for tall, wide, row1, column1, row2, column2 in draws:
        first = np.s_[row1 : row1 + tall, column1 : column1 + wide]
        second = np.s_[row2 : row2 + tall, column2 : column2 + wide]
        out[first], out[second] = image[second], image[first]
    return out


CORRUPTIONS = {"gamma": gamma, "fourier": fourier, "shuffle": shuffle}

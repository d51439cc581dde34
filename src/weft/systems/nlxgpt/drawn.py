"""Questions on drawn shapes with explanations that are true by construction: :mod:`weft.data.shapes`, asked about.

==============================  =======================  ==========================================
question                        answer                   explanation
==============================  =======================  ==========================================
is the circle red?              yes or no, half of each  the circle in the top left is red
what colour is the circle?      red                      the circle in the top left is red
where is the circle?            top left                 the red circle is in the top left
==============================  =======================  ==========================================

Words alone tell neither colour nor place.
"""

from __future__ import annotations

import numpy as np

from weft.data import Dataset, Modality
from weft.data.dataset import datasets
from weft.data.generated import Generated
from weft.data.shapes import COLOURS, Shapes
from weft.registry import Seed


@datasets.register("shape-questions")
class ShapeQuestions(Generated):
    """An image, a question, its answer and the true explanation.

    Args:
        rows, seed: as for every generated set.
        size: side of the images in pixels.
    """

    def __init__(self, *, rows: int = 900, seed: Seed = 0, size: int = 32) -> None:
        super().__init__(rows=rows, seed=seed)
        self.size = size

    def make(self) -> Dataset:
        """Modalities ``image``, ``question``, ``answer``, ``explanation``."""
        shapes = Shapes(rows=self.rows, seed=self.seed, size=self.size, complete=True).make()
        random = np.random.default_rng(self.seed)
        told = zip(*(shapes.targets[name].tolist() for name in ("shape", "colour", "position")), strict=True)
        rows = [_asked(random, *row) for row in told]
        columns = zip(("question", "answer", "explanation"), zip(*rows, strict=True), strict=True)
        modalities = {"image": shapes.modalities["image"], **{n: Modality("text", list(c)) for n, c in columns}}
        return Dataset("shape-questions", shapes.ids, modalities, {}, None, None, "retrieval")


def _asked(random: np.random.Generator, shape: str, colour: str, position: str) -> tuple[str, str, str]:
    """Question, answer, explanation."""
    kind, right = random.integers(3), random.integers(2)
    if kind == 2:
        return f"Where is the {shape}?", position, f"the {colour} {shape} is in the {position}"
    why = f"the {shape} in the {position} is {colour}"
    if kind == 1:
        return f"What colour is the {shape}?", colour, why
    named = colour if right else str(random.choice([other for other in COLOURS if other != colour]))
    return f"Is the {shape} {named}?", "yes" if right else "no", why

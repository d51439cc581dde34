"""A made world: sheets of one colour, what they are asked, and why."""

from __future__ import annotations

import numpy as np

from weft.data import Dataset, Modality

QUICK = {"epochs": 10, "batch_size": 12, "lr": 5e-3}
COLOURS = {"red": (220, 30, 30), "green": (30, 190, 40), "blue": (30, 40, 220)}


def sheets(rows: int) -> Dataset:
    """Pictures of one colour each; what is it, and is it red?"""
    names, rng = [list(COLOURS)[i % 3] for i in range(rows)], np.random.default_rng(0)
    pictures = [
        (np.array(COLOURS[n]) + rng.integers(-20, 20, (16, 16, 3))).clip(0, 255).astype(np.uint8) for n in names
    ]
    asked = [
        ("What colour is it?", n) if i % 2 else ("Is it red?", "no" if n != "red" else "yes")
        for i, n in enumerate(names)
    ]
    columns = {
        "image": Modality("image", pictures),
        "question": Modality("text", [question for question, _ in asked]),
        "answer": Modality("text", [answer for _, answer in asked]),
        "explanation": Modality("text", [f"the sheet is {n}" for n in names]),
    }
    return Dataset("sheets", [f"r{i}" for i in range(rows)], columns, {}, None, None, "retrieval")

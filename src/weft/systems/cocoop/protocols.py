"""How CoOp and CoCoOp are judged: few shots, base and new classes, and their harmonic mean; Zhou et al. 2022.

``split_zhou_<Name>.json`` (published for every data set but ImageNet) holds ``train``, ``val`` and ``test``, rows
``[path, label, class name]``. The few shots are drawn of **all** classes; then the first ``ceil(C / 2)`` classes by
label are base, the others new, each relabelled from 0. A model is trained on base alone and asked about base test rows
among base classes and about new test rows among new classes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from weft.errors import UserError, some
from weft.files import read_json

PARTS = ("train", "val", "test")


class Item(NamedTuple):
    """One image of a split: where it is, its label and the name of its class."""

    path: str
    label: int
    name: str


def read_split(path: Path) -> dict[str, list[Item]]:
    """``{part: items}`` of a published split file.

    Raises:
        UserError: a part is missing, a row is not ``[path, label, name]``, or a label has two names.
    """
    found = read_json(path)
    if not isinstance(found, dict) or not set(PARTS) <= set(found):
        raise UserError(
            f"a split file holds {', '.join(PARTS)}",
            f"{path}: {some(found) if isinstance(found, dict) else type(found).__name__}",
            "take split_zhou_<Name>.json as it was published",
        )
    try:
        parts = {part: [Item(str(p), int(label), str(name)) for p, label, name in found[part]] for part in PARTS}
    except (TypeError, ValueError) as error:
        raise UserError(
            "a row of a split is [path, label, class name]", f"{path}: {error}", "take the file as it was published"
        ) from None
    names: dict[int, str] = {}
    for part, items in parts.items():
        for item in items:
            if names.setdefault(item.label, item.name) != item.name:
                raise UserError(
                    "a label has one class name",
                    f"{path}: {part} calls label {item.label} {item.name!r} and {names[item.label]!r}",
                    "name the class alike in every row",
                )
    return parts


def few_shot(items: Sequence[Item], shots: int, rng: random.Random) -> list[Item]:
    """``shots`` items of each class, or all where there are fewer; classes in the order in which they first appear.

    The published draws go on from the state that Python's generator had by then; where they must be met exactly, only
    the published files of draws will do.
    """
    classes: dict[int, list[Item]] = {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    return [x for of in classes.values() for x in (rng.sample(of, shots) if len(of) >= shots else of)]


def base_and_new(*parts: Sequence[Item]) -> tuple[list[list[Item]], list[list[Item]]]:
    """Every part's items of base classes and of new ones, relabelled from 0.

    Args:
        parts: of one data set; the first says which labels there are.
    """
    labels = sorted({item.label for item in parts[0]})
    half = math.ceil(len(labels) / 2)
    halves = []
    for chosen in (labels[:half], labels[half:]):
        place = {label: i for i, label in enumerate(chosen)}
        halves.append([[x._replace(label=place[x.label]) for x in part if x.label in place] for part in parts])
    return halves[0], halves[1]


def harmonic_mean(base: float, new: float) -> float:
    """``2 base new / (base + new)``; 0 where both are.

    Of several data sets, take that of the mean accuracies, as the papers do, not the mean of harmonic means.
    """
    return 2 * base * new / (base + new) if base + new else 0.0


def learning_rate(epoch: int, epochs: int, *, highest: float = 0.002, first: float = 1e-5) -> float:
    """Of an epoch (from 0): one constant epoch to warm up, then a cosine that falls to 0 after ``epochs`` more."""
    return first if epoch == 0 else highest / 2 * (1 + math.cos(math.pi * (epoch - 1) / epochs))

"""Visual commonsense reasoning: a question about people in a film still with four answers, or four reasons for one.

``{train,val}.jsonl`` and the stills in ``vcr1images/``. Sentences are lists of words and of lists of objects, by their
number; an object is called by its name and number from 1, several with "and": ``["Is", [0, 2], "smiling", "?"]`` is
"Is person1 and person3 smiling ?". One row per question: ``image``, ``text`` (the question), ``context`` (the right
answer, where reasons are asked for), ``choices`` (four texts), target ``label``, the number of the right one. The val
part is test; a dev part is cut out of train by ``make_splits``. Group: the still.

Zellers et al. 2019, From Recognition to Cognition: Visual Commonsense Reasoning (CVPR, arXiv 1811.10830).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.data.files import json_lines
from weft.errors import UserError


@datasets.register("vcr")
class Vcr(FolderReader):
    """Visual commonsense reasoning; classification of the right choice.

    Args:
        ask: for the ``answer`` (Q -> A), or for the ``rationale`` of the right answer (QA -> R).
    """

    paper = "Zellers et al. 2019, Visual Commonsense Reasoning (CVPR, arXiv 1811.10830)"
    layout = "{train,val}.jsonl and vcr1images/<film>/<still>.jpg"

    def __init__(self, *, ask: Literal["answer", "rationale"] = "answer") -> None:
        self.ask = ask

    def read(self, root: Path) -> Dataset:
        """Read the folder.

        Raises:
            UserError: a line is not as published; it is named.
        """
        rows = [
            {**row, "split": part, "id": f"{official}-{number}"}
            for official, part in (("train", "train"), ("val", "test"))
            for number, row in enumerate(json_lines(self.file(root, f"{official}.jsonl"), self._row, self.layout), 1)
        ]
        column = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
        if not column:
            raise UserError("VCR has questions", f"{root}: empty files", f"expected {self.layout}")
        modalities = {
            "image": Modality("image", [root / "vcr1images" / name for name in column["image"]]),
            "text": Modality("text", column["text"]),
            "context": Modality("text", [text if self.ask == "rationale" else None for text in column["context"]]),
            "choices": Modality("texts", column["choices"]),
        }
        targets = {"label": np.array(column["label"])}
        split, group = np.array(column["split"]), np.array(column["image"])
        return Dataset("vcr", column["id"], modalities, targets, split, group, "classification")

    def _row(self, item: dict[str, Any]) -> dict[str, Any]:
        names, right = item["objects"], item["answer_choices"][item["answer_label"]]
        return {
            "image": item["img_fn"],
            "text": told(item["question"], names),
            "context": told(right, names),
            "choices": tuple(told(choice, names) for choice in item[f"{self.ask}_choices"]),
            "label": str(item[f"{self.ask}_label"]),
        }


def told(sentence: list[str | list[int]], objects: list[str]) -> str:
    """A sentence with its objects by name and number.

    >>> told(["Is", [0, 2], "smiling", "?"], ["person", "car", "person"])
    'Is person1 and person3 smiling ?'
    """
    parts = [
        " and ".join(f"{objects[k]}{k + 1}" for k in part) if isinstance(part, list) else part for part in sentence
    ]
    return " ".join(parts)

"""Visual question answering, VQA v1 and v2 layout: a photo, a question, an answer among a few.

One row per question whose answer (``multiple_choice_answer``, the annotators' majority) is among the chosen ones.
Modalities ``image`` and ``text``; target ``answer``, and ``answers`` ``(N, A)``, the words of all ``A`` annotators, if
there are several (fewer are padded with ""). The official train part is train, the official val part, whose answers are
public, is test; a dev part is cut out of train by ``make_splits``. Group: the image.

Antol et al. 2015, VQA: Visual Question Answering (ICCV).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from weft.data.dataset import Dataset, FolderReader, Modality, datasets
from weft.errors import UserError, did_you_mean, some


@datasets.register("vqa")
class Vqa(FolderReader):
    """VQA v1 or v2, open-ended questions; classification of the answer.

    Args:
        answers: how many of the most frequent training answers to keep (ties: in alphabetical order), or which ones.
            None: all; answers of the test part that are unknown in training then stay in.
    """

    paper = "Antol et al. 2015, VQA: Visual Question Answering (ICCV)"
    layout = (
        "[v2_]OpenEnded_mscoco_{train,val}2014_questions.json, [v2_]mscoco_{train,val}2014_annotations.json and "
        "{train,val}2014/COCO_{train,val}2014_<12 digits>.jpg"
    )

    def __init__(self, *, answers: int | list[str | int] | None = 5) -> None:
        if (isinstance(answers, int) and answers < 2) or (isinstance(answers, list) and len(answers) < 2):
            raise UserError("vqa: a choice has at least two answers", f"answers={answers!r}", "choose 2 or more")
        self.answers = answers

    def read(self, root: Path) -> Dataset:
        """Read the folder.

        Raises:
            UserError: an answer that was asked for has no question in the val part.
        """
        rows = {part: self._part(root, official) for official, part in (("train", "train"), ("val", "test"))}
        kept = self._choose(Counter(row["answer"] for row in rows["train"]))
        asked = {row["answer"] for row in rows["test"]}
        empty = [] if kept is None else sorted(kept - asked)
        if empty:
            raise UserError(
                "vqa: an answer has no question in the val part, so it cannot be tested",
                some(empty),
                'name answers that both parts have: --data "answers=[yes, no, ...]"',
            )
        chosen = [row | {"part": part} for part, found in rows.items() for row in found]
        if kept is not None:
            chosen = [row for row in chosen if row["answer"] in kept]
        targets = {"answer": np.array([row["answer"] for row in chosen])}
        most = max((len(row["answers"]) for row in chosen), default=0)
        if most > 1:
            targets["answers"] = np.array([row["answers"] + [""] * (most - len(row["answers"])) for row in chosen])
        return Dataset(
            name="vqa",
            ids=[str(row["question_id"]) for row in chosen],
            modalities={
                "image": Modality("image", [row["image"] for row in chosen]),
                "text": Modality("text", [row["question"].strip() or None for row in chosen]),
            },
            targets=targets,
            split=np.array([row["part"] for row in chosen]),
            group=np.array([row["image"].stem for row in chosen]),
            task="classification",
        )

    def _part(self, root: Path, official: str) -> list[dict[str, Any]]:
        names = f"OpenEnded_mscoco_{official}2014_questions.json", f"mscoco_{official}2014_annotations.json"
        questions, annotations = (self.file(root, name, f"v2_{name}") for name in names)
        asked = {q["question_id"]: q for q in json.loads(questions.read_text(encoding="utf-8"))["questions"]}
        folder = root / f"{official}2014"
        given = json.loads(annotations.read_text(encoding="utf-8"))["annotations"]
        alone = [a["question_id"] for a in given if a["question_id"] not in asked]
        if alone:
            raise UserError(
                f"{annotations}: {len(alone)} annotations have no question",
                f"question ids {some(alone)}",
                f"{questions.name} and {annotations.name} belong together: the same version and part",
            )
        return [
            {
                "question_id": a["question_id"],
                "question": asked[a["question_id"]]["question"],
                "image": folder / f"COCO_{official}2014_{a['image_id']:012d}.jpg",
                "answer": a["multiple_choice_answer"],
                "answers": [given["answer"] for given in a["answers"]],
            }
            for a in given
        ]

    def _choose(self, counts: Counter[str]) -> set[str] | None:
        if self.answers is None:
            return None
        if isinstance(self.answers, int):
            return set(sorted(counts, key=lambda answer: (-counts[answer], answer))[: self.answers])
        kept = {str(answer) for answer in self.answers}
        unknown = sorted(kept - set(counts))
        if unknown:
            remedy = did_you_mean(unknown[0], counts, "answers")
            raise UserError("vqa: no training question has this answer", unknown[0], remedy)
        return kept

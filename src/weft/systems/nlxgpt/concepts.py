"""What is seen in a picture, by name: the concept head of NLX-GPT, trained on its own and then frozen.

``weft fit PHOTOS.yaml --system nlx-gpt-concepts`` on a table whose target holds several names of a row (``task:
multilabel``); ``weft fit ... --system nlx-gpt --option concepts=FOLDER`` puts the likeliest ones in front of the text.

Source: Sammani et al., NLX-GPT, CVPR 2022 (arXiv 2203.05081), for e-SNLI-VE, with concepts of Visual Genome.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field
from torch import Tensor

from weft.data import Dataset
from weft.encoders.hf import quiet
from weft.errors import UserError
from weft.registry import Count, Learned
from weft.systems.image_text import features_of, frozen_encoder
from weft.systems.nlxgpt.network import ConceptHead
from weft.systems.nlxgpt.sequence import TOLD
from weft.tasks.base import create_task
from weft.tokens import Tokens
from weft.training.system import Need, TaskSystem, systems


def of_clip(vision: str) -> dict[str, Any]:
    """Options of the encoder of the image: of a CLIP, its patches after the last norm, as published."""
    import transformers

    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(vision.removeprefix("hf:")) if "hf:" in vision else None
    except (OSError, ValueError, KeyError):
        return {}  # the encoder will say what is wrong
    return {"output": "patches"} if config and config.model_type.startswith("clip") else {}


@systems.register("nlx-gpt-concepts")
class Concepts(TaskSystem):
    """Names of what is in a picture, several at a time; the concept head of NLX-GPT, Sammani et al. 2022.

    Args:
        vision: frozen encoder of the image, ``"hf:<name or folder>"`` or a registered one.
        dropout: in the head.
        task, encoder, width: learned.
    """

    reads = {"image": Need("image"), "label": Need("label", target=True)}
    judge = "multilabel"
    trained_with = {"lr": 2e-5, "epochs": 30, "batch_size": 32}
    paper = "Sammani et al. 2022, NLX-GPT (CVPR, arXiv 2203.05081)"

    def __init__(
        self,
        *,
        vision: str = "image-patches",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        task: Learned[dict[str, Any] | None] = None,
        encoder: Learned[dict[str, Any] | None] = None,
        width: Learned[Count] = 1,
    ) -> None:
        super().__init__(task or {})
        if self.answers.reads != "sets":
            remedy = "a target with several names of a row, task: multilabel"
            raise UserError("a picture has several concepts", f"{type(self.answers).__name__}", remedy)
        self.vision, self.dropout, self.encoder, self.width = vision, dropout, encoder, width
        self.network = ConceptHead(width, self.answers.outputs, dropout)

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        columns = cls.columns(data)
        seen = [value for value in (data.modalities[columns["image"]].values[row] for row in rows) if value is not None]
        vision = options.get("vision", "image-patches")
        spec, _, width = frozen_encoder(vision, "image", seen[0], learn_from=seen, **of_clip(vision))
        names, target = data.labels.get(columns["label"]), data.targets[columns["label"]][rows]
        task = create_task(data.task, target, **({"labels": list(names)} if names else {})).config()
        return cls(**{**options, "task": task, "encoder": spec, "width": width})

    def inputs(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> tuple[Tokens]:
        """Frozen tokens ``(B, P, D)``, made once."""
        column = self.columns(data, target=False)["image"]
        return (features_of(data, column, self.encoder or {}).gather(rows)["image"],)

    def forward(self, image: Tokens) -> Tensor:
        """Logits ``(B, concepts)``."""
        logits: Tensor = self.network(image)
        return logits

    def told(self, data: Dataset, rows: np.ndarray) -> list[str]:
        """The :data:`TOLD` likeliest concepts of each row, the likeliest first, joined by blanks; ``_`` is one too."""
        logits = np.stack(list(self.predictions(data, rows)))
        order = np.argsort(-logits, axis=1, kind="stable")[:, :TOLD]
        return [" ".join(self.answers.labels[k] for k in row).replace("_", " ") for row in order]

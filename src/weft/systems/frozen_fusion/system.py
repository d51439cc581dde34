"""A picture and a text, each by a frozen encoder, joined by a registered fusion: what ``weft compare`` trains, as a
system.

So a published network that reads pictures and texts stands beside the fusions in one comparison, with the same rows,
seeds, settings and verdict (``--variant system=frozen-fusion,fusion=...``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field
from torch import Tensor

from weft.data import Dataset
from weft.models.fused import FusedModel
from weft.registry import Learned
from weft.systems.image_text import check_answers, features_of, frozen_encoder
from weft.tokens import Tokens
from weft.training.system import Need, TaskSystem, systems

ROLES = ("image", "text")


@systems.register("frozen-fusion")
class FrozenFusion(TaskSystem):
    """Answers to texts about pictures by a fusion of weft over tokens of frozen encoders.

    Args:
        image, text: encoders, ``hf:<folder or hub name>`` or built-in ones.
        pixels: side that pictures are resized to, for models of transformers that take any; None: their own.
        fusion, fusion_options: a registered fusion.
        dim: width of the fused vector.
        only: one of the two alone.
        hidden, dropout: of the head, see :class:`~weft.models.fused.FusedModel`.
        task, encoders, dims: learned.
    """

    reads = {"image": Need("image"), "text": Need("text"), "label": Need("label", target=True)}
    reader = "vqa"
    variants = {"concat": {"fusion": "concat"}, "text alone": {"only": "text"}, "image alone": {"only": "image"}}

    def __init__(
        self,
        *,
        image: str = "image-patches",
        text: str = "hashed-text",
        pixels: Annotated[int, Field(ge=1)] | None = None,
        fusion: str = "concat",
        fusion_options: dict[str, Any] | None = None,
        dim: Annotated[int, Field(ge=1)] = 128,
        only: Literal["image", "text"] | None = None,
        hidden: Annotated[int, Field(ge=0)] = 0,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        task: Learned[dict[str, Any] | None] = None,
        encoders: Learned[dict[str, Any] | None] = None,
        dims: Learned[dict[str, int] | None] = None,
    ) -> None:
        super().__init__(task or {})
        self.image, self.text, self.pixels = image, text, pixels
        self.fusion, self.fusion_options = fusion, fusion_options or {}
        self.dim, self.only, self.hidden, self.dropout = dim, only, hidden, dropout
        self.encoders, self.dims = encoders or {}, dims or dict.fromkeys(ROLES, 1)
        settings: dict[str, Any] = {"fusion_options": self.fusion_options, "hidden": hidden, "dropout": dropout}
        self.network = FusedModel(self.dims, self.answers, "concat" if only else fusion, dim=dim, **settings)

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        columns = cls.columns(data)
        encoders: dict[str, Any] = {}
        dims: dict[str, int] = {}
        sizes: dict[str, Any] = {} if options.get("pixels") is None else {"size": options["pixels"]}
        sides: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("image", "image-patches", sizes),
            ("text", "hashed-text", {}),
        )
        for role, default, given in sides:
            if options.get("only") in (None, role):
                every = data.modalities[columns[role]].values
                seen = [every[row] for row in rows if every[row] is not None]
                name = options.get(role, default)
                encoders[role], _, dims[role] = frozen_encoder(name, role, seen[0], learn_from=seen, **given)
        model = super().fitted(data, rows, **{**options, "encoders": encoders, "dims": dims})
        parts = np.array_split(rows, -(-len(rows) // 64))
        model.network.standardise.fit(model.inputs(data, part)[0] for part in parts)
        return model

    def inputs(
        self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None
    ) -> tuple[dict[str, Tokens]]:
        """Frozen tokens of the two, made once."""
        columns = self.columns(data, target=False)
        found = {
            role: features_of(data, columns[role], spec).gather(rows)[role] for role, spec in self.encoders.items()
        }
        return (found,)

    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        """Outputs ``(B, K)`` of the task."""
        outputs: Tensor = self.network(inputs)
        return outputs

    def loss(self, batch: tuple[Any, Tensor]) -> Tensor:
        return self.network.loss(batch[0][0], batch[1])

    def check(self, data: Dataset, rows: np.ndarray, *, target: bool = True) -> None:
        super().check(data, rows, target=target)
        if target:
            check_answers(self.answers, data, self.columns(data)["label"], np.asarray(rows))

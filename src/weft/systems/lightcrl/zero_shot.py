"""Zero-shot classification: images by the closest description of a class, top-1 to top-5 for every style of prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.models.asked import column, modality_of, require_aligner, rows_of, same_encoders, values_of, vectors_of
from weft.models.embed import embed_values
from weft.models.protocol import Protocol, Report, protocols
from weft.tasks.zero_shot import class_codes, class_vectors, prompts, top_hits

if TYPE_CHECKING:
    from weft.data import Dataset
    from weft.store import Store


@protocols.register("zero-shot")
class ZeroShot(Protocol):
    """Classes by name alone.

    Args:
        prompt: styles: name, photo, twice, ensemble, or templates with {}.
        target: column with the class names; the first if not given.
        image, text: the model's modalities, where it has several of a kind.
    """

    paper = "Faye et al. 2024, LightCRL (ESANN, arXiv 2403.04650)"

    def __init__(
        self,
        *,
        prompt: list[str] | str = ["name", "photo"],  # noqa: B006
        target: str | None = None,
        image: str | None = None,
        text: str | None = None,
    ) -> None:
        self.prompt = [prompt] if isinstance(prompt, str) else prompt
        self.target, self.image, self.text = target, image, text

    def run(self, model: Any, rows: Store | Dataset, split: str, folder: Path | None, *, progress: bool) -> Report:
        aligner = require_aligner(model)
        seen, read = modality_of(aligner, "image", self.image), modality_of(aligner, "text", self.text)
        same_encoders(aligner, rows, seen)
        name, chosen = column(rows.targets, self.target), rows_of(rows, split, aligner)
        chosen = chosen[values_of(rows, seen)[0][chosen] >= 0]
        classes = sorted({str(label) for label in rows.targets[name]})
        codes = class_codes(rows.targets[name][chosen], classes)
        written = {style: prompts(classes, style) for style in self.prompt}
        images = vectors_of(aligner, rows, seen, chosen, progress=progress)
        ks = range(1, min(5, len(classes)) + 1)
        result = {}
        for style, sentences in written.items():
            words = np.stack([embed_values(aligner, read, line) for line in sentences])
            hits = top_hits(images, class_vectors(words), codes, ks)
            result[style] = {f"top-{k}": hit / len(codes) for k, hit in zip(ks, hits, strict=True)}
        table = [{"prompt": style, **{k: f"{100 * v:.2f}" for k, v in row.items()}} for style, row in result.items()]
        title = f"zero-shot, {split}: {len(codes)} images, {len(classes)} classes, percent"
        return Report(title, table, {"rows": len(codes), "classes": classes, "prompts": result})

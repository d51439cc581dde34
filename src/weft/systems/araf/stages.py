"""How the modalities come together inside a trained ARAF: four stages in three dimensions, with modality gap, CKA and
linear separability of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.data import Dataset
from weft.errors import UserError
from weft.files import write_json
from weft.models.asked import rows_of
from weft.models.fused import FusedModel
from weft.models.protocol import Protocol, Report, protocols
from weft.report.alignment_view import alignment_stages, draw_stages, measure_stages

if TYPE_CHECKING:
    from weft.store import Store


@protocols.register("araf-stages")
class Stages(Protocol):
    """The alignment of ``weft fit --fusion araf --option symmetric=true``, stage by stage."""

    paper = "ARAF"

    def run(self, model: Any, rows: Store | Dataset, split: str, folder: Path | None, *, progress: bool) -> Report:
        if not isinstance(model, FusedModel):
            found = type(model).__name__
            raise UserError("stages are those of a fused model", found, "train one: weft fit --fusion araf")
        features = model.encode(rows, progress=progress) if isinstance(rows, Dataset) else rows
        stages = alignment_stages(model, features, rows_of(features, split, model))
        measured = measure_stages(stages)
        files = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            files = [draw_stages(stages, folder), folder / "alignment.json"]
            write_json(folder / "alignment.json", measured)
        table = [{key: f"{v:.3f}" if isinstance(v, float) else v for key, v in row.items()} for row in measured]
        return Report(f"stages, {split}", table, measured, files)

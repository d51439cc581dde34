"""What a served model does with rows: predict, explain, embed, search. Nothing here knows of HTTP."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weft.data import Modality
from weft.data.table import said_of_blank
from weft.errors import UserError, count, did_you_mean, some
from weft.files import plain
from weft.models import FusedModel
from weft.models.explain import row_shapley
from weft.models.predictor import Predictor, answers
from weft.models.pretrained import load_model
from weft.models.raw import encode_row, encode_rows, make_encoder, unknown_words
from weft.models.searching import gallery
from weft.places import here
from weft.retrieval.search import ExactIndex, model_fingerprint
from weft.serve.rows import Reader
from weft.store import MemoryFeatures
from weft.tokens import pad


class Engine:
    """A model and what it is asked through.

    Args:
        folder: of the model, or where it lies elsewhere (:mod:`weft.places`).
        index: folder of an index of ``weft search --index``, to search in.
        source: rows to search in and to show, a data set.

    Raises:
        UserError: the model cannot be served, or the index is another model's.
    """

    def __init__(self, folder: Path | str, index: Path | None = None, source: Any = None) -> None:
        self.model = load_model(folder)
        self.reader, self.source = Reader(self.model), source
        self.specs: dict[str, Any] = self.model.encoders
        self.encoders = {name: make_encoder(name, self.specs[name]) for name in self.model.names}
        self.predicts, self.embeds = isinstance(self.model, Predictor), hasattr(self.model, "embed")
        self.galleries: dict[str, ExactIndex] = {}
        if (index is not None or source is not None) and not self.embeds:
            found = f"a {type(self.model).__name__}"
            raise UserError("an index is searched by an aligner", found, "leave it out, or serve an aligner")
        if index is not None:
            opened = ExactIndex.load(index, model_fingerprint(self.model))
            self.galleries[opened.about.get("modality", "")] = opened
        names = self.model.names if source is not None else ()
        for name in names:
            if name not in self.galleries:
                by, rows = next(n for n in self.model.names if n != name), np.arange(len(source.ids))
                made = (
                    self.model,
                    here(folder),
                    source,
                    [name],
                    by,
                    rows,
                    "all",
                    None,
                    "0",
                    None,
                    False,
                    lambda _: None,
                )
                self.galleries[name] = gallery(*made)
        self._rows = {} if source is None else {row: i for i, row in enumerate(source.ids)}

    def about(self) -> dict[str, Any]:
        """What a client has to know, as JSON."""
        fields = {n: {"kind": kind, "columns": self.reader.columns.get(n)} for n, kind in self.reader.kinds.items()}
        can = {"predict": self.predicts, "embed": self.embeds, "search": sorted(self.galleries)}
        classes = self.model.task.labels if self.predicts else []
        return {"model": type(self.model).__name__, "modalities": fields, "classes": classes, "can": can}

    def blank(self, rows: Sequence[Any]) -> list[str]:
        """What is to be said of rows that hold nothing."""
        empty = [f"row {number}" for number, row in enumerate(rows) if not row]
        if not empty:
            return []
        return [
            said_of_blank(empty)
            if self.predicts
            else f"{count(len(empty), 'empty row')} without an embedding: {some(empty)}"
        ]

    def unknown(self, rows: Sequence[Any]) -> list[str]:
        """What is to be said of words that training did not meet."""
        found = []
        for name, columns in self.reader.columns.items():
            modality = Modality(self.reader.kinds[name], [row.get(name) for row in rows], tuple(columns))
            found += unknown_words(self.encoders[name], modality, [f"row {number}" for number in range(len(rows))])
        return found

    def features(self, rows: Sequence[Any]) -> MemoryFeatures:
        return encode_rows(self.specs, self.reader.dataset(rows), progress=False, encoders=self.encoders)

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """``prediction`` of each row, ``probability`` by class where there is one."""
        return self._answers(self._outputs(rows))

    def _outputs(self, rows: Sequence[Any]) -> np.ndarray:
        """Outputs ``(n, K)``; those of a lone row without a table of features around it."""
        if len(rows) > 1 or not rows[0] or not isinstance(self.model, FusedModel):
            return answers(self.model, self.features(rows), np.arange(len(rows)))
        row = encode_row(self.specs, rows[0], self.encoders)
        widths = self.model.dims
        there = {n: torch.zeros(0, widths[n]) if a is None else torch.from_numpy(a) for n, a in row.items()}
        batch = {name: pad([tokens]) for name, tokens in there.items()}
        with torch.inference_mode():
            return self.model.outputs_of([batch])

    def explain(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """The same with ``shapley``, what each modality did."""
        features, index, names = self.features(rows), np.arange(len(rows)), self.model.names
        shares = row_shapley(self.model, features, index)
        outputs = answers(self.model, features, index)
        return [
            {**answer, "shapley": dict(zip(names, share.tolist(), strict=True))}
            for answer, share in zip(self._answers(outputs), shares, strict=True)
        ]

    def _answers(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        decided = self.model.task.decide(outputs)
        labels, found = self.model.task.labels, []
        for row in range(len(outputs)):
            answer: dict[str, Any] = {"prediction": plain(decided["prediction"][row])}
            if "probability" in decided:
                p = np.atleast_1d(decided["probability"][row])
                if len(p) == len(labels):
                    answer["probability"] = dict(zip(map(str, labels), p.tolist(), strict=True))
            found.append(answer)
        return found

    def embed(self, rows: Sequence[Any]) -> list[dict[str, list[float]]]:
        """The unit vector of each modality that is there; nothing of a row that holds nothing."""
        there = [row for row in rows if row]
        vectors = self.model.embed(self.features(there)) if there else {}
        found = iter([{n: vectors[n][i].tolist() for n in row} for i, row in enumerate(there)])
        return [next(found) if row else {} for row in rows]

    def search(self, row: dict[str, Any], find: str | None, top: int) -> dict[str, Any]:
        """The best items of a gallery for the one modality of a row."""
        if not self.galleries:
            raise UserError("there is nothing to search in", "no index", "start it with --index or --source")
        if len(row) != 1:
            raise UserError("a search is by one modality", f"{len(row)} given", "give one")
        ((by, _),) = row.items()
        find = find or next((name for name in self.galleries if name != by), by)
        if find not in self.galleries:
            raise UserError(
                "nothing is indexed of that name", find[:100], did_you_mean(find, self.galleries, "galleries")
            )
        hits = self.galleries[find].search(np.array([self.embed([row])[0][by]], dtype=np.float32), top)
        found = [{"id": str(i), "score": float(s)} for i, s in zip(hits.ids[0], hits.scores[0], strict=True) if i]
        for hit in found:
            shown = self.show(find, str(hit["id"]))
            if isinstance(shown, str):
                hit["text"] = shown
        return {"by": by, "find": find, "hits": found, "pictures": self.reader.kinds.get(find) == "image"}

    def show(self, name: str, row: str) -> str | bytes | None:
        """An item of the source: a text, or an image as PNG of at most 256 pixels; None where there is none."""
        from weft.data.files import read_image

        if self.source is None or row not in self._rows or name not in self.source.modalities:
            return None
        value = self.source.modalities[name].values[self._rows[row]]
        if isinstance(value, str) and self.reader.kinds.get(name) == "text":
            return value
        if value is None or self.reader.kinds.get(name) != "image":
            return None
        picture, sink = read_image(value), io.BytesIO()
        picture.thumbnail((256, 256))
        picture.save(sink, format="png")
        return sink.getvalue()

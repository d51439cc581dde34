"""Search among embeddings: exact, in chunks, and approximate, by faiss.

The similarity is the dot product. An index belongs to the model that made its vectors: it carries the model's
fingerprint, and opening it for another model is refused, since similarities across two spaces mean nothing.

On disk an index is a folder: ``index.json`` (kind, fingerprint, ids) and ``vectors.safetensors`` (``(N, D)``, read in
slices and never whole), or ``faiss.index``.

Exact: ``Nq N D`` multiply-adds, memory ``O(chunk D)``. Approximate (HNSW, Malkov and Yashunin 2018): about
``log N`` per query, all vectors and links in memory; use it beyond a million vectors, and measure its recall.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, final

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from weft.errors import UserError
from weft.retrieval.metrics import Array, check_embeddings

CHUNK = 16384
"""Vectors held at once."""
QUERIES = 1024
"""Queries compared at once."""


class Hits(NamedTuple):
    """The ``k`` most similar items of each query, best first; the order among equal scores is not fixed.

    Attributes:
        scores: ``(Nq, k)`` float32.
        rows: ``(Nq, k)`` int64, rows of the index; -1 where an approximate search found fewer than ``k``.
        ids: ``(Nq, k)`` str, "" where there is no hit.
    """

    scores: np.ndarray
    rows: np.ndarray
    ids: np.ndarray


def model_fingerprint(model: nn.Module) -> str:
    """16 hex digits that change with any weight, buffer or name in the model's state."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class Index(ABC):
    """Base of both indexes.

    Attributes:
        ids: name of each row.
        width: ``D``.
        fingerprint: of the model that made the vectors.
    """

    kind: ClassVar[str]

    def __init__(self, ids: Sequence[str] | None, rows: int, width: int, fingerprint: str) -> None:
        self.ids = [str(row) for row in range(rows)] if ids is None else list(ids)
        if len(self.ids) != rows:
            raise UserError(
                "ids name every row of an index", f"{len(self.ids)} ids for {rows} rows", "give one id per row"
            )
        self.width, self.fingerprint = width, fingerprint

    def __len__(self) -> int:
        return len(self.ids)

    @final
    def search(self, queries: Array, k: int = 10) -> Hits:
        """The ``k`` items most similar to each query ``(Nq, D)``; all of them, if the index has fewer.

        Raises:
            UserError: the width is another one, or queries are NaN or infinite; the rows are named.
        """
        q = check_embeddings(queries, "queries").float()
        if q.shape[1] != self.width:
            raise UserError(
                f"this index holds vectors of width {self.width}",
                f"queries of width {q.shape[1]}",
                f"embed the queries with the model {self.fingerprint}",
            )
        if k < 1:
            raise UserError("k is a positive number of hits", f"k={k}", "ask for at least one")
        scores, rows = self._search(q, min(k, len(self)))
        names = np.array([*self.ids, ""], dtype=object)
        return Hits(scores, rows, names[rows])

    @final
    def save(self, folder: Path | str) -> None:
        """Write the index to ``folder``, which is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._save(folder)
        about = {"kind": self.kind, "fingerprint": self.fingerprint, "width": self.width, "ids": self.ids}
        (folder / "index.json").write_text(json.dumps(about))

    @classmethod
    @final
    def load(cls, folder: Path | str, fingerprint: str) -> Self:
        """Open an index for the model with this fingerprint.

        Raises:
            UserError: no index is there, it is of another kind, or another model made it.
        """
        folder = Path(folder)
        if not (folder / "index.json").is_file():
            raise UserError("no index here", f"{folder} has no index.json", "build one and save() it to this folder")
        about = json.loads((folder / "index.json").read_text())
        if about["kind"] != cls.kind:
            raise UserError(
                f"{cls.__name__} opens indexes of kind {cls.kind!r}",
                f"kind {about['kind']!r} in {folder}",
                "use its class",
            )
        if about["fingerprint"] != fingerprint:
            raise UserError(
                "this index was built with another model",
                f"index {about['fingerprint']}, model {fingerprint}",
                "load the model that built the index, or embed the items again with this one",
            )
        return cls._load(folder, about)

    @abstractmethod
    def _search(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]: ...

    @abstractmethod
    def _save(self, folder: Path) -> None: ...

    @classmethod
    @abstractmethod
    def _load(cls, folder: Path, about: dict[str, Any]) -> Self: ...


class ExactIndex(Index):
    """Every vector is compared with every query, ``chunk`` vectors at a time.

    Args:
        vectors: ``(N, D)`` tensor, array or memory-mapped array; it is read in chunks and not copied.
        ids: ``N`` names; the row numbers, if not given.
        fingerprint: of the model that made the vectors, :func:`model_fingerprint`.
        chunk: vectors compared at once.

    Raises:
        UserError: shapes do not fit, or vectors are NaN or infinite; the rows are named.
    """

    kind = "exact"

    def __init__(
        self, vectors: Array, ids: Sequence[str] | None = None, *, fingerprint: str, chunk: int = CHUNK
    ) -> None:
        checked = check_embeddings(vectors, "vectors")
        super().__init__(ids, checked.shape[0], checked.shape[1], fingerprint)
        self.chunk = chunk
        self._read: Callable[[int, int], Tensor] = lambda start, stop: checked[start:stop]

    def _search(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        parts = [self._search_block(block, k) for block in queries.split(QUERIES)]
        scores, rows = (torch.cat(side).cpu().numpy() for side in zip(*parts, strict=True))
        return scores, rows

    def _search_block(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        scores = queries.new_empty(len(queries), 0)
        rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for start in range(0, len(self), self.chunk):
            block = self._read(start, min(start + self.chunk, len(self))).to(queries)
            new, place = (queries @ block.T).topk(min(k, len(block)), dim=1)
            scores, rows = torch.cat([scores, new], dim=1), torch.cat([rows, place + start], dim=1)
            scores, best = scores.topk(min(k, scores.shape[1]), dim=1)
            rows = rows.gather(1, best)
        return scores, rows

    def _save(self, folder: Path) -> None:
        save_file({"vectors": self._read(0, len(self)).float().cpu().numpy()}, folder / "vectors.safetensors")

    @classmethod
    def _load(cls, folder: Path, about: dict[str, Any]) -> Self:
        index = cls.__new__(cls)
        Index.__init__(index, about["ids"], len(about["ids"]), about["width"], about["fingerprint"])
        index.chunk = CHUNK
        vectors = safe_open(folder / "vectors.safetensors", "pt").get_slice("vectors")
        index._read = lambda start, stop: vectors[start:stop]
        return index


class FaissIndex(Index):
    """Approximate search in a graph of neighbours (HNSW), by faiss.

    Args:
        vectors, ids, fingerprint: as for :class:`ExactIndex`.
        links: neighbours per vector; more is more exact, larger and slower to build.
        effort: candidates kept during a search; more is more exact and slower. At least ``k`` are kept.

    Raises:
        UserError: as for :class:`ExactIndex`, or faiss is not installed.
    """

    kind = "faiss"

    def __init__(
        self,
        vectors: Array,
        ids: Sequence[str] | None = None,
        *,
        fingerprint: str,
        links: int = 32,
        effort: int = 128,
    ) -> None:
        checked = check_embeddings(vectors, "vectors")
        super().__init__(ids, checked.shape[0], checked.shape[1], fingerprint)
        faiss = _faiss()
        self._index = faiss.IndexHNSWFlat(self.width, links, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = max(2 * links, effort)
        self.effort = effort
        for start in range(0, len(checked), CHUNK):
            self._index.add(np.ascontiguousarray(checked[start : start + CHUNK].float().cpu().numpy()))

    def _search(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        self._index.hnsw.efSearch = max(self.effort, k)
        return self._index.search(np.ascontiguousarray(queries.cpu().numpy()), k)

    def _save(self, folder: Path) -> None:
        _faiss().write_index(self._index, str(folder / "faiss.index"))

    @classmethod
    def _load(cls, folder: Path, about: dict[str, Any]) -> Self:
        index = cls.__new__(cls)
        Index.__init__(index, about["ids"], len(about["ids"]), about["width"], about["fingerprint"])
        index.effort = 128
        index._index = _faiss().read_index(str(folder / "faiss.index"))
        return index


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError("approximate search needs faiss", "it is not installed", "pip install 'weft[ann]'") from None
    return faiss

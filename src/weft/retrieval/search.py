r"""Search among embeddings: exact, in blocks, and approximate, by faiss.

The score of query ``q`` and item ``g`` is :math:`q \cdot g + b_g` with ``metric="dot"`` (cosine, for unit vectors), and
:math:`-\|q - g\|^2` with ``metric="l2"``, which is the former with :math:`b_g = -\|g\|^2 / 2`, doubled, minus
:math:`\|q\|^2`: one search serves both. ``bias`` is any number per item: a correction of hubs, or a mixed pool's.

An index says what it holds: the fingerprint of the model that made its vectors, and ``about`` (source, rows, split,
modality). Opening it for anything else is refused, since similarities across two spaces, or of other rows, mean
nothing. On disk it is one file, ``index.safetensors``, replaced in one step: vectors, bias and ids never part.

Exact: ``Nq N D`` multiply-adds. The best ``k`` of a block of scores are looked for in the ``k`` groups of 16 scores
with the highest maxima, where they must be: one pass for the maxima, and a selection among a sixteenth. Memory: a block
of scores; vectors on disk are mapped, not read.

Approximate, by any of faiss's factory strings: ``"HNSW32"`` (graph of neighbours; Malkov, Yashunin, TPAMI 2020),
``"IVF1024,Flat"`` (lists of k-means cells; Sivic, Zisserman, ICCV 2003), ``"IVF1024,PQ32"`` (and vectors in 32 bytes;
Jegou, Douze, Schmid, TPAMI 2011). Use it beyond a million vectors, and measure its recall against ``ExactIndex``.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, final, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from weft.errors import UserError, did_you_mean
from weft.files import write_tensors
from weft.retrieval.metrics import Array, check_embeddings

Metric = Literal["dot", "l2"]
METRICS: tuple[Metric, ...] = get_args(Metric)
FILE = "index.safetensors"
FORMAT = "weft.Index/2"
QUERIES = 512
"""Queries compared at once."""
SCORES = 2**23
"""Scores of a block: ``QUERIES x 16384``, or more items for fewer queries."""
GROUP = 16
"""Scores of which the maximum is taken first."""


class Hits(NamedTuple):
    """The ``k`` best items of each query, best first; the order among equal scores is not fixed.

    Attributes:
        scores: ``(Nq, k)`` float32, higher is better; with ``metric="l2"`` minus the squared distance.
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

    Args:
        vectors: ``(N, D)`` tensor, array or memory-mapped array.
        ids: ``N`` names; the row numbers, if not given.
        fingerprint: of the model that made the vectors, :func:`model_fingerprint`.
        metric: ``"dot"`` or ``"l2"``.
        bias: ``(N,)`` added to the scores; only with ``"dot"``.
        about: what the rows are, as names and texts; an index is opened only for the same.

    Attributes:
        ids: name of each row.
        width: ``D``.
        fingerprint, metric, about: as given.

    Raises:
        UserError: shapes do not fit, or vectors or bias are NaN or infinite; the rows are named.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        vectors: Array,
        ids: Sequence[str] | None = None,
        *,
        fingerprint: str,
        metric: Metric = "dot",
        bias: Array | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        if metric not in METRICS:
            raise UserError("unknown metric of an index", f"metric={metric!r}", did_you_mean(metric, METRICS))
        if bias is not None and metric != "dot":
            raise UserError("a bias per item is added to dot products", f"metric={metric!r}", "use metric='dot'")
        self.ids: list[str] = []
        self.fingerprint, self.metric, self.about = fingerprint, metric, dict(about or {})
        checked = check_embeddings(vectors, "vectors")
        self.width, self.biased = checked.shape[1], bias is not None
        self._begin(checked, self._take(checked, ids, bias))

    def __len__(self) -> int:
        return len(self.ids)

    @final
    def add(self, vectors: Array, ids: Sequence[str] | None = None, bias: Array | None = None) -> None:
        """Append rows; arguments as for the constructor, a bias if and only if the index has one.

        Raises:
            UserError: as the constructor, or the width is another one.
        """
        checked = check_embeddings(vectors, "vectors")
        if checked.shape[1] != self.width:
            found = f"vectors of width {checked.shape[1]}"
            raise UserError(f"this index holds vectors of width {self.width}", found, "embed them with its model")
        if (bias is not None) != self.biased:
            found = "it has one, the new rows have none" if self.biased else "it has none, the new rows have one"
            raise UserError("all rows of an index have a bias, or none has", found, "build the index anew")
        self._append(checked, self._take(checked, ids, bias))

    @final
    def search(self, queries: Array, k: int = 10) -> Hits:
        """The ``k`` best items for each query ``(Nq, D)``; all of them, if the index has fewer.

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
        names = np.array([self.ids[row] if row >= 0 else "" for row in rows.ravel().tolist()], dtype=object)
        return Hits(scores, rows, names.reshape(rows.shape))

    @final
    def save(self, folder: Path | str) -> None:
        """Write the index to ``folder``, which is made if need be: all of it, or nothing."""
        text = [name.encode() for name in self.ids]
        tensors = {
            "ids": torch.from_numpy(np.frombuffer(b"".join(text), dtype=np.uint8).copy()),
            "ends": torch.from_numpy(np.cumsum([len(t) for t in text], dtype=np.int64)),
            **self._tensors(),
        }
        facts = {
            "format": FORMAT,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "width": self.width,
            "metric": self.metric,
            "biased": self.biased,
            "about": self.about,
        }
        write_tensors(Path(folder) / FILE, tensors, {"index": json.dumps(facts)})

    @classmethod
    @final
    def load(cls, folder: Path | str, fingerprint: str, about: Mapping[str, str] | None = None) -> Self:
        """Open an index for the model with this fingerprint, and for these rows.

        Args:
            folder: where it was saved.
            fingerprint: of the model whose queries it shall answer.
            about: what it must hold; every name given is compared. None: anything.

        Raises:
            UserError: no index is there, it is damaged or of another kind, or another model or other rows made it.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise UserError("no index here", f"{folder} has no {FILE}", "build one and save() it to this folder")
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["index"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
            raise UserError("the file of an index is damaged", f"{path}: {error}", "delete it and build anew") from None
        if facts["kind"] != cls.kind:
            raise UserError(
                f"{cls.__name__} opens indexes of kind {cls.kind!r}",
                f"kind {facts['kind']!r} in {folder}",
                "use its class",
            )
        if facts["fingerprint"] != fingerprint:
            raise UserError(
                "this index was built with another model",
                f"index {facts['fingerprint']}, model {fingerprint}",
                "load the model that built the index, or embed the items again with this one",
            )
        other = {name: facts["about"].get(name) for name, value in (about or {}).items()}
        other = {name: value for name, value in other.items() if value != (about or {})[name]}
        if other:
            raise UserError(
                f"this index holds other rows: another {', '.join(other)}",
                "; ".join(f"{n} is {v}, asked for {(about or {})[n]}" for n, v in other.items()),
                "choose another folder for this search, or delete this one",
            )
        index = cls.__new__(cls)
        ends = tensors["ends"].tolist()
        text = tensors["ids"].numpy().tobytes()
        index.ids = [text[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]
        index.fingerprint, index.metric, index.about = facts["fingerprint"], facts["metric"], facts["about"]
        index.width, index.biased = facts["width"], facts["biased"]
        held = index._restore(tensors)
        if held != len(index.ids):
            raise UserError(
                "the file of an index is damaged", f"{path}: {held} vectors, {len(index.ids)} ids", "build it anew"
            )
        return index

    def _take(self, vectors: Tensor, ids: Sequence[str] | None, bias: Array | None) -> Tensor | None:
        """Append the names of new rows; their bias ``(n,)`` float32, checked."""
        before = len(self.ids)
        names = [str(before + row) for row in range(len(vectors))] if ids is None else list(ids)
        if len(names) != len(vectors):
            found = f"{len(names)} ids for {len(vectors)} rows"
            raise UserError("ids name every row of an index", found, "give one id per row")
        checked = None
        if bias is not None:
            checked = torch.as_tensor(bias).detach().float().cpu()
            if checked.shape != (len(vectors),) or not bool(checked.isfinite().all()):
                found = (
                    f"shape {tuple(checked.shape)} for {len(vectors)} rows, finite: {bool(checked.isfinite().all())}"
                )
                raise UserError("a bias is one finite number per row", found, "give a vector (N,)")
        self.ids += names
        return checked

    @abstractmethod
    def _begin(self, vectors: Tensor, bias: Tensor | None) -> None: ...

    @abstractmethod
    def _append(self, vectors: Tensor, bias: Tensor | None) -> None: ...

    @abstractmethod
    def _search(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]: ...

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]: ...

    @abstractmethod
    def _restore(self, tensors: dict[str, Tensor]) -> int:
        """Take the tensors of a file; the number of rows they hold."""


class ExactIndex(Index):
    """Every vector is compared with every query; vectors stay where they are (a memory map is not copied)."""

    kind = "exact"

    def _begin(self, vectors: Tensor, bias: Tensor | None) -> None:
        self._parts = [vectors.detach()]
        self._bias = [self._addend(vectors, bias)]

    def _append(self, vectors: Tensor, bias: Tensor | None) -> None:
        self._parts.append(vectors.detach().to(self._parts[0]))
        self._bias.append(self._addend(vectors, bias))

    def _addend(self, vectors: Tensor, bias: Tensor | None) -> Tensor | None:
        """What is added to dot products, ``(n,)`` float32 on the CPU, or nothing."""
        if self.metric == "l2":
            return torch.cat([-0.5 * part.float().square().sum(dim=1).cpu() for part in vectors.detach().split(16384)])
        return bias

    def _search(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        most = min(len(queries), QUERIES)
        room = queries.new_empty(most * min(SCORES // most, len(self)))
        found = [self._search_block(block, k, room) for block in queries.split(QUERIES)]
        scores, rows = (torch.cat(side) for side in zip(*found, strict=True))
        if self.metric == "l2":
            scores = (2 * scores - queries.square().sum(dim=1, keepdim=True)).clamp(max=0)
        return scores.cpu().numpy(), rows.cpu().numpy()

    def _search_block(self, queries: Tensor, k: int, room: Tensor) -> tuple[Tensor, Tensor]:
        """``room`` is memory for the scores of a block, used for all of them."""
        size = len(room) // len(queries)
        parts, start = [], 0
        for vectors, bias in zip(self._parts, self._bias, strict=True):
            for first in range(0, len(vectors), size):
                block = vectors[first : first + size].to(queries)
                out = room[: len(queries) * len(block)].view(len(queries), len(block))
                scores = torch.mm(queries, block.T, out=out)
                if bias is not None:
                    scores += bias[first : first + size].to(queries)
                best, place = top(scores, k)
                parts.append((best, place + start + first))
            start += len(vectors)
        scores, rows = (torch.cat(side, dim=1) for side in zip(*parts, strict=True))
        scores, place = scores.topk(k, dim=1)
        return scores, rows.gather(1, place)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"vectors": torch.cat([part.float().cpu() for part in self._parts]).contiguous()}
        if self._bias[0] is not None:
            tensors["bias"] = torch.cat([bias for bias in self._bias if bias is not None])
        return tensors

    def _restore(self, tensors: dict[str, Tensor]) -> int:
        self._parts, self._bias = [tensors["vectors"]], [tensors.get("bias")]
        return len(tensors["vectors"])


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` highest of each row of ``scores`` ``(b, n)`` (all of them, if ``k >= n``), in any order, and where.

    Item ``j`` belongs to group ``j mod (n // GROUP)``; the few left over are candidates themselves.
    """
    rows, n = scores.shape
    groups = n // GROUP
    if groups < 2 * k:
        return scores.topk(min(k, n), dim=1, sorted=False)
    highest = scores[:, : groups * GROUP].unflatten(1, (GROUP, groups)).amax(dim=1)
    chosen = highest.topk(k, dim=1, sorted=False).indices
    place = (chosen.unsqueeze(2) + groups * torch.arange(GROUP, device=scores.device)).flatten(1)
    rest = torch.arange(groups * GROUP, n, device=scores.device).expand(rows, -1)
    place = torch.cat([place, rest], dim=1)
    best, among = scores.gather(1, place).topk(k, dim=1, sorted=False)
    return best, place.gather(1, among)


class FaissIndex(Index):
    """Approximate search by faiss. A bias is one more coordinate: items ``(g, b)``, queries ``(q, 1)``.

    Args:
        vectors, ids, fingerprint, metric, bias, about: as for :class:`Index`.
        factory: faiss's name of the index; what has to be trained is trained on ``vectors``.
        effort: candidates kept in a graph (at least ``k``), or lists looked through; more is more exact and slower.
            None: 128 candidates, an eighth of the lists.

    Raises:
        UserError: as for :class:`Index`, faiss is not installed, or it does not know the factory string or cannot
            train it on so few rows.
    """

    kind = "faiss"

    def __init__(
        self,
        vectors: Array,
        ids: Sequence[str] | None = None,
        *,
        fingerprint: str,
        metric: Metric = "dot",
        bias: Array | None = None,
        about: Mapping[str, str] | None = None,
        factory: str = "HNSW32",
        effort: int | None = None,
    ) -> None:
        self.factory, self.effort = factory, effort
        super().__init__(vectors, ids, fingerprint=fingerprint, metric=metric, bias=bias, about=about)

    def _begin(self, vectors: Tensor, bias: Tensor | None) -> None:
        faiss = _faiss()
        kind = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        items = _with_column(vectors, bias)
        try:
            self._index = faiss.index_factory(items.shape[1], self.factory, kind)
            if not self._index.is_trained:
                self._index.train(items)
        except RuntimeError as error:
            raise UserError(
                "faiss cannot build this index",
                f"factory={self.factory!r} on {len(items)} rows of width {items.shape[1]}: {str(error)[-200:]}",
                "for example 'HNSW32', or 'IVF64,Flat' with some thousand rows",
            ) from None
        self._index.add(items)

    def _append(self, vectors: Tensor, bias: Tensor | None) -> None:
        self._index.add(_with_column(vectors, bias))

    def _search(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        faiss = _faiss()
        lists = faiss.try_extract_index_ivf(self._index)
        if lists is not None:
            lists.nprobe = min(self.effort or -(-lists.nlist // 8), lists.nlist)
        elif hasattr(self._index, "hnsw"):
            self._index.hnsw.efSearch = max(self.effort or 128, k)
        asked = _with_column(queries, queries.new_ones(len(queries)) if self.biased else None)
        scores, rows = self._index.search(asked, k)
        return (-scores if self.metric == "l2" else scores), rows

    def _tensors(self) -> dict[str, Tensor]:
        return {"faiss": torch.from_numpy(_faiss().serialize_index(self._index))}

    def _restore(self, tensors: dict[str, Tensor]) -> int:
        self._index, self.factory, self.effort = _faiss().deserialize_index(tensors["faiss"].numpy()), "", None
        return int(self._index.ntotal)


def _with_column(vectors: Tensor, column: Tensor | None) -> np.ndarray:
    """Float32 rows in memory, as faiss takes them."""
    rows = vectors.detach().float().cpu()
    return np.ascontiguousarray((rows if column is None else torch.cat([rows, column.cpu()[:, None]], dim=1)).numpy())


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError("approximate search needs faiss", "it is not installed", "pip install 'weft[ann]'") from None
    return faiss

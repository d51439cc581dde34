"""D-VSM as a system: feature vectors of any number of views to labels, over a graph of all rows.

The nodes are the training rows, which the model keeps, and the rows it is asked about. ``graph="inductive"``: rows that
are asked about hear training rows alone, so no answer depends on what else is asked. ``"transductive"``, as published:
all rows of a data set are in the graph from the start, test rows without their labels; answers for a new table depend
on its other rows. A row that lacks a view has no node there.

Training is full-batch, as published: a step sees every training row.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from weft.data import Dataset
from weft.registry import Count, Dropout, Learned
from weft.systems.dvsm.graph import nearest, standardised
from weft.systems.dvsm.network import DvsmNet, Edges
from weft.tasks.base import Task, create_task
from weft.training.system import Gather, Need, Scatter, System, alone, systems, whole


class Graph(NamedTuple):
    """Nodes of a data set: views ``(n, D_v)``, neighbours ``(V, n, k)``, presence ``(n, V)``; ``(N,)`` node of rows."""

    views: list[Tensor]
    neighbours: Tensor
    there: Tensor
    node: np.ndarray


@systems.register("dvsm")
class Dvsm(System):
    """Labels from several views, each with a prediction of its own; Lyu et al. 2022 (a reconstruction).

    Args:
        width, layers, heads, dropout, edges: see :class:`~weft.systems.dvsm.network.DvsmNet`.
        k: neighbours of a node.
        graph: what a row hears, see the module.
        neighbours: how they are found, ``"exact"`` or ``"faiss"``.
        dims, task, nodes: learned: the widths of the views, the task, and how many training rows are kept.
    """

    reads = {"views": Need("vector", several=True, optional=True), "labels": Need("label", target=True)}
    writes = "label"
    judge = "multilabel"
    reader = "multilabel-views"
    trained_with = {"lr": 3e-3, "weight_decay": 1e-3, "epochs": 30, "batch_size": 100_000, "schedule": "constant"}
    variants = {name: {"edges": edges} for name, edges in {
        "dvsm": "both", "no intra-view edges": "inter", "no inter-view edges": "intra", "no graph": "none",
    }.items()}  # fmt: skip
    rows_at_once = 1_000_000
    paper = "Lyu et al. 2022, Beyond Shared Subspace (AAAI 36(7):7647-7654)"

    def __init__(
        self,
        *,
        width: Count = 128,
        layers: Annotated[int, Field(ge=0)] = 2,
        heads: Count = 4,
        dropout: Dropout = 0.5,
        edges: Edges = "both",
        k: int = 10,
        graph: Literal["inductive", "transductive"] = "inductive",
        neighbours: Literal["exact", "faiss"] = "exact",
        dims: Learned[dict[str, int] | None] = None,
        task: Learned[dict[str, Any] | None] = None,
        nodes: Learned[Annotated[int, Field(ge=0)]] = 0,
    ) -> None:
        super().__init__()
        self.width, self.layers, self.heads, self.dropout, self.edges = width, layers, heads, dropout, edges
        self.k, self.graph, self.neighbours = k, graph, neighbours
        self.dims, self.task, self.nodes = dims or {}, task, nodes
        self._task = None if task is None else Task.from_config(dict(task))
        self.network = DvsmNet(
            self.dims, self._task.outputs if self._task else 1,
            width=width, layers=layers, heads=heads, dropout=dropout, edges=edges,
        )  # fmt: skip
        self.memory = torch.nn.ParameterList(
            torch.nn.Parameter(torch.zeros(nodes, d), requires_grad=False) for d in self.dims.values()
        )
        self._graphs: WeakKeyDictionary[Dataset, Graph] = WeakKeyDictionary()

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> Self:
        columns = cls.columns(data)
        views = {name: _values(data, name) for name in columns["views"]}
        label = columns["labels"]
        task = create_task(data.task, data.targets[label][rows], labels=data.labels.get(label))
        dims = {name: view.shape[1] for name, view in views.items()}
        model = cls(**{**options, "dims": dims, "task": task.config(), "nodes": len(rows)})
        for kept, view in zip(model.memory, views.values(), strict=True):
            kept.data.copy_(torch.from_numpy(view[rows]))
        return model

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, Any]:
        label = self.columns(data)["labels"]
        return {**self._nodes(data, rows), "target": self.make_judge().encode(data.targets[label][rows])}

    def loss(self, batch: dict[str, Any]) -> Tensor:
        return self.make_judge().loss(self._answers(batch), batch["target"])

    def predict(self, data: Dataset, rows: np.ndarray) -> list[np.ndarray]:
        return list(self._answers(self.to_device(self._nodes(data, rows))).cpu().numpy())

    def validate(
        self,
        data: Dataset,
        rows: np.ndarray,
        batch_size: int,
        scatter: Scatter = alone,
        gather: Gather = whole,
    ) -> dict[str, float]:
        """All dev rows are in one graph, so every process judges all of them."""
        judge, (losses, outputs) = self.make_judge(), self.assess(data, rows)
        value = judge.metrics(np.stack(outputs), self.truth(data, rows))[judge.primary]
        return {"loss": float(losses.mean()), "score": value if judge.higher_is_better else -value}

    def make_judge(self, **options: Any) -> Any:
        return self._task

    def _answers(self, batch: dict[str, Any]) -> Tensor:
        return self.network(batch["views"], batch["neighbours"], batch["there"])[batch["node"]]

    def _nodes(self, data: Dataset, rows: np.ndarray) -> dict[str, Any]:
        if data not in self._graphs:
            self._graphs[data] = self._graph(data)
        graph = self._graphs[data]
        node = torch.from_numpy(graph.node[rows])
        return {"views": graph.views, "neighbours": graph.neighbours, "there": graph.there, "node": node}

    def _graph(self, data: Dataset) -> Graph:
        """The kept rows and those of ``data`` that are not among them, as nodes."""
        kept = [part.detach().cpu().numpy() for part in self.memory]
        asked = [_values(data, name, width) for name, width in self.dims.items()]
        places = {_key(kept, row): row for row in reversed(range(self.nodes))}
        node = np.array([places.get(_key(asked, row), -1) for row in range(len(data))])
        new = np.flatnonzero(node < 0)
        node[new] = self.nodes + np.arange(len(new))
        known = np.arange(self.nodes)
        views = [standardised(np.concatenate([a, b[new]]), known) for a, b in zip(kept, asked, strict=True)]
        heard = None if self.graph == "transductive" else known
        there = np.stack([np.isfinite(view).all(axis=1) for view in views], axis=1)
        neighbours = torch.from_numpy(nearest(views, self.k, heard, self.neighbours))
        tensors = [torch.from_numpy(np.nan_to_num(view)).float() for view in views]
        return Graph(tensors, neighbours, torch.from_numpy(there), node)


def _values(data: Dataset, name: str, width: int | None = None) -> np.ndarray:
    """``(N, D)`` float32 of a modality of vectors, NaN where it is absent, or where the data have none of it."""
    if name not in data.modalities:
        return np.full((len(data), width or 0), np.nan, dtype=np.float32)
    values = data.modalities[name].values
    width = width or next(len(value) for value in values if value is not None)
    gone = np.full(width, np.nan, dtype=np.float32)
    return np.stack([gone if value is None else np.asarray(value, dtype=np.float32) for value in values])


def _key(views: list[np.ndarray], row: int) -> bytes:
    return b"".join(view[row].tobytes() for view in views)

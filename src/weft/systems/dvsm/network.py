r"""The network: attention over the graph of rows and views, one prediction per view, averaged.

A node is a row ``i`` in a view ``v``. It hears its ``k`` nearest rows in the same view (*intra*) and itself in the
other views (*inter*):

.. math::
    h^0_{iv} &= \mathrm{relu}(W_v x^v_i + b_v), \qquad u = \mathrm{LN}(h) && (N, V, d) \\
    a_{iv} &= \sum_{j \in N(i, v)} \alpha_j W_a u_{jv}, \quad
        \alpha = \mathrm{softmax}_j \, \mathrm{lrelu}_{.2}(p_a \cdot W_a u_{iv} + q_a \cdot W_a u_{jv})
        && \text{per head} \\
    c_{iv} &= \sum_{w \neq v} \beta_w W_c u_{iw}, \quad \beta \text{ likewise} \\
    h_{iv} &\leftarrow h_{iv} + \mathrm{relu}(W_o [W_s u_{iv} + b_s ; a_{iv} ; c_{iv}] + b_o) \\
    f_i &= \mathrm{mean}_v (W \, \mathrm{LN}(h_{iv}) + b)

``edges="merged"``: one softmax over the node itself, its intra and its inter neighbours, with one ``W`` and one pair
``p, q``, which is plain graph attention. ``"none"``: no graph, the mean of as many perceptrons. ``"intra"`` and
``"inter"``: one kind alone.

A view that a row lacks has no node: nobody hears it, and it has no part in the mean.

Cost: ``d sum(D_v) + L (7 d^2)`` weights; time and memory ``N V k d`` per layer; the graph ``N^2 sum(D_v)`` once.

When not to use it: rows that arrive one by one and are unlike all before; views of which one alone decides.

Source: Lyu, Deng, Wu, Feng, "Beyond Shared Subspace: A View-Specific Fusion for Multi-View Multi-Label Learning", AAAI
2022, 36(7):7647-7654. No code is published: the equations above are a reconstruction from the paper and its sequels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError, did_you_mean

Edges = Literal["both", "intra", "inter", "none", "merged"]


class DvsmNet(nn.Module):
    """The network.

    Args:
        dims: ``{view: D_v}``.
        outputs: width of the answer.
        width: ``d``.
        layers: ``L``.
        heads: of the attention; they divide ``width``.
        dropout: after the input maps and in every layer.
        edges: what a node hears.

    Raises:
        UserError: unknown edges, or heads that do not divide the width.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        *,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.5,
        edges: Edges = "both",
    ) -> None:
        super().__init__()
        if edges not in get_args(Edges):
            raise UserError("edges say which neighbours a node has", repr(edges), did_you_mean(edges, get_args(Edges)))
        if width % heads:
            raise UserError("the heads share the width", f"width={width}, heads={heads}", "choose a divisor of width")
        self.input = nn.ModuleList(nn.Linear(d, width) for d in dims.values())
        self.layers = nn.ModuleList(GraphLayer(width, heads, dropout, edges) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, views: Sequence[Tensor], neighbours: Tensor, there: Tensor | None = None) -> Tensor:
        """Answers ``(N, Q)`` of all rows of the graph: the mean over the views that a row has.

        Args:
            views: ``(N, D_v)`` each.
            neighbours: ``(V, N, k)`` rows that a node hears in its view, -1 for none.
            there: ``(N, V)`` bool, the views that rows have; None: all.
        """
        per_view = self.answers(views, neighbours, there)
        if there is None:
            return per_view.mean(dim=1)
        weights = there.to(per_view.dtype).unsqueeze(2)
        return (per_view * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    def answers(self, views: Sequence[Tensor], neighbours: Tensor, there: Tensor | None = None) -> Tensor:
        """Answers of every view, ``(N, V, Q)``."""
        nodes = torch.stack([self.dropout(F.relu(f(x))) for f, x in zip(self.input, views, strict=True)], dim=1)
        there = torch.ones(nodes.shape[:2], dtype=torch.bool, device=nodes.device) if there is None else there
        for layer in self.layers:
            nodes = layer(nodes, neighbours, there)
        return self.head(self.norm(nodes))


class GraphLayer(nn.Module):
    """One round of hearing, with its residual."""

    def __init__(self, width: int, heads: int, dropout: float, edges: Edges) -> None:
        super().__init__()
        self.edges = edges
        self.norm = nn.LayerNorm(width)
        parts = {"both": 3, "intra": 2, "inter": 2, "none": 1, "merged": 1}[edges]
        if edges != "merged":
            self.self = nn.Linear(width, width)
        if edges in ("both", "intra", "merged"):
            self.intra = Hearing(width, heads)
        if edges in ("both", "inter"):
            self.inter = Hearing(width, heads)
        self.out = nn.Linear(parts * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, nodes: Tensor, neighbours: Tensor, there: Tensor) -> Tensor:
        """``(N, V, d)`` to the same; arguments as of :meth:`DvsmNet.forward`."""
        u = self.norm(nodes)
        near, far = intra_sources(neighbours), inter_sources(there)
        heard = {"both": (near, far), "intra": (near,), "inter": (far,), "none": ()}.get(self.edges)
        if heard is None:
            own = torch.arange(there.numel(), device=u.device).view(*there.shape, 1)
            parts = [self.intra(u, torch.cat([own, near, far], dim=2), there)]
        else:
            ways = [getattr(self, name) for name in ("intra", "inter") if hasattr(self, name)]
            parts = [self.self(u), *(way(u, sources, there) for way, sources in zip(ways, heard, strict=True))]
        return nodes + self.dropout(F.relu(self.out(torch.cat(parts, dim=2))))


class Hearing(nn.Module):
    """Graph attention over listed sources: ``W``, and per head what a listener (``p``) and a source (``q``) add."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, width)))
        self.p, self.q = (nn.Parameter(torch.empty(heads, width // heads).normal_(std=0.1)) for _ in range(2))

    def forward(self, u: Tensor, sources: Tensor, there: Tensor) -> Tensor:
        """What every node hears, ``(N, V, d)``; zeros where nobody is there.

        Args:
            u: ``(N, V, d)``.
            sources: ``(N, V, s)`` flat numbers ``row * V + view`` of the nodes heard, -1 for none.
            there: ``(N, V)`` bool.
        """
        values = F.linear(u, self.weight).unflatten(2, (self.heads, -1))
        flat = values.flatten(0, 1)
        heard = flat[sources.clamp(min=0)]
        score = (flat * self.q).sum(dim=2)[sources.clamp(min=0)]
        score = F.leaky_relu((values * self.p).sum(dim=3).unsqueeze(2) + score, 0.2)
        silent = ((sources < 0) | ~there.flatten()[sources.clamp(min=0)]).unsqueeze(3)
        alpha = score.masked_fill(silent, torch.finfo(score.dtype).min).softmax(dim=2).masked_fill(silent, 0.0)
        return torch.einsum("nvsh,nvshc->nvhc", alpha, heard).flatten(2)


def intra_sources(neighbours: Tensor) -> Tensor:
    """``(V, N, k)`` rows as flat nodes ``(N, V, k)``."""
    views = torch.arange(len(neighbours), device=neighbours.device).view(-1, 1, 1)
    return torch.where(neighbours < 0, -1, neighbours * len(neighbours) + views).transpose(0, 1)


def inter_sources(there: Tensor) -> Tensor:
    """The other views of every row as flat nodes ``(N, V, V - 1)``, of a mask ``(N, V)``."""
    (rows, views), device = there.shape, there.device
    others = torch.tensor([[w for w in range(views) if w != v] for v in range(views)], device=device)
    return torch.arange(rows, device=device).view(-1, 1, 1) * views + others.view(1, views, views - 1)

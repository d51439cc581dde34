r"""A codebook learned by moving averages: the nearest code to every vector.

.. math::

    k(z) &= \arg\min_k \|z - c_k\|^2, \qquad \mathcal{L} = \beta\, \overline{\|\mathrm{sg}[c_{k(z)}] - z\|^2} \\
    N_k &\leftarrow \gamma N_k + (1 - \gamma)\, \#\{z : k(z) = k\}, \quad
    m_k \leftarrow \gamma m_k + (1 - \gamma) \sum_{z : k(z) = k} z \\
    c_k &= m_k / \tilde N_k, \quad \tilde N_k = \frac{N_k + \epsilon}{n + K \epsilon}\, n, \quad n = \sum_k N_k

with the gradient passed straight through, after the codes of the step were chosen. ``init="official"``:
:math:`c_k \sim N(0, 1), m = c, N = 0`, as published: after a step, codes that were not used lie 1e5 away and never come
back. ``"data"``: vectors of the first batch, N = 1, and codes whose :math:`N_k` falls below 1/100 of the mean become
vectors of the batch.

Source: van den Oord et al., "Neural Discrete Representation Learning", NeurIPS 2017, appendix A.1; data start and
restart: Dhariwal et al. 2020 (arXiv 2005.00341).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Init = Literal["data", "official"]
DEAD = 0.01


class Codebook(nn.Module):
    """Vectors ``(B, dim, H, W)`` to their codes.

    Args:
        codes: ``K``.
        dim: width of a code.
        init: see the module.
        decay: gamma.
        beta: weight of the loss.
    """

    weight: Tensor
    cluster_size: Tensor
    embed_avg: Tensor
    started: Tensor

    def __init__(
        self, codes: int, dim: int, *, init: Init = "data", decay: float = 0.99, beta: float = 0.25, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.init, self.decay, self.beta, self.eps = init, decay, beta, eps
        table = torch.randn(codes, dim)
        self.register_buffer("weight", table)
        self.register_buffer("embed_avg", table.clone())
        self.register_buffer("cluster_size", torch.zeros(codes) if init == "official" else torch.ones(codes))
        self.register_buffer("started", torch.tensor(init == "official"))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The code vectors in place of ``z``, the loss, and the codes ``(B, H, W)``."""
        flat = z.permute(0, 2, 3, 1).flatten(0, 2)
        if self.training and not bool(self.started):
            self._begin(flat.detach())
        codes = nearest(flat, self.weight)
        found = self.weight[codes].view(z.shape[0], *z.shape[2:], -1).permute(0, 3, 1, 2)
        loss = self.beta * F.mse_loss(z, found.detach())
        if self.training:
            self._move(flat.detach(), codes)
        return z + (found - z).detach(), loss, codes.view(z.shape[0], *z.shape[2:])

    @torch.no_grad()
    def _begin(self, flat: Tensor) -> None:
        self.weight.copy_(self._drawn(flat, len(self.weight)))
        self.embed_avg.copy_(self.weight)
        self.started.fill_(True)

    @torch.no_grad()
    def _move(self, flat: Tensor, codes: Tensor) -> None:
        count = torch.bincount(codes, minlength=len(self.weight)).to(flat)
        total = torch.zeros_like(self.embed_avg).index_add_(0, codes, flat)
        self.cluster_size.mul_(self.decay).add_(count, alpha=1 - self.decay)
        self.embed_avg.mul_(self.decay).add_(total, alpha=1 - self.decay)
        n = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.eps) / (n + len(self.weight) * self.eps) * n
        self.weight.copy_(self.embed_avg / smoothed[:, None])
        if self.init == "data":
            mean = self.cluster_size.mean()
            dead = self.cluster_size < DEAD * mean
            fresh = self._drawn(flat, len(self.weight))
            self.weight.copy_(torch.where(dead[:, None], fresh, self.weight))
            self.embed_avg.copy_(torch.where(dead[:, None], fresh * mean, self.embed_avg))
            self.cluster_size.copy_(torch.where(dead, mean, self.cluster_size))

    @staticmethod
    def _drawn(flat: Tensor, count: int) -> Tensor:
        """Vectors of the batch, again where there are fewer than codes, then a little apart."""
        chosen = torch.randperm(len(flat), device=flat.device)[:count]
        chosen = chosen.repeat(-(-count // len(chosen)))[:count]
        apart = 1e-3 * flat.std().nan_to_num() * torch.randn(count, flat.shape[1], device=flat.device, dtype=flat.dtype)
        return flat[chosen] + apart


def nearest(flat: Tensor, table: Tensor) -> Tensor:
    """The nearest row of ``(K, D)`` to each of ``(N, D)``, by squared distance."""
    return (table.square().sum(dim=1) - 2 * flat @ table.T).argmin(dim=1)


def perplexity(codes: Tensor, count: int) -> Tensor:
    """How many codes are in use: ``exp`` of the entropy of their shares."""
    share = torch.bincount(codes.flatten(), minlength=count).double() / codes.numel()
    return (-(share * (share + 1e-10).log()).sum()).exp()


class TrainedCodebook(nn.Module):
    """The codebook of an ordinary VQ-VAE, moved by the gradient of ``mean |c - sg z|^2 + beta mean |sg c - z|^2``."""

    def __init__(self, codes: int, dim: int, *, beta: float = 0.25) -> None:
        super().__init__()
        self.weight, self.beta = nn.Parameter(torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes)), beta

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`Codebook.forward`."""
        codes = nearest(z.permute(0, 2, 3, 1).flatten(0, 2), self.weight).view(z.shape[0], *z.shape[2:])
        found = self.weight[codes].permute(0, 3, 1, 2)
        loss = F.mse_loss(found, z.detach()) + self.beta * F.mse_loss(z, found.detach())
        return z + (found - z).detach(), loss, codes

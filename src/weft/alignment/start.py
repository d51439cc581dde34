r"""A linear map per modality that starts at a closed form, and that weight decay draws back to it.

.. math:: x_m = (v - \mu_m) A_m / s + (W_m v + b_m), \qquad W_m = 0,\ b_m = 0 \text{ at the start}

with the solution :math:`\mu_m, A_m` of ``whitened``, chosen by folds of the training groups, and one number ``s`` that
gives its embeddings unit variance. Before the first step an aligner on top of it is the closed form; what training
changes is ``W`` alone, so weight decay is towards the solution instead of towards zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from weft.alignment.closed_form import Judge
from weft.alignment.whitened import Whitened
from weft.tokens import Tokens


class Start(nn.Module):
    """The maps of all modalities.

    Args:
        dims: width of each modality; two of them.
        dim: width of the shared space, at most that of the narrower one.
        options: of ``whitened``.
    """

    def __init__(self, dims: Mapping[str, int], dim: int, **options: Any) -> None:
        super().__init__()
        self.solution = Whitened(dims, dim, **options)
        self.change = nn.ModuleList(nn.Linear(width, dim) for width in dims.values())
        for parameter in self.change.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("scale", torch.ones(()))

    def begin(self, batches: Callable[[], Iterable[dict[str, Tokens]]], judge: Judge | None) -> None:
        """Solve on the training rows."""
        self.solution.fit_closed_form(batches(), judge)
        total, count = torch.zeros(()), 0
        for inputs in batches():
            for name, tokens in inputs.items():
                there = tokens.mask.any(dim=1)
                embedded = self.solution.embed(name, self.solution.readable(tokens))[there]
                total, count = total + embedded.square().sum().cpu(), count + embedded.numel()
        self.get_buffer("scale").copy_((total / max(count, 1)).sqrt().clamp(min=1e-12))

    def forward(self, name: str, values: Tensor) -> Tensor:
        """``(..., dim)`` of values ``(..., D_m)``."""
        mean, matrix = self.solution.solution(name)
        index = self.solution.names.index(name)
        return (values - mean) @ matrix / self.get_buffer("scale") + self.change[index](values)

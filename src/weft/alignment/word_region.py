r"""Word-region alignment: tokens of a matching pair lie near each other under an optimal transport plan.

With every token embedded by itself, unit vectors ``x`` ``(B, M, dim)`` and ``y`` ``(B, N, dim)`` of two modalities, and
``D`` the cost of moving one row's tokens to another's (:mod:`weft.ops.ipot`):

.. math::
    R = \frac{1}{B} \sum_i \big(D(x_i, y_i) - D(x_i, y_{i+1})\big)

so tokens of a pair are pulled together and those of a mismatched one, the next row's, pushed apart. The objective gets
``weight`` times the mean of ``R`` over the pairs of modalities. Rows that lack one have no part in it.

Cost: every token is embedded, and twice ``iterations`` passes over ``(B, M, N)``.

When not to use it: pooled features (one token a side: the cosine itself). Over several processes each mismatches its
own rows.

Source: Chen et al., "UNITER: UNiversal Image-TExt Representation Learning", ECCV 2020, arXiv 1909.11740, where it
stands beside image-text matching with a weight of 0.1; on an aligner's embeddings it is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from weft.alignment.base import Inputs, Regulariser, check_weight, regularisers
from weft.ops.ipot import transport_distance
from weft.tokens import Tokens


@regularisers.register("word-region")
class WordRegion(Regulariser):
    """Optimal transport between the tokens of a pair.

    Args:
        weight: 0 or more.
        beta: step of the proximal point.
        iterations: of it.

    Raises:
        UserError: an option is out of its range.

    Example:
        >>> import torch
        >>> from weft.alignment import create_aligner, create_regulariser
        >>> from weft.tokens import Tokens
        >>> aligner, wra = create_aligner("two-tower", {"text": 4, "image": 4}, 8), create_regulariser("word-region")
        >>> there = torch.ones(3, 5, dtype=torch.bool)
        >>> inputs = {name: Tokens(torch.randn(3, 5, 4), there) for name in ("text", "image")}
        >>> wra(inputs, aligner(inputs), aligner).ndim
        0
    """

    paper = "Chen et al., UNITER, ECCV 2020, arXiv 1909.11740 (word-region alignment)"

    def __init__(self, *, weight: float = 0.1, beta: float = 0.5, iterations: int = 50) -> None:
        super().__init__()
        check_weight("word-region", weight)
        self.weight, self.beta, self.iterations = weight, beta, iterations

    def extra_repr(self) -> str:
        return f"weight={self.weight}, beta={self.beta}, iterations={self.iterations}"

    def forward(
        self, inputs: Inputs, embeddings: dict[str, Tensor], embed: Callable[[Inputs], dict[str, Tensor]]
    ) -> Tensor:
        tokens = {name: _embedded(name, inputs[name], embed) for name in embeddings}
        parts = []
        for a, b in combinations(tokens, 2):
            there = inputs[a].mask.any(dim=1) & inputs[b].mask.any(dim=1)
            x, y = (Tokens(tokens[name].values[there], tokens[name].mask[there]) for name in (a, b))
            if len(x.mask) < 2:
                continue
            other = Tokens(y.values.roll(-1, 0), y.mask.roll(-1, 0))
            right, wrong = (
                transport_distance(x, side, beta=self.beta, iterations=self.iterations) for side in (y, other)
            )
            parts.append((right - wrong).mean())
        if not parts:
            return torch.stack([z.sum() for z in embeddings.values()]).sum() * 0.0
        return self.weight * torch.stack(parts).mean()


def _embedded(name: str, tokens: Tokens, embed: Callable[[Inputs], dict[str, Tensor]]) -> Tokens:
    """Every token of ``(B, T, D)`` as a row of its own, embedded, ``(B, T, dim)``."""
    rows, length = tokens.mask.shape
    alone = Tokens(tokens.values.reshape(rows * length, 1, -1), tokens.mask.reshape(rows * length, 1))
    return Tokens(embed({name: alone})[name].unflatten(0, (rows, length)), tokens.mask)

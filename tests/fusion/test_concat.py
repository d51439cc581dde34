"""Concatenation against its formula."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.fusion.references import pooled, reference
from weft.fusion.concat import Concat
from weft.tokens import Tokens


@reference("concat")
def concat(module: Concat, inputs: dict[str, Tokens]) -> Tensor:
    vectors = []
    for row in range(len(next(iter(inputs.values())).mask)):
        parts = []
        for name, width in module.dims.items():
            value = pooled(inputs[name], row)
            parts.append(torch.zeros(width, dtype=torch.float64) if value is None else value)
        vectors.append((module.project.weight @ torch.cat(parts) + module.project.bias).clamp(min=0))
    return torch.stack(vectors)

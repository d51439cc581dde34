r"""Two towers: one linear map per modality on frozen, pooled features, into a shared space.

.. math:: e_m = v_m W_m + b_m, \qquad z_m = e_m / \|e_m\|, \qquad v_m = \mathrm{mean}_t\, V_{m,t} \in R^{D_m}

A linear probe of alignment, for any number of modalities: what it reaches, the encoders already know, and everything
larger has to beat it.

Cost: ``D * sum(D_m + 1)`` weights.

When not to use it: many pairs (hundreds of thousands) and encoders of very different worlds, where nonlinear heads pay.

Source: Frome et al., "DeViSE", NeurIPS 2013 (a linear map between frozen towers); Zhai et al., "LiT: Zero-Shot Transfer
with Locked-image Text Tuning", CVPR 2022, arXiv 2111.07991 (contrastive training on locked towers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from weft.alignment.base import Aligner, aligners
from weft.alignment.start import Start
from weft.tokens import Tokens, mean_pool


@aligners.register("two-tower")
class TwoTower(Aligner):
    """Mean-pooled tokens, one linear layer per modality, unit length.

    Args:
        dims, dim: see :class:`~weft.alignment.base.Aligner`.
        start: ``"whitened"``: the maps start at that closed form (:mod:`weft.alignment.start`); two modalities then.
        start_options: options of ``whitened``.
    """

    paper = "Zhai et al., LiT, CVPR 2022, arXiv 2111.07991; Frome et al., DeViSE, NeurIPS 2013 (linear)"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        start: Literal["whitened"] | None = None,
        start_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(dims, dim)
        self.start = None if start is None else Start(self.dims, dim, **(start_options or {}))
        if self.start is None:
            self.project = nn.ModuleList(nn.Linear(d, dim) for d in self.dims.values())
        else:
            self.scaling = "modality"

    def begin(self, batches: Callable[[], Iterable[dict[str, Tokens]]], judge: Any = None) -> None:
        if self.start is not None:
            self.start.begin(batches, judge)

    def embed(self, name: str, tokens: Tokens) -> Tensor:
        if self.start is not None:
            return self.start(name, mean_pool(tokens))
        return self.project[self.names.index(name)](mean_pool(tokens))

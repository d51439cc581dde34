r"""Co-attention: two sequences, each with layers of its own that attend to itself, then to the other.

.. math::
    x_m^0 &= v_m W_m + b_m && (B, T_m, D) \\
    x_m^{l+1} &= \mathrm{Layer}_m^l(x_m^l, x_n^l), \quad n \ne m && (B, T_m, D) \\
    z &= \mathrm{mean}_{m\ \mathrm{present}}\, \mathrm{mean}_t\, x_m^L && (B, D)

with the post-norm layer of :mod:`weft.fusion.bert`. Both sequences step at once, from what the other was before. The
token type of a modality is part of :math:`b_m`. An absent modality is masked as a key and left out of the mean.

Cost: ``32 L D^2`` weights and the projections; time ``T_m (T_m + T_n)`` per modality and layer.

When not to use it: pooled vectors (with one key the softmax is 1 and queries and keys never train: refused in
training); few rows. ``merged-attention`` has fewer weights per layer and takes any number of modalities.

Source: Dou et al., "An Empirical Study of Training End-to-End Vision-and-Language Transformers" (METER), CVPR 2022,
arXiv 2111.02387. Published: D 768, 12 heads, 6 layers, dropout 0.1. Reading out the mean of all tokens is ours; the
original takes the first text token and the first (CLIP) or mean (Swin) image token, see :mod:`weft.systems.meter`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from torch import Tensor, nn

from weft.errors import UserError
from weft.fusion.base import fusions
from weft.fusion.bert import BertLayer, load_official
from weft.fusion.pooling import read_out
from weft.fusion.streams import Streams
from weft.registry import Count, Dropout
from weft.tokens import Fused, Tokens

OFFICIAL = ("text", "image")


@fusions.register("co-attention")
class CoAttention(Streams):
    """METER's co-attention of two token sequences.

    Args:
        dims, dim: see :class:`~weft.fusion.base.Fusion`.
        layers: ``L``, at least 1.
        heads: attention heads; divides ``dim``.
        hidden: width inside the feed-forward parts; default ``4 dim``.
        dropout: on the attention weights and on what every sub-layer adds, in [0, 1].

    Raises:
        UserError: no layer; heads do not divide ``dim``; from ``forward`` in training, a modality has one token only.

    ``tokens`` of the result are both modalities' tokens, one after the other.
    """

    arity = (2, 2)
    who = "co-attention"
    paper = "Dou et al., METER, CVPR 2022, arXiv 2111.02387 (co-attention)"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        layers: int = 1,
        heads: int = 4,
        hidden: Count | None = None,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__(dims, dim, layers)
        self.layers = nn.ModuleList(
            nn.ModuleList(BertLayer(dim, heads, hidden, dropout, cross=True) for _ in self.dims) for _ in range(layers)
        )

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        if self.training:
            _refuse_one_token({name: t.mask.shape[1] for name, t in inputs.items()})
        streams = self.streams(inputs)
        for pair in self.layers:
            streams = step(pair, *streams)
        return read_out(self.names, [nn.Identity()] * 2, streams)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], *, heads: int) -> Self:
        """The fusion part of a METER checkpoint, modalities ``text`` and ``image``.

        Args:
            state: tensors under their original names; those of encoders, poolers and heads are not read.
            heads: of every layer (the checkpoint does not say).
        """
        weights = [state[f"cross_modal_{name}_transform.weight"] for name in OFFICIAL]
        dim, hidden = len(weights[0]), len(state["cross_modal_text_layers.0.intermediate.dense.bias"])
        count = len({name.split(".")[1] for name in state if name.startswith("cross_modal_text_layers.")})
        dims = {name: w.shape[1] for name, w in zip(OFFICIAL, weights, strict=True)}
        made = cls(dims, dim, layers=count, heads=heads, hidden=hidden).to(weights[0].dtype)
        for m, name in enumerate(OFFICIAL):
            bias = state[f"cross_modal_{name}_transform.bias"] + state["token_type_embeddings.weight"][m]
            made.project[m].load_state_dict({"weight": weights[m], "bias": bias})
            for n, pair in enumerate(made.layers):
                load_official(pair[m], state, f"cross_modal_{name}_layers.{n}.")  # type: ignore[index]
        return made


def step(pair: nn.Module, x: Tokens, y: Tokens) -> list[Tokens]:
    """Both sequences' next values, by the two layers of ``pair``."""
    first, second = pair.children()
    return [first(x, y), second(y, x)]


def _refuse_one_token(lengths: Mapping[str, int]) -> None:
    for name, length in lengths.items():
        if length == 1:
            raise UserError(
                f"co-attention cannot learn what attends to {name!r}: it is one key, whose weight is always 1",
                f"token counts {dict(lengths)}",
                "keep the token sequence of that modality (no pooling), or use 'merged-attention', 'gated' or 'concat'",
            )

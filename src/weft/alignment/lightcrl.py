r"""LightCRL: contrastive alignment of frozen encoders through a context vector.

One deep fusion encoder is shared by all modalities; three numbers per modality, the context vector ``v_m``, tell it
which one it reads. For the frozen tokens ``T`` of modality ``m``, shape ``(B, L, D_m)``:

.. math::
    x &= \mathrm{LN}(W_2\,\mathrm{gelu}(W_1 T + b_1) + b_2) && (B, L, D)\quad\text{own head per modality} \\
    c &= \mathrm{ContextNet}(v_m)                            && (D)\quad\text{shared network} \\
    h &= \mathrm{Fuse}(x, c), \quad o = h + \mathrm{Enc}(\mathrm{LN}(h)) && (B, L, D)\quad\text{shared} \\
    e &= \mathrm{mean}_l\, o_l, \quad z = e / \|e\|          && (B, D)

with six fusion operations (``l`` a position, ``a`` a softmax over positions):

=================  =============================================================================
``addition``        :math:`h_l = x_l + c`
``multiplication``  :math:`h_l = x_l \odot c`
``concatenation``   :math:`h_l = x_l + P_2\,\mathrm{relu}(P_1 [x_l; c'])`, with :math:`c' \in R^{10}`
``additive``        :math:`h_l = x_l + \sum_j a_j x_j`, scores :math:`w \cdot \tanh(W_c c + W_v x_l) + b`
``general``         :math:`h_l = x_l + \sum_j a_j x_j`, scores :math:`c \cdot (W x_l + b)`
``scaled_dot``      :math:`h_l = x_l + \sum_j a_j W_v x_j`, scores :math:`(W_q c) \cdot (W_k x_l) / \sqrt{D}`
=================  =============================================================================

Cost: 1.88 to 2.08 million weights at ``D = 256`` for two encoders of width 768; 2.5 GFLOP per training pair of 197 + 57
tokens. When not to use it: with fewer than some thousand pairs a linear ``two-tower`` has less to overfit.

Paper or code: padding is masked everywhere (the original pools and attends to what the encoder writes there;
``official_padding`` reads those values as they come in ``Tokens.values``, whatever the mask says of them), and additive
attention has its tanh (the original's text-image variant lacks it, which makes the context vector dead:
``additive_tanh=False``). The original's unused template layer is dropped. ``start`` is ours.

Source: Faye, Azzag, Lebbah, Bouchaffra, "Lightweight Cross-Modal Representation Learning", ESANN 2024,
arXiv 2403.04650.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weft.alignment.base import Aligner, aligners
from weft.alignment.start import Start
from weft.errors import UserError
from weft.registry import Count, Dropout
from weft.tokens import Tokens, everywhere, full, keys_of, mean_pool, where_there

Operation = Literal["addition", "multiplication", "concatenation", "additive", "general", "scaled_dot"]


@aligners.register("lightcrl")
class LightCRL(Aligner):
    """Deep fusion encoder with a context vector, over any number of modalities.

    Args:
        dims, dim: see :class:`~weft.alignment.base.Aligner`; ``dim`` is a multiple of ``heads``.
        operation: how the context enters (see the table above).
        context_dim: width of a modality's context vector.
        heads, layers, feedforward: shape of the shared transformer encoder.
        dropout: rate in the heads and the encoder, in [0, 1].
        official_padding: treat every position as a token, values under the mask included, as the original does; a row
            without any token is absent still.
        context_output_dim: width of the context :math:`c'` of ``concatenation``.
        start: ``"whitened"``: the heads are linear and start at that closed form (:mod:`weft.alignment.start`), and the
            context and the encoder enter through two gates that start at 0: before the first step the aligner is the
            closed form. Two modalities then. None: as published.
        start_options: options of ``whitened``.
        additive_tanh: use tanh in the additive scores; False reproduces the original text-image variant.
    """

    paper = "Faye et al., Lightweight Cross-Modal Representation Learning, ESANN 2024"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 256,
        *,
        operation: Operation = "addition",
        context_dim: Count = 3,
        heads: Count = 4,
        layers: Count = 1,
        feedforward: Count = 2048,
        dropout: Dropout = 0.1,
        official_padding: bool = False,
        additive_tanh: bool = True,
        context_output_dim: int = 10,
        start: Literal["whitened"] | None = None,
        start_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(dims, dim)
        if dim % heads:
            raise UserError("LightCRL: dim is a multiple of heads", f"dim={dim}, heads={heads}", "change one of them")
        if context_output_dim < 1:
            found = f"context_output_dim={context_output_dim}"
            raise UserError("LightCRL: the context of concatenation has a positive width", found, "the paper has 10")
        self.operation, self.official_padding, self.additive_tanh = operation, official_padding, additive_tanh
        self.start = None if start is None else Start(self.dims, dim, **(start_options or {}))
        if self.start is None:
            self.heads = nn.ModuleList(_head(width, dim, dropout) for width in self.dims.values())
        else:
            self.gates, self.scaling = nn.Parameter(torch.zeros(2)), "modality"
        self.context_vectors = nn.ParameterList(
            nn.Parameter(torch.empty(1, context_dim).normal_() * torch.empty(()).uniform_(0.1, 0.6)) for _ in dims
        )
        if operation == "concatenation":
            self.context_network = nn.Sequential(
                nn.Linear(context_dim, context_output_dim), nn.LayerNorm(context_output_dim)
            )
            joined = dim + context_output_dim
            self.join = nn.Sequential(nn.Linear(joined, joined), nn.ReLU(), nn.Linear(joined, dim))
        else:
            self.context_network = nn.Sequential(
                nn.Linear(context_dim, 64),
                nn.ReLU(),
                nn.Linear(64, 128),
                nn.ReLU(),
                nn.Linear(128, dim),
                nn.LayerNorm(dim),
            )
        if operation in ("additive", "scaled_dot"):
            self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        if operation == "additive":
            self.score = nn.Linear(dim, 1)
        elif operation == "general":
            self.key = nn.Linear(dim, dim)
        elif operation == "scaled_dot":
            self.value = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        layer = nn.TransformerEncoderLayer(dim, heads, feedforward, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def begin(self, batches: Callable[[], Iterable[dict[str, Tokens]]], judge: Any = None) -> None:
        if self.start is not None:
            self.start.begin(batches, judge)

    def readable(self, tokens: Tokens) -> Tokens:
        if not self.official_padding:
            return super().readable(tokens)
        _, there = keys_of(tokens.mask)
        return Tokens(where_there(there, tokens.values), tokens.mask)

    def embed(self, name: str, tokens: Tokens) -> Tensor:
        return mean_pool(self.encode(name, tokens))

    def encode(self, name: str, tokens: Tokens) -> Tokens:
        """The sequence ``o`` of one modality, ``(B, L, dim)``, before pooling."""
        index = self.names.index(name)
        mask = everywhere(*tokens.mask.shape, device=tokens.mask.device) if self.official_padding else tokens.mask
        if not full(mask):
            mask = mask | ~mask.any(dim=1, keepdim=True)
        x = self.heads[index](tokens.values) if self.start is None else self.start(name, tokens.values)
        h = self.fuse(x, self.context(name), mask)
        if self.start is not None:
            h = x + self.gates[0] * (h - x)
        deep = self.encoder(self.norm(h), src_key_padding_mask=None if full(mask) else ~mask)
        return Tokens(h + (deep if self.start is None else self.gates[1] * deep), mask)

    def context(self, name: str) -> Tensor:
        """The context ``c`` of a modality, ``(1, dim)`` (concatenation: ``(1, context_output_dim)``)."""
        return self.context_network(self.context_vectors[self.names.index(name)])

    def fuse(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Let the context ``(1, D)`` enter the tokens ``(B, L, D)``; the mask ``(B, L)`` bounds the softmax."""
        if self.operation == "addition":
            return x + context
        if self.operation == "multiplication":
            return x * context
        if self.operation == "concatenation":
            return x + self.join(torch.cat([x, context.expand(*x.shape[:2], -1)], dim=-1))
        values = x
        if self.operation == "additive":
            hidden = self.query(context) + self.key(x)
            scores = self.score(hidden.tanh() if self.additive_tanh else hidden).squeeze(-1)
        elif self.operation == "general":
            scores = self.key(x) @ context[0]
        else:
            scores = self.key(x) @ self.query(context)[0] / self.dim**0.5
            values = self.value(x)
        attention = scores.masked_fill(~mask, float("-inf")).softmax(dim=1)
        return x + (attention.unsqueeze(1) @ values)

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], *, heads: int = 4, operation: Operation | None = None
    ) -> LightCRL:
        """Load a checkpoint with the original authors' parameter names.

        Args:
            state: the state dict; frozen encoders, the unused template layer and the temperature are passed over
                (``log_scale_range`` and ``log_scale`` of the ``infonce`` objective hold the temperature).
            heads: attention heads, which a state dict does not tell.
            operation: needed for ``"multiplication"``, whose parameters are those of ``"addition"``; else found.

        Returns:
            A module that computes what the original computes: padding counts, and the additive text-image variant has
            no tanh. Modalities are named ``text, image`` or ``roberta, bert``.

        Raises:
            UserError: the state dict is of neither family.
        """
        for names in (("text", "image"), ("roberta", "bert")):
            if all(f"{n}_encoder.projection_head.linear_layer1.weight" in state for n in names):
                break
        else:
            raise UserError(
                "not a LightCRL checkpoint", f"keys like {next(iter(state), None)!r}", "pass its state dict"
            )
        renamed = _rename(state, names)
        widths = {n: state[f"{n}_encoder.projection_head.linear_layer1.weight"].shape[1] for n in names}
        layers = 1 + max(int(key.split(".")[2]) for key in renamed if key.startswith("encoder.layers."))
        operation = operation or _operation(state)
        wide: dict[str, Any] = (
            {"context_output_dim": len(renamed["context_network.1.bias"])} if operation == "concatenation" else {}
        )
        module = cls(
            widths,
            state["fusion_encoder.layer_normalization.weight"].shape[0],
            operation=operation,
            **wide,
            context_dim=renamed["context_vectors.0"].shape[1],
            heads=heads,
            layers=layers,
            feedforward=renamed["encoder.layers.0.linear1.weight"].shape[0],
            official_padding=True,
            additive_tanh=names[0] != "text",
        ).to(renamed["norm.weight"].dtype)
        module.load_state_dict(renamed)
        return module


def _head(width: int, dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim), nn.Dropout(dropout), nn.LayerNorm(dim))


def _operation(state: Mapping[str, Tensor]) -> Operation:
    if "fusion_encoder.bahdanau_attention.linear_projection.weight" in state:
        return "additive"
    if "fusion_encoder.luong_attention.linear_projection.weight" in state:
        return "general"
    if any(".scaled_dot_" in key for key in state):
        return "scaled_dot"
    if "fusion_encoder.projection.0.weight" in state:
        return "concatenation"
    return "addition"


def _rename(state: Mapping[str, Tensor], names: tuple[str, str]) -> dict[str, Tensor]:
    prefixes = {
        "fusion_encoder.layer_normalization.": "norm.",
        "fusion_encoder.transformer_encoder.": "encoder.",
        "fusion_encoder.projection.": "join.",
        "fusion_encoder.bahdanau_attention.value_projection.": "key.",
        "fusion_encoder.bahdanau_attention.context_projection.": "query.",
        "fusion_encoder.bahdanau_attention.linear_projection.": "score.",
        "fusion_encoder.luong_attention.linear_projection.": "key.",
        "context_encoder.model.": "context_network.",
    }
    for module in ("scaled_dot_product", "scaled_dot_attention"):
        prefixes |= {f"fusion_encoder.{module}.{part}.": f"{part}." for part in ("query", "key", "value")}
    for index, name in enumerate(names):
        head = f"{name}_encoder.projection_head"
        for layer, position in (("linear_layer1", 0), ("linear_layer2", 2), ("normalization_layer", 4)):
            prefixes[f"{head}.{layer}."] = f"heads.{index}.{position}."
        for context in (f"{name}_context", ("text_context", "image_context")[index]):
            prefixes[f"context_encoder.{context}"] = f"context_vectors.{index}"
    renamed = {}
    for key, value in state.items():
        for old, new in prefixes.items():
            if key.startswith(old):
                renamed[new + key.removeprefix(old)] = value
                break
    return renamed

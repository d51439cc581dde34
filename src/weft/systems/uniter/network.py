r"""One BERT over the words of a sentence and the regions of a picture.

.. math::
    e_t &= \mathrm{LN}(\mathrm{Word}[w_t] + \mathrm{Pos}[t] + \mathrm{Type}[0])                      && (B, T, H) \\
    v_k &= \mathrm{LN}(\mathrm{LN}_f(W_f r_k + b_f) + \mathrm{LN}_p(W_p l_k + b_p) + \mathrm{Type}[1]) && (B, K, H) \\
    h &= \mathrm{BERT}(e_1 \dots e_{T_b}, v_1 \dots v_{K_b}), \qquad
    p = \tanh(W h_{[CLS]} + b)                                                          && (B, L, H), (B, H)

Region features ``r`` ``(B, K, F)`` with places ``l`` ``(B, K, 7)``: ``x1, y1, x2, y2, w, h, w h`` by the size of the
picture. A masked region enters as the learned vector ``mask_embedding[1]`` in place of its features; its place stays.
Rows are compacted: words, then regions, then padding, as long as the longest row needs (:func:`compact`).

Cost: 86 M weights at base size besides the word embeddings; attention is quadratic in ``max(T_b + K_b)``.

When not to use it: retrieval over many pairs (every pair is one pass; aligners encode each side once); no region
features (a grid of a frozen backbone's cells is what remains).

Source: Chen et al., "UNITER: UNiversal Image-TExt Representation Learning", ECCV 2020, arXiv 1909.11740; names of the
weights as in the published code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import BertConfig

from weft.errors import UserError
from weft.tokens import Tokens

LOCATION = 7


class Compacted(NamedTuple):
    """A batch of joint sequences.

    Attributes:
        tokens: values ``(B, L, H)`` and mask ``(B, L)``; values at padding mean nothing.
        words: ``(B,)``, number of words ``T_b``, first in each row.
        regions: ``(B,)``, number of regions ``K_b``, which follow.
    """

    tokens: Tokens
    words: Tensor
    regions: Tensor

    def text(self) -> Tokens:
        """The words alone, ``(B, max T_b, H)``, zero at padding."""
        return _window(self.tokens.values, torch.zeros_like(self.words), self.words)

    def image(self) -> Tokens:
        """The regions alone, ``(B, max K_b, H)``, zero at padding."""
        return _window(self.tokens.values, self.words, self.regions)


def gather_index(words: Tensor, regions: Tensor, width: int) -> Tensor:
    """Where each place of the compacted rows comes from in ``[words padded to width ; regions]``, ``(B, L)``.

    Places past a row's end point at anything; they are padding.
    """
    place = torch.arange(int((words + regions).max()), device=words.device).expand(len(words), -1)
    from_image = (place >= words[:, None]) & (place < (words + regions)[:, None])
    return torch.where(from_image, place - words[:, None] + width, place)


def compact(text: Tokens, image: Tokens) -> Compacted:
    """Words, then regions, then padding, ``(B, max(T_b + K_b), H)``; padding of both is at the end of the rows.

    Raises:
        UserError: a row has no word or no region, or padding stands before a real token.
    """
    for name, mask in (("text", text.mask), ("image", image.mask)):
        wrong = ~mask[:, :1].any(dim=1) | (mask[:, 1:] & ~mask[:, :-1]).any(dim=1)
        if wrong.any():
            found = f"row {int(wrong.nonzero()[0])} of {name} is empty or starts with padding or has a gap"
            raise UserError(
                "UNITER reads rows of real tokens followed by padding", found, "drop the row or move padding"
            )
    words, regions = text.mask.sum(dim=1), image.mask.sum(dim=1)
    index = gather_index(words, regions, text.mask.shape[1])
    joint = torch.cat([text.values, image.values], dim=1)
    values = joint.gather(1, index[..., None].expand(-1, -1, joint.shape[-1]))
    place = torch.arange(index.shape[1], device=words.device)
    return Compacted(Tokens(values, place < (words + regions)[:, None]), words, regions)


class RegionEmbeddings(nn.Module):
    """Regions as tokens: ``(B, K, F)`` and ``(B, K, 7)`` become ``(B, K, H)``.

    Args:
        config: of the BERT.
        region_dim: ``F``.
    """

    def __init__(self, config: BertConfig, region_dim: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.img_linear = nn.Linear(region_dim, width)
        self.img_layer_norm = nn.LayerNorm(width, eps=eps)
        self.pos_layer_norm = nn.LayerNorm(width, eps=eps)
        self.pos_linear = nn.Linear(LOCATION, width)
        self.mask_embedding = nn.Embedding(2, region_dim, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, features: Tensor, places: Tensor, types: Tensor, masked: Tensor | None = None) -> Tensor:
        """``types``: ``(B, K, H)`` or broadcastable, embedded; ``masked``: ``(B, K)`` bool, regions to hide."""
        if masked is not None:
            features = features.masked_fill(masked[..., None], 0) + masked[..., None] * self.mask_embedding.weight[1]
        embedded = self.img_layer_norm(self.img_linear(features)) + self.pos_layer_norm(self.pos_linear(places))
        return self.dropout(self.LayerNorm(embedded + types))


class UniterNet(nn.Module):
    """The trunk.

    Args:
        config: of the BERT: sizes, dropout, vocabulary, number of types.
        region_dim: width of the region features.
    """

    def __init__(self, config: BertConfig, region_dim: int) -> None:
        super().__init__()
        config._attn_implementation = "sdpa"
        from transformers.models.bert.modeling_bert import BertEmbeddings, BertEncoder, BertPooler  # slow

        self.embeddings = BertEmbeddings(config)
        self.img_embeddings = RegionEmbeddings(config, region_dim)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config)
        self.apply(initialiser(config))

    def forward(
        self,
        ids: Tensor,
        ids_mask: Tensor,
        regions: Tokens,
        places: Tensor,
        *,
        masked: Tensor | None = None,
        text_types: Tensor | None = None,
        image_types: Tensor | None = None,
    ) -> Compacted:
        """The joint sequence ``h``.

        Args:
            ids: ``(B, T)``, word pieces from [CLS] to [SEP]; ids_mask: ``(B, T)`` bool.
            regions: ``(B, K, F)``.
            places: ``(B, K, 7)``.
            masked: ``(B, K)`` bool, regions to hide.
            text_types, image_types: rows of the table of types, ``(B, T)`` and ``(B, K)``; 0 and 1 if not given.

        Raises:
            UserError: a sentence longer than the positions; see :func:`compact`.
        """
        sequence = self.embed(
            ids, ids_mask, regions, places, masked=masked, text_types=text_types, image_types=image_types
        )
        values, mask = sequence.tokens
        blocked = torch.zeros(mask.shape, dtype=values.dtype, device=mask.device).masked_fill(~mask, -1e4)
        values = self.encoder(values, attention_mask=blocked[:, None, None]).last_hidden_state
        return sequence._replace(tokens=Tokens(values, mask))

    def embed(
        self,
        ids: Tensor,
        ids_mask: Tensor,
        regions: Tokens,
        places: Tensor,
        *,
        masked: Tensor | None = None,
        text_types: Tensor | None = None,
        image_types: Tensor | None = None,
    ) -> Compacted:
        """The joint sequence before the first layer; arguments as in ``forward``.

        Raises:
            UserError: more word pieces than there are positions.
        """
        longest = self.embeddings.position_embeddings.num_embeddings
        if ids.shape[1] > longest:
            raise UserError(f"UNITER reads at most {longest} word pieces", f"{ids.shape[1]}", "cut the text")
        text = self.embeddings(input_ids=ids, token_type_ids=text_types)
        if image_types is None:
            image_types = torch.ones_like(ids[:, :1])
        types = self.embeddings.token_type_embeddings(image_types)
        image = self.img_embeddings(regions.values, places, types, masked)
        return compact(Tokens(text, ids_mask), Tokens(image, regions.mask))

    def pooled(self, sequence: Compacted) -> Tensor:
        """``p``, ``(B, H)``."""
        return self.pooler(sequence.tokens.values)


def bert_config(state: Mapping[str, Tensor], *, heads: int, dropout: float = 0.1) -> BertConfig:
    """The configuration that weights under the published names (``uniter.*``) belong to; ``KeyError`` if not there."""
    vocabulary, width = state["uniter.embeddings.word_embeddings.weight"].shape
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=sum(name.endswith("attention.self.query.weight") for name in state),
        num_attention_heads=heads,
        intermediate_size=len(state["uniter.encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=len(state["uniter.embeddings.position_embeddings.weight"]),
        type_vocab_size=len(state["uniter.embeddings.token_type_embeddings.weight"]),
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def _window(values: Tensor, start: Tensor, length: Tensor) -> Tokens:
    place = torch.arange(int(length.max()), device=values.device)
    mask = place < length[:, None]
    index = ((start[:, None] + place) * mask)[..., None].expand(-1, -1, values.shape[-1])
    return Tokens(values.gather(1, index) * mask[..., None], mask)


def initialiser(config: BertConfig) -> Callable[[nn.Module], None]:
    """What gives the first weights: normal with a deviation of 0.02, as published for widths of 768 and more; wider in
    a narrower BERT, whose sums have fewer terms."""
    return partial(_initialise, std=0.02 * max(1.0, 768 / config.hidden_size) ** 0.5)


def _initialise(module: nn.Module, std: float) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx].detach())

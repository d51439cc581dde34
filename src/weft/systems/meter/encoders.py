"""METER's encoders: CLIP's image tower as METER changes it, and BERT or RoBERTa without a pooler.

The tower is CLIP's without its last block, with the final norm on every token. Source: Radford et al., "Learning
Transferable Visual Models From Natural Language Supervision", ICML 2021; Devlin et al., "BERT", NAACL 2019; as in Dou
et al., METER, CVPR 2022, arXiv 2111.02387.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.fusion.bert import EPS, BertLayer, load_official
from weft.tokens import Tokens


class ClipBlock(nn.Module):
    """One pre-norm block of CLIP's image tower, ``(B, N, D)`` to the same."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(dim, 4 * dim), "c_proj": nn.Linear(4 * dim, dim)})

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        h = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](h * torch.sigmoid(1.702 * h))


BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
"""Names of transformers in a block, and of CLIP."""


class ClipTower(nn.Module):
    """CLIP's image tower as METER uses it.

    Args:
        dim, heads: of the tokens; CLIP has ``dim / 64`` heads.
        blocks: one less than CLIP's own number.
        patch, size: pixels along a side of a patch and of the image.
    """

    def __init__(self, dim: int, heads: int, blocks: int, patch: int, size: int) -> None:
        super().__init__()
        if size < patch:
            raise UserError("an image holds one patch or more", f"{size} pixels, patch={patch}", "more pixels")
        self.patch = patch
        self.class_embedding = nn.Parameter(torch.randn(dim) * dim**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn((size // patch) ** 2 + 1, dim) * dim**-0.5)
        self.conv1 = nn.Conv2d(3, dim, patch, patch, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(ClipBlock(dim, heads) for _ in range(blocks))})

    def forward(self, image: Tensor) -> Tensor:
        """All tokens ``(B, (R / patch)^2 + 1, D)`` of images ``(B, 3, R, R)``.

        Raises:
            UserError: the image is of another size than the positions.
        """
        grid = self.conv1(image).flatten(2).transpose(1, 2)
        if grid.shape[1] + 1 != len(self.positional_embedding):
            raise UserError(
                "the image has as many patches as the tower has positions",
                f"image {tuple(image.shape)}, patch {self.patch}, positions {len(self.positional_embedding)}",
                "resize the image, or the positions with resize_positions()",
            )
        first = self.class_embedding.expand(len(grid), 1, -1)
        x = self.ln_pre(torch.cat([first, grid], dim=1) + self.positional_embedding)
        blocks: Any = self.transformer["resblocks"]
        for block in blocks:
            x = block(x)
        return self.ln_post(x)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], *, heads: int | None = None, size: int | None = None) -> Self:
        """From the tensors of a checkpoint; ``size``: the image side, where it differs from the checkpoint's."""
        dim, _, patch, _ = state["conv1.weight"].shape
        positions = state["positional_embedding"]
        size = size or round((len(positions) - 1) ** 0.5) * patch
        blocks = count(state, "transformer.resblocks.")
        tower = cls(dim, heads or dim // 64, blocks, patch, size).to(positions.dtype)
        tower.load_state_dict({**state, "positional_embedding": resize_positions(positions, size // patch)})
        return tower

    @classmethod
    def from_transformers(cls, model: nn.Module, *, size: int | None = None) -> Self:
        """From the ``CLIPVisionModel`` of transformers, which has a block more; ``size``: as above."""
        config: Any = model.config
        named = {name.removeprefix("vision_model."): tensor for name, tensor in model.state_dict().items()}
        state = {
            "class_embedding": named["embeddings.class_embedding"],
            "positional_embedding": named["embeddings.position_embedding.weight"],
            "conv1.weight": named["embeddings.patch_embedding.weight"],
        }
        state |= {f"ln_pre.{kind}": named[f"pre_layrnorm.{kind}"] for kind in ("weight", "bias")}
        state |= {f"ln_post.{kind}": named[f"post_layernorm.{kind}"] for kind in ("weight", "bias")}
        for block in range(config.num_hidden_layers - 1):
            here, there = f"encoder.layers.{block}.", f"transformer.resblocks.{block}."
            for kind in ("weight", "bias"):
                inputs = [named[f"{here}self_attn.{part}_proj.{kind}"] for part in "qkv"]
                state[f"{there}attn.in_proj_{kind}"] = torch.cat(inputs)
                for old, new in BLOCK.items():
                    state[f"{there}{new}.{kind}"] = named[f"{here}{old}.{kind}"]
        return cls.from_official(state, heads=config.num_attention_heads, size=size)


class Places(nn.Module):
    """A learned place for each of ``count`` frozen image tokens ``(B, count, D)``, which know of none; added to them.

    Ours: the published towers learn places along.
    """

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.places = nn.Parameter(0.3 * torch.randn(count, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] != len(self.places):
            found = f"{tokens.shape[1]} tokens, trained with {len(self.places)}"
            raise UserError("every picture has as many tokens", found, "use an encoder with a fixed grid")
        return tokens + self.places


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Positions ``(1 + g^2, D)`` for a grid of ``side x side`` patches, bicubic; the first row stays as it is.

    Raises:
        UserError: the positions are not one row and a square grid.
    """
    old = round((len(positions) - 1) ** 0.5)
    if old * old + 1 != len(positions):
        raise UserError("positions are one row and a square grid", f"{len(positions)} rows", "give 1 + g^2 rows")
    if old == side:
        return positions
    grid = positions[1:].unflatten(0, (old, old)).permute(2, 0, 1).unsqueeze(0)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], grid[0].flatten(1).T])


COUNTS_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")


class TextEncoder(nn.Module):
    """BERT or RoBERTa without a pooler, ``(B, L)`` ids to ``(B, L, D)``.

    Args:
        vocabulary, positions, types: rows of the embedding tables.
        dim, heads, hidden, layers: of the layers.
        padding: the padding id where positions count the real tokens from ``padding + 1`` (RoBERTa); None: they count
            from 0 (BERT).
        dropout: as in :class:`~weft.fusion.bert.BertLayer`, and on the embeddings.
        eps: of the layer norms; None: as published, 1e-12 for BERT and 1e-5 for RoBERTa.
    """

    def __init__(
        self,
        vocabulary: int,
        positions: int,
        types: int,
        dim: int,
        heads: int,
        hidden: int,
        layers: int,
        padding: int | None,
        dropout: float = 0.0,
        eps: float | None = None,
    ) -> None:
        super().__init__()
        self.padding = padding
        eps = eps or (EPS if padding is None else 1e-5)
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(vocabulary, dim),
                "position_embeddings": nn.Embedding(positions, dim),
                "token_type_embeddings": nn.Embedding(types, dim),
                "LayerNorm": nn.LayerNorm(dim, eps=eps),
            }
        )
        self.dropout = nn.Dropout(dropout)
        made = (BertLayer(dim, heads, hidden, dropout, cross=False, eps=eps) for _ in range(layers))
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(made)})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Of ids and their mask ``(B, L)``. Rows under the mask mean nothing."""
        if self.padding is None:
            places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        else:
            real = ids != self.padding
            places = real.cumsum(dim=1) * real + self.padding
        table = self.embeddings
        x = table["word_embeddings"](ids) + table["position_embeddings"](places)
        x = x + table["token_type_embeddings"](torch.zeros_like(ids))
        x = self.dropout(table["LayerNorm"](x))
        layers: Any = self.encoder["layer"]
        for layer in layers:
            x = layer(Tokens(x, mask)).values
        return x

    @classmethod
    def from_transformers(cls, model: nn.Module) -> Self:
        """From a ``BertModel`` or ``RobertaModel`` of transformers; its pooler is left out."""
        c: Any = model.config
        made = cls(
            c.vocab_size,
            c.max_position_embeddings,
            c.type_vocab_size,
            c.hidden_size,
            c.num_attention_heads,
            c.intermediate_size,
            c.num_hidden_layers,
            c.pad_token_id if c.model_type in COUNTS_FROM_PADDING else None,
            c.hidden_dropout_prob,
            c.layer_norm_eps,
        ).to(next(model.parameters()).dtype)
        state = model.state_dict()
        load_official(made, {name: state[name] for name in state if name.startswith(("embeddings.", "encoder."))})
        return made


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many entries of a list a checkpoint holds."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})

r"""METER's network: two encoders in full, co-attention over their tokens, poolers and heads.

.. math::
    x^0 = W_t\,\mathrm{text} + b_t + e_0 \quad (B, L, H), \quad y^0 = W_v\,\mathrm{image} + b_v + e_k \quad (B, N, H) \\
    c = [\tanh(W x_0 + b); \tanh(W' y_0 + b')] \quad (B, 2H) \quad \text{after the layers of } \texttt{co-attention}

Parameters carry the names of the published checkpoints, but for the biases of keys, which cancel in the softmax and are
left out. The image tower is CLIP's without its last block, with the final norm on every token.

Cost: ``32 H^2`` weights per layer of co-attention beside the encoders; about 345 M for CLIP ViT-B/16 and RoBERTa-base.

When not to use it: frozen features in a store; the fusion ``co-attention`` is the middle part alone.

Source: Dou et al., "An Empirical Study of Training End-to-End Vision-and-Language Transformers" (METER), CVPR 2022,
arXiv 2111.02387; code zdou0830/METER (MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.fusion.bert import EPS, BertLayer, load_official
from weft.fusion.co_attention import step
from weft.tokens import Tokens, everywhere


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


class ClipTower(nn.Module):
    """CLIP's image tower as METER uses it.

    Args:
        dim, heads: of the tokens; CLIP has ``dim / 64`` heads.
        blocks: one less than CLIP's own number.
        patch, size: pixels along a side of a patch and of the image.
    """

    def __init__(self, dim: int, heads: int, blocks: int, patch: int, size: int) -> None:
        super().__init__()
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


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Positions ``(1 + g^2, D)`` for a grid of ``side x side`` patches, bicubic; the first row stays as it is."""
    old = round((len(positions) - 1) ** 0.5)
    if old * old + 1 != len(positions):
        raise UserError("positions are one row and a square grid", f"{len(positions)} rows", "give 1 + g^2 rows")
    if old == side:
        return positions
    grid = positions[1:].unflatten(0, (old, old)).permute(2, 0, 1).unsqueeze(0)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], grid[0].flatten(1).T])


class TextEncoder(nn.Module):
    """BERT or RoBERTa without a pooler, ``(B, L)`` ids to ``(B, L, D)``.

    Args:
        vocabulary, positions, types: rows of the embedding tables.
        dim, heads, hidden, layers: of the layers.
        padding: the padding id where positions count the real tokens from ``padding + 1`` (RoBERTa); None: they count
            from 0 (BERT).
        dropout: as in :class:`~weft.fusion.bert.BertLayer`, and on the embeddings.
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
    ) -> None:
        super().__init__()
        self.padding = padding
        eps = EPS if padding is None else 1e-5
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


class MlmHead(nn.Module):
    """Logits over the vocabulary ``(B, L, V)`` for every token ``(B, L, H)``."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = nn.ModuleDict({"dense": nn.Linear(dim, dim), "LayerNorm": nn.LayerNorm(dim, eps=EPS)})
        self.decoder = nn.Linear(dim, vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform["LayerNorm"](F.gelu(self.transform["dense"](x)))) + self.bias


def classifier(inner: int, dim: int, classes: int) -> nn.Sequential:
    """The head of a task: Linear, LayerNorm, GELU, Linear."""
    return nn.Sequential(nn.Linear(inner, dim), nn.LayerNorm(dim), nn.GELU(), nn.Linear(dim, classes))


class Joint(NamedTuple):
    """``text`` ``(B, L, H)``, ``image`` ``(B, N, H)`` after fusion, and ``cls`` ``(B, 2H)``."""

    text: Tensor
    image: Tensor
    cls: Tensor


HEADS = ("mlm", "itm", "vqa", "nlvr2", "snli", "rank")


class MeterNet(nn.Module):
    """The whole network.

    Args:
        text, image: the encoders.
        widths: features of a text and of an image token.
        dim, heads, hidden, layers: of co-attention.
        types: rows of the token-type table; 3 where two images come with a text.
        outputs: of the heads it has, ``{"vqa": 3129, "mlm": vocabulary, ...}``, among those of ``HEADS``.
        dropout: in co-attention.
        mean_image: pool the mean of the image tokens (Swin), not the first (CLIP).
    """

    cross_modal_text_transform: nn.Linear
    cross_modal_image_transform: nn.Linear
    cross_modal_text_layers: nn.ModuleList
    cross_modal_image_layers: nn.ModuleList
    cross_modal_text_pooler: nn.ModuleDict
    cross_modal_image_pooler: nn.ModuleDict
    nlvr2_classifier: nn.Sequential

    def __init__(
        self,
        text: nn.Module,
        image: nn.Module,
        widths: tuple[int, int],
        dim: int = 768,
        heads: int = 12,
        hidden: int | None = None,
        layers: int = 6,
        types: int = 2,
        outputs: Mapping[str, int] | None = None,
        dropout: float = 0.1,
        mean_image: bool = False,
    ) -> None:
        super().__init__()
        self.mean_image = mean_image
        self.text_transformer = text
        self.vit_model = nn.ModuleDict({"visual": image})
        self.token_type_embeddings = nn.Embedding(types, dim)
        for name, width in zip(("text", "image"), widths, strict=True):
            made = (BertLayer(dim, heads, hidden, dropout, cross=True) for _ in range(layers))
            self.add_module(f"cross_modal_{name}_transform", nn.Linear(width, dim))
            self.add_module(f"cross_modal_{name}_layers", nn.ModuleList(made))
            self.add_module(f"cross_modal_{name}_pooler", nn.ModuleDict({"dense": nn.Linear(dim, dim)}))
        for name, out in (outputs or {}).items():
            if name == "mlm":
                self.mlm_score = MlmHead(dim, out)
            elif name == "itm":
                self.itm_score = nn.ModuleDict({"fc": nn.Linear(2 * dim, out)})
            elif name == "rank":
                self.rank_output = nn.Linear(2 * dim, out)
            elif name in HEADS:
                inner = 4 * dim if name == "nlvr2" else 2 * dim
                self.add_module(f"{name}_classifier", classifier(inner, 2 * dim, out))
            else:
                raise UserError("METER has no such head", repr(name), f"choose among {', '.join(HEADS)}")

    def forward(self, ids: Tensor, mask: Tensor, image: Tensor, image_type: int = 1) -> Joint:
        """Of text ids and mask ``(B, L)`` and images ``(B, 3, R, R)``."""
        pixels = self.vit_model["visual"](image)
        kinds = self.token_type_embeddings.weight
        x = Tokens(self.cross_modal_text_transform(self.text_transformer(ids, mask)) + kinds[0], mask)
        y = Tokens(
            self.cross_modal_image_transform(pixels) + kinds[image_type],
            everywhere(*pixels.shape[:2], device=pixels.device),
        )
        for first, second in zip(self.cross_modal_text_layers, self.cross_modal_image_layers, strict=True):
            x, y = step(nn.ModuleList([first, second]), x, y)
        seen = y.values.mean(dim=1) if self.mean_image else y.values[:, 0]
        cls = [
            torch.tanh(self.cross_modal_text_pooler["dense"](x.values[:, 0])),
            torch.tanh(self.cross_modal_image_pooler["dense"](seen)),
        ]
        return Joint(x.values, y.values, torch.cat(cls, dim=1))

    def nlvr2(self, ids: Tensor, mask: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Logits ``(B, 2)`` of a sentence about two images."""
        passes = [self(ids, mask, image, k).cls for k, image in ((1, first), (2, second))]
        return self.nlvr2_classifier(torch.cat(passes, dim=1))

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: int,
        text_heads: int,
        image_heads: int | None = None,
        padding: int | None = 1,
        size: int | None = None,
    ) -> Self:
        """A published checkpoint, for evaluation (no dropout).

        One without a CLIP tower (Swin) takes image tokens ``(B, N, D_v)`` in place of images, and pools their mean.

        Args:
            state: its tensors.
            heads, text_heads, image_heads: attention heads, which it does not say; CLIP has ``width / 64``.
            padding: see :class:`TextEncoder`; 1 for RoBERTa, None for BERT.
            size: the image side, where it differs from the checkpoint's.
        """
        tower = {n.removeprefix(VISUAL): t for n, t in state.items() if n.startswith(VISUAL)}
        image = ClipTower.from_official(tower, heads=image_heads, size=size) if tower else None
        table = {n: len(state[f"{TEXT}embeddings.{n}_embeddings.weight"]) for n in ("word", "position", "token_type")}
        width = state[f"{TEXT}embeddings.word_embeddings.weight"].shape[1]
        inner = len(state[f"{TEXT}encoder.layer.0.intermediate.dense.bias"])
        depth = count(state, f"{TEXT}encoder.layer.")
        text = TextEncoder(
            table["word"], table["position"], table["token_type"], width, text_heads, inner, depth, padding
        )
        ends = {"mlm": "mlm_score.bias", "itm": "itm_score.fc.bias", "rank": "rank_output.bias"}
        ends |= {name: f"{name}_classifier.3.bias" for name in ("vqa", "nlvr2", "snli")}
        types, dim = state["token_type_embeddings.weight"].shape
        net = cls(
            text,
            image or nn.Identity(),
            (width, state["cross_modal_image_transform.weight"].shape[1]),
            dim,
            heads,
            len(state["cross_modal_text_layers.0.intermediate.dense.bias"]),
            count(state, "cross_modal_text_layers."),
            types,
            {name: len(state[end]) for name, end in ends.items() if end in state},
            dropout=0.0,
            mean_image=image is None,
        ).to(state["token_type_embeddings.weight"].dtype)
        resized = {f"{VISUAL}positional_embedding": image.positional_embedding.detach()} if image else {}
        load_official(net, {**state, **resized})
        return net


VISUAL, TEXT = "vit_model.visual.", "text_transformer."


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many entries of a list a checkpoint holds."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def vqa_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy against soft scores ``(B, answers)``: the sum over answers, the mean over the batch."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the masked tokens: logits ``(B, L, V)``, labels ``(B, L)`` with -100 where none is asked."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)

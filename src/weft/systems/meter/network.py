r"""METER's network: two encoders in full, co-attention (or merged attention) over their tokens, poolers and heads.

.. math::
    x^0 = W_t\,\mathrm{text} + b_t + e_0 \quad (B, L, H), \quad y^0 = W_v\,\mathrm{image} + b_v + e_k \quad (B, N, H) \\
    c = [\tanh(W x_0 + b); \tanh(W' y_0 + b')] \quad (B, 2H) \quad \text{after the layers of } \texttt{co-attention}

Parameters carry the names of the published checkpoints, but for the biases of keys, which cancel in the softmax and are
left out. With ``fusion="merged"`` one sequence ``[x; y]`` goes through the layers of ``merged-attention`` (from the
text of the paper; the published code has none). Without an image the question is answered alone: merged attention over
``x``, and zeros for the second half of ``c``. With a ``decoder`` (:mod:`.decoder`, reconstructed) ``c`` ``(B, H)`` is
what it says at the first token of the text.

Cost: ``32 H^2`` weights per layer of co-attention, ``12 H^2`` per merged one, beside the encoders.

When not to use it: frozen features in a store; the fusions ``co-attention`` and ``merged-attention`` are the middle
part alone.

Source: Dou et al., "An Empirical Study of Training End-to-End Vision-and-Language Transformers" (METER), CVPR 2022,
arXiv 2111.02387; code zdou0830/METER (MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.fusion.bert import BertLayer, load_official
from weft.fusion.co_attention import step
from weft.systems.meter.encoders import ClipTower, TextEncoder, count
from weft.systems.meter.heads import MlmHead, classifier, region_head
from weft.tokens import Tokens, concatenate, everywhere, mean_pool


class Joint(NamedTuple):
    """``text`` ``(B, L, H)``, ``image`` ``(B, N, H)`` after fusion; ``cls`` ``(B, 2H)``, of a decoder ``(B, H)``."""

    text: Tensor
    image: Tensor
    cls: Tensor


HEADS = ("mlm", "itm", "mim", "mim_codes", "vqa", "nlvr2", "snli", "rank")
Kind = Literal["co", "merged"]


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
        fusion: ``"co"`` or ``"merged"``.
        decoder: over the fused tokens; None: encoder-only.
    """

    cross_modal_text_transform: nn.Linear
    cross_modal_image_transform: nn.Linear
    cross_modal_text_layers: nn.ModuleList
    cross_modal_image_layers: nn.ModuleList
    cross_modal_layers: nn.ModuleList
    cross_modal_text_pooler: nn.ModuleDict
    cross_modal_image_pooler: nn.ModuleDict
    nlvr2_classifier: nn.Sequential
    mim_score: nn.Sequential
    mim_codes_score: nn.Sequential
    rank_output: nn.Linear

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
        fusion: Kind = "co",
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.cross_modal_decoder = decoder
        inner = (1 if decoder else 2) * dim
        self.mean_image, self.fusion = mean_image, fusion
        self.text_transformer = text
        self.vit_model = nn.ModuleDict({"visual": image})
        self.token_type_embeddings = nn.Embedding(types, dim)
        for name, width in zip(("text", "image"), widths, strict=True):
            self.add_module(f"cross_modal_{name}_transform", nn.Linear(width, dim))
            if fusion == "co":
                made = (BertLayer(dim, heads, hidden, dropout, cross=True) for _ in range(layers))
                self.add_module(f"cross_modal_{name}_layers", nn.ModuleList(made))
            self.add_module(f"cross_modal_{name}_pooler", nn.ModuleDict({"dense": nn.Linear(dim, dim)}))
        if fusion == "merged":
            merged = (BertLayer(dim, heads, hidden, dropout, cross=False) for _ in range(layers))
            self.cross_modal_layers = nn.ModuleList(merged)
        for name, out in (outputs or {}).items():
            if name == "mlm":
                self.mlm_score = MlmHead(dim, out)
            elif name == "itm":
                self.itm_score = nn.ModuleDict({"fc": nn.Linear(inner, out)})
            elif name in ("mim", "mim_codes"):
                self.add_module(f"{name}_score", region_head(dim, out))
            elif name == "rank":
                self.rank_output = nn.Linear(inner, out)
            elif name in HEADS:
                wide = 2 * inner if name == "nlvr2" else inner
                self.add_module(f"{name}_classifier", classifier(wide, 2 * dim, out))
            else:
                raise UserError("METER has no such head", repr(name), f"choose among {', '.join(HEADS)}")

    def forward(self, ids: Tensor, mask: Tensor, image: Tensor | Tokens | None, image_type: int = 1) -> Joint:
        """Of text ids and mask ``(B, L)`` and images ``(B, 3, R, R)``, or image tokens ``(B, N, D_v)`` read before.

        Raises:
            UserError: there is no image, and the layers are those of co-attention.
        """
        x, y = self.join(ids, mask, image, image_type)
        if self.cross_modal_decoder is not None:
            said = self.cross_modal_decoder(ids[:, :1], mask[:, :1], concatenate([x, y]))
            return Joint(x.values, y.values, said[:, 0])
        cls = torch.tanh(self.cross_modal_text_pooler["dense"](x.values[:, 0]))
        if image is None:
            return Joint(x.values, y.values, torch.cat([cls, torch.zeros_like(cls)], dim=1))
        first = mean_pool(y) if self.mean_image else y.values[:, 0]
        other = torch.tanh(self.cross_modal_image_pooler["dense"](first))
        return Joint(x.values, y.values, torch.cat([cls, other], dim=1))

    def join(self, ids: Tensor, mask: Tensor, image: Tensor | Tokens | None, image_type: int = 1) -> list[Tokens]:
        """Text ``(B, L, H)`` and image ``(B, N, H)`` after fusion; arguments as of ``forward``."""
        kinds = self.token_type_embeddings.weight
        x = Tokens(self.cross_modal_text_transform(self.text_transformer(ids, mask)) + kinds[0], mask)
        y = Tokens(x.values[:, :0], mask[:, :0])
        if image is not None:
            seen = self.see(image)
            y = Tokens(self.cross_modal_image_transform(seen.values) + kinds[image_type], seen.mask)
        elif self.fusion == "co":
            raise UserError("co-attention needs an image", "none", "use fusion='merged' for text alone")
        return self.fuse(x, y)

    def see(self, image: Tensor | Tokens) -> Tokens:
        """The image's tokens ``(B, N, D_v)``, as they enter."""
        if isinstance(image, Tokens):
            return Tokens(self.vit_model["visual"](image.values), image.mask)
        pixels = self.vit_model["visual"](image)
        return Tokens(pixels, everywhere(*pixels.shape[:2], device=pixels.device))

    def fuse(self, x: Tokens, y: Tokens) -> list[Tokens]:
        """Text ``(B, L, H)`` and image ``(B, N, H)`` after the layers."""
        if self.fusion == "co":
            for first, second in zip(self.cross_modal_text_layers, self.cross_modal_image_layers, strict=True):
                x, y = step(nn.ModuleList([first, second]), x, y)
            return [x, y]
        h, cut = concatenate([x, y]), x.mask.shape[1]
        for layer in self.cross_modal_layers:
            h = layer(h)
        return [Tokens(h.values[:, :cut], x.mask), Tokens(h.values[:, cut:], y.mask)]

    def nlvr2(self, ids: Tensor, mask: Tensor, first: Tensor | Tokens, second: Tensor | Tokens) -> Tensor:
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

r"""The decoder of NLX-GPT: GPT-2 with cross-attention to image features, and the head that names concepts.

With word, position and segment embeddings (a segment is a token of the vocabulary),

.. math::

    h &= W_{ids} + P + W_{segments} \\
    h &\leftarrow h + \mathrm{SelfAttn}(\mathrm{ln}_1 h), \quad
    h \leftarrow h + \mathrm{CrossAttn}(\mathrm{ln}_c h, K = V = \mathrm{image}), \quad
    h \leftarrow h + \mathrm{MLP}(\mathrm{ln}_2 h) \\
    \mathrm{logits} &= \mathrm{ln}_f(h)\, W^\top

which is ``GPT2Model`` of transformers with ``add_cross_attention``, under the published weights' names. For
visual commonsense reasoning a box of 8 numbers and its number are embedded and added as well.

Source: Sammani et al., "NLX-GPT: A Model for Natural Language Explanations in Vision and Vision-Language Tasks",
CVPR 2022 (arXiv 2203.05081), sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.ops.sampling import next_token
from weft.tokens import Tokens

IGNORED = -100
BOX = 8
BUFFERS = (".attn.bias", ".attn.masked_bias")
"""Causal masks, which older checkpoints hold."""


class Decoder(nn.Module):
    """Text after a prompt, given image features.

    Args:
        gpt2: settings of ``transformers.GPT2Config``.
        features: width of the image features; projected to ``n_embd`` where it is another (published: it is not).
        boxes: embed boxes.
        places: image tokens that learn where they are (later ones share the last place), for encoders that do not say
            it; published: 0.
    """

    def __init__(self, gpt2: Mapping[str, Any], features: int, *, boxes: bool = False, places: int = 0) -> None:
        super().__init__()
        import transformers

        ends = dict.fromkeys(("bos_token_id", "eos_token_id"))
        config = transformers.GPT2Config(**{**ends, **gpt2, "add_cross_attention": True})
        self.transformer = transformers.GPT2Model(config)
        width, self.positions = config.n_embd, config.n_positions
        self.project = nn.Identity() if features == width else nn.Linear(features, width)
        self.box_embed = nn.Linear(BOX, width) if boxes else None
        self.place = nn.Parameter(torch.randn(places, width) * config.initializer_range) if places else None

    def load_official(self, state: Mapping[str, Tensor]) -> None:
        """Weights under their published names; a GPT-2 without cross-attention leaves that as it is.

        Raises:
            RuntimeError: shapes differ, or other weights are missing or left over.
        """
        given = {n: v for n, v in state.items() if not n.endswith(BUFFERS) and n != "lm_head.weight"}
        given = {name.replace("transformer.box_embed.", "box_embed."): value for name, value in given.items()}
        new = ("project", "place", "box_embed", "crossattention", "ln_cross_attn")
        own = {n: v for n, v in self.state_dict().items() if any(part in n for part in new)}
        self.load_state_dict({**own, **given})

    def forward(
        self,
        ids: Tensor,
        segments: Tensor | None,
        image: Tokens,
        *,
        boxes: Tensor | None = None,
        box_numbers: Tensor | None = None,
        last: bool = False,
        **options: Any,
    ) -> Any:
        """What GPT-2 gives, and ``logits`` ``(B, T, V)``, or of the last token alone, ``(B, 1, V)``.

        Args:
            ids: ``(B, T)`` tokens; padding on the right needs no mask.
            segments: ``(B, T)`` tokens too; None: no segments.
            image: features ``(B, P, D)``.
            boxes: ``(B, T, 8)``, zeros where a token has none.
            box_numbers: ``(B, T)`` tokens.
            last: whether only the last token's logits are wanted.
            options: of ``GPT2Model.forward``.
        """
        out = self.read(ids, segments, image, boxes=boxes, box_numbers=box_numbers, **options)
        out["logits"] = out.last_hidden_state[:, -1 if last else 0 :] @ self.transformer.wte.weight.T
        return out

    def loss(self, ids: Tensor, segments: Tensor | None, image: Tokens, labels: Tensor, **options: Any) -> Tensor:
        """Loss of each row ``(B,)``; their mean is that over all tokens of the batch whose label is not -100.

        Args:
            ids, segments, image, options: as of :meth:`forward`.
            labels: ``(B, T)`` tokens; logits are computed where there is one.
        """
        hidden = self.read(ids, segments, image, **options).last_hidden_state
        labels = labels[:, 1:]
        asked = labels != IGNORED
        logits = hidden[:, :-1][asked] @ self.transformer.wte.weight.T
        losses = F.cross_entropy(logits, labels[asked], reduction="none")
        sums = losses.new_zeros(len(ids)).index_add(0, asked.nonzero()[:, 0], losses)
        return sums * len(ids) / asked.sum().clamp(min=1)

    def read(
        self,
        ids: Tensor,
        segments: Tensor | None,
        image: Tokens,
        *,
        boxes: Tensor | None = None,
        box_numbers: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """What GPT-2 gives; arguments as of :meth:`forward`."""
        options.setdefault("use_cache", False)
        if self.box_embed is not None and boxes is not None and box_numbers is not None:
            word = self.transformer.wte
            there = (boxes.sum(dim=-1, keepdim=True) != 0).to(boxes.dtype)
            options["inputs_embeds"] = word(ids) + word(box_numbers) + self.box_embed(boxes) * there
        else:
            options["input_ids"] = ids
        seen = self.project(image.values)
        if self.place is not None:
            seen = seen + self.place[torch.arange(seen.shape[1]).clamp(max=len(self.place) - 1)]
        return self.transformer(
            token_type_ids=segments,
            encoder_hidden_states=seen,
            encoder_attention_mask=None if bool(image.mask.all()) else image.mask.long(),
            **options,
        )


@dataclass(frozen=True)
class Marks:
    """Tokens with a meaning: where text ends, and which segment new tokens belong to.

    Attributes:
        stop: any of them ends a text and is no part of it.
        because: from this token on the segment is ``explanation``, before it ``answer``; None: no segments.
    """

    stop: Collection[int]
    because: int | None = None
    answer: int = 0
    explanation: int = 0


@torch.no_grad()
def generate(
    decoder: Decoder,
    prompts: Sequence[tuple[Sequence[int], Sequence[int] | None]],
    image: Tokens,
    marks: Marks,
    *,
    steps: int,
    temperature: float = 0.0,
    top_p: float | None = None,
    cache: bool = True,
) -> list[list[int]]:
    """New tokens after each prompt: the most probable ones, or drawn.

    Args:
        decoder: in evaluation mode.
        prompts: ``(ids, segments)`` of each row; shorter ones are padded on the left.
        image: features of the rows.
        marks: see :class:`Marks`.
        steps: most tokens of a text.
        temperature, top_p: see :func:`~weft.ops.sampling.next_token`; published: the most probable token.
        cache: keep keys and values, so that a step computes one token; the tokens are the same without.
    """
    device, rows = image.values.device, len(prompts)
    longest = max(len(ids) for ids, _ in prompts)
    ids, segments, there = (torch.zeros(rows, longest, dtype=torch.long, device=device) for _ in range(3))
    for row, (tokens, kinds) in enumerate(prompts):
        ids[row, longest - len(tokens) :] = torch.tensor(tokens, device=device)
        segments[row, longest - len(tokens) :] = torch.tensor(kinds or [0] * len(tokens), device=device)
        there[row, longest - len(tokens) :] = 1
    segmented = marks.because is not None
    stop = torch.tensor(sorted(marks.stop), device=device)
    explained = torch.zeros(rows, dtype=torch.bool, device=device)
    done, past = explained.clone(), None
    found: list[list[int]] = [[] for _ in range(rows)]
    for _ in range(steps):
        new = 1 if past is not None else ids.shape[1]
        out = decoder(
            ids[:, -new:], segments[:, -new:] if segmented else None, image, attention_mask=there,
            position_ids=(there.cumsum(dim=1) - 1).clamp(min=0)[:, -new:], past_key_values=past, use_cache=cache,
            last=cache,
        )  # fmt: skip
        past = out.past_key_values if cache else None
        token = next_token(out.logits[:, -1], temperature=temperature, top_p=top_p)
        done |= torch.isin(token, stop)
        for row in torch.nonzero(~done).flatten().tolist():
            found[row].append(int(token[row]))
        if done.all():
            break
        if segmented:
            explained |= token == marks.because
        segment = torch.where(explained, marks.explanation, marks.answer)
        ids, segments = torch.cat([ids, token[:, None]], dim=1), torch.cat([segments, segment[:, None]], dim=1)
        there = torch.cat([there, torch.ones_like(token[:, None])], dim=1)
    return found


class ConceptHead(nn.Module):
    r"""Concepts of an image, several at a time: logits of tokens pooled by attention.

    :math:`x \leftarrow \mathrm{LN}(x + W_2\,\mathrm{ReLU}(W_1 x))`; weights
    :math:`\alpha = \mathrm{softmax}_t(u_2\,\mathrm{ReLU}(U_1 x_t))`; logits :math:`C \sum_t \alpha_t x_t`.

    Args:
        features: width of the tokens.
        concepts: how many there are.
        dropout: after each ReLU and after :math:`W_2`.
    """

    def __init__(self, features: int, concepts: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.linear = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(), nn.Dropout(dropout), nn.Linear(features, features),
            nn.Dropout(dropout),
        )  # fmt: skip
        self.layer_norm = nn.LayerNorm(features)
        self.att_flat = nn.ModuleDict({"mlp": nn.Sequential(
            nn.Linear(features, features), nn.ReLU(), nn.Dropout(dropout), nn.Linear(features, 1)
        )})  # fmt: skip
        self.classifier = nn.Linear(features, concepts)

    def forward(self, image: Tokens) -> Tensor:
        """Logits ``(B, concepts)``."""
        x = self.layer_norm(image.values + self.linear(image.values))
        scores = self.att_flat["mlp"](x).masked_fill(~image.mask[..., None], -torch.inf)
        logits: Tensor = self.classifier((scores.softmax(dim=1) * x).sum(dim=1))
        return logits

r"""UNITER's heads of fine-tuning, on the pooled ``p`` ``(B, H)`` but where regions answer.

* ``vqa`` (and visual entailment): ``Linear(LN(GELU(Linear p)))``, hidden width ``2 H``; ``vcr``: ReLU in its place, two
  outputs per candidate, whose second says that it is right.
* ``nlvr2-pair``: ``Linear [p_1; p_2]`` of two sequences, rows ``2i`` and ``2i + 1``; ``nlvr2-triplet``: ``Linear p`` of
  one sequence with the regions of both pictures; ``nlvr2-biattn``, with sequences ``L`` and ``R``:

  .. math::
      L' = \mathrm{ReLU}(W [\mathrm{MHA}_1(L, R); L] + b), \quad R' = \mathrm{ReLU}(W [\mathrm{MHA}_2(R, L); R] + b) \\
      z(X) = \textstyle\sum_i \mathrm{softmax}_i(\mathrm{ReLU}(w X_i + b))\, X_i

  and ``Linear [z(L'); z(R')]``.
* ``rank``: ``Linear p``, one score, at first the second row of the ITM head.
* ``re``: one score per region, ``Linear h_k``, or ``Linear(LN(GELU(Linear h_k)))`` (``re-mlp``); padding -10000.

Source: Chen et al., "UNITER", ECCV 2020, arXiv 1909.11740; names of the weights as in the published code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor, nn
from transformers import BertConfig

from weft.errors import UserError, did_you_mean
from weft.systems.uniter.network import Compacted, UniterNet, bert_config, initialiser

Head = Callable[[Compacted, Tensor], Tensor]
MARGIN = 0.2


def answers(width: int, outputs: int, activation: nn.Module | None = None) -> nn.Sequential:
    """Linear, activation (GELU), LayerNorm, Linear."""
    inner = 2 * width
    norm = nn.LayerNorm(inner, eps=1e-12)
    return nn.Sequential(nn.Linear(width, inner), activation or nn.GELU(), norm, nn.Linear(inner, outputs))


class Answers(nn.Module):
    """``(B, H)`` to ``(B, outputs)``."""

    def __init__(self, config: BertConfig, outputs: int) -> None:
        super().__init__()
        self.vqa_output = answers(config.hidden_size, outputs)

    def forward(self, sequence: Compacted, pooled: Tensor) -> Tensor:
        return self.vqa_output(pooled)


class Candidates(nn.Module):
    """Of every row, a question with one candidate, logits ``(B, 2)``: wrong, right."""

    def __init__(self, config: BertConfig, outputs: int = 2) -> None:
        super().__init__()
        self.vcr_output = answers(config.hidden_size, outputs, nn.ReLU())

    def forward(self, sequence: Compacted, pooled: Tensor) -> Tensor:
        return self.vcr_output(pooled)


class Triplet(nn.Module):
    """A sentence and two pictures in one sequence, ``(B, outputs)``."""

    def __init__(self, config: BertConfig, outputs: int = 2) -> None:
        super().__init__()
        self.nlvr2_output = nn.Linear(config.hidden_size, outputs)

    def forward(self, sequence: Compacted, pooled: Tensor) -> Tensor:
        return self.nlvr2_output(pooled)


class Pair(nn.Module):
    """A sentence with either picture, ``(2 B, ...)`` to ``(B, outputs)``."""

    def __init__(self, config: BertConfig, outputs: int = 2) -> None:
        super().__init__()
        self.nlvr2_output = nn.Linear(2 * config.hidden_size, outputs)

    def forward(self, sequence: Compacted, pooled: Tensor) -> Tensor:
        return self.nlvr2_output(pooled.unflatten(0, (-1, 2)).flatten(1))


class AttentionPool(nn.Module):
    """One vector ``(B, H)`` of tokens ``(B, L, H)``."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(width, 1), nn.ReLU())
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        scores = self.fc(values)[..., 0].masked_fill(~mask, torch.finfo(values.dtype).min)
        return (self.dropout(scores.softmax(dim=1)).unsqueeze(1) @ values)[:, 0]


class BiAttention(nn.Module):
    """A sentence with either picture, each hearing the other, ``(2 B, ...)`` to ``(B, outputs)``."""

    def __init__(self, config: BertConfig, outputs: int = 2) -> None:
        super().__init__()
        width, heads, dropout = config.hidden_size, config.num_attention_heads, config.hidden_dropout_prob
        self.attn1, self.attn2 = (
            nn.MultiheadAttention(width, heads, config.attention_probs_dropout_prob, batch_first=True) for _ in range(2)
        )
        self.fc = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(dropout))
        self.attn_pool = AttentionPool(width, dropout)
        self.nlvr2_output = nn.Linear(2 * width, outputs)

    def forward(self, sequence: Compacted, pooled: Tensor) -> Tensor:
        left, right = sequence.tokens.values.unflatten(0, (-1, 2)).unbind(1)
        seen_left, seen_right = sequence.tokens.mask.unflatten(0, (-1, 2)).unbind(1)
        heard_left = self.attn1(left, right, right, key_padding_mask=~seen_right, need_weights=False)[0]
        heard_right = self.attn2(right, left, left, key_padding_mask=~seen_left, need_weights=False)[0]
        sides = ((heard_left, left, seen_left), (heard_right, right, seen_right))
        found = [self.attn_pool(self.fc(torch.cat([heard, own], dim=2)), mask) for heard, own, mask in sides]
        return self.nlvr2_output(torch.cat(found, dim=1))


class Rank(nn.Module):
    """How well sentence and picture match, ``(B, 1)``; the ITM head it came from stays beside it."""

    def __init__(self, config: BertConfig, outputs: int = 1) -> None:
        super().__init__()
        self.itm_output = nn.Linear(config.hidden_size, 2)
        self.rank_output = nn.Linear(config.hidden_size, outputs)
        self.begin()

    @torch.no_grad()
    def begin(self) -> None:
        """The score is what the ITM head says of a match."""
        self.rank_output.weight.copy_(self.itm_output.weight[1:])
        self.rank_output.bias.copy_(self.itm_output.bias[1:])

    def forward(self, sequence: Compacted, pooled: Tensor) -> Tensor:
        return self.rank_output(pooled)


class Regions(nn.Module):
    """Which region is meant, ``(B, max K_b)``; -10000 at padding."""

    def __init__(self, config: BertConfig, outputs: int = 1) -> None:
        super().__init__()
        self.re_output: nn.Module = nn.Linear(config.hidden_size, outputs)

    def forward(self, sequence: Compacted, pooled: Tensor) -> Tensor:
        image = sequence.image()
        return self.re_output(image.values)[..., 0].masked_fill(~image.mask, -1e4)


class DeepRegions(Regions):
    """The same, of two layers."""

    def __init__(self, config: BertConfig, outputs: int = 1) -> None:
        super().__init__(config)
        width = config.hidden_size
        norm = nn.LayerNorm(width, eps=1e-12)
        self.re_output = nn.Sequential(nn.Linear(width, width), nn.GELU(), norm, nn.Linear(width, outputs))


HEADS: dict[str, type[nn.Module]] = {
    "vqa": Answers,
    "vcr": Candidates,
    "nlvr2-pair": Pair,
    "nlvr2-triplet": Triplet,
    "nlvr2-biattn": BiAttention,
    "rank": Rank,
    "re": Regions,
    "re-mlp": DeepRegions,
}


class UniterFor(nn.Module):
    """The trunk under a head.

    Args:
        config: of the BERT.
        region_dim: width of the region features.
        head: one of ``HEADS``.
        outputs: of the head; None: its own number.

    Raises:
        UserError: there is no such head.
    """

    def __init__(self, config: BertConfig, region_dim: int, head: str, outputs: int | None = None) -> None:
        super().__init__()
        if head not in HEADS:
            raise UserError("UNITER has no such head", repr(head), did_you_mean(head, HEADS, "heads"))
        self.uniter = UniterNet(config, region_dim)
        self.head = HEADS[head](config, *([] if outputs is None else [outputs]))
        self.head.apply(initialiser(config))
        if isinstance(self.head, Rank):
            self.head.begin()

    def forward(self, *inputs: Tensor, **named: Tensor | None) -> Tensor:
        """Scores; arguments as in :class:`~weft.systems.uniter.network.UniterNet`."""
        sequence = self.uniter(*inputs, **named)
        return self.head(sequence, self.uniter.pooled(sequence))

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], head: str, *, heads: int, dropout: float = 0.1) -> Self:
        """From weights under the published names; ``heads``: of attention.

        Raises:
            UserError: weights that are missing or of no known name.
        """
        own = {name if name.startswith("uniter.") else f"head.{name}": tensor for name, tensor in state.items()}
        last = [tensor for name, tensor in own.items() if name.startswith("head.") and name.endswith(".bias")]
        try:
            region_dim = own["uniter.img_embeddings.img_linear.weight"].shape[1]
            net = cls(bert_config(own, heads=heads, dropout=dropout), region_dim, head, len(last[-1]))
            net.to(last[-1].dtype).load_state_dict(own)
        except (KeyError, IndexError, RuntimeError) as error:
            found = str(error).strip().splitlines()[-1].strip() if str(error).strip() else "none"
            raise UserError(
                f"weights of UNITER with the head {head!r} have the published names", found, "all"
            ) from None
        return net


def rank_loss(scores: Tensor, margin: float = MARGIN) -> Tensor:
    """``(B, S - 1)``: hinge of every wrong partner's score, ``(B, S)`` with the right one first.

    .. math:: \\max(0,\\ margin + \\sigma(s_{wrong}) - \\sigma(s_{right}))
    """
    chance = scores.sigmoid()
    return (margin + chance[:, 1:] - chance[:, :1]).clamp(min=0)

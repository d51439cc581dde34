r"""What UNITER is pre-trained for: masked words, masked regions, matching, and the alignment of words and regions.

Heads, with ``net(h) = LN(GELU(W h + b))``, one net for each of MRFR and MRC:

* MLM: BERT's head, tied to the word embeddings; cross-entropy at masked words.
* MRFR: :math:`W_f^T \mathrm{net}(h_k) + b`, tied to ``W_f``; squared error against ``r_k``.
* MRC: ``Linear(net(h_k))``; cross-entropy against the likeliest class but background (class 0).
* MRC-kl: the same logits; Kullback-Leibler divergence from the detector's distribution, background included.
* ITM: ``Linear(p)``, 1 where sentence and picture match, with word-region alignment
  :math:`0.1 (\sum_{match} D - \sum_{other} D) / B`, ``D`` of :mod:`weft.ops.ipot`.

Masking is conditional: a step masks words or regions, never both. The published code takes means over classes
(MRC-kl) and features (MRFR) where the paper writes sums; losses here are not reduced, so the caller decides.

The paper's ablation finds MLM + ITM + MRC-kl + MRFR + WRA best, and conditional masking better than joint.

Source: Chen et al., ECCV 2020, arXiv 1909.11740, and its published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig

from weft.errors import UserError
from weft.ops.ipot import transport_distance
from weft.systems.uniter.network import Compacted, UniterNet, bert_config, initialiser
from weft.tokens import Tokens

WRA_WEIGHT = 0.1


class FeatureHead(nn.Module):
    """MRFR: ``(S, H)`` to ``(S, F)`` by the transpose of the weight ``(H, F)`` that embeds features."""

    def __init__(self, width: int, region_dim: int) -> None:
        super().__init__()
        self.net = net_of(width)
        self.bias = nn.Parameter(torch.zeros(region_dim))

    def forward(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return F.linear(self.net(hidden), weight.T, self.bias)


class Tied(nn.Module):
    """A linear layer of weights that belong to others, so that they are kept and counted once."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter) -> None:
        super().__init__()
        self._owned = [weight, bias]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self._owned)


class UniterForPretraining(nn.Module):
    """The trunk and the heads of pre-training; the losses are per element, not reduced.

    Args:
        config: of the BERT.
        region_dim: width of the region features.
        classes: number of the detector's classes, background (0) included.
    """

    def __init__(self, config: BertConfig, region_dim: int, classes: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.uniter = UniterNet(config, region_dim)
        from transformers.models.bert.modeling_bert import BertOnlyMLMHead  # slow

        self.cls = BertOnlyMLMHead(config)
        self.feat_regress = FeatureHead(width, region_dim)
        self.region_classifier = nn.ModuleDict({"net": net_of(width).append(nn.Linear(width, classes))})
        self.itm_output = nn.Linear(width, 2)
        for head in (self.cls, self.feat_regress, self.region_classifier, self.itm_output):
            head.apply(initialiser(config))
        self.cls.predictions.decoder = Tied(self.uniter.embeddings.word_embeddings.weight, self.cls.predictions.bias)

    def forward(
        self, ids: Tensor, ids_mask: Tensor, regions: Tokens, places: Tensor, masked: Tensor | None = None
    ) -> Compacted:
        """The trunk's sequence, which the heads below read; see :class:`UniterNet`."""
        return self.uniter(ids, ids_mask, regions, places, masked=masked)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], *, heads: int, dropout: float = 0.1) -> Self:
        """From weights under the published names; sizes are read off their shapes.

        Raises:
            UserError: weights that are missing or of no known name.
        """
        own = {k: v for k, v in state.items() if k not in ("cls.predictions.decoder.weight", "feat_regress.weight")}
        try:
            config = bert_config(own, heads=heads, dropout=dropout)
            region_dim = own["uniter.img_embeddings.img_linear.weight"].shape[1]
            net = cls(config, region_dim, len(own["region_classifier.net.3.bias"]))
        except KeyError as absent:
            raise UserError("weights of UNITER have the published names", f"no {absent}", "give them all") from None
        net.to(own["itm_output.weight"].dtype)
        missing, unknown = net.load_state_dict(own, strict=False)
        if missing or unknown:
            raise UserError(
                "weights of UNITER have the published names", f"missing {missing}, unknown {unknown}", "all"
            )
        return net

    def mlm(self, sequence: Compacted, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``(S, V)`` and losses ``(S,)`` at the words whose label, ``(B, T)``, is not -1; row by row."""
        picked = labels != -1
        scores = self.cls(sequence.text().values[picked[:, : int(sequence.words.max())]])
        return scores, F.cross_entropy(scores, labels[picked], reduction="none")

    def mrfr(self, sequence: Compacted, masked: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted features and squared errors, both ``(S, F)``, at masked regions; ``features``: ``(S, F)``."""
        pred = self.feat_regress(self._masked(sequence, masked), self.uniter.img_embeddings.img_linear.weight)
        return pred, F.mse_loss(pred, features, reduction="none")

    def mrc(self, sequence: Compacted, masked: Tensor) -> Tensor:
        """Logits ``(S, C)`` at masked regions; their losses: :func:`mrc_loss` and :func:`mrc_kl_loss`."""
        return self.region_classifier["net"](self._masked(sequence, masked))

    def itm(self, sequence: Compacted) -> Tensor:
        """Logits ``(B, 2)``; the second column says that sentence and picture match."""
        return self.itm_output(self.uniter.pooled(sequence))

    def itm_wra(self, sequence: Compacted, match: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of ITM ``(B,)``, distances ``(B,)``, their total; ``match``: ``(B,)`` 0 or 1."""
        losses = F.cross_entropy(self.itm(sequence), match, reduction="none")
        distance = transport_distance(sequence.text(), sequence.image())
        signed = torch.where(match == 1, distance, -distance)
        return losses, distance, losses.mean() + WRA_WEIGHT * signed.mean()

    @staticmethod
    def _masked(sequence: Compacted, masked: Tensor) -> Tensor:
        return sequence.image().values[masked[:, : int(sequence.regions.max())]]


def mrc_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """``(S,)``: cross-entropy of ``(S, C)`` against the likeliest class of ``(S, C)`` but background."""
    return F.cross_entropy(logits, classes[:, 1:].argmax(dim=1) + 1, reduction="none")


def mrc_kl_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """``(S, C)``: ``q (log q - log softmax)``; its sum over classes is the divergence, its mean the published loss."""
    return F.kl_div(logits.log_softmax(dim=1), classes, reduction="none")


def net_of(width: int) -> nn.Sequential:
    """``LN(GELU(W h + b))``."""
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12))

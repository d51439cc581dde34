"""METER's encoder-decoder variant, reconstructed: a causal decoder over the fused tokens of text and image.

The paper compares it and publishes neither code nor sizes, so all but the idea is ours: BERT's layers of transformers
with cross-attention to ``[x; y]``. Masked words become spans as in T5 (Raffel et al. 2020): the text is shown with one
[MASK] for each hidden span, the decoder writes ``[MASK] span [MASK] span ... [SEP]``; one mask stands for every
sentinel, since their order tells them apart. What answers or matches reads the decoder's output at [CLS] ``(B, H)``
where the encoder-only network reads both poolers ``(B, 2H)``.

Source of the idea: Dou et al., METER, CVPR 2022, arXiv 2111.02387, section 4, which finds it below encoder-only.
"""

from __future__ import annotations

from random import Random

from torch import Tensor, nn

from weft.systems.meter.masking import SHARE
from weft.tokens import Tokens

MEAN_SPAN = 3
"""Pieces of a hidden span, in the mean, as T5 has it."""


class Decoder(nn.Module):
    """Tokens ``(B, T)`` to ``(B, T, H)``, each hearing itself, those before it and all of a memory.

    Args:
        vocabulary, positions: rows of the embedding tables.
        dim, heads, hidden, layers, dropout: as of :class:`~weft.systems.meter.network.MeterNet`.
    """

    def __init__(
        self, vocabulary: int, positions: int, dim: int, heads: int, hidden: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=vocabulary, hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=hidden, max_position_embeddings=positions, type_vocab_size=1, is_decoder=True,
            add_cross_attention=True, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
            initializer_range=0.02 * max(1.0, 768 / dim) ** 0.5,
        )  # fmt: skip
        self.bert = BertModel(config, add_pooling_layer=False)

    def forward(self, ids: Tensor, mask: Tensor, memory: Tokens) -> Tensor:
        """The hidden states of ``ids`` and their mask ``(B, T)`` over a memory ``(B, N, H)``."""
        hidden: Tensor = self.bert(
            input_ids=ids, attention_mask=mask.long(), encoder_hidden_states=memory.values,
            encoder_attention_mask=memory.mask.long(), use_cache=False,
        ).last_hidden_state  # fmt: skip
        return hidden


def hide_spans(
    pieces: list[int], rng: Random, *, mask: int, share: float = SHARE, mean: int = MEAN_SPAN
) -> tuple[list[int], list[int]]:
    """Pieces with each hidden span as one ``mask``, and what the decoder writes: a mask and its span, in their order.

    >>> hide_spans([1, 2, 3, 4, 5, 6], Random(1), mask=0, share=0.3)
    ([1, 0, 4, 5, 6], [0, 2, 3])
    """
    hidden = min(max(1, round(share * len(pieces))), len(pieces))
    spans = min(max(1, round(hidden / mean)), len(pieces) - hidden + 1)
    lengths = _parts(hidden, spans, rng)
    gaps = [n - 1 for n in _parts(len(pieces) - hidden + 2, spans + 1, rng)]  # the ends may be empty
    gaps[1:-1] = [n + 1 for n in gaps[1:-1]]  # spans do not touch
    shown: list[int] = []
    said: list[int] = []
    place = 0
    for gap, length in zip(gaps, [*lengths, 0], strict=True):
        shown += pieces[place : place + gap]
        place += gap
        if length:
            shown.append(mask)
            said += [mask, *pieces[place : place + length]]
            place += length
    return shown, said


def _parts(total: int, count: int, rng: Random) -> list[int]:
    """``total`` in ``count`` parts of at least 1, all ways alike."""
    cuts = sorted(rng.sample(range(1, total), count - 1))
    return [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]

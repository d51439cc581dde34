r"""BiART: one transformer that writes pictures from texts and texts from pictures.

A sequence is one block after the other, the reference first, each with its start token: ``[SOC] text [SOI] picture`` or
``[SOI] picture [SOC] text [EOC]``. Besides its token and its place a position is told its role,

.. math::

    h_t = \mathrm{tok}[x_t] + \mathrm{pos}[t] + \mathrm{seg}[s_t], \qquad s_t \in \{\mathrm{REF}, \mathrm{GEN}\},

followed by a GPT (pre-norm, causal) and a head over the words, the codes of the picture and ``[EOC]``. The loss is
cross-entropy of the next token, on the generated block and, with a weight, on the reference.

The code of BiART is not published: this is a reconstruction from the paper's figure and text.

Source: Kim et al. 2022 (arXiv 2111.11133), section 3.2.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.fusion.attention import check_heads
from weft.ops.sampling import next_token

REF, GEN = 0, 1
PAD, UNKNOWN = 0, 1
WORDS = 2
"""Where the words begin; the codes of the picture follow them, then the three marks."""

Places = Literal["joint", "modality"]


class Stream(NamedTuple):
    """Sequences: tokens, roles and places ``(B, T)``."""

    ids: Tensor
    roles: Tensor
    places: Tensor


class BiArt(nn.Module):
    """The transformer.

    Args:
        words: how many there are, padding and the unknown one not counted.
        codes: of the codebook.
        text: most words of a text.
        picture: codes of a picture.
        width, layers, heads, dropout: of the GPT.
        segments: tell the roles.
        places: ``"joint"``: a place counts from the start of the sequence, so text and picture stand elsewhere in each
            direction; ``"modality"``: a word or a code has its place in its own block.
    """

    def __init__(
        self,
        words: int,
        codes: int,
        text: int,
        picture: int,
        *,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        segments: bool = True,
        places: Places = "joint",
    ) -> None:
        super().__init__()
        import transformers

        check_heads(width, heads)
        self.codes, self.text, self.picture, self.places = codes, text, picture, places
        self.first_code = WORDS + words
        self.soc, self.soi, self.eoc = (self.first_code + codes + i for i in range(3))
        length = text + picture + 3
        config = transformers.GPT2Config(
            vocab_size=1, n_positions=length, n_embd=width, n_layer=layers, n_head=heads, resid_pdrop=dropout,
            embd_pdrop=dropout, attn_pdrop=dropout, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        self.gpt = transformers.GPT2Model(config)
        self.gpt.wte = nn.Identity()
        self.token, self.head = nn.Embedding(self.eoc + 1, width), nn.Linear(width, self.eoc + 1, bias=False)
        self.segment = nn.Embedding(2, width) if segments else None
        for weight in (self.token.weight, self.head.weight, *([self.segment.weight] if self.segment else [])):
            nn.init.normal_(weight, std=0.02)

    def forward(self, stream: Stream, past: object = None, cache: bool = False) -> tuple[Tensor, object]:
        """Logits ``(B, T, V)`` of the token after each, and the keys and values for the next call."""
        from transformers import Cache

        h = self.token(stream.ids)
        if self.segment is not None:
            h = h + self.segment(stream.roles)
        before = past.get_seq_length() if isinstance(past, Cache) else 0
        # without a mask transformers takes places that start anew for another text, which does not hear this one
        heard = torch.ones(len(h), before + h.shape[1], dtype=torch.long, device=h.device)
        out = self.gpt(
            inputs_embeds=h, position_ids=stream.places, attention_mask=heard, past_key_values=past, use_cache=cache
        )
        return self.head(out.last_hidden_state), out.past_key_values if cache else None

    def pairs(self, words: Tensor, codes: Tensor, draws: Tensor) -> Stream:
        """Sequences to train on.

        Args:
            words: ``(B, text)``, padded with 0.
            codes: ``(B, picture)`` of the codebook.
            draws: ``(B,)`` bool, True where the picture is generated, False where the text is.
        """
        drawn, said = self.draw(words), self.say(codes)
        drawn = self._joined(drawn, codes + self.first_code, GEN, self.text + 2)
        ends = F.pad(words, (0, 1))
        ends[torch.arange(len(ends)), (words != PAD).sum(dim=1)] = self.eoc
        said = self._joined(said, ends, GEN, 1)
        width = max(drawn.ids.shape[1], said.ids.shape[1])
        both = (
            torch.stack([F.pad(a, (0, width - a.shape[1])) for a in part]) for part in zip(drawn, said, strict=True)
        )
        pick = (~draws).long(), torch.arange(len(words), device=words.device)
        return Stream(*(part[pick] for part in both))

    def draw(self, words: Tensor) -> Stream:
        """What a picture is asked for by, of word ids ``(B, T)``: ``[SOC] text [SOI]``."""
        start = self._joined(None, F.pad(words, (1, 0), value=self.soc), REF, 0)
        return self._joined(start, torch.full_like(words[:, :1], self.soi), GEN, self.text + 1)

    def say(self, codes: Tensor) -> Stream:
        """What a text is asked for by, of codes ``(B, N)``: ``[SOI] picture [SOC]``."""
        start = self._joined(None, F.pad(codes + self.first_code, (1, 0), value=self.soi), REF, self.text + 1)
        return self._joined(start, torch.full_like(codes[:, :1], self.soc), GEN, 0)

    def emptied(self, stream: Stream) -> Stream:
        """The same without what the reference says: its words or codes are padding, its start token stays."""
        inside = (stream.roles == REF) & (stream.ids != self.soc) & (stream.ids != self.soi)
        return stream._replace(ids=stream.ids.masked_fill(inside, PAD))

    def loss(self, stream: Stream, reference: float) -> Tensor:
        """Loss of each sequence ``(B,)``, its mean weighted over tokens; padding counts nothing."""
        logits = self(stream)[0][:, :-1]
        target = stream.ids[:, 1:]
        losses = F.cross_entropy(logits.transpose(1, 2), target, reduction="none")
        weight = torch.where(stream.roles[:, 1:] == GEN, 1.0, reference) * (target != PAD)
        return (losses * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-12)

    @torch.no_grad()
    def go_on(
        self,
        stream: Stream,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
        cache: bool = True,
    ) -> Tensor:
        """The block after a prompt: codes ``(B, picture)`` after :meth:`draw`, words ``(B, <=text)`` after :meth:`say`.

        With guidance :math:`g`, logits are :math:`l_0 + g (l - l_0)`, where :math:`l_0` are those after an empty
        reference (Ho and Salimans 2022, arXiv 2207.12598).

        Args:
            stream: the prompt.
            temperature, top_k, top_p: see :func:`~weft.ops.sampling.next_token`.
            guidance: 1: none; a model that was trained with empty references can be told to heed them more.
            cache: keep keys and values; the tokens are the same without.
        """
        drawing = bool((stream.ids[:, -1] == self.soi).all())
        steps = self.picture if drawing else self.text
        allowed = torch.zeros(self.eoc + 1, dtype=torch.bool, device=stream.ids.device)
        if drawing:
            allowed[self.first_code : self.soc] = True
        else:
            allowed[UNKNOWN + 1 : self.first_code] = allowed[self.eoc] = True
        rows = len(stream.ids)
        if guidance != 1:
            stream = Stream(*(torch.cat(pair) for pair in zip(stream, self.emptied(stream), strict=True)))
        past, done, found, given = None, torch.zeros(rows, dtype=torch.bool), [], stream
        for step in range(steps):
            logits, past = self(given, past, cache)
            last = logits[:rows, -1]
            if guidance != 1:
                last = logits[rows:, -1] + guidance * (last - logits[rows:, -1])
            last = last.masked_fill(~allowed, -torch.inf)
            token = next_token(last, temperature=temperature, top_k=top_k, top_p=top_p)
            done = done.to(token.device) | (token == self.eoc)
            found.append(torch.where(done, PAD, token))
            if done.all():
                break
            place = (self.text + 2 if drawing else 1) + step
            longer = self._joined(stream, token.repeat(len(stream.ids) // rows)[:, None], GEN, place)
            given = Stream(*(part[:, -1:] for part in longer)) if cache else longer
            stream = longer
        tokens = torch.stack(found, dim=1)
        return tokens - self.first_code if drawing else tokens

    def _joined(self, stream: Stream | None, ids: Tensor, role: int, place: int) -> Stream:
        """A stream and a block behind it, whose first token has this place in its modality."""
        start = 0 if stream is None else stream.ids.shape[1]
        begin = start if self.places == "joint" else place
        places = torch.arange(begin, begin + ids.shape[1], device=ids.device).expand_as(ids)
        block = Stream(ids, torch.full_like(ids, role), places)
        return (
            block if stream is None else Stream(*(torch.cat(pair, dim=1) for pair in zip(stream, block, strict=True)))
        )

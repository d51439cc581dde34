r"""ARAF's text-to-image network: a generator conditioned on a caption, with ARAF's alignment between its up-blocks.

From noise :math:`z` ``(B, 100)``, the sentence :math:`s` ``(B, S)`` and its words ``(B, T, S)`` to an image
``(B, 3, size, size)`` in [-1, 1]:

.. math::
    x &= \mathrm{FC}(z) && (B, 8 c, 4, 4) \\
    h &= \mathrm{conv}_3\,\mathrm{lrelu}\,\mathrm{aff}_2(\mathrm{lrelu}\,\mathrm{aff}_1(x, s), s)\ \text{twice} \\
    x &\leftarrow \mathrm{shortcut}(x) + g\,h, \quad
        \text{nearest} \times 2 && \text{per up-block},\ g = 0\ \text{at first} \\
    x &\leftarrow x + g'\,W\,\mathrm{Align}(x, words) && \text{at 16 and 64 pixels},\ g' = 0\ \text{at first} \\
    image &= \tanh\,\mathrm{conv}_3\,\mathrm{lrelu}(x)

with :math:`\mathrm{aff}(x, s) = \gamma(s) x + \beta(s)` per channel, both two-layer MLPs, and Align as in
:mod:`weft.fusion.araf`: pixels ask (N = hw tokens), words answer. The discriminator halves the image to 4 x 4 through
gated residual blocks, joins the sentence and scores; the losses are in :mod:`weft.systems.text_to_image.loss`.

Cost: at 256 pixels and c = 32 a generator of 6.8 million and a discriminator of 19.6 million weights; the alignment at
64 pixels has 4,096 queries and 18 keys, which is cheap.

When not to use it: for good pictures. It is a small adversarial network of 2022; the published figures come from a
text encoder pretrained for the purpose, and 300 to 500 epochs.

Source: figures of "Attention-based cross-modal representation alignment and fusion mechanism for multitasks" (ARAF,
2023), whose generation code is not published. The base is that of Jin et al., "SEAttnGAN", 2023, arXiv 2306.14708,
after Tao et al., "DF-GAN", CVPR 2022, arXiv 2008.05865; written from the formulas. Where the alignment goes in is ours.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError, did_you_mean
from weft.fusion.araf import Alignment
from weft.ops.bilinear import check_positive
from weft.tokens import Tokens, present

SLOPE = 0.2
FIRST = 4
"""Height and width of the first feature map, in pixels."""


class Caption(NamedTuple):
    """A caption of a batch.

    Attributes:
        words: ``(B, T, S)`` and their mask.
        sentence: ``(B, S)``.
    """

    words: Tokens
    sentence: Tensor


class CaptionEncoder(nn.Module):
    """A bidirectional LSTM over word ids: its states are the words, both last states together the sentence.

    Args:
        vocabulary: number of ids.
        embedding: width of a word id's vector.
        width: ``S``, both directions together; even.
        dropout: on the word vectors, in [0, 1].
    """

    def __init__(self, vocabulary: int, *, embedding: int = 300, width: int = 256, dropout: float = 0.5) -> None:
        super().__init__()
        check_positive("CaptionEncoder", vocabulary=vocabulary, embedding=embedding, width=width)
        if width % 2:
            raise UserError("CaptionEncoder: two directions of equal width", f"width={width}", "choose an even width")
        self.embed, self.dropout = nn.Embedding(vocabulary, embedding), nn.Dropout(dropout)
        self.rnn = nn.LSTM(embedding, width // 2, batch_first=True, bidirectional=True)

    def forward(self, ids: Tensor, mask: Tensor) -> Caption:
        """Words and sentence of ids ``(B, T)``; ``mask`` ``(B, T)`` is True for the words, which come first.

        Raises:
            UserError: ids and mask of other shapes, or a caption without a word.
        """
        lengths = mask.sum(dim=1).cpu()
        empty = (lengths == 0).nonzero().flatten().tolist()
        ordered = torch.arange(mask.shape[1], device=mask.device) < mask.sum(dim=1, keepdim=True)
        if empty or ids.shape != mask.shape or not torch.equal(ordered, mask):
            raise UserError(
                "CaptionEncoder reads ids (B, T) with a mask of that shape, words first, at least one in each row",
                f"ids {tuple(ids.shape)}, mask {tuple(mask.shape)}, rows without words {empty}",
                "pad at the end, and leave rows without a caption out",
            )
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(self.embed(torch.where(mask, ids, 0))), lengths, batch_first=True, enforce_sorted=False
        )
        states, (last, _) = self.rnn(packed)
        words, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=ids.shape[1])
        return Caption(Tokens(words, mask), last.transpose(0, 1).flatten(1))


class Generator(nn.Module):
    """Noise and a caption to an image.

    Args:
        caption: ``S``, width of words and sentence.
        size: height and width of the image in pixels, 4 times a power of two.
        base: ``c``, channels of the last blocks.
        noise: width of the noise.
        align_at: the heights at which the words are asked.
        width: of the alignment.
        heads: of the alignment; divides ``width``.
        words: how they are asked: ``"araf"``; ``"attention"``, the word attention of SEAttnGAN at the same places; or
            ``"none"``, where the sentence alone tells what to draw.

    Raises:
        UserError: a size that is no power of two, an ``align_at`` that does not occur.
    """

    def __init__(
        self,
        caption: int = 256,
        *,
        size: int = 256,
        base: int = 32,
        noise: int = 100,
        align_at: tuple[int, ...] = (16, 64),
        width: int = 64,
        heads: int = 4,
        words: Literal["araf", "attention", "none"] = "araf",
    ) -> None:
        super().__init__()
        check_positive("Generator", caption=caption, base=base, noise=noise)
        if words not in ("araf", "attention", "none"):
            raise UserError("Generator: unknown words", words, did_you_mean(words, ["araf", "attention", "none"]))
        steps = doublings("Generator", size)
        heights = [FIRST * 2 ** (step + 1) for step in range(steps)]
        if not set(align_at) <= set(heights):
            raise UserError(
                "Generator: align_at are heights of its feature maps", f"align_at={align_at}", f"choose among {heights}"
            )
        channels = [8 * base, *(base * max(8 >> step, 1) for step in range(steps))]
        self.noise = noise
        self.start = nn.Linear(noise, channels[0] * FIRST**2)
        self.blocks = nn.ModuleList(UpBlock(a, b, caption) for a, b in pairwise(channels))
        asking = {str(step): channels[step + 1] for step, height in enumerate(heights) if height in align_at}
        self.align = nn.ModuleDict()
        if words == "araf":
            self.align.update({step: WordAlignment(c, caption, width, heads) for step, c in asking.items()})
        elif words == "attention":
            self.align.update({step: WordAttention(c, caption) for step, c in asking.items()})
        self.out = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, noise: Tensor, caption: Caption) -> Tensor:
        """Images ``(B, 3, size, size)`` in [-1, 1] from noise ``(B, noise)``."""
        if noise.shape != (len(caption.sentence), self.noise):
            raise UserError(
                f"Generator takes noise (B, {self.noise}), one row per caption",
                f"noise {tuple(noise.shape)}, sentences {tuple(caption.sentence.shape)}",
                "draw torch.randn(len(sentence), noise)",
            )
        x = self.start(noise).unflatten(1, (-1, FIRST, FIRST))
        for step, block in enumerate(self.blocks):
            x = F.interpolate(block(x, caption.sentence), scale_factor=2.0, mode="nearest")
            if str(step) in self.align:
                x = self.align[str(step)](x, caption.words)
        return self.out(F.leaky_relu(x, SLOPE)).tanh()


class UpBlock(nn.Module):
    """A residual block whose channels the sentence scales and shifts, before it is enlarged.

    Args:
        channels, outputs: of input and result.
        caption: width of the sentence.
    """

    def __init__(self, channels: int, outputs: int, caption: int) -> None:
        super().__init__()
        self.affines = nn.ModuleList(Affine(c, caption) for c in (channels, channels, outputs, outputs))
        self.convolutions = nn.ModuleList(nn.Conv2d(c, outputs, 3, padding=1) for c in (channels, outputs))
        self.shortcut = shortcut(channels, outputs)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, sentence: Tensor) -> Tensor:
        """``(B, channels, H, W)`` to ``(B, outputs, H, W)``."""
        h = x
        for index, convolution in enumerate(self.convolutions):
            for affine in self.affines[2 * index : 2 * index + 2]:
                h = F.leaky_relu(affine(h, sentence), SLOPE)
            h = convolution(h)
        return self.shortcut(x) + self.gate * h


class Affine(nn.Module):
    """Scale and shift of every channel, each from the sentence through an MLP of hidden width 256.

    Args:
        channels: of the map.
        caption: width of the sentence.
    """

    def __init__(self, channels: int, caption: int) -> None:
        super().__init__()
        self.scale, self.shift = (
            nn.Sequential(nn.Linear(caption, 256), nn.ReLU(), nn.Linear(256, channels)) for _ in range(2)
        )
        for layer in (cast(nn.Linear, mlp[place]) for mlp in (self.scale, self.shift) for place in (0, 2)):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, sentence: Tensor) -> Tensor:
        """``(B, channels, H, W)``, scaled and shifted."""
        return self.scale(sentence)[:, :, None, None] * x + self.shift(sentence)[:, :, None, None]


class WordAlignment(nn.Module):
    """Every pixel asks the words; the answer is added through a gate that starts at zero.

    Args:
        channels: of the map.
        caption: width of a word.
        width: of the alignment.
        heads: of the alignment; divides ``width``.
    """

    def __init__(self, channels: int, caption: int, width: int, heads: int) -> None:
        super().__init__()
        self.pixels, self.words = nn.Linear(channels, width), nn.Linear(caption, width)
        self.align = Alignment(width, heads, "joint", output_projection=False)
        self.project = nn.Linear(width, channels)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, words: Tokens) -> Tensor:
        """``(B, channels, H, W)`` with the answer of ``words``; as it was in rows without any."""
        real = words.mask.unsqueeze(-1)
        source = Tokens(self.words(torch.where(real, words.values, 0.0)), words.mask)
        answer = self.project(self.align(self.pixels(x.flatten(2).mT), source))
        answer = torch.where(present(words)[:, None, None], answer, 0.0)
        return x + self.gate * answer.mT.unflatten(2, x.shape[2:])


class WordAttention(nn.Module):
    r"""Plain word attention, the comparison: with :math:`u_t = U w_t` of the words and pixel ``x_n``,

    .. math:: x_n \leftarrow x_n + g'\,W \sum_t \mathrm{softmax}_t(x_n \cdot u_t)\, u_t

    One head, keys are values, nothing is normalised. SEAttnGAN appends the answer to the channels instead of adding it.

    Args:
        channels: of the map.
        caption: width of a word.
    """

    def __init__(self, channels: int, caption: int) -> None:
        super().__init__()
        self.words = nn.Linear(caption, channels, bias=False)
        self.project = nn.Linear(channels, channels)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, words: Tokens) -> Tensor:
        """``(B, channels, H, W)`` with the answer of ``words``; as it was in rows without any."""
        context = self.words(torch.where(words.mask.unsqueeze(-1), words.values, 0.0))
        scores = (x.flatten(2).mT @ context.mT).masked_fill(~words.mask.unsqueeze(1), torch.finfo(x.dtype).min)
        answer = self.project(scores.softmax(dim=2) @ context)
        answer = torch.where(present(words)[:, None, None], answer, 0.0)
        return x + self.gate * answer.mT.unflatten(2, x.shape[2:])


class Discriminator(nn.Module):
    """How well an image fits a sentence, and how real it is, in one score.

    Args:
        caption: ``S``, width of the sentence.
        size: height and width of the image in pixels, 4 times a power of two.
        base: channels of the first map; they double up to 16 times that.
        gate: at which the residual branches start; 0 as published. Until they have opened the score is almost linear in
            the image, for most of a short training: start at 1 there.
    """

    def __init__(self, caption: int = 256, *, size: int = 256, base: int = 32, gate: float = 0.0) -> None:
        super().__init__()
        steps, self.size = doublings("Discriminator", size), size
        channels = [base * min(2**step, 16) for step in range(steps + 1)]
        self.start = nn.Conv2d(3, base, 3, padding=1)
        self.blocks = nn.Sequential(*(DownBlock(a, b, gate) for a, b in pairwise(channels)))
        self.join = nn.Conv2d(channels[-1] + caption, 2 * base, 3, padding=1)
        self.out = nn.Conv2d(2 * base, 1, FIRST)

    def forward(self, image: Tensor, sentence: Tensor) -> Tensor:
        """Scores ``(B,)`` of images ``(B, 3, size, size)`` with sentences ``(B, S)``."""
        return self.score(self.features(image), sentence)

    def features(self, image: Tensor) -> Tensor:
        """What is computed of the image alone, ``(B, 16 base, 4, 4)``.

        Raises:
            UserError: images of another size.
        """
        if image.ndim != 4 or tuple(image.shape[1:]) != (3, self.size, self.size):
            raise UserError(
                f"Discriminator reads images (B, 3, {self.size}, {self.size})",
                f"images {tuple(image.shape)}",
                "crop and resize the images, or build it for their size",
            )
        return self.blocks(self.start(image))

    def score(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Scores ``(B,)`` of image features with sentences.

        Raises:
            UserError: unequal numbers of images and sentences.
        """
        if len(features) != len(sentence):
            raise UserError(
                "Discriminator takes pairs of images and sentences",
                f"{len(features)} images, {len(sentence)} sentences",
                "give row i of both the same sample",
            )
        tiled = sentence[:, :, None, None].expand(-1, -1, FIRST, FIRST)
        return self.out(F.leaky_relu(self.join(torch.cat([features, tiled], dim=1)), SLOPE)).flatten()


class DownBlock(nn.Module):
    """A residual block of half the height and width.

    Args:
        channels, outputs: of input and result.
        gate: of the residual branch, at first.
    """

    def __init__(self, channels: int, outputs: int, gate: float = 0.0) -> None:
        super().__init__()
        self.halve = nn.Conv2d(channels, outputs, 4, stride=2, padding=1)
        self.refine = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = shortcut(channels, outputs)
        self.gate = nn.Parameter(torch.tensor([float(gate)]))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W)`` to ``(B, outputs, H / 2, W / 2)``."""
        h = F.leaky_relu(self.refine(F.leaky_relu(self.halve(x), SLOPE)), SLOPE)
        return F.avg_pool2d(self.shortcut(x), 2) + self.gate * h


def shortcut(channels: int, outputs: int) -> nn.Module:
    """A 1x1 convolution, or nothing where the widths agree."""
    return nn.Identity() if channels == outputs else nn.Conv2d(channels, outputs, 1)


def doublings(who: str, size: int) -> int:
    """How many times 4 pixels double to ``size``.

    Raises:
        UserError: ``size`` is not 4 times a power of two, or less than 8.
    """
    steps = (size // FIRST).bit_length() - 1
    if steps < 1 or FIRST * 2**steps != size:
        raise UserError(f"{who}: size is 4 times a power of two, at least 8", f"size={size}", "choose 64, 128 or 256")
    return steps

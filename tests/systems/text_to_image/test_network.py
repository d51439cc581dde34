"""ARAF's text-to-image network: shapes, gates, losses by hand, one update, wrong input. Nothing is trained here."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from tests.fusion.test_araf import align
from weft.errors import UserError
from weft.systems.text_to_image.loss import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from weft.systems.text_to_image.network import (
    Affine,
    Caption,
    CaptionEncoder,
    Discriminator,
    DownBlock,
    Generator,
    UpBlock,
    WordAlignment,
    WordAttention,
)
from weft.tokens import Tokens

WIDTH, SIZE = 6, 16


def caption(batch: int = 3, words: int = 4) -> Caption:
    mask = torch.arange(words) < torch.tensor([[words], [1], [2]])[:batch]
    return Caption(Tokens(torch.randn(batch, words, WIDTH).double(), mask), torch.randn(batch, WIDTH).double())


def moved(module: nn.Module) -> Any:
    """In float64, no parameter at its initial value, so that every gate is open."""
    with torch.no_grad():
        for p in module.double().parameters():
            p.add_(0.2 * torch.randn_like(p))
    return module


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(WIDTH, size=SIZE, base=2, noise=5, align_at=(8, 16), width=8, heads=2).double()


def discriminator() -> Discriminator:
    torch.manual_seed(1)
    return Discriminator(WIDTH, size=SIZE, base=2).double()


def test_published_shapes() -> None:
    """256 -> 256 -> 128 -> 64 -> 32 -> 32 channels to 128 pixels; 4 x 4 x 512 on the other side."""
    with torch.device("meta"):
        made, judge = Generator(), Discriminator()
        widths = [(b.convolutions[0].in_channels, b.convolutions[0].out_channels) for b in made.blocks]
        assert widths == [(256, 256), (256, 128), (128, 64), (64, 32), (32, 32), (32, 32)]
        assert sorted(made.align) == ["1", "3"]
        words = Tokens(torch.empty(2, 18, 256), torch.ones(2, 18, dtype=torch.bool))
        image = made(torch.empty(2, 100), Caption(words, torch.empty(2, 256)))
        assert image.shape == (2, 3, 256, 256)
        assert judge.features(image).shape == (2, 512, 4, 4)
        assert judge(image, torch.empty(2, 256)).shape == (2,)


def test_gates_start_closed() -> None:
    """At first the image depends on neither words nor sentence, and every closed branch is a shortcut."""
    made, noise = generator(), torch.randn(3, 5).double()
    assert_close(made(noise, caption()), made(noise, caption()))
    assert made(noise, caption()).abs().max() <= 1
    opened = moved(made)
    one, other = caption(), caption()
    assert not torch.allclose(opened(noise, one), opened(noise, Caption(other.words, one.sentence)))
    assert not torch.allclose(opened(noise, one), opened(noise, Caption(one.words, other.sentence)))


def mlp(layers: nn.Sequential, x: Tensor) -> Tensor:
    return layers[2].weight @ (layers[0].weight @ x + layers[0].bias).clamp(min=0) + layers[2].bias


def test_up_block_is_two_conditional_residual_steps() -> None:
    torch.manual_seed(2)
    block = moved(UpBlock(4, 3, WIDTH))
    x, sentence = torch.randn(1, 4, 5, 5).double(), torch.randn(1, WIDTH).double()

    def lrelu_affine(affine: Affine, h: Tensor) -> Tensor:
        scale, shift = mlp(affine.scale, sentence[0]), mlp(affine.shift, sentence[0])
        y = torch.stack([scale[c] * h[0, c] + shift[c] for c in range(h.shape[1])])[None]
        return torch.where(y > 0, y, 0.2 * y)

    one, two, three, four = block.affines
    first, second = block.convolutions
    h = F.conv2d(lrelu_affine(two, lrelu_affine(one, x)), first.weight, first.bias, padding=1)
    h = F.conv2d(lrelu_affine(four, lrelu_affine(three, h)), second.weight, second.bias, padding=1)
    expected = F.conv2d(x, block.shortcut.weight, block.shortcut.bias) + block.gate * h
    assert_close(block(x, sentence), expected)


def test_word_alignment_asks_the_real_words() -> None:
    torch.manual_seed(3)
    block = moved(WordAlignment(4, WIDTH, 8, 2))
    x, (values, mask) = torch.randn(3, 4, 2, 3).double(), caption().words
    mask = mask & torch.tensor([[True], [True], [False]])
    found = block(x, Tokens(values.masked_fill(~mask.unsqueeze(-1), float("nan")), mask))
    with torch.no_grad():
        for row in range(2):
            pixels = x[row].flatten(1).T @ block.pixels.weight.T + block.pixels.bias
            words = values[row][mask[row]] @ block.words.weight.T + block.words.bias
            answer = align(block.align, pixels, words) @ block.project.weight.T + block.project.bias
            assert_close(found[row], x[row] + block.gate * answer.T.unflatten(1, (2, 3)))
    assert_close(found[2], x[2])


def test_word_attention_weighs_the_real_words() -> None:
    torch.manual_seed(3)
    block = moved(WordAttention(4, WIDTH))
    x, (values, mask) = torch.randn(3, 4, 2, 3).double(), caption().words
    mask = mask & torch.tensor([[True], [True], [False]])
    found = block(x, Tokens(values.masked_fill(~mask.unsqueeze(-1), float("nan")), mask))
    with torch.no_grad():
        for row, i, j in itertools.product(range(2), range(2), range(3)):
            keys = [block.words.weight @ word for word, real in zip(values[row], mask[row], strict=True) if real]
            weights = torch.stack([x[row, :, i, j] @ key for key in keys]).softmax(dim=0)
            answer = sum(weight * key for weight, key in zip(weights, keys, strict=True))
            expected = x[row, :, i, j] + block.gate * (block.project.weight @ answer + block.project.bias)
            assert_close(found[row, :, i, j], expected)
    assert_close(found[2], x[2])


def test_without_words_the_sentence_alone_decides() -> None:
    made = moved(Generator(WIDTH, size=SIZE, base=2, noise=5, align_at=(8, 16), words="none"))
    noise, (one, other) = torch.randn(3, 5).double(), (caption(), caption())
    assert_close(made(noise, one), made(noise, Caption(other.words, one.sentence)))
    assert not torch.allclose(made(noise, one), made(noise, other))


def test_down_block_halves() -> None:
    torch.manual_seed(4)
    block, x = moved(DownBlock(3, 5)), torch.randn(2, 3, 8, 8).double()
    h = F.leaky_relu(F.conv2d(x, block.halve.weight, block.halve.bias, stride=2, padding=1), 0.2)
    h = F.leaky_relu(F.conv2d(h, block.refine.weight, block.refine.bias, padding=1), 0.2)
    wide = F.conv2d(x, block.shortcut.weight, block.shortcut.bias)
    pooled = (wide[..., ::2, ::2] + wide[..., 1::2, ::2] + wide[..., ::2, 1::2] + wide[..., 1::2, 1::2]) / 4
    assert_close(block(x), pooled + block.gate * h)


def test_hinge_of_real_mismatched_and_generated_pairs() -> None:
    judge, sentence = moved(discriminator()), torch.randn(3, WIDTH).double()
    real, fake = torch.randn(2, 3, 3, SIZE, SIZE).double()

    def score(image: Tensor, text: Tensor) -> float:
        return judge(image[None], text[None]).item()

    matched = sum(max(0.0, 1 - score(real[i], sentence[i])) for i in range(3)) / 3
    mismatched = sum(max(0.0, 1 + score(real[i], sentence[i + 1])) for i in range(2)) / 2
    generated = [score(fake[i], sentence[i]) for i in range(3)]
    expected = matched + (mismatched + sum(max(0.0, 1 + g) for g in generated) / 3) / 2
    assert discriminator_loss(judge, real, fake, sentence).item() == pytest.approx(expected)
    assert generator_loss(judge, fake, sentence).item() == pytest.approx(-sum(generated) / 3)


class Plane(nn.Module):
    """A linear score, whose gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(12).double()), nn.Parameter(torch.randn(WIDTH).double())

    def forward(self, image: Tensor, sentence: Tensor) -> Tensor:
        return image.flatten(1) @ self.a + sentence @ self.b


def test_penalty_is_twice_the_sixth_power_of_the_slope() -> None:
    torch.manual_seed(5)
    plane = Plane()
    penalty = gradient_penalty(plane, torch.randn(2, 3, 2, 2).double(), torch.randn(2, WIDTH).double())  # type: ignore[arg-type]
    square = (plane.a.square().sum() + plane.b.square().sum()).detach()
    assert_close(penalty.detach(), 2 * square**3)
    penalty.backward()
    assert_close(plane.a.grad, 12 * square**2 * plane.a.detach())


def test_the_discriminators_gates_start_where_asked() -> None:
    gates = [block.gate.item() for block in Discriminator(WIDTH, size=SIZE, base=2, gate=0.5).blocks]
    assert gates == [0.5, 0.5]
    assert [block.gate.item() for block in discriminator().blocks] == [0.0, 0.0]


def test_caption_encoder_ignores_padding() -> None:
    torch.manual_seed(6)
    encoder = CaptionEncoder(9, embedding=5, width=WIDTH).eval()
    ids, mask = torch.tensor([[1, 2, 3], [4, 99, -1]]), torch.tensor([[True, True, True], [True, False, False]])
    both, alone = encoder(ids, mask), encoder(ids[1:, :1], mask[1:, :1])
    assert_close(both.sentence[1:], alone.sentence)
    assert_close(both.words.values[1:, :1], alone.words.values)
    states, _ = encoder.rnn(encoder.embed(ids[:1]))
    assert_close(both.sentence[0], torch.cat([states[0, -1, : WIDTH // 2], states[0, 0, WIDTH // 2 :]]))


def encode_badly(mask: list[list[bool]]) -> Caption:
    return CaptionEncoder(9, embedding=5, width=WIDTH)(torch.zeros(2, 3, dtype=torch.long), torch.tensor(mask))


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda: Generator(size=48), "size=48"),
        (lambda: Discriminator(size=4), "size=4"),
        (lambda: Generator(size=16, align_at=(16, 64)), r"align_at=\(16, 64\)"),
        (lambda: Generator(size=16, align_at=(16,), words="arav"), "arav"),  # type: ignore[arg-type]
        (lambda: CaptionEncoder(9, width=7), "width=7"),
        (lambda: encode_badly([[True, False, True], [True, True, True]]), "words first"),
        (lambda: encode_badly([[True, True, True], [False, False, False]]), r"without words \[1\]"),
        (lambda: generator()(torch.randn(2, 5).double(), caption(3)), r"noise \(2, 5\)"),
        (lambda: discriminator()(torch.zeros(2, 3, 8, 8).double(), torch.zeros(2, WIDTH).double()), r"\(2, 3, 8, 8\)"),
        (lambda: discriminator()(torch.zeros(2, 3, 16, 16).double(), torch.zeros(3, WIDTH).double()), "3 sentences"),
        (lambda: discriminator_loss(discriminator(), *torch.zeros(2, 1, 3, 16, 16), torch.zeros(1, WIDTH)), "of 1"),
    ],
)
def test_wrong_input_is_named(call: Callable[[], Any], found: str) -> None:
    with pytest.raises(UserError, match=found):
        call()

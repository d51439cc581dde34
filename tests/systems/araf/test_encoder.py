"""ARAF's encoder against plain loops; padding, absence, training of the whole system, wrong input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.fusion.loops import gelu, layer_norm
from tests.fusion.test_araf import resample
from weft.errors import UserError
from weft.fusion.araf import ARAF
from weft.systems.araf.encoder import ARAFEncoder, ImagePatches, SeriesPatches, TextTokens
from weft.tokens import Tokens

WIDTH = 8
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def encoder(embedding: nn.Module) -> ARAFEncoder:
    torch.manual_seed(0)
    module = ARAFEncoder(embedding, WIDTH, tokens=3, layers=2, heads=2).double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


def image() -> ARAFEncoder:
    return encoder(ImagePatches(WIDTH, size=(4, 6), patch=2, channels=2))


def text() -> ARAFEncoder:
    return encoder(TextTokens(WIDTH, vocabulary=11, length=6))


def series() -> ARAFEncoder:
    return encoder(SeriesPatches(WIDTH, length=20, channels=2, window=4, stride=3))


def after_embedding(module: ARAFEncoder, x: Tensor) -> Tensor:
    """One row ``(n, D)``, step by step."""
    for norm, att in zip(module.norms, module.attentions, strict=True):
        normed, size = layer_norm(x, norm.weight, norm.bias), WIDTH // att.heads
        received = []
        for token in normed:
            heads = []
            for h in range(att.heads):
                part = slice(h * size, (h + 1) * size)
                keys, values = (w[part] @ normed.T for w in att.key_value.weight.chunk(2))
                weights = torch.exp((att.query.weight[part] @ token) @ keys / math.sqrt(size))
                heads.append(values @ weights / weights.sum())
            received.append(att.out.weight @ torch.cat(heads) + att.out.bias)
        x = x + torch.stack(received)
    x = layer_norm(x, module.norm.weight, module.norm.bias)
    for block in module.blocks:
        added = []
        for n in range(len(x)):
            hidden = block.convolution.bias.clone()
            for offset in (-1, 0, 1):
                if 0 <= n + offset < len(x):
                    hidden = hidden + block.convolution.weight[:, :, offset + 1] @ x[n + offset]
            added.append(block.mapping.weight @ gelu(hidden) + block.mapping.bias)
        x = x + torch.stack(added)
    return resample(module.resample, x)


def test_image_equals_the_loops() -> None:
    module, values = image(), torch.randn(2, 2, 4, 6).double()
    embed = module.embedding
    for row, found in zip(values, module(values).values, strict=True):
        patches = [
            torch.stack([(w * row[:, i : i + 2, j : j + 2]).sum() for w in embed.project.weight]) + embed.project.bias
            for i in (0, 2)
            for j in (0, 2, 4)
        ]
        assert_close(found, after_embedding(module, torch.stack(patches) + embed.positions), **TIGHT)


def test_text_equals_the_loops_on_unpadded_rows() -> None:
    module, ids = text(), torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 0, 0, 0, 0]])
    lengths = [6, 2]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    garbage = torch.where(mask, ids, 10_000)
    found = module(garbage, mask)
    assert found.mask.all()
    for row, length, tokens in zip(ids, lengths, found.values, strict=True):
        x = torch.stack([module.embedding.words.weight[i] for i in row[:length]]) + module.embedding.positions[:length]
        assert_close(tokens, after_embedding(module, x), **TIGHT)
        assert_close(module(row[None, :length]).values[0], tokens, **TIGHT)


def test_series_equals_the_loops_on_unpadded_rows() -> None:
    module, values = series(), torch.randn(2, 17, 2).double()
    lengths = [17, 9]
    mask = torch.arange(17) < torch.tensor(lengths)[:, None]
    found = module(values.masked_fill(~mask.unsqueeze(-1), float("nan")), mask)
    weight, bias = module.embedding.project.weight, module.embedding.project.bias
    for row, length, tokens in zip(values, lengths, found.values, strict=True):
        windows = [row[s : s + 4].T for s in range(0, length - 3, 3)]
        x = torch.stack([torch.stack([(w * part).sum() for w in weight]) + bias for part in windows])
        assert_close(tokens, after_embedding(module, x + module.embedding.positions[: len(x)]), **TIGHT)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (text, torch.ones(2, 5, dtype=torch.long)),
        (series, torch.ones(2, 9, 2).double()),
        (image, torch.ones(2, 2, 4, 6).double()),
    ],
)
def test_a_row_without_anything_is_absent(make: Callable[[], ARAFEncoder], values: Tensor) -> None:
    mask = torch.tensor([True, False])[:, None].expand(2, 1 if values.ndim == 4 else values.shape[1])
    if values.is_floating_point():
        values[1] = float("nan")
    tokens = make()(values, mask)
    assert tokens.mask.tolist() == [[True] * 3, [False] * 3]
    assert tokens.values.isfinite().all()


def test_three_encoders_and_a_fusion_train_together() -> None:
    """Which of two captions, images and series belong together: memorised, all weights with a gradient."""
    torch.manual_seed(0)
    encoders = nn.ModuleDict(
        {
            "image": ARAFEncoder(ImagePatches(WIDTH, size=4, patch=2), WIDTH, tokens=3, layers=1, heads=2),
            "text": ARAFEncoder(TextTokens(WIDTH, vocabulary=5, length=4), WIDTH, tokens=3, layers=1, heads=2),
            "series": ARAFEncoder(
                SeriesPatches(WIDTH, length=8, window=4, stride=2), WIDTH, tokens=3, layers=1, heads=2
            ),
        }
    )
    fusion = ARAF(dict.fromkeys(encoders, WIDTH), WIDTH, tokens=3, heads=2, columns=8)
    head = nn.Linear(WIDTH, 2)
    parameters = [p for m in (encoders, fusion, head) for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    values = {"image": torch.randn(8, 3, 4, 4), "text": torch.randint(0, 5, (8, 4)), "series": torch.randn(8, 8, 1)}
    labels = torch.arange(8) % 2
    losses = []
    for _ in range(25):
        tokens = {name: encode(values[name]) for name, encode in encoders.items()}
        loss = nn.functional.cross_entropy(head(fusion(tokens).vector), labels)
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            assert all(p.grad is not None and bool(p.grad.any()) for p in parameters)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("make", "values", "mask", "found"),
    [
        (text, torch.zeros(2, 7, dtype=torch.long), None, r"ids \(2, 7\)"),
        (text, torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 5, dtype=torch.bool), r"mask \(2, 5\)"),
        (text, torch.tensor([[1, 2], [3, 11]]), None, "rows 1"),
        (series, torch.zeros(2, 3, 2).double(), None, "3 steps"),
        (series, torch.zeros(2, 21, 2).double(), None, "21 steps"),
        (series, torch.zeros(2, 9, 1).double(), None, r"values \(2, 9, 1\)"),
        (series, torch.zeros(2, 9, 2).double(), torch.arange(9) < torch.tensor([[9], [3]]), "rows 1 have no whole"),
        (image, torch.zeros(2, 2, 6, 4).double(), None, r"\(2, 2, 6, 4\)"),
    ],
)
def test_wrong_values_are_named(
    make: Callable[[], ARAFEncoder], values: Tensor, mask: Tensor | None, found: str
) -> None:
    with pytest.raises(UserError, match=found):
        make()(values, mask)


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda: SeriesPatches(8, length=10, window=12), "window=12, length=10"),
        (lambda: ImagePatches(8, size=10, patch=4), r"patch=\(4, 4\)"),
        (lambda: ARAFEncoder(nn.Identity(), 9), "width=9"),
        (lambda: ARAFEncoder(nn.Identity(), 8, heads=3), "heads=3"),
        (lambda: ARAFEncoder(nn.Identity(), 8, layers=0), "layers=0"),
    ],
)
def test_wrong_options_are_named(build: Callable[[], Any], found: str) -> None:
    with pytest.raises(UserError, match=found):
        build()


def test_exports_with_any_batch() -> None:
    module = text().float()
    batch = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        module,
        (torch.ones(3, 5, dtype=torch.long), torch.ones(3, 5, dtype=torch.bool)),
        dynamic_shapes=({0: batch}, {0: batch}),
    ).module()
    ids, mask = torch.randint(0, 11, (4, 5)), torch.arange(5) < torch.tensor([[5], [2], [1], [0]])
    found, expected = program(ids, mask), module(ids, mask)
    assert isinstance(found, Tokens)
    assert_close(found.values, expected.values)

"""ARAF's published network against a literal transcription: outputs, gradients, dead weights, wrong input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.systems.araf.literal import LiteralEnhancer, LiteralImageEncoder, LiteralResNet
from weft.errors import UserError
from weft.systems.araf.network import ImageEncoder, MultiModalEnhancer, ResNet1D, image_names, image_options

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
SMALL: dict[str, Any] = {
    "size": (8, 12),
    "patch": (4, 2),
    "width": 16,
    "depth": 3,
    "heads": 2,
    "head_dim": 5,
    "hidden": 7,
}
OURS = {"image_heads": 2, "patch": (4, 2)}


def literal(**image: Any) -> LiteralEnhancer:
    """Small, in float64, no parameter at its initial value, no running statistic either."""
    torch.manual_seed(0)
    network = LiteralEnhancer(5, width=24, heads=4, image={**SMALL, **image}).double().eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.2 * torch.rand_like(tensor))
    return network


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_equal_to_the_transcription_in_value_and_gradient(pool: Any) -> None:
    original = literal(pool=pool)
    ours = MultiModalEnhancer.from_official({k: v.clone() for k, v in original.state_dict().items()}, pool=pool, **OURS)
    signal, image = torch.randn(3, 70).double(), torch.randn(3, 3, 8, 12).double()
    expected, found = original(signal, image), ours(signal, image)
    assert_close(found, expected, **TIGHT)
    weight = torch.randn_like(expected)
    for y in (expected, found):
        (y * weight).sum().backward()
    names = {
        f"image_encoder.{t}": f"image_encoder.{o}" for t, o in image_names(original.image_encoder.state_dict()).items()
    }
    gradients = dict(ours.named_parameters())
    alive = 0
    for name, parameter in original.named_parameters():
        if name.startswith("image_encoder.") and name not in names:
            assert parameter.grad is None, f"{name} is not dead"
            continue
        alive += 1
        assert_close(gradients[names.get(name, name)].grad, parameter.grad, msg=lambda m, n=name: f"{n}: {m}", **TIGHT)
    assert alive == len(gradients)


def test_attention_weights_of_the_last_layer() -> None:
    original = literal().image_encoder
    state = original.state_dict()
    ours = ImageEncoder(outputs=24, **image_options(state, heads=2, patch=(4, 2), pool="cls")).double()
    ours.load_state_dict({o: state[t] for t, o in image_names(state).items()})
    image = torch.randn(2, 3, 8, 12).double()
    assert_close(ours.eval().attention(image), original(image)[1], **TIGHT)


def test_one_head_as_wide_as_a_token_has_no_output_layer() -> None:
    encoder = LiteralImageEncoder(size=(4, 4), patch=(2, 2), width=6, depth=2, heads=1, head_dim=6, hidden=4, outputs=3)
    state = encoder.double().eval().state_dict()
    ours = ImageEncoder(outputs=3, **image_options(state, heads=1, patch=2, pool="cls")).double().eval()
    ours.load_state_dict({o: state[t] for t, o in image_names(state).items()})
    image = torch.randn(2, 3, 4, 4).double()
    assert_close(ours(image), encoder(image)[0], **TIGHT)


@pytest.mark.parametrize("length", [260, 96, 33])
def test_lengths_of_the_sequence_encoder(length: int) -> None:
    with torch.device("meta"):
        ours, original = ResNet1D(), LiteralResNet()
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: v.shape for k, v in original.state_dict().items()
        }
        assert ours.eval()(torch.empty(2, 1, length)).shape == (2, 512)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_size_is_the_published_one() -> None:
    """91,798,384 weights, 91,287,949 with five classes; five of six transformer layers are dead."""
    with torch.device("meta"):
        original, ours = LiteralEnhancer(), MultiModalEnhancer()
        assert count(original) == 91_798_384
        assert count(original) - count(ours) == 41_984_000
        assert count(LiteralEnhancer(5)) == 91_287_949
    loaded = MultiModalEnhancer.from_official(original.state_dict())
    assert count(loaded) == count(ours)
    assert loaded(torch.empty(2, 260, device="meta"), torch.empty(2, 3, 256, 256, device="meta")).shape == (2, 1000)


def small() -> MultiModalEnhancer:
    image = {"size": 8, "patch": 4, "width": 8, "heads": 2, "head_dim": 4, "hidden": 8}
    return MultiModalEnhancer(3, width=8, heads=2, head_dim=4, image=image).eval()


def test_every_weight_moves_but_the_bias_of_the_keys() -> None:
    """In training mode, with dropout; the softmax ignores the bias of the keys."""
    torch.manual_seed(0)
    network = small().train()
    network(torch.randn(4, 40), torch.randn(4, 3, 8, 8)).logsumexp(dim=1).sum().backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not still
    assert not bool(network.multi_modal_fusion.signal_projection.bias.grad[:4].abs().max() > 1e-6)


@pytest.mark.parametrize(
    ("signal", "image", "found"),
    [
        ((2, 40), (3, 3, 8, 8), r"signal \(2, 40\), image \(3, 3, 8, 8\)"),
        ((2, 3, 8, 8), (2, 40), r"signal \(2, 3, 8, 8\)"),
        ((2, 40), (2, 3, 8, 12), r"\(3, 8, 12\)"),
        ((2, 40), (2, 1, 8, 8), r"\(1, 8, 8\)"),
        ((2, 40), (2, 3, 9, 8), r"\(3, 9, 8\)"),
    ],
)
def test_wrong_pairs_are_named(signal: tuple[int, ...], image: tuple[int, ...], found: str) -> None:
    with pytest.raises(UserError, match=found):
        small()(torch.zeros(signal), torch.zeros(image))


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(UserError, match="heads=8, head_dim=32, width=512"):
        MultiModalEnhancer(5, heads=8, head_dim=32, image={"width": 8, "hidden": 8, "heads": 1})
    with pytest.raises(UserError, match="patch=\\(5, 5\\)"):
        ImageEncoder(size=8, patch=5)
    with pytest.raises(UserError, match="pool='max'"):
        ImageEncoder(pool="max")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="among 1 names"):
        MultiModalEnhancer.from_official({"weight": torch.zeros(1)})
    with pytest.raises(UserError, match="image_heads=7"):
        MultiModalEnhancer.from_official(literal().state_dict(), image_heads=7, patch=(4, 2))

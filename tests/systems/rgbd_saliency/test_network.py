"""The saliency network: parts against plain formulas, every fusion, every weight, published size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from tests.systems.tiny import RESNET
from weft.errors import UserError
from weft.systems.rgbd_saliency.loss import saliency_loss
from weft.systems.rgbd_saliency.network import CrossFeature, RgbdSaliencyNet

FUSIONS = ("mutualformer", "attention", "concat", "rgb", "depth")


def network(**options: Any) -> RgbdSaliencyNet:
    torch.manual_seed(0)
    return RgbdSaliencyNet(RESNET, **{"width": 16, "block": {"heads": 2}, **options})


def images(batch: int = 2, size: tuple[int, int] = (64, 96)) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(batch, 3, *size), torch.rand(batch, 1, *size)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_trains_every_weight(fusion: Any) -> None:
    net, (rgb, depth) = network(fusion=fusion), images()
    maps = net(rgb, depth)
    assert maps.final.shape == depth.shape
    assert [side.shape for side in maps.sides] == [depth.shape] * 4
    assert len(maps.auxiliary) == len(net.names) == (1 if fusion in ("rgb", "depth") else 2)
    saliency_loss([maps.final, maps.first], maps.sides, maps.auxiliary, (depth > 0.5).float()).mean().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_frozen_backbones_never_move() -> None:
    net, free, (rgb, depth) = network(freeze=True), network(), images()
    before = {name: tensor.clone() for name, tensor in net.backbones.state_dict().items()}
    maps = net.train()(rgb, depth)
    saliency_loss([maps.final, maps.first], maps.sides, maps.auxiliary, (depth > 0.5).float()).mean().backward()
    assert all(p.grad is None for p in net.backbones.parameters())
    assert not [name for name, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    for name, tensor in net.backbones.state_dict().items():
        assert torch.equal(tensor, before[name])
    free.train()(rgb, depth)
    assert any(not torch.equal(t, before[name]) for name, t in free.backbones.state_dict().items()), "BatchNorm moves"
    assert_close(net.eval()(rgb, depth).final, net.decode(net.encode(rgb, depth), (64, 96)).final, rtol=0, atol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_a_fusion_reads(fusion: Any) -> None:
    net, (rgb, depth) = network(fusion=fusion).eval(), images()
    before = net(rgb, depth).final
    moved = {"rgb": net(rgb.flip(3), depth).final, "depth": net(rgb, depth.flip(3)).final}
    for name, after in moved.items():
        assert torch.equal(before, after) == (fusion in ("rgb", "depth") and fusion != name)
    assert_close(net(rgb[1:], depth[1:]).final, before[1:], rtol=1e-4, atol=1e-4)


def test_blocks_stand_at_the_chosen_strides() -> None:
    sizes = {s: sum(p.numel() for p in network(strides=s).parameters()) for s in ((), (32,), (32, 16), (32, 16, 8, 4))}
    block = 24 * 16**2 + 17 * 16
    assert [size - sizes[()] for size in sizes.values()] == [0, block, 2 * block, 4 * block]
    assert sizes[()] == sum(p.numel() for p in network(fusion="concat").parameters())
    rgb, depth = images()
    coarse, plain = network(strides=(32,)).eval(), network(fusion="concat").eval()
    plain.load_state_dict(coarse.state_dict(), strict=False)
    assert not torch.allclose(coarse(rgb, depth).final, plain(rgb, depth).final)


def test_the_block_sees_row_major_tokens() -> None:
    net, (rgb, depth) = network(strides=(32,)).eval(), images(1)
    seen: list[tuple[Tensor, ...]] = []
    net.blocks["32"].register_forward_hook(lambda _, inputs, out: seen.append((*inputs, out)))
    net(rgb, depth)
    r = net.squeeze["rgb"][-1](net.encode(rgb, depth)["rgb"][-1])  # type: ignore[index]
    assert r.shape[2:] == (2, 3)
    assert_close(seen[0][0][0, 4], r[0, :, 1, 1])


def test_cross_feature_equals_its_formula() -> None:
    torch.manual_seed(0)
    module = CrossFeature(4).eval()
    fine, coarse = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 3, 3)

    def f(layer: nn.Module, x: Tensor) -> Tensor:
        convolution = layer[0]  # type: ignore[index]
        return F.conv2d(x, convolution.weight, padding=1).div(1 + 1e-5).clamp(min=0)

    a1, b1 = f(module.a[0], fine), f(module.b[0], F.interpolate(coarse, (6, 6), mode="bilinear"))
    common = f(module.a[1], a1) * f(module.b[1], b1)
    left, right = f(module.a[3], f(module.a[2], common) + a1), f(module.b[3], f(module.b[2], common) + b1)
    found = module(fine, coarse)
    assert_close(found[0], left, rtol=1e-4, atol=1e-6)
    assert_close(found[1], right, rtol=1e-4, atol=1e-6)


def test_size_with_two_resnet_50() -> None:
    with torch.device("meta"):
        net = RgbdSaliencyNet(
            {"model_type": "resnet", "depths": [3, 4, 6, 3]}, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        )
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == pytest.approx(49.5, abs=0.5)


def test_odd_sizes_pass() -> None:
    net = network().eval()
    rgb, depth = images(1, (70, 99))
    assert net(rgb, depth).final.shape == (1, 1, 70, 99)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'mutualformer'"):
        network(fusion="mutualforme")
    with pytest.raises(UserError, match="strides"):
        network(strides=(64,))
    rgb, depth = images()
    for wrong in ((rgb, depth[:, :, :64, :64]), (rgb, rgb), (rgb[..., :16], depth[..., :16])):
        with pytest.raises(UserError, match="one size"):
            network()(*wrong)

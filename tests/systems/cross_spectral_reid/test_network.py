"""The re-identification network: every fusion, every weight, and the baseline's weighting against loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from tests.systems.tiny import VIT
from weft.errors import UserError
from weft.systems.cross_spectral_reid.loss import batch_hard_triplet
from weft.systems.cross_spectral_reid.network import CamWeighting, CrossSpectralReIdNet

FUSIONS = ("mutualformer", "attention", "concat", "cam")


def network(names: tuple[str, ...] = ("rgb", "nir"), **options: Any) -> CrossSpectralReIdNet:
    torch.manual_seed(0)
    return CrossSpectralReIdNet(VIT, names, 5, **{"block": {"heads": 2}, **options})


def images(names: tuple[str, ...] = ("rgb", "nir"), batch: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.rand(batch, 3, 16, 32) for name in names}


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("names", [("rgb", "nir"), ("rgb", "nir", "tir")])
def test_every_fusion_trains_every_weight(fusion: Any, names: tuple[str, ...]) -> None:
    net, identity = network(names, fusion=fusion), torch.tensor([0, 0, 1, 1])
    out = net(images(names))
    assert (out.feature.shape, out.embedding.shape, out.logits.shape) == ((4, 16), (4, 16), (4, 5))
    (F.cross_entropy(out.logits, identity) + batch_hard_triplet(out.feature, identity)).backward()
    idle = [n for n, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not [name for name in idle if not name.endswith("key.bias") and "k_proj.bias" not in name]
    assert not net.neck.bias.requires_grad


@pytest.mark.parametrize("fusion", FUSIONS)
def test_alone_equals_in_a_batch_and_every_spectrum_counts(fusion: Any) -> None:
    net, given = network(fusion=fusion).eval(), images()
    whole = net(given).embedding
    assert_close(net({name: image[2:3] for name, image in given.items()}).embedding, whole[2:3], rtol=1e-4, atol=1e-5)
    for name in given:
        assert not torch.allclose(net({**given, name: given[name].flip(3)}).embedding, whole)


def test_one_spectrum_is_the_class_token_of_its_encoder() -> None:
    net, given = network(fusion="nir").eval(), images(("nir",))
    seen = net.encoders[0](given["nir"] * 2 - 1, interpolate_pos_encoding=True).last_hidden_state
    assert (net.names, len(net.encoders)) == (("nir",), 1)
    assert_close(net(given).feature, seen[:, 0])
    F.cross_entropy(net(given).logits, torch.tensor([0, 0, 1, 1])).backward()
    assert not [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    with pytest.raises(UserError, match="every spectrum"):
        net(images())


def test_cam_weights_equal_loops() -> None:
    torch.manual_seed(0)
    module, patches = CamWeighting(3, 4, 6).double(), torch.randn(3, 2, 5, 4, dtype=torch.float64)
    found = module.weights(patches)
    for b in range(2):
        active = [[[1 / (1 + torch.exp(-module.maps[m].weight[k] @ patches[m, b, n])) for n in range(5)]
                   for k in range(6)] for m in range(3)]  # fmt: skip
        s = [[sum(active[m][k]) for k in range(6)] for m in range(3)]
        t = [sum(max(active[m][k][n] for m in range(3)) for n in range(5)) for k in range(6)]
        for m in range(3):
            expected = sum(t[k] / sum(t) * s[m][k] / (s[0][k] + s[1][k] + s[2][k]) for k in range(6))
            assert_close(found[m, b], expected)
    assert_close(found.sum(dim=0), torch.ones(2, dtype=torch.float64))


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'concat'"):
        network(fusion="concatt")
    with pytest.raises(UserError, match="two or more spectra"):
        network(("rgb",))
    with pytest.raises(UserError, match="every spectrum"):
        network()({"rgb": torch.rand(1, 3, 16, 32)})

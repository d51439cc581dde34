"""FAF-Net against vectors of the original code: layers, fusion, both stages, front end."""

import re
import zlib

import numpy as np
import pytest
import torch

from tests.golden.cases import golden, load
from weft.systems.fafnet.layers import (
    ChannelAttention,
    ComplexConv2d,
    ComplexNorm,
    ResidualBlock,
    SimilarityFusion,
    select,
)
from weft.systems.fafnet.network import FafNet, official_state
from weft.systems.fafnet.spectra import Spectra, match, similarity

CLOSE = {"rtol": 0, "atol": 1e-10}


def ours(layout):
    """``(B, ..., C, F, T, 2)`` as it is recorded to ``(B, 2, ..., C, F, T)``."""
    return layout.movedim(-1, 1)


def formula_state(shapes):
    """Weights that are not stored but follow the rule of the json."""
    state = {}
    for name, shape in shapes.items():
        k = np.arange(int(np.prod(shape)), dtype=np.float64)
        s = np.sin(12.9898 * (k + 1) + zlib.crc32(name.encode()) % 1000)
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            s = 0.75 + 0.25 * s
        else:
            s = 0.1 * s if len(shape) == 1 else 1.2 * s / np.sqrt(np.prod(shape[1:]))
        state[name] = torch.from_numpy(s).reshape(shape)
    return state


def layer_of(case):
    """The layer that a free text of arguments describes."""
    name, args = case.config["cls"], case.config["args"]
    first = [int(n) for n in re.findall(r"\d+", args)]
    if name.startswith("ComplexConv"):
        pairs = {key: (int(a), int(b)) for key, a, b in re.findall(r"(stride|pad|dil) \((\d+),(\d+)\)", args)}
        shape = (pairs.get("stride", (1, 1)), pairs.get("pad", (0, 0)), pairs.get("dil", (1, 1)))
        return ComplexConv2d(first[0], first[1], (first[2], first[3]), *shape, transposed="Transpose" in name)
    if name == "QKV":
        return SimilarityFusion(*first[:2])
    return {"ComplexBatchNorm2d": ComplexNorm, "CBAM": ChannelAttention, "ResidualBlock": ResidualBlock}[name](*first)


def placed(named, name):
    """Our tensor that a recorded name of a layer stands for, or the half of it."""
    name = re.sub(r"\bt?conv_re\b", "real", re.sub(r"\bt?conv_im\b", "imag", name))
    for old, new in (("linear_r.", "squeeze."), ("linear.", "excite."), ("conv.0.", "first."), ("conv.2.", "second.")):
        name = name.replace(old, new)
    if not name.startswith("bn_"):
        return named[name]
    real, imag = named[name[6:]].chunk(2)
    return real if name.startswith("bn_re") else imag


@golden("fafnet", without=("frontend", "select", "unet"))
@pytest.mark.parametrize("many", [True, False])
def test_layers(path, many):
    case = load(path)
    layer = layer_of(case).double().train(case.config["mode"] == "train")
    for conv in layer.modules():
        if isinstance(conv, ComplexConv2d):
            conv.many = many
    named = dict(layer.named_parameters()) | dict(layer.named_buffers())
    with torch.no_grad():
        for name, tensor in case.tensors.items():
            if name.startswith("state."):
                placed(named, name.removeprefix("state.")).copy_(tensor)
    inputs = [case.tensors[name].requires_grad_() for name in ("in0", "in1") if name in case.tensors]
    out = layer(*(ours(tensor) for tensor in inputs))
    torch.testing.assert_close(out, ours(case.tensors["out"]), **CLOSE)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(case.tensors["out"].shape)
    (out * ours(weights)).sum().backward()
    grads = {name: p.grad for name, p in layer.named_parameters()}
    for name, tensor in case.tensors.items():
        place = name.partition(".")[2]
        if name.startswith("grad.in"):
            torch.testing.assert_close(inputs[int(name[-1])].grad, tensor, **CLOSE)
        elif name.startswith("grad."):
            torch.testing.assert_close(placed(grads, place), tensor, **CLOSE)
        elif name.startswith("after."):
            torch.testing.assert_close(placed(named, place), tensor, **CLOSE)


@golden("fafnet", only=("select",))
def test_select(path):
    t = load(path).tensors
    reference, indices = ours(t["ref"]), t["idx"]
    for name, mixed in (("official", True), ("intended", False)):
        assert torch.equal(select(reference, indices, mixed), ours(t[name]))


@golden("fafnet", only=("unet",))
def test_stages(path):
    case = load(path)
    t, config = case.tensors, case.config
    state = {name.removeprefix("state."): tensor.double() for name, tensor in t.items() if name.startswith("state.")}
    state = state or formula_state(config["state_shapes"])
    net = FafNet.from_official(state).eval()
    assert net.stage == config["config"]["stage"]
    assert net.candidates == config["config"]["K"]
    if "n_params" in config:
        assert sum(p.numel() for p in net.parameters()) == config["n_params"]
    inner = {}
    for name, module in (("qkv", net.fusion[0]), ("cbam", net.skip[0]), ("bottleneck", net.blocks)):
        module.register_forward_hook(lambda _, __, out, name=name: inner.__setitem__(name, out))
    noisy, ref = (t[name].double().requires_grad_() for name in ("noisy", "ref"))
    stage1 = torch.view_as_complex(t["stage1"].double()) if "stage1" in t else None
    heard = net.listen(torch.view_as_complex(ref))
    out = torch.view_as_real(net(torch.view_as_complex(noisy), heard, t["idx"], stage1))
    torch.testing.assert_close(out, t["out"], **CLOSE)
    kept = {name: tensor.clone() for name, tensor in inner.items()}
    with torch.no_grad():  # maps are overwritten, the reference is not
        for _ in range(2):
            still = net(torch.view_as_complex(noisy), heard, t["idx"], stage1)
            torch.testing.assert_close(torch.view_as_real(still), t["out"], **CLOSE)
    inner = kept
    for name, tensor in t.items():
        if name.startswith("inner."):
            torch.testing.assert_close(inner[name.split(".")[1].split("_")[0]], ours(tensor), **CLOSE)
    (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape)).sum().backward()
    grads = dict(net.named_parameters())
    for name, tensor in t.items():
        if name in ("grad.noisy", "grad.ref"):
            torch.testing.assert_close((noisy if "noisy" in name else ref).grad, tensor, **CLOSE)
        elif name.startswith("grad."):
            first = f"conv_{3 - net.stage}.0.conv_re.weight"  # the stage is known by the number of its first level
            mine = list(official_state({first: tensor, name.removeprefix("grad."): tensor}))[-1]
            torch.testing.assert_close(grads[mine].grad, tensor, **CLOSE)


@golden("fafnet", only=("frontend",))
def test_front_end(path):
    case = load(path)
    t, config = case.tensors, case.config["config"]
    spectra = Spectra(n_fft=config["n_fft"], hop=config["hop"], mels=config["n_mels"], coefficients=config["n_mfcc"])
    spectra = spectra.double()
    wave = t["wave"].double()
    spectrum = spectra(wave)
    torch.testing.assert_close(torch.view_as_real(spectrum).float(), t["stft"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(spectra.inverse(spectrum, wave.shape[1]).float(), t["istft"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(spectra.inverse(spectrum, wave.shape[1]), wave, rtol=0, atol=1e-10)
    torch.testing.assert_close(spectra.basis.T.float(), t["dct"], rtol=0, atol=1e-6)  # torchaudio makes it in float32
    mfcc, ref = spectra.mfcc(spectrum), spectra.mfcc(spectra(t["ref_wave"].double()))
    torch.testing.assert_close(mfcc, t["mfcc"], rtol=0, atol=2e-5 * t["mfcc"].abs().max())
    torch.testing.assert_close(ref, t["ref_mfcc"], rtol=0, atol=2e-5 * t["ref_mfcc"].abs().max())
    torch.testing.assert_close(similarity(mfcc, ref), t["similarity"], rtol=0, atol=1e-5)
    torch.testing.assert_close(similarity(t["mfcc"], t["ref_mfcc"]), t["similarity"], **CLOSE)
    assert torch.equal(match(mfcc, ref, config["K"]), t["idx"])

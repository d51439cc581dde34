"""MERLOT Reserve against vectors of the original code: encoders, coordinates, losses, and a whole pre-training step."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.golden.cases import golden, load
from weft.errors import UserError
from weft.systems.merlot_reserve.network import (
    AudioEncoder,
    SpanEncoder,
    Transformer,
    VisionEncoder,
    angles,
    centred,
    from_flax,
    grid,
    turn,
    turned,
)  # fmt: skip
from weft.systems.merlot_reserve.pretrain import LARGEST, MerlotNet, Pairs, Videos, Words, contrastive, scaled
from weft.systems.merlot_reserve.system import MerlotReserve

TIGHT = {"rtol": 0, "atol": 1e-10}


def parts(case, kind):
    found = {n.removeprefix(f"{kind}."): t for n, t in case.tensors.items() if n.startswith(f"{kind}.")}
    return {n: t.double() if t.is_floating_point() else t for n, t in found.items()}


def ramp(x):
    return (x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)).sum()


def check_gradients(case, net, given):
    wanted = parts(case, "grad")
    grads = {name: p.grad for name, p in net.named_parameters()}
    assert wanted
    for name, tensor in wanted.items():
        if name.startswith("input."):
            found = given[name.removeprefix("input.")].grad
        else:
            ((ours, tensor),) = from_flax({name: tensor}).items()
            found = grads[ours]
        torch.testing.assert_close(found, tensor, **TIGHT)


def ready(case, net):
    net = net.double()
    net.load_state_dict(from_flax(parts(case, "state")))
    given = parts(case, "input")
    for name in ("x", "patches", "mel"):
        if name in given:
            given[name].requires_grad_()
    return net, given, parts(case, "output")


@golden("merlot", only=("rotary",))
def test_coordinates(path):
    t = load(path).tensors
    for n in (4, 5, 8):
        torch.testing.assert_close(centred(n), t[f"coords_center_{n}"], **TIGHT)
        torch.testing.assert_close(torch.arange(1, n + 1).double(), t[f"coords_nocenter_{n}"], **TIGHT)
    for h, w in ((3, 4), (2, 2)):
        torch.testing.assert_close(grid(h, w), t[f"coords2d_{h}x{w}"], **TIGHT)
    theta = angles(t["mm_coords"], 32)
    both = torch.stack([theta.cos(), theta.sin()], dim=1).repeat_interleave(2, dim=-1)
    torch.testing.assert_close(both, t["mm_sinusoids"], **TIGHT)
    theta_1d = angles(t["sin1d_coords"], 16)
    both = torch.stack([theta_1d.cos(), theta_1d.sin()]).repeat_interleave(2, dim=-1)
    torch.testing.assert_close(both, t["sin1d"].view_as(both), **TIGHT)
    torch.testing.assert_close(turned(t["qk"], turn(theta, "official")), t["qk_rotated"], **TIGHT)


@golden("merlot", only=("vision",))
def test_vision(path):
    case = load(path)
    c = case.config["config"]
    patch = case.tensors["input.patches"].shape[2]
    net, given, out = ready(case, VisionEncoder(
        patch, tuple(c["grid"]), c["hidden"], c["layers"], head=c["size_per_head"], pool=2
    ))  # fmt: skip
    cls, seq, pooled = net(given["patches"])
    for found, name in ((cls, "cls"), (seq, "seq"), (pooled, "seq_attnpool")):
        torch.testing.assert_close(found, out[name], **TIGHT)
    ramp(cls).backward()
    check_gradients(case, net, given)


@golden("merlot", only=("audio",))
def test_audio(path):
    case = load(path)
    c = case.config["config"]
    features = case.tensors["input.mel"].shape[2]
    net, given, out = ready(case, AudioEncoder(
        features, c["hidden"], c["layers"], head=c["size_per_head"], patch=c["patch"], pool=c["pooling_ratio"]
    ))  # fmt: skip
    cls, seq, pooled = net(given["mel"])
    for found, name in ((cls, "cls"), (seq, "seq"), (pooled, "seq_attnpool")):
        torch.testing.assert_close(found, out[name], **TIGHT)
    ramp(cls).backward()
    net.seq_attnpool.query.bias.grad = torch.zeros_like(net.seq_attnpool.query.bias)
    check_gradients(case, net, given)


@golden("merlot", only=("span",))
def test_span(path):
    case = load(path)
    c = case.config["config"]
    net, given, out = ready(case, SpanEncoder(c["hidden"], c["layers"], head=c["size_per_head"]))
    found = net(given["x"], given["is_valid"].bool())
    torch.testing.assert_close(found, out["cls"], **TIGHT)
    ramp(found).backward()
    check_gradients(case, net, given)


@golden("merlot", only=("joint",))
def test_joint(path):
    case = load(path)
    c = case.config["config"]
    places = len(case.tensors.get("state.pe", ()))
    net, given, out = ready(case, Transformer(c["hidden"], c["layers"], head=c["size_per_head"], places=places))
    with sdpa_kernel(SDPBackend.MATH):  # rows that hear nothing are recorded too; faster kernels round those away
        found = net(given["x"], given.get("rotary_coords"), given["attention_mask"])
        torch.testing.assert_close(found, out["seq"], **TIGHT)
        ramp(found).backward()
    check_gradients(case, net, given)


@golden("merlot", only=("contrastive",))
def test_losses(path):
    case = load(path)
    given, out = parts(case, "input"), parts(case, "output")
    names = ("imgs_to_audio", "text_to_audio", "stuff_to_span")
    leaves = {name: tensor.requires_grad_() for name, tensor in given.items() if name != "sources"}
    found = {}
    for name, scale in zip(names, leaves["log_scales"].clamp(max=LARGEST), strict=True):
        pairs = Pairs(leaves[f"{name}.x"], leaves[f"{name}.y"], leaves.get(f"{name}.y_extra"))
        found[name] = contrastive(scaled(pairs, scale))
        torch.testing.assert_close(found[name], out[name], **TIGHT)
    total = torch.stack(list(found.values())).sum()
    torch.testing.assert_close(total, out["loss"], **TIGHT)
    total.backward()
    for name, tensor in parts(case, "grad").items():
        torch.testing.assert_close(leaves[name].grad, tensor, **TIGHT)


def formula(case):
    """Weights by the recorded rule."""
    found = {}
    for name, shape in case.config["state_shapes"].items():
        k = np.arange(int(np.prod(shape)), dtype=np.float64)
        s = np.sin(12.9898 * (k + 1) + zlib.crc32(name.encode()) % 1000)
        last = name.rpartition(".")[2]
        if last == "scale":
            s = 1 + 0.2 * s
        elif name == "contrastive_scales":
            s = 1 + 0.5 * s
        elif last == "bias":
            s = 0.2 * s
        elif last in ("cls", "pe") or name == "token_encoder.Embed_0.embedding":
            s = 0.7 * s
        else:
            joined = name.endswith(("attn_proj.kernel", ".out.kernel", "audio_encoder.embedding.kernel"))
            fan = shape[0] * (shape[1] if len(shape) == 3 and joined else 1)
            s = 1.3 * s / np.sqrt(fan)
        found[name] = torch.from_numpy(s.reshape(shape))
    return found


@golden("merlot", only=("pretrain",))
def test_pretraining(path):
    """A whole step: the vectors of all pairs, which spans were asked for, the losses and their gradients."""
    case = load(path)
    given, out = parts(case, "input"), parts(case, "output")
    m, data = case.config["config"]["model"], case.config["config"]["data"]
    net = MerlotNet(
        case.config["config"]["vocab"], patch=given["images"].shape[2],
        grid=tuple(m["output_grid"]), pool=m["vit_pooling_ratio"], features=given["audio_clips"].shape[2],
        audio_patch=m["audio_patch_size"], audio_tokens=m["audio_token_length"], frames=m["audio_seq_length"],
        width=m["hidden_size"], head=m["size_per_head"],
        layers=(m["vit_num_layers"], m["audio_num_layers"], m["span_num_layers"], m["joint_num_layers"]),
        kept=data["num_text_spans_to_include"],
    ).double()  # fmt: skip
    net.load_state_dict(from_flax(formula(case)))

    def words(name):
        ids = given[name]
        audio = given.get(f"{name}.audio_ptr", torch.zeros_like(ids))
        return Words(ids, audio, given.get(f"{name}.text_ptr", torch.full_like(ids, -1)))

    kinds = (words(name) for name in ("text2audio", "audio2text", "audio_text_matching", "random_text"))
    batch = Videos(given["images"], given["audio_clips"], *kinds, given["text_spans"], given["video_src_index"])
    count = batch.text_spans.shape[0] * batch.text_spans.shape[1]
    draw = (0.05 + 0.9 * torch.arange(count, dtype=torch.float64) / count).view(batch.text_spans.shape[:2])
    with sdpa_kernel(SDPBackend.MATH):
        pairs, sources = net(batch, draw)
        assert sources.tolist() == out["stuff_to_span._sources"].tolist()
        scales = net.contrastive_scales.clamp(max=LARGEST)
        for name, scale in zip(("imgs_to_audio", "text_to_audio", "stuff_to_span"), scales, strict=True):
            x, y, extra = scaled(pairs[name], scale)
            torch.testing.assert_close(x, out[f"{name}.x"], **TIGHT)
            torch.testing.assert_close(y, out[f"{name}.y"], **TIGHT)
            if extra is not None:
                torch.testing.assert_close(extra, out[f"{name}.y_extra"], **TIGHT)
        losses = net.losses(pairs)
        for name, loss in losses.items():
            torch.testing.assert_close(loss, out[name], **TIGHT)
        total = torch.stack(list(losses.values())).sum()
        torch.testing.assert_close(total, out["loss"], **TIGHT)
        total.backward()
    check_gradients(case, net, {})


@golden("merlot", only=("pretrain",))
def test_published_weights_make_a_system(path):
    case = load(path)
    state, m = formula(case), case.config["config"]["model"]
    sizes = {
        "grid": tuple(m["output_grid"]),
        "mels": 64,
        "frames": m["audio_seq_length"],
        "seconds": 5.0,
        "rate": 22050,
    }
    found = MerlotReserve.from_official(state, **sizes, hop=588, fft=1536, pieces=m["audio_token_length"])
    for name, tensor in from_flax(state).items():
        torch.testing.assert_close(found.network.get_parameter(name).double(), tensor, rtol=1e-6, atol=1e-6)
    assert (found.width, found.head, found.rotary) == (m["hidden_size"], m["size_per_head"], "official")
    with pytest.raises(UserError, match="names and shapes of the published"):
        MerlotReserve.from_official(dict(list(state.items())[:-3]), **sizes)


def test_turned_correctly():
    """The correct rotation keeps lengths, and products depend on differences alone; the official one does not."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64)
    products = {}
    for rotary in ("correct", "official"):
        for start in (0.0, 0.3):
            theta = [angles(torch.tensor([[[start + shift]]], dtype=torch.float64), 32) for shift in (0.0, 0.2)]
            a, b = (turned(x, turn(t, rotary)) for x, t in zip((q, k), theta, strict=True))
            products[rotary, start] = (a * b).sum()
    torch.testing.assert_close(products["correct", 0.0], products["correct", 0.3])
    torch.testing.assert_close(turned(q, turn(theta[1], "correct")).norm(), q.norm())
    assert not torch.isclose(products["official", 0.0], products["official", 0.3])

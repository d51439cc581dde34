"""TransMEF against vectors of the original code: network, corruptions under their draws, loss."""

import zlib

import numpy as np
import pytest
import torch

from tests.golden.cases import golden, load
from weft.systems.transmef import corruptions
from weft.systems.transmef.loss import restoring_loss, structural_similarity
from weft.systems.transmef.network import TransMefNet, official_name


def formula_state(shapes):
    """Weights that are not stored but follow the rule of the json."""
    state = {}
    for name, shape in shapes.items():
        k = np.arange(int(np.prod(shape)), dtype=np.float64)
        s = np.sin(12.9898 * (k + 1) + zlib.crc32(name.encode()) % 1000)
        if len(shape) == 1:
            s = 1 + 0.2 * s if name.endswith("weight") else 0.1 * s
        else:
            s = 1.6 * s / np.sqrt(np.prod(shape[1:]))
        state[name] = torch.from_numpy(s).reshape(shape)
    return state


@golden("transmef", only=("transnet",))
def test_network(path):
    case = load(path)
    stored = {name.removeprefix("state."): t for name, t in case.tensors.items() if name.startswith("state.")}
    state = stored or formula_state(case.config["state_shapes"])
    single = "fp32" in str(case.config.get("state_dtype", "")) or "default" in path.stem
    dtype = torch.float32 if single else torch.float64
    tolerance = {"rtol": 0, "atol": 1e-5 if single else 1e-10}
    net = TransMefNet.from_official(
        {name: tensor.to(dtype) for name, tensor in state.items()}, heads=case.config["config"]["heads"]
    ).eval()
    x1, x2 = (case.tensors[name].to(dtype).requires_grad_() for name in ("x1", "x2"))
    recon = net(x1)
    found = {
        "tokens_x1": net.vit.tokens(x1),
        "vit_x1": net.vit(x1),
        "recon_x1": recon,
        "fused": net(x1, x2),
        "feature_x1_mean": net.encode(x1).mean(dim=(2, 3)),
    }
    checked = {name for name in found if name in case.tensors}
    assert "recon_x1" in checked
    for name in checked:
        torch.testing.assert_close(found[name].to(case.tensors[name].dtype), case.tensors[name], **tolerance)
    (recon * torch.linspace(-1, 1, recon.numel(), dtype=dtype).reshape(recon.shape)).sum().backward()
    grads = {name: p.grad for name, p in net.named_parameters()}
    for name, tensor in case.tensors.items():
        if name.startswith("grad."):
            grad = x1.grad if name == "grad.x1" else grads[official_name(name.removeprefix("grad."))]
            torch.testing.assert_close(grad.to(tensor.dtype), tensor, **tolerance)


@golden("transmef", only=("corruptions",))
def test_corruptions_under_their_draws(path):
    t = {name: tensor.numpy() for name, tensor in load(path).tensors.items()}
    image = t["image"]
    np.testing.assert_array_equal(corruptions.with_shuffle(image, t["shuffle.draws"]), t["shuffle.out"])
    powers = np.where(t["gamma.changed"] == 1, t["gamma.gamma"], 1.0)
    np.testing.assert_array_equal(corruptions.with_gamma(image, t["gamma.draws"], powers), t["gamma.out"])
    draws = t["fourier.draws"]
    sources = [t[f"fourier.window{i}.phase_source"] for i in range(len(draws))]
    on_the_edge = 0
    for i, (tall, wide, row, column) in enumerate(draws):
        window = image[row : row + tall, column : column + wide]
        amplitude = np.abs(np.fft.fft2(window))
        blurred = corruptions.blurred(amplitude / (amplitude.max() + 1e-4))
        np.testing.assert_allclose(blurred, t[f"fourier.window{i}.amplitude_blurred"], rtol=0, atol=1e-12)
        back = t[f"fourier.window{i}.result"]
        np.testing.assert_allclose(corruptions.spectrum(window, sources[i]), back, rtol=0, atol=1e-10)
        on_the_edge += int((np.abs(back - np.round(back)) < 1e-10).sum())
    differ = corruptions.with_fourier(image, draws, sources).astype(int) - t["fourier.out"]
    assert (differ != 0).sum() <= on_the_edge, "only 199.999... against 200.0 may be cut to another grey value"
    assert np.abs(differ).max() <= 1


@golden("transmef", only=("losses",))
def test_losses(path):
    t = load(path).tensors
    target, pred = t["target"].double(), t["pred"].double().requires_grad_()
    assert structural_similarity(target, pred).mean().item() == pytest.approx(float(t["ssim"]), abs=1e-7)
    loss = restoring_loss(target, pred).mean()
    assert loss.item() == pytest.approx(float(t["total_task"]), abs=1e-7)
    loss.backward()
    torch.testing.assert_close(pred.grad, t["grad.pred"], rtol=0, atol=1e-7)

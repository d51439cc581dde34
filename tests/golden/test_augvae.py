"""AugVAE against vectors of the original code: all levels, one level, in training, and both codebooks."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch.nn import functional as F

from tests.golden.cases import golden, load
from weft.systems.l_verse.augvae import AugVae
from weft.systems.l_verse.codebook import Codebook, TrainedCodebook, perplexity

TIGHT = {"rtol": 0, "atol": 1e-10}


def state_of(case):
    """Stored weights, or those of the recorded formula."""
    if "formula" not in case.config:
        return {n.removeprefix("state."): t.double() for n, t in case.tensors.items() if n.startswith("state.")}
    found = {}
    for name, shape in case.config["state_shapes"].items():
        k = np.arange(int(np.prod(shape)), dtype=np.float64)
        s = np.sin(12.9898 * (k + 1) + zlib.crc32(name.encode()) % 1000)
        if name.endswith("embedding.weight"):
            table, value = 0.8 * s, 0.8 * s
        elif name.endswith("embed_avg"):
            value = table * (1 + 0.1 * np.sin(k))
        elif name.endswith("cluster_size"):
            value = 1 + 0.5 * s
        elif len(shape) == 1:
            value = 1 + 0.2 * s if name.endswith("weight") else 0.1 * s
        else:
            value = 1.3 * s / np.sqrt(np.prod(shape[1:]))
        found[name] = torch.from_numpy(value.reshape(shape))
    return found


def published(name):
    """Our name of a gradient."""
    return next(iter(AugVae.renamed({name: torch.zeros(())})))


@golden("augvae", only=("ml_", "sl_"))
def test_network(path):
    case = load(path)
    c, given = case.config["config"], case.tensors
    level = c["finetune"][0] if c["finetune"] else None
    net = AugVae(
        c["resolution"], c["pyramid"], hidden=c["hidden"], z=c["z"], dim=c["dim"], codes=c["num_tokens"],
        widths=c["ch_mult"], residual=c["n_res"], attention=c["use_attn"], groups=c["groups"], init="official",
        level=level,
    ).double()  # fmt: skip
    net.load_state_dict({**AugVae.renamed(state_of(case)), "codebooks.0.started": torch.tensor(True)})
    net.train("after.codebook" in given)
    picture = given["input.image"].double()
    found = net(picture)
    for i, (vector, codes) in enumerate(zip(found.vectors, found.codes, strict=True)):
        torch.testing.assert_close(codes, given[f"output.indices_{i}"], rtol=0, atol=0)
        torch.testing.assert_close(vector, given[f"output.quant_{i}"], **TIGHT)
    torch.testing.assert_close(found.picture, given["output.recon"], **TIGHT)
    torch.testing.assert_close(found.loss, given["output.emb_loss"], **TIGHT)
    torch.testing.assert_close(found.perplexity, given["output.perplexity"], **TIGHT)
    loss = F.mse_loss(found.picture, picture) + found.loss
    torch.testing.assert_close(loss, given["output.loss"], **TIGHT)
    loss.backward()
    grads = {name: p.grad for name, p in net.named_parameters()}
    wanted = {n.removeprefix("grad."): t for n, t in given.items() if n.startswith("grad.")}
    assert wanted
    for name, tensor in wanted.items():
        torch.testing.assert_close(grads[published(name)], tensor, **TIGHT)
    if net.training:
        book = net.codebooks[0]
        for name, tensor in (
            ("codebook", book.weight), ("embed_avg", book.embed_avg), ("cluster_size", book.cluster_size)
        ):  # fmt: skip
            torch.testing.assert_close(tensor, given[f"after.{name}"], **TIGHT)
        return
    kept = net.encoded(picture)
    torch.testing.assert_close(kept, given["output.codebook_indices"], rtol=0, atol=0)
    if "output.decode_seq" in given:
        torch.testing.assert_close(net.drawn(kept), given["output.decode_seq"], **TIGHT)
    torch.testing.assert_close(net.drawn(kept), found.picture, **TIGHT)


@golden("augvae", only=("plain",))
def test_trained_codebook(path):
    case = load(path)
    book = TrainedCodebook(*case.tensors["weight"].shape, beta=case.config["beta"]).double()
    book.weight.data.copy_(case.tensors["weight"])
    z = case.tensors["z"].clone().requires_grad_()
    found, loss, codes = book(z)
    torch.testing.assert_close(found, case.tensors["zq"], **TIGHT)
    torch.testing.assert_close(codes.flatten(), case.tensors["indices"], rtol=0, atol=0)
    torch.testing.assert_close(loss, case.tensors["loss"], **TIGHT)
    torch.testing.assert_close(perplexity(codes, len(book.weight)), case.tensors["perplexity"], **TIGHT)
    ramp = "linspace" in case.config["backward"]
    weight = torch.linspace(-1, 1, z.numel(), dtype=z.dtype).view_as(z) if ramp else torch.ones_like(z)
    ((found * weight).sum() + loss).backward()
    torch.testing.assert_close(z.grad, case.tensors["grad_z"], **TIGHT)
    torch.testing.assert_close(book.weight.grad, case.tensors["grad_weight"], **TIGHT)


@golden("augvae", only=("ema",))
def test_moving_codebook(path):
    case = load(path)
    given = case.tensors
    book = Codebook(*given["weight_before"].shape, init="official").double().train()
    book.weight.copy_(given["weight_before"])
    book.embed_avg.copy_(given["weight_before"])
    for step in range(3):
        found, loss, codes = book(given[f"z{step}"])
        torch.testing.assert_close(found, given[f"zq{step}"], **TIGHT)
        torch.testing.assert_close(loss, given[f"loss{step}"], **TIGHT)
        torch.testing.assert_close(codes.flatten(), given[f"indices{step}"], rtol=0, atol=0)
        torch.testing.assert_close(perplexity(codes, len(book.weight)), given[f"perplexity{step}"], **TIGHT)
        for ours, name in ((book.weight, "weight"), (book.cluster_size, "cluster"), (book.embed_avg, "avg")):
            torch.testing.assert_close(ours, given[f"{name}_after{step}"], rtol=1e-12, atol=1e-10)

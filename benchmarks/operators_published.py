"""Both sides of the operators' benchmarks: the module a user gets, and the published arithmetic on its weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import araf as araf_benchmark
import cross_diffusion as diffusion_benchmark
import mult as mult_benchmark

from weft.alignment import create_aligner
from weft.fusion import create_fusion
from weft.fusion.aff import to_tokens
from weft.fusion.lmf_mult import LowRankMulT
from weft.fusion.low_rank import LowRankFusion
from weft.tokens import Tokens, everywhere, pad


class Problem(NamedTuple):
    """One side: the forward pass, and what its result is differentiated by, the inputs first."""

    forward: Callable[[], Tensor]
    inputs: list[Tensor]
    weights: list[Tensor]


Make = Callable[[str, Any, bool], Problem]
"""Of the side, the size, and whether in training mode. Weights and inputs are the same for both sides."""


class Operator(NamedTuple):
    """How to build both sides, and the sizes: the published one first."""

    make: Make
    sizes: dict[str, Any]
    random: bool = False
    """Whether training draws random numbers: then outputs are compared in evaluation mode only."""


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def given(side: str, batch: int, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """Pooled modalities as the side takes them: ``(B, 1, D)`` or ``(B, D)``."""
    return {n: leaf(batch, 1, width) if side == "ours" else leaf(batch, width) for n, width in widths.items()}


def all_real(values: Mapping[str, Tensor]) -> dict[str, Tokens]:
    return {name: Tokens(v, everywhere(*v.shape[:2], device=v.device)) for name, v in values.items()}


# --- products of two vectors: the public code of BLOCK


class Pair(NamedTuple):
    batch: int
    widths: tuple[int, int]
    dim: int
    options: dict[str, Any]


def bilinear(name: str, published: Callable[[Any, Tensor, Tensor], Tensor]) -> Make:
    def make(side: str, size: Pair, training: bool) -> Problem:
        torch.manual_seed(0)
        module: Any = create_fusion(name, dict(zip("xy", size.widths, strict=True)), size.dim, **size.options)
        module.train(training)
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(0.02 * torch.randn_like(weight))
        x = given(side, size.batch, dict(zip("xy", size.widths, strict=True)))
        weights = [w for n, w in module.named_parameters() if not n.startswith("fillers")]
        if side == "ours":
            inputs = all_real(x)
            return Problem(lambda: module(inputs).vector, list(x.values()), weights)
        return Problem(lambda: published(module, *x.values()), list(x.values()), weights)

    return make


def signed_root(z: Tensor) -> Tensor:
    return F.normalize(torch.sqrt(F.relu(z)) - torch.sqrt(F.relu(-z)), p=2)


def mlb(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.relu(m.out(F.relu(m.project[0](x)) * F.relu(m.project[1](y))))


def linear_sum(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.relu(m.out(F.relu(m.project[0](x)) + F.relu(m.project[1](y))))


def mfb(m: Any, x: Tensor, y: Tensor) -> Tensor:
    before, pooled = None, []
    for block in m.products:
        e = F.relu(block.project[0](x)) * F.relu(block.project[1](y))
        before = e if before is None else e * before
        pooled.append(before.view(len(x), -1, m.factor).sum(2))
    return F.relu(m.out(pooled[0] if len(pooled) == 1 else torch.cat(pooled, 1)))


def low_rank(core: Any, x: Tensor, y: Tensor) -> Tensor:
    return (core.factors[0](x) * core.factors[1](y)).view(len(x), core.rank, -1).sum(1)


def mutan(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return m.out(low_rank(m.core, m.project[0](x), m.project[1](y)))


def chunks(m: Any, merge: Callable[[Any, Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    pieces = (project(v).split(m.sizes, dim=1) for project, v in zip(m.project, (x, y), strict=True))
    return m.out(torch.cat([signed_root(merge(*part)) for part in zip(m.cores, *pieces, strict=True)], dim=1))


def block(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return chunks(m, low_rank, x, y)


def full_core(core: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.bilinear(x, y, core.weight, core.bias)


def block_tucker(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return chunks(m, full_core, x, y)


def tucker(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return m.out(full_core(m.cores[0], m.project[0](x), m.project[1](y)))


def pairs(published: dict[str, Any], middle: dict[str, Any], small: dict[str, Any]) -> dict[str, Pair]:
    return {
        "4800 x 2048 -> 3000, batch 128": Pair(128, (4800, 2048), 3000, published),
        "768 x 768 -> 256, batch 32": Pair(32, (768, 768), 256, middle),
        "512 x 64 -> 64, batch 256": Pair(256, (512, 64), 64, small),
    }


RELU = {"activation": "relu", "output_activation": "relu"}
PLAIN = RELU | {"normalize": False}


# --- TFN and LMF


class Three(NamedTuple):
    batch: int
    widths: tuple[int, int, int]
    dim: int
    rank: int = 0


def with_ones(x: Tensor) -> Tensor:
    return torch.cat([x.new_ones(len(x), 1), x], dim=1)


def tfn(side: str, size: Three, training: bool) -> Problem:
    torch.manual_seed(0)
    module: Any = create_fusion("tfn", dict(zip("avt", size.widths, strict=True)), size.dim).train(training)
    x = given(side, size.batch, dict(zip("avt", size.widths, strict=True)))
    if side == "ours":
        inputs = all_real(x)
        return Problem(lambda: module(inputs).vector, list(x.values()), list(module.parameters()))
    order = module.product.order
    weight = module.product.weight.detach().permute(0, *(1 + order.index(m) for m in range(3))).flatten(1).contiguous()
    layer = nn.Linear(weight.shape[1], size.dim)
    layer.load_state_dict({"weight": weight, "bias": module.bias.detach()})

    def forward() -> Tensor:
        a, v, t = (with_ones(value) for value in x.values())
        two = torch.bmm(a.unsqueeze(2), v.unsqueeze(1)).view(size.batch, -1, 1)
        return layer(torch.bmm(two, t.unsqueeze(1)).view(size.batch, -1))

    return Problem(forward, list(x.values()), list(layer.parameters()))


def lmf_forward(factors: Sequence[Tensor], weights: Tensor, bias: Tensor, x: Sequence[Tensor]) -> Tensor:
    """``(r, D + 1, o)`` factors, ``(1, r)`` weights and ``(1, o)`` bias, as published."""
    a, v, t = (torch.matmul(with_ones(value), factor) for value, factor in zip(x, factors, strict=True))
    y = torch.matmul(weights, (a * v * t).permute(1, 0, 2)).squeeze(1) + bias
    return y.view(len(x[0]), -1)


def published_factors(module: LowRankFusion) -> tuple[list[Tensor], Tensor, Tensor]:
    factors = [f.detach().unflatten(1, (module.rank, -1)).transpose(0, 1).contiguous() for f in module.factors]
    weights, bias = module.rank_weights.detach().unsqueeze(0).clone(), module.bias.detach().unsqueeze(0).clone()
    return [f.requires_grad_() for f in factors], weights.requires_grad_(), bias.requires_grad_()


def lmf(side: str, size: Three, training: bool) -> Problem:
    torch.manual_seed(0)
    module = LowRankFusion(dict(zip("avt", size.widths, strict=True)), size.dim, rank=size.rank).train(training)
    x = given(side, size.batch, dict(zip("avt", size.widths, strict=True)))
    if side == "ours":
        inputs = all_real(x)
        return Problem(lambda: module(inputs).vector, list(x.values()), list(module.parameters()))
    factors, weights, bias = published_factors(module)
    values = list(x.values())
    return Problem(lambda: lmf_forward(factors, weights, bias, values), values, [*factors, weights, bias])


# --- AFF and iAFF on maps


class Map(NamedTuple):
    batch: int
    channels: int
    side: int
    reduction: int = 4


class PublishedAttention(nn.Module):
    """One stage: the local and the global branch."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        local_att, global_att = (
            (
                *(nn.Conv2d(width, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)),
                *(nn.Conv2d(hidden, width, 1), nn.BatchNorm2d(width)),
            )
            for _ in range(2)
        )
        self.local_att = nn.Sequential(*local_att)
        self.global_att = nn.Sequential(nn.AdaptiveAvgPool2d(1), *global_att)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.local_att(x) + self.global_att(x))


def attentional(name: str) -> Make:
    def make(side: str, size: Map, training: bool) -> Problem:
        torch.manual_seed(0)
        stages = [
            PublishedAttention(size.channels, size.channels // size.reduction) for _ in range(1 + (name == "iaff"))
        ]
        x, y = (leaf(size.batch, size.channels, size.side, size.side) for _ in range(2))
        for stage in stages:
            stage.train(training)
        if side == "published":
            weights = [w for stage in stages for w in stage.parameters()]

            def forward() -> Tensor:
                w = stages[0](x + y)
                if name == "aff":
                    return 2 * x * w + 2 * y * (1 - w)
                w = stages[1](x * w + y * (1 - w))
                return x * w + y * (1 - w)

            return Problem(forward, [x, y], weights)
        state = {
            key.replace("_att.", f"_att{suffix}."): value
            for suffix, stage in zip(("", "2"), stages, strict=False)
            for key, value in stage.state_dict().items()
        }
        options = {"port": False} if name == "iaff" else {}
        module: Any = type(create_fusion(name, {"x": 8, "y": 8}, 8)).from_official(state, **options)  # type: ignore[attr-defined]
        module.train(training)

        def ours() -> Tensor:
            values = module({"x": to_tokens(x), "residual": to_tokens(y)}).tokens.values
            return values.mT.unflatten(2, (size.side, size.side))

        return Problem(ours, [x, y], list(module.parameters()))

    return make


# --- sequences


class Sequences(NamedTuple):
    batch: int
    lengths: tuple[int, int, int]
    future_mask: bool = True


def sequences(size: Sequences) -> dict[str, Tensor]:
    widths = mult_benchmark.WIDTHS
    return {
        name: leaf(size.batch, length, width)
        for (name, width), length in zip(widths.items(), size.lengths, strict=True)
    }


def tokens_of(x: Mapping[str, Tensor]) -> dict[str, Tokens]:
    return {name: pad(list(value)) for name, value in x.items()}


def mult(side: str, size: Sequences, training: bool) -> Problem:
    torch.manual_seed(0)
    options = {"layers": mult_benchmark.LAYERS, "heads": mult_benchmark.HEADS, "width": mult_benchmark.WIDTH}
    drops = dict.fromkeys(("dropout", "embed_dropout", "attention_dropout", "output_dropout"), 0.0)
    module: Any = create_fusion("mult", mult_benchmark.WIDTHS, 1, future_mask=size.future_mask, **options, **drops)
    module.train(training)
    x = sequences(size)
    weights = list(module.parameters())
    if side == "ours":
        return Problem(lambda: module(tokens_of(x)).vector, list(x.values()), weights)
    return Problem(lambda: mult_benchmark.literal(module, tokens_of(x)), list(x.values()), weights)


def lmf_mult(side: str, size: Sequences, training: bool) -> Problem:
    torch.manual_seed(0)
    drops = dict.fromkeys(("dropout", "embed_dropout", "attention_dropout", "output_dropout"), 0.0)
    module: Any = LowRankMulT(mult_benchmark.WIDTHS, 1, layers=5, steps=50, **drops).train(training)
    x = sequences(size)
    inputs = list(x.values())
    if side == "ours":
        return Problem(lambda: module(tokens_of(x)).vector, inputs, list(module.parameters()))
    factors, weights, bias = published_factors(module.fusion)
    others = [w for n, w in module.named_parameters() if not n.startswith("fusion.")]

    def forward() -> Tensor:
        streams = [p(v) for p, v in zip(module.project, inputs, strict=True)]
        grid = [F.adaptive_avg_pool1d(v.mT, min(size.lengths)).mT.flatten(0, 1) for v in streams]
        fused = module.norm(lmf_forward(factors, weights, bias, grid)).unflatten(0, (size.batch, -1))
        signal = module.convolution(fused.mT).permute(2, 0, 1)
        last = []
        for v, cross, memory in zip(streams, module.cross, module.memory, strict=True):
            received = mult_benchmark.encode(cross, v.transpose(0, 1), signal)
            last.append(mult_benchmark.encode(memory, received, None)[-1])
        z = torch.cat(last, dim=1)
        return module.head.out_layer(module.head.proj2(F.relu(module.head.proj1(z))) + z)

    return Problem(forward, inputs, [*factors, weights, bias, *others])


def mutualformer(side: str, size: int, training: bool) -> Problem:
    torch.manual_seed(0)
    cls = diffusion_benchmark.Literal if side == "published" else diffusion_benchmark.CrossDiffusionAttention
    module = cls(diffusion_benchmark.WIDTH, diffusion_benchmark.HEADS).train(training)
    streams = [leaf(diffusion_benchmark.BATCH, size, diffusion_benchmark.WIDTH) for _ in range(3)]
    return Problem(lambda: module(*streams), streams, list(module.parameters()))


def araf(side: str, size: str, training: bool) -> Problem:
    forward, leaves = araf_benchmark.CLAIMS[size]("ours" if side == "ours" else "literal")
    return Problem(forward, [], leaves)


# --- LightCRL


class Captions(NamedTuple):
    batch: int
    lengths: tuple[int, int]
    width: int = 768


class PublishedLightCRL(nn.Module):
    """Addition: heads, context, one layer of torch's encoder; every position counts."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.heads, self.vectors, self.context = ours.heads, ours.context_vectors, ours.context_network
        self.norm, self.encoder = ours.norm, ours.encoder

    def forward(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for head, vector, values in zip(self.heads, self.vectors, tokens, strict=True):
            x = head(values)
            h = x + self.context(vector).repeat(x.shape[0], 1).unsqueeze(1)
            e = (h + self.encoder(self.norm(h))).mean(1)
            found.append(e / e.norm(dim=1, keepdim=True).clamp(min=1e-12))
        return found


def lightcrl(side: str, size: Captions, training: bool) -> Problem:
    torch.manual_seed(0)
    module: Any = create_aligner("lightcrl", {"text": size.width, "image": size.width}, 256).train(training)
    tokens = [torch.randn(size.batch, length, size.width) for length in size.lengths]
    weights = list(module.parameters())
    if side == "ours":
        batch = {name: pad(list(values)) for name, values in zip(("text", "image"), tokens, strict=True)}
        return Problem(lambda: torch.cat(list(module(batch).values())), weights, [])
    published = PublishedLightCRL(module)
    return Problem(lambda: torch.cat(published(tokens)), weights, [])


THREES = {
    "32/32/64 -> 128, batch 32": Three(32, (32, 32, 64), 128, 4),
    "8/8/8 -> 32, batch 256": Three(256, (8, 8, 8), 32, 4),
    "4/16/128 -> 64, batch 32": Three(32, (4, 16, 128), 64, 4),
}
LMF_SIZES = {
    "4/16/128 -> 1, rank 4, batch 32": Three(32, (4, 16, 128), 1, 4),
    "32/32/64 -> 128, rank 16, batch 128": Three(128, (32, 32, 64), 128, 16),
    "8/4/64 -> 2, rank 8, batch 64": Three(64, (8, 4, 64), 2, 8),
}
MAPS = {
    "64 channels, 32 x 32, batch 8": Map(8, 64, 32),
    "256 channels, 14 x 14, batch 8": Map(8, 256, 14),
    "128 channels, 28 x 28, r 16, batch 4": Map(4, 128, 28, 16),
}
LENGTHS = {
    "50/375/500, batch 4": Sequences(4, (50, 375, 500)),
    "50/50/50, batch 16": Sequences(16, (50, 50, 50)),
    "20/150/200, batch 8, no future mask": Sequences(8, (20, 150, 200), False),
}
OPERATORS: dict[str, Operator] = {
    "mlb": Operator(
        bilinear("mlb", mlb), pairs({"hidden": 1200, **PLAIN}, {"hidden": 256, **PLAIN}, {"hidden": 64, **PLAIN})
    ),
    "linear-sum": Operator(
        bilinear("linear-sum", linear_sum),
        pairs({"hidden": 1200, **PLAIN}, {"hidden": 256, **PLAIN}, {"hidden": 64, **PLAIN}),
    ),
    "mfb": Operator(
        bilinear("mfb", mfb), pairs({"hidden": 1200, **PLAIN}, {"hidden": 256, **PLAIN}, {"hidden": 64, **PLAIN})
    ),
    "mfh": Operator(
        bilinear("mfh", mfb), pairs({"hidden": 1200, **PLAIN}, {"hidden": 256, **PLAIN}, {"hidden": 64, **PLAIN})
    ),
    "mutan": Operator(
        bilinear("mutan", mutan),
        pairs({"hidden": 1600, "rank": 15}, {"hidden": 256, "rank": 8}, {"hidden": 64, "rank": 4}),
    ),
    "block": Operator(
        bilinear("block", block),
        pairs(
            {"hidden": 1600, "rank": 15, "chunks": 20},
            {"hidden": 256, "rank": 8, "chunks": 8},
            {"hidden": 64, "rank": 4, "chunks": 4},
        ),
    ),
    "block-tucker": Operator(
        bilinear("tucker", block_tucker),
        pairs(
            {"hidden": 1600, "chunks": 20, "normalize": "chunk"},
            {"hidden": 256, "chunks": 8, "normalize": "chunk"},
            {"hidden": 64, "chunks": 4, "normalize": "chunk"},
        ),
    ),
    "tucker": Operator(bilinear("tucker", tucker), pairs({"hidden": 160}, {"hidden": 64}, {"hidden": 32})),
    "tfn": Operator(tfn, THREES),
    "lmf": Operator(lmf, LMF_SIZES),
    "aff": Operator(attentional("aff"), MAPS),
    "iaff": Operator(attentional("iaff"), MAPS),
    "mult": Operator(mult, LENGTHS),
    "lmf-mult": Operator(lmf_mult, LENGTHS),
    "mutualformer": Operator(mutualformer, {"256 tokens": 256, "64 tokens": 64, "1024 tokens": 1024}),
    "araf": Operator(araf, {"network": "network", "mechanism": "mechanism"}),
    "lightcrl": Operator(
        lightcrl,
        {
            "57 + 197 tokens, batch 64": Captions(64, (57, 197)),
            "57 + 197 tokens, batch 16": Captions(16, (57, 197)),
            "20 + 49 tokens, batch 64": Captions(64, (20, 49)),
        },
        random=True,
    ),
}

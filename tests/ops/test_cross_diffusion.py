"""Cross-diffusion against plain loops, in every form, and the properties the method is built on."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from weft.errors import UserError
from weft.ops import cross_diffusion as ops
from weft.ops.cross_diffusion import Heads, Messages, cross_diffusion, diffused_cross_attention, normalise_affinity

FORMS = ("dense", "associative", "streaming")
ORIENTATIONS = ("code", "rdp")
TIGHT = {"rtol": 1e-11, "atol": 1e-11}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two rows and few heads, so that small inputs cross every edge of a block."""
    monkeypatch.setattr(ops, "ROWS", 2)
    monkeypatch.setattr(ops, "BLOCK", 24)


def heads(
    batch: int = 2, count: int = 3, tokens: int = 5, width: int = 4, *, seed: int = 0, masked: bool = False
) -> Heads:
    """Random heads that record gradients; masked: ragged, and the first sample has no token at all."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, count, tokens, width)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3))
    mask = torch.rand(batch, tokens, generator=generator) < 0.6
    mask[0], mask[1:, 0] = False, True
    return Heads(q, k, v, mask if masked else None)


def pair(**options: Any) -> tuple[Heads, Heads]:
    masked = options.pop("masked", False)
    return heads(seed=1, masked=masked, **options), heads(seed=2, **options)


def leaves(r: Heads, d: Heads) -> list[Tensor]:
    return [*r[:3], *d[:3]]


def probe(tensors: tuple[Tensor, ...]) -> Tensor:
    """A scalar with a different weight on every entry."""
    return torch.stack([(t * torch.arange(t.numel()).view(t.shape).to(t).cos()).sum() for t in tensors]).sum()


def cast(h: Heads, dtype: torch.dtype) -> Heads:
    return Heads(*(t.detach().to(dtype).requires_grad_() for t in h[:3]), h.mask)


# --- the formula with plain loops


def affinity_by_loops(query: Tensor, key: Tensor, rows: Tensor, keys: Tensor, scale: float) -> list[list[float]]:
    matrix = []
    for i in range(len(query)):
        scores = [
            math.exp(scale * float(query[i].detach() @ key[j].detach())) if keys[j] else 0.0 for j in range(len(key))
        ]
        total = sum(scores)
        matrix.append([x / total if rows[i] and total > 0 else 0.0 for x in scores])
    return matrix


def times(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    return [[sum(a[i][k] * b[k][j] for k in range(len(b))) for j in range(len(b[0]))] for i in range(len(a))]


def transposed(a: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*a, strict=True)]


def diffusion_by_loops(
    a: list[list[float]], b: list[list[float]], alpha: float, steps: int, orientation: str, weight: float
) -> list[list[float]]:
    """``G`` of the modality with affinity ``a`` receiving from the one with affinity ``b``."""
    n = len(a)
    left, right = (transposed(a), b) if orientation == "code" else (a, transposed(b))
    g = [[float(i == j) for j in range(n)] for i in range(n)]
    for _ in range(steps):
        moved = times(times(left, g), right)
        g = [[alpha * moved[i][j] + (1 - alpha) * weight * (a[i][j] + b[i][j]) for j in range(n)] for i in range(n)]
    return g


def by_loops(r: Heads, d: Heads, *, alpha: float, steps: int, orientation: str, fit: str) -> Messages:
    batch, count, tokens, width = r.query.shape
    weight = 1.0 if fit == "sum" else 0.5
    out = [torch.zeros(batch, count, tokens, width, dtype=torch.float64) for _ in range(4)]
    for b, h in product(range(batch), range(count)):
        maps, values = [], []
        for m in (r, d):
            mask = torch.ones(tokens, dtype=torch.bool) if m.mask is None else m.mask[b]
            maps.append(affinity_by_loops(m.query[b, h], m.key[b, h], mask, mask, width**-0.5))
            values.append([[float(x) if mask[i] else 0.0 for x in m.value[b, h, i].detach()] for i in range(tokens)])
        g_rd = diffusion_by_loops(maps[0], maps[1], alpha, steps, orientation, weight)
        g_dr = diffusion_by_loops(maps[1], maps[0], alpha, steps, orientation, weight)
        results = (
            times(maps[0], values[0]), times(maps[1], values[1]), times(g_rd, values[1]), times(g_dr, values[0])
        )  # fmt: skip
        for tensor, result in zip(out, results, strict=True):
            tensor[b, h] = torch.tensor(result, dtype=torch.float64)
    return Messages(*out)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fit", ["sum", "mean"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_form_equals_plain_loops(steps: int, orientation: Any, fit: Any, masked: bool) -> None:
    r, d = pair(masked=masked, count=2)
    expected = by_loops(r, d, alpha=0.6, steps=steps, orientation=orientation, fit=fit)
    for form in FORMS:
        found = cross_diffusion(r, d, steps=steps, orientation=orientation, fit=fit, form=form)  # type: ignore[arg-type]
        for ours, loops in zip(found, expected, strict=True):
            assert_close(ours, loops, **TIGHT)


# --- the forms agree, in value and gradient


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_forms_agree_in_value_and_gradient(steps: int, orientation: Any, masked: bool) -> None:
    r, d = pair(tokens=150, count=2, masked=masked)  # two blocks of rows
    outcomes = []
    for form in FORMS:
        messages = cross_diffusion(r, d, steps=steps, orientation=orientation, form=form)  # type: ignore[arg-type]
        outcomes.append([*messages, *torch.autograd.grad(probe(messages), leaves(r, d))])
    for other in outcomes[1:]:
        for expected, found in zip(outcomes[0], other, strict=True):
            assert_close(found, expected, **TIGHT)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gradcheck(steps: int, orientation: Any, form: Any) -> None:
    r, d = pair(count=2, tokens=4, width=3, masked=True)

    def messages(*tensors: Tensor) -> tuple[Tensor, ...]:
        return cross_diffusion(
            Heads(*tensors[:3], r.mask), Heads(*tensors[3:]), steps=steps, orientation=orientation, form=form
        )

    assert torch.autograd.gradcheck(messages, leaves(r, d), fast_mode=True)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("mask", [None, torch.tensor([[True, False, True, True, True], [True] * 5])])
def test_attend_and_scatter_pass_the_full_gradcheck(mask: Tensor | None) -> None:
    q, k, v = (torch.randn(2, 3, n, 2, dtype=torch.float64).requires_grad_() for n in (3, 5, 5))
    assert torch.autograd.gradcheck(lambda *t: ops.attend(*t, mask, 0.7), (q, k, v))
    assert torch.autograd.gradcheck(lambda *t: ops.scatter(*t, mask, 0.7), (q, k, q.detach().clone().requires_grad_()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 6e-2), (torch.float16, 8e-3)])
@pytest.mark.parametrize("form", FORMS)
def test_narrow_types_are_near(dtype: torch.dtype, tolerance: float, form: Any) -> None:
    """Relative to the largest value of each tensor; 300 tokens are three blocks."""
    r, d = pair(tokens=300, count=2)
    exact = cross_diffusion(r, d, form="dense")
    exact_gradients = torch.autograd.grad(probe(exact), leaves(r, d))
    narrow = cast(r, dtype), cast(d, dtype)
    found = cross_diffusion(*narrow, form=form)
    gradients = torch.autograd.grad(probe(tuple(t.double() for t in found)), leaves(*narrow))
    for ours, theirs in zip([*found, *gradients], [*exact, *exact_gradients], strict=True):
        assert ours.dtype == dtype
        assert bool((ours.double() - theirs).abs().max() < tolerance * theirs.abs().max())


def test_auto_picks_by_size_and_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    for name in ("_dense", "MatrixAffinity", "Affinity"):
        original = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, n=name, o=original: chosen.append(n) or o(*a))
    cross_diffusion(*pair(tokens=8))
    assert set(chosen) == {"MatrixAffinity"}
    chosen.clear()
    cross_diffusion(*pair(tokens=ops.LONGEST_MATRIX + 1, count=1))
    assert set(chosen) == {"Affinity"}
    chosen.clear()
    cross_diffusion(*pair(tokens=8), dropout=0.5)
    assert chosen[0] == "_dense"


# --- properties of the method


@pytest.mark.parametrize("form", FORMS)
def test_permuting_the_tokens_permutes_the_messages(form: Any) -> None:
    r, d = pair()
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = [Heads(*(t[:, :, order] for t in h[:3])) for h in (r, d)]
    before, after = (cross_diffusion(*h, steps=2, form=form) for h in ((r, d), moved))
    for expected, found in zip(before, after, strict=True):
        assert_close(found, expected[:, :, order], **TIGHT)


@pytest.mark.parametrize("form", FORMS)
def test_exchanging_the_modalities_exchanges_the_messages(form: Any) -> None:
    r, d = pair(masked=True)
    one, two = cross_diffusion(r, d, form=form), cross_diffusion(d, r, form=form)
    for expected, found in ((one.self_r, two.self_d), (one.cross_rd, two.cross_dr), (one.cross_dr, two.cross_rd)):
        assert_close(found, expected, **TIGHT)


def test_row_sums_grow_with_the_attention_a_token_attracts() -> None:
    r, d = pair()
    ones = torch.ones_like(r.value)
    found = cross_diffusion(r._replace(value=ones), d._replace(value=ones), alpha=0.6).cross_rd
    in_degree = torch.softmax(r.query @ r.key.mT / 2, dim=-1).sum(dim=-2)  # width 4: scale 1/2
    assert_close(found[..., 0], 0.6 * in_degree + 0.8, **TIGHT)


@pytest.mark.parametrize("form", FORMS)
def test_many_steps_reach_the_closed_form(form: Any) -> None:
    """``vec(G*) = (1 - alpha) (I - alpha S_d x S_r)^-1 vec(Y)``, in the orientation whose factors are stochastic."""
    r, d = pair(batch=1, count=1, tokens=4)
    a_r, a_d = (torch.softmax(h.query @ h.key.mT / 2, dim=-1)[0, 0] for h in (r, d))
    system = torch.eye(16, dtype=torch.float64) - 0.6 * torch.kron(a_d, a_r)
    g = torch.linalg.solve(system, 0.4 * (a_r + a_d).T.reshape(-1)).view(4, 4).T
    found = cross_diffusion(r, d, steps=60, orientation="rdp", form=form).cross_rd[0, 0]
    assert_close(found, g @ d.value[0, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_alpha_zero_is_the_fitting_term(form: Any) -> None:
    r, d = pair()
    a_r, a_d = (torch.softmax(h.query @ h.key.mT / 2, dim=-1) for h in (r, d))
    assert_close(cross_diffusion(r, d, alpha=0.0, steps=3, form=form).cross_rd, (a_r + a_d) @ d.value, **TIGHT)


@pytest.mark.parametrize("form", FORMS)
def test_padding_changes_nothing_and_receives_nothing(form: Any) -> None:
    r, d = pair(tokens=6)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = False
    short = [Heads(*(t[:, :, :4] for t in h[:3])) for h in (r, d)]
    padded = [Heads(*(t.masked_fill(~mask[:, None, :, None], 1e3) for t in h[:3]), mask) for h in (r, d)]
    expected, found = (cross_diffusion(*h, steps=2, form=form) for h in (short, padded))
    for a, b in zip(expected, found, strict=True):
        assert_close(b[:, :, :4], a, **TIGHT)
        assert not b[:, :, 4:].any()


@pytest.mark.parametrize("form", FORMS)
def test_an_absent_modality_sends_nothing(form: Any) -> None:
    r, d = pair()
    gone = d._replace(mask=torch.zeros(2, 5, dtype=torch.bool))
    messages = cross_diffusion(r, gone, form=form)
    assert not messages.self_d.any()
    assert not messages.cross_rd.any()
    gradients = torch.autograd.grad(probe(messages), leaves(r, d))
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert not any(bool(g.any()) for g in gradients[3:])


def test_dropout_keeps_the_mean_and_has_no_factored_form() -> None:
    torch.manual_seed(0)
    r, d = pair(batch=1, count=1, tokens=4, width=2)
    repeated = [Heads(*(t.expand(4000, -1, -1, -1) for t in h[:3])) for h in (r, d)]
    found = cross_diffusion(*repeated, dropout=0.3).cross_rd
    assert_close(found.mean(dim=0), cross_diffusion(r, d).cross_rd[0], rtol=0, atol=0.1)
    assert float(found.std(dim=0).min()) > 0.1
    for form in ("associative", "streaming"):
        with pytest.raises(UserError, match="no factored form"):
            cross_diffusion(r, d, dropout=0.3, form=form)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"alpha": 1.5}, "alpha=1.5"), ({"alpha": -0.1}, "alpha"), ({"steps": 0}, "steps=0"), ({"dropout": 1.0}, "drop")],
)
def test_options_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        cross_diffusion(*pair(), **options)


def test_unequal_token_counts_are_refused() -> None:
    with pytest.raises(UserError, match="same tokens"):
        cross_diffusion(heads(tokens=5), heads(tokens=6))


def test_normalisation_of_a_softmax_is_a_transposition() -> None:
    weights = torch.softmax(torch.randn(2, 6, 6, dtype=torch.float64), dim=-1)
    assert_close(normalise_affinity(weights), weights.mT, **TIGHT)
    assert_close(normalise_affinity(weights, "rdp"), weights, **TIGHT)


# --- the operators beneath


def test_registered_operators_keep_their_promises() -> None:
    q, k = torch.randn(2, 3, 4, 2, requires_grad=True), torch.randn(2, 3, 6, 2, requires_grad=True)
    mask = torch.rand(2, 6) < 0.7
    mask[:, 0] = True
    for keys in (None, mask):
        torch.library.opcheck(
            torch.ops.weft.attend.default, (q, k, torch.randn(2, 3, 6, 5, requires_grad=True), keys, 0.5)
        )
        torch.library.opcheck(
            torch.ops.weft.scatter.default, (q, k, torch.randn(2, 3, 4, 5, requires_grad=True), keys, 0.5)
        )


def test_no_block_is_larger_than_promised_and_nothing_square_is_kept() -> None:
    r, d = pair(tokens=700, count=2)
    for _, _, block, _ in ops._blocks(r.query.detach().flatten(0, 1), r.key.detach().flatten(0, 1), None):
        assert block.numel() <= ops.BLOCK
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        cross_diffusion(r, d, steps=2, form="streaming")
    assert max(sizes) == 2 * r.value.numel()  # [V_r | V_d], linear in the tokens; one map would have 700^2 per head


def test_fused_attention_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices other than the processor take PyTorch's fused attention for ``A X``."""
    r, d = pair(masked=True)
    outcomes = []
    for blocked in (ops.BLOCKED, ()):
        monkeypatch.setattr(ops, "BLOCKED", blocked)
        messages = cross_diffusion(r, d, form="streaming")
        outcomes.append([*messages, *torch.autograd.grad(probe(messages), leaves(r, d))])
    for expected, found in zip(*outcomes, strict=True):
        assert_close(found, expected, **TIGHT)


def test_flops_are_counted() -> None:
    r, d = pair()
    with FlopCounterMode(display=False) as streaming:
        cross_diffusion(r, d, form="streaming")
    cell = 2 * r.query[..., 0].numel() * r.query.shape[2]  # one multiply-add for every entry of the maps of all heads
    assert streaming.get_total_flops() == 2 * cell * (4 + 8) + 2 * cell * (4 + 4)


class Diffuse(nn.Module):
    """A cross-diffusion as a module, for the compiler and the exporter."""

    def __init__(self, form: Any, dropout: float = 0.0) -> None:
        super().__init__()
        self.options: dict[str, Any] = {"form": form, "dropout": dropout}

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        messages = cross_diffusion(Heads(x, x, x, mask), Heads(x, x.sin(), x, mask), **self.options)
        return torch.cat(messages, dim=-1)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_compiles_in_one_graph_and_exports(form: Any) -> None:
    x, mask = torch.randn(3, 2, 6, 4, requires_grad=True), torch.rand(3, 6) < 0.8
    mask[:, 0] = True
    eager = Diffuse(form)(x, mask)
    (expected,) = torch.autograd.grad(eager.square().sum(), x)
    torch._dynamo.reset()
    compiled = torch.compile(Diffuse(form), backend="aot_eager", fullgraph=True)(x, mask)
    (found,) = torch.autograd.grad(compiled.square().sum(), x)
    assert_close(compiled, eager)
    assert_close(found, expected)
    varying = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        Diffuse(form),
        (x.detach(), mask),
        dynamic_shapes=(varying, {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}),
    )
    y, other = torch.randn(5, 2, 9, 4), torch.ones(5, 9, dtype=torch.bool)
    assert_close(program.module()(y, other), Diffuse(form)(y, other))


def test_dropout_compiles_in_one_graph() -> None:
    """It takes the dense form, draws the same mask as eager for the same seed, and drops about its share."""
    x, mask = torch.randn(2, 2, 6, 4), torch.ones(2, 6, dtype=torch.bool)
    torch._dynamo.reset()
    compiled = torch.compile(Diffuse("auto", 0.5), backend="aot_eager", fullgraph=True)
    outcomes = []
    for module in (Diffuse("dense", 0.5), compiled):
        torch.manual_seed(3)
        outcomes.append(module(x, mask))
    assert_close(outcomes[1], outcomes[0])
    assert not torch.allclose(outcomes[0], Diffuse("dense")(x, mask))


# --- diffusion of a cross-attention map


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("form", ["associative", "streaming"])
def test_diffused_cross_attention_equals_loops_for_unequal_counts(form: Any, orientation: Any, masked: bool) -> None:
    r, d = heads(tokens=4, seed=1, masked=masked), heads(tokens=6, seed=2, masked=masked)
    rows, keys = (torch.ones(2, h.query.shape[2]).bool() if h.mask is None else h.mask for h in (r, d))
    found = diffused_cross_attention(r, d, orientation=orientation, form=form)
    for b, h in product(range(2), range(3)):
        a_r = affinity_by_loops(r.query[b, h], r.key[b, h], rows[b], rows[b], 0.5)
        a_d = affinity_by_loops(d.query[b, h], d.key[b, h], keys[b], keys[b], 0.5)
        cross = affinity_by_loops(r.query[b, h], d.key[b, h], rows[b], keys[b], 0.5)
        left, right = (transposed(a_r), a_d) if orientation == "code" else (a_r, transposed(a_d))
        moved = torch.tensor(times(times(left, cross), right), dtype=torch.float64)
        assert_close(found[b, h], moved @ d.value[b, h].where(keys[b, :, None], 0.0), **TIGHT)


def test_diffused_cross_attention_has_no_dense_form() -> None:
    with pytest.raises(UserError, match="associative"):
        diffused_cross_attention(*pair(), form="dense")

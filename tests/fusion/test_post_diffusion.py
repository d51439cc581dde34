"""Cross-diffusion added to existing cross-attentions: the host at alpha 0, the published step otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from weft.errors import UserError
from weft.fusion import create_fusion
from weft.fusion.attention import Block
from weft.fusion.post_diffusion import with_cross_diffusion
from weft.tokens import Tokens

TIGHT = {"rtol": 1e-11, "atol": 1e-11}


def attention(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    host = nn.MultiheadAttention(8, 2, dtype=torch.float64, **options)
    for parameter in host.parameters():
        nn.init.normal_(parameter, std=0.5)
    return host


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def by_matrices(
    host: nn.MultiheadAttention, r: Tensor, d: Tensor, alpha: float, orientation: str, gone_r: int = 0, gone_d: int = 0
) -> Tensor:
    """One sample, ``(N_r, D)``: the refined map written down per head; the last ``gone`` tokens do not exist."""
    r, d = r[: len(r) - gone_r], d[: len(d) - gone_d]
    w, b = host.in_proj_weight, torch.zeros(24).double() if host.in_proj_bias is None else host.in_proj_bias
    parts = []
    for h in range(2):
        q, k, v = (slice(n * 8 + h * 4, n * 8 + h * 4 + 4) for n in range(3))
        qr, kr, qd, kd, vd = (x @ w[s].T + b[s] for x, s in ((r, q), (r, k), (d, q), (d, k), (d, v)))
        a_r, a_d, c = (torch.softmax(x @ y.T / 2, dim=-1) for x, y in ((qr, kr), (qd, kd), (qr, kd)))
        s_r, s_d = (a_r.T, a_d.T) if orientation == "code" else (a_r, a_d)
        parts.append((alpha * s_r @ c @ s_d.T + (1 - alpha) * c) @ vd)
    return host.out_proj(torch.cat(parts, dim=-1))


@pytest.mark.parametrize("orientation", ["code", "rdp"])
@pytest.mark.parametrize("bias", [True, False])
def test_refined_attention_equals_its_matrices(orientation: Any, bias: bool) -> None:
    host = attention(batch_first=True, bias=bias)
    r, d = tokens(3, 5, 8), tokens(3, 7, 8)
    found, weights = with_cross_diffusion(host, 0.3, orientation)(r, d, d)
    expected = torch.stack([by_matrices(host, r[b], d[b], 0.3, orientation) for b in range(3)])
    assert_close(found, expected, **TIGHT)
    assert_close(weights, host(r, d, d)[1], **TIGHT)


@pytest.mark.parametrize("boolean", [True, False])
def test_padding_of_both_sides_is_left_out(boolean: bool) -> None:
    host = attention(batch_first=True)
    r, d = tokens(2, 5, 8), tokens(2, 7, 8)
    pad_r, pad_d = torch.zeros(2, 5, dtype=torch.bool), torch.zeros(2, 7, dtype=torch.bool)
    pad_r[1, 3:], pad_d[1, 5:] = True, True
    key_mask = pad_d if boolean else torch.zeros(2, 7).double().masked_fill(pad_d, float("-inf"))
    found, _ = with_cross_diffusion(host)(r, d, d, key_padding_mask=key_mask, query_padding_mask=pad_r)
    assert_close(found[0], by_matrices(host, r[0], d[0], 0.6, "code"), **TIGHT)
    assert_close(found[1, :3], by_matrices(host, r[1], d[1], 0.6, "code", 2, 2), **TIGHT)


def test_every_layout_gives_the_same() -> None:
    first, second = attention(batch_first=True), attention()
    r, d = tokens(2, 5, 8), tokens(2, 7, 8)
    expected, _ = with_cross_diffusion(first)(r, d, d)
    found, _ = with_cross_diffusion(second)(*(t.transpose(0, 1) for t in (r, d, d)))
    assert_close(found.transpose(0, 1), expected, **TIGHT)
    assert_close(with_cross_diffusion(second)(r[0], d[0], d[0])[0], expected[0], **TIGHT)


def test_alpha_zero_is_the_host_bit_for_bit_and_nothing_is_added() -> None:
    torch.manual_seed(0)
    host = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    x, memory = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    off, on = with_cross_diffusion(host, 0.0), with_cross_diffusion(host, 0.5)
    assert torch.equal(off(x, memory), host(x, memory))
    assert not torch.allclose(on(x, memory), host(x, memory))
    assert list(on.state_dict()) == list(host.state_dict())
    host.load_state_dict(on.state_dict())
    assert type(host.multihead_attn) is nn.MultiheadAttention
    on(x, memory).sum().backward()
    assert all(p.grad is not None for p in on.parameters())
    assert all(p.grad is None for p in host.parameters())


def test_self_attention_stays_as_it_is() -> None:
    host, x = attention(batch_first=True), tokens(2, 5, 8)
    assert torch.equal(with_cross_diffusion(host)(x, x, x)[0], host(x, x, x)[0])


def test_only_the_decoders_cross_attention_changes() -> None:
    torch.manual_seed(0)
    host = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True, dtype=torch.float64)
    x, memory = tokens(2, 5, 8), tokens(2, 7, 8)
    middle = host.norm1(x + host.self_attn(x, x, x)[0])
    cross = torch.stack([by_matrices(host.multihead_attn, middle[b], memory[b], 0.6, "code") for b in range(2)])
    y = host.norm2(middle + cross)
    expected = host.norm3(y + host.linear2(torch.relu(host.linear1(y))))
    assert_close(with_cross_diffusion(host)(x, memory), expected, **TIGHT)


def test_block_of_weft_equals_its_matrices() -> None:
    torch.manual_seed(0)
    host = Block(8, 2).double().eval()
    x = Tokens(tokens(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
    context = Tokens(tokens(2, 7, 8), torch.ones(2, 7, dtype=torch.bool))
    x.mask[1, 3:], context.mask[1, 4:] = False, False
    same = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    same.in_proj_weight.data = torch.cat([host.attention.query.weight, host.attention.key_value.weight])
    same.in_proj_bias.data.zero_()
    same.out_proj.load_state_dict(host.attention.out.state_dict())
    found = with_cross_diffusion(host)(x, context).values
    for b, gone in ((0, (0, 0)), (1, (2, 3))):
        values = x.values[b, : 5 - gone[0]]
        moved = by_matrices(same, host.norm_attention(x.values[b]), context.values[b], 0.6, "code", *gone)
        y = values + moved
        assert_close(found[b, : 5 - gone[0]], y + host.mlp(host.norm_mlp(y)), **TIGHT)


def test_cross_attention_fusion_of_weft() -> None:
    torch.manual_seed(0)
    host = create_fusion("cross-attention", {"a": 6, "b": 5}, 8, heads=2).eval()
    inputs = {
        n: Tokens(torch.randn(3, t, d), torch.ones(3, t, dtype=torch.bool)) for n, t, d in (("a", 4, 6), ("b", 7, 5))
    }
    inputs["a"].mask[0], inputs["b"].mask[1], inputs["b"].mask[2, 4:] = False, False, False
    refined, expected = with_cross_diffusion(host), host(inputs).vector
    assert torch.equal(with_cross_diffusion(host, 0.0)(inputs).vector, expected)
    found = refined(inputs).vector
    assert_close(found[:2], expected[:2])  # one modality alone: nothing is exchanged
    assert not torch.allclose(found[2], expected[2])
    garbage = {n: Tokens(t.values.masked_fill(~t.mask.unsqueeze(-1), 1e4), t.mask) for n, t in inputs.items()}
    assert_close(refined(garbage).vector, found)


@pytest.mark.parametrize("host", [Block(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)], ids=["weft", "torch"])
def test_refined_attention_compiles_in_one_graph_and_exports(host: nn.Module) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = with_cross_diffusion(host.eval())

        def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
            if isinstance(host, Block):
                return self.attention(
                    Tokens(x, torch.ones_like(x[..., 0], dtype=torch.bool)), Tokens(context, mask)
                ).values
            return self.attention(x, context, context, key_padding_mask=~mask)[0]

    def inputs(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        mask = torch.rand(rows, 7) < 0.8
        mask[:, 0] = True
        return torch.randn(rows, 4, 8), torch.randn(rows, 7, 8), mask

    model, few, more = Model(), inputs(3), inputs(5)
    torch._dynamo.reset()
    assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(*few), model(*few))
    varying = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, few, dynamic_shapes=(varying, varying, varying)).module()
    assert_close(program(*more), model(*more))


def test_what_cannot_be_refined_is_refused() -> None:
    with pytest.raises(UserError, match="alpha=2"):
        with_cross_diffusion(attention(), 2)
    with pytest.raises(UserError, match="no cross-attention"):
        with_cross_diffusion(nn.Linear(3, 3))
    r, d = tokens(2, 5, 8), tokens(2, 7, 8)
    refined = with_cross_diffusion(attention(batch_first=True))
    with pytest.raises(UserError, match="attention mask"):
        refined(r, d, d, attn_mask=torch.zeros(5, 7, dtype=torch.bool))
    with pytest.raises(UserError, match="kdim=6"):
        with_cross_diffusion(attention(batch_first=True, kdim=6, vdim=6))(r, d[..., :6], d[..., :6])

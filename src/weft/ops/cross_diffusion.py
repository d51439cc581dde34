r"""Cross-diffusion attention: two modalities exchange messages through their own token affinities, in linear memory.

Per head and modality ``m``, :math:`A_m = \mathrm{softmax}(s\,Q_m K_m^\top) \in R^{N \times N}` compares tokens of one
modality only. The cross-affinity is a regularised diffusion that starts at the identity and is fitted to both,

.. math::
    G^{(0)} = I, \qquad G_{rd}^{(t+1)} = \alpha\,S_r G_{rd}^{(t)} S_d^\top + (1 - \alpha)\,Y, \qquad Y = A_r + A_d,

with :math:`S_m = A_m^\top` (``orientation="code"``, the published code: its "symmetric normalisation" of a softmax map
is exactly a transposition) or :math:`S_m = A_m` (``"rdp"``, the textbook form). The messages are
:math:`P_m = A_m V_m`, :math:`U_{rd} = G_{rd}^{(T)} V_d`, and :math:`U_{dr}` with the roles exchanged.

Three forms, equal in value and gradient:

* ``"dense"`` writes ``G`` down: :math:`O(N^3)` time, :math:`O(N^2)` memory. The reference, and the only form in which
  dropout on ``G`` exists: dropping entries of a product of matrices is no product of matrices.
* ``"associative"`` never forms a product of two affinities. With :math:`u_0 = V_d,\; u_{t+1} = S_d^\top u_t` and
  :math:`z = u_T`, the loop :math:`z \leftarrow \alpha S_r z + (1-\alpha)(A_r + A_d)\,u_t`, ``t = T-1 ... 0``, ends in
  :math:`U_{rd}`. :math:`O(T N^2 d)` time, :math:`O(N^2)` memory.
* ``"streaming"`` is the same loop on :func:`attend` (``A X``) and :func:`scatter` (``A^T X``), which recompute ``A``
  in row blocks, forward and backward: :math:`O(T N d)` memory. For ``Y = A^T X`` with incoming gradient ``g``,
  :math:`dX = A g,\; dA = X g^\top`, then the softmax backward :math:`dS = A \circ (dA - \mathrm{rowsum}(A \circ dA))`,
  :math:`dQ = s\,dS\,K,\; dK = s\,dS^\top Q`, all of it within one row block.

A masked token is no key of its affinity, and its row of ``A`` is zero: padding and absence contribute nothing.

When not to use it: tokens of the two modalities that do not lie at the same positions (:func:`diffused_cross_attention`
takes unequal counts). Second derivatives exist in the dense and the associative form only.

Source: Wang et al., "MutualFormer: Multi-Modality Representation Learning via Cross-Diffusion Attention", IJCV 2024
(arXiv 2112.01177). We follow the published code where it and the figures differ; ``steps > 1`` feeds the state back,
which the code's loop does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from weft.errors import UserError

Orientation = Literal["code", "rdp"]
Fit = Literal["sum", "mean"]
Form = Literal["auto", "dense", "associative", "streaming"]

ROWS = 128  # rows of one block: enough for an efficient matrix product
BLOCK = 2**20  # scores held at once, or one head's block of rows: 4 MiB in float32 stay in a processor's cache
LONGEST_MATRIX = 256  # up to this many tokens the whole affinity is cheaper than recomputing it
BLOCKED = ("cpu",)  # device types on which our row blocks are faster than PyTorch's fused attention for A X


class Heads(NamedTuple):
    """One modality, projected and split into heads.

    Attributes:
        query, key, value: ``(B, H, N, d)``.
        mask: ``(B, N)`` bool, True = real token; None: all are.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None


class Messages(NamedTuple):
    """What :func:`cross_diffusion` returns, each ``(B, H, N, d)``.

    Attributes:
        self_r, self_d: self-attention within a modality, ``P_m = A_m V_m``.
        cross_rd, cross_dr: what r receives from d, ``G_rd V_d``, and d from r, ``G_dr V_r``.
    """

    self_r: Tensor
    self_d: Tensor
    cross_rd: Tensor
    cross_dr: Tensor


def cross_diffusion(
    r: Heads,
    d: Heads,
    *,
    alpha: float = 0.6,
    steps: int = 1,
    scale: float | None = None,
    orientation: Orientation = "code",
    fit: Fit = "sum",
    dropout: float = 0.0,
    form: Form = "auto",
) -> Messages:
    """Exchange messages between two modalities with the same token positions.

    Args:
        r, d: the two modalities, of equal shapes.
        alpha: weight of the diffusion against the fitting term, in [0, 1].
        steps: diffusion steps ``T >= 1``.
        scale: of the scores; None: ``d ** -0.5``.
        orientation: ``S = A^T`` ("code") or ``S = A`` ("rdp").
        fit: the fitting term ``Y = A_r + A_d`` ("sum") or half of it ("mean": its rows sum to one).
        dropout: probability of dropping an entry of ``G`` (pass 0 in evaluation); needs the dense form.
        form: "auto" takes the dense form under dropout, else the associative form up to 256 tokens, else streaming.

    Raises:
        UserError: unequal shapes, an option out of range, or dropout in a form that cannot have it.
    """
    _check(r, d, alpha, steps, dropout, form)
    length = r.query.shape[-2]
    if form == "auto":
        form = "dense" if dropout > 0 else "associative" if length <= LONGEST_MATRIX else "streaming"
    scale = scale or r.query.shape[-1] ** -0.5
    r, d = (h._replace(value=_zero_masked(h.value, h.mask)) for h in (r, d))
    weight = 0.5 if fit == "mean" else 1.0
    if form == "dense":
        return _dense(r, d, alpha, steps, scale, orientation, weight, dropout)
    kind = Affinity if form == "streaming" else MatrixAffinity
    a_r, a_d = (kind(h.query, h.key, h.mask, h.mask, scale) for h in (r, d))

    u, w = d.value, r.value
    fit_u, fit_w, selves = [], [], []
    for _ in range(steps):
        rw, ru = a_r.attend(torch.cat([w, u], dim=-1)).chunk(2, dim=-1)
        du, dw = a_d.attend(torch.cat([u, w], dim=-1)).chunk(2, dim=-1)
        fit_u.append(ru + du)
        fit_w.append(rw + dw)
        selves.append((rw, du))
        u, w = (du, rw) if orientation == "code" else (a_d.scatter(u), a_r.scatter(w))
    for y_u, y_w in zip(reversed(fit_u), reversed(fit_w), strict=True):
        u, w = (a_r.scatter(u), a_d.scatter(w)) if orientation == "code" else (a_r.attend(u), a_d.attend(w))
        u = alpha * u + (1 - alpha) * weight * y_u
        w = alpha * w + (1 - alpha) * weight * y_w
    return Messages(*selves[0], u, w)


def diffused_cross_attention(
    r: Heads, d: Heads, *, scale: float | None = None, orientation: Orientation = "code", form: Form = "auto"
) -> Tensor:
    r"""A cross-attention map :math:`C = \mathrm{softmax}(s\,Q_r K_d^\top)` moved along both token affinities.

    .. math:: U = S_r\,C\,S_d^\top V_d

    ``alpha U + (1 - alpha) C V_d`` is one regularised diffusion step whose start and fitting term are the map itself.
    Token counts may differ.

    Args:
        r: the queries' modality, ``(B, H, N_r, d)``; its ``value`` is not used.
        d: the keys' modality, ``(B, H, N_d, d)``.
        scale, orientation, form: as for :func:`cross_diffusion`; there is no dense form here.

    Returns:
        ``(B, H, N_r, d)``; zeros where r or all of d is masked.
    """
    if form == "dense":
        raise UserError("diffused_cross_attention has no dense form", "form='dense'", "use 'associative': it is exact")
    scale = scale or r.query.shape[-1] ** -0.5
    longest = max(r.query.shape[-2], d.key.shape[-2])
    streaming = form == "streaming" or (form == "auto" and longest > LONGEST_MATRIX)
    kind = Affinity if streaming else MatrixAffinity
    a_r, a_d = (kind(h.query, h.key, h.mask, h.mask, scale) for h in (r, d))
    cross = kind(r.query, d.key, r.mask, d.mask, scale)
    value = _zero_masked(d.value, d.mask)
    if orientation == "code":
        return a_r.scatter(cross.attend(a_d.attend(value)))
    return a_r.attend(cross.attend(a_d.scatter(value)))


def normalise_affinity(affinity: Tensor, orientation: Orientation = "code") -> Tensor:
    r"""Symmetric normalisation of a non-negative ``(..., N, N)`` affinity: :math:`\Delta W^\top \Delta`, or
    :math:`\Delta W \Delta` for ``"rdp"``, with :math:`\Delta = \mathrm{diag}(\text{row sums})^{-1/2}`. On a softmax map
    it is the transposition, or nothing at all, and :func:`cross_diffusion` leaves it out."""
    delta = affinity.sum(dim=-1).rsqrt()
    scaled = affinity * delta.unsqueeze(-1) * delta.unsqueeze(-2)
    return scaled.mT if orientation == "code" else scaled


class MatrixAffinity:
    """``A = softmax(s Q K^T)`` written down; masked keys get zero attention, masked rows are zero."""

    def __init__(self, query: Tensor, key: Tensor, rows: Tensor | None, keys: Tensor | None, scale: float) -> None:
        scores = query @ key.mT * scale
        if keys is not None:
            scores = scores.masked_fill(~_some_key(keys)[:, None, None], float("-inf"))
        self.matrix = _zero_masked(torch.softmax(scores, dim=-1), rows)
        if keys is not None:
            self.matrix = torch.where(keys.any(dim=-1)[:, None, None, None], self.matrix, 0.0)

    def attend(self, x: Tensor) -> Tensor:
        """``A X``."""
        return self.matrix @ x

    def scatter(self, x: Tensor) -> Tensor:
        """``A^T X``."""
        return self.matrix.mT @ x


class Affinity:
    """The same affinity as a linear operator, recomputed where it is applied."""

    def __init__(self, query: Tensor, key: Tensor, rows: Tensor | None, keys: Tensor | None, scale: float) -> None:
        self.query, self.key, self.scale = query, key, scale
        self.keys = None if keys is None else _some_key(keys)
        if keys is not None:
            there = keys.any(dim=-1, keepdim=True)
            rows = there.expand(-1, query.shape[-2]) if rows is None else rows & there
        self.rows = rows

    def attend(self, x: Tensor) -> Tensor:
        """``A X``."""
        return _zero_masked(attend(self.query, self.key, x, self.keys, self.scale), self.rows)

    def scatter(self, x: Tensor) -> Tensor:
        """``A^T X``."""
        return scatter(self.query, self.key, _zero_masked(x, self.rows), self.keys, self.scale)


def attend(query: Tensor, key: Tensor, x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """``softmax(s Q K^T) X`` in memory linear in the tokens.

    Args:
        query, key: ``(B, H, N, d)``, ``(B, H, M, d)``.
        x: ``(B, H, M, c)``.
        mask: ``(B, M)`` bool, the keys that exist, at least one in every row; None: all.
        scale: of the scores.

    Returns:
        ``(B, H, N, c)``.
    """
    if query.device.type in (*BLOCKED, "meta"):
        return _attend(query, key, x, mask, scale)
    attn_mask = None if mask is None else mask[:, None, None]
    return F.scaled_dot_product_attention(query, key, x, attn_mask, scale=scale)


def scatter(query: Tensor, key: Tensor, x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """``softmax(s Q K^T)^T X``, likewise: ``x`` is ``(B, H, N, c)``, the result ``(B, H, M, c)``."""
    return _scatter(query, key, x, mask, scale)


def _dense(
    r: Heads, d: Heads, alpha: float, steps: int, scale: float, orientation: Orientation, weight: float, dropout: float
) -> Messages:
    a_r, a_d = (MatrixAffinity(h.query, h.key, h.mask, h.mask, scale).matrix for h in (r, d))
    s_r, s_d = (a_r.mT, a_d.mT) if orientation == "code" else (a_r, a_d)
    fitted = (1 - alpha) * weight * (a_r + a_d)
    g_rd = alpha * s_r @ s_d.mT + fitted
    g_dr = alpha * s_d @ s_r.mT + fitted
    for _ in range(steps - 1):
        g_rd = alpha * s_r @ g_rd @ s_d.mT + fitted
        g_dr = alpha * s_d @ g_dr @ s_r.mT + fitted
    return Messages(
        a_r @ r.value, a_d @ d.value, F.dropout(g_rd, dropout) @ d.value, F.dropout(g_dr, dropout) @ r.value
    )


# --- A X and A^T X in row blocks


def _blocks(
    query: Tensor, key: Tensor, mask: Tensor | None
) -> Iterator[tuple[tuple[slice, slice], slice, Tensor, Tensor]]:
    """``A`` block by block: (heads, rows), heads, the block of ``A``, and a free buffer of its shape.

    ``query`` ``(G, N, d)`` is scaled already; ``mask`` is ``(G, M)``.
    """
    (groups, length, _), keys = query.shape, key.shape[1]
    rows = min(ROWS, length)
    heads = min(groups, max(1, BLOCK // (rows * keys)))
    scores, affinity = query.new_empty(2, heads * rows * keys)
    for g in (slice(i, min(i + heads, groups)) for i in range(0, groups, heads)):
        for n in (slice(i, min(i + rows, length)) for i in range(0, length, rows)):
            shape = (g.stop - g.start, n.stop - n.start, keys)
            size = shape[0] * shape[1] * keys
            buffer, block = scores[:size].view(shape), affinity[:size].view(shape)
            torch.bmm(query[g, n], key[g].mT, out=buffer)
            if mask is not None:
                buffer.masked_fill_(~mask[g, None], float("-inf"))
            torch.softmax(buffer, dim=-1, out=block)
            yield (g, n), g, block, buffer


def _flat(scale: float, mask: Tensor | None, query: Tensor, *others: Tensor) -> tuple[Any, ...]:
    """``(B, H, N, c)`` to ``(B H, N, c)``, the query scaled; the mask repeated for every head."""
    heads = query.shape[1]
    return (
        None if mask is None else mask.repeat_interleave(heads, dim=0),
        (query * scale).flatten(0, 1),
        *(t.flatten(0, 1) for t in others),
    )


def _sums(like: Tensor) -> Tensor:
    """Zeros ``(G, c, N)`` to add up ``(G, N, c)`` transposed (the faster product), in float32 or wider."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.zeros(like.shape[0], like.shape[2], like.shape[1], dtype=dtype, device=like.device)


def _add(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a b``."""
    if total.dtype == a.dtype:
        total.baddbmm_(a, b)
    else:
        total += torch.bmm(a, b)


def _finish(total: Tensor, like: Tensor) -> Tensor:
    return total.mT.to(like.dtype).contiguous().view(like.shape)


def _softmax_backward(grad: Tensor, block: Tensor) -> Tensor:
    """``A * (dA - rowsum(A * dA))``, in place of ``dA``."""
    grad.mul_(block)
    return grad.addcmul_(block, grad.sum(dim=-1, keepdim=True), value=-1)


@torch.library.custom_op("weft::attend", mutates_args=())
def _attend(query: Tensor, key: Tensor, x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    keep, q, k, v = _flat(scale, mask, query, key, x)
    out = v.new_empty(*q.shape[:2], v.shape[-1])
    for at, g, block, _ in _blocks(q, k, keep):
        out[at] = torch.bmm(block, v[g])
    return out.view(*query.shape[:-1], x.shape[-1])


@torch.library.custom_op("weft::attend_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, query: Tensor, key: Tensor, x: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    keep, q, k, v, out = _flat(scale, mask, query, key, x, grad)
    dq, dk, dx = torch.empty_like(q), _sums(k), _sums(v)
    for at, g, block, buffer in _blocks(q, k, keep):
        _add(dx[g], out[at].mT, block)
        scores = _softmax_backward(torch.bmm(out[at], v[g].mT, out=buffer), block)
        dq[at] = torch.bmm(scores, k[g])
        _add(dk[g], q[at].mT, scores)
    return dq.mul_(scale).view(query.shape), _finish(dk, key), _finish(dx, x)


@torch.library.custom_op("weft::scatter", mutates_args=())
def _scatter(query: Tensor, key: Tensor, x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    keep, q, k, v = _flat(scale, mask, query, key, x)
    out = x.new_empty(*key.shape[:-1], x.shape[-1])
    total = _sums(out.flatten(0, 1))
    for at, g, block, _ in _blocks(q, k, keep):
        _add(total[g], v[at].mT, block)
    return _finish(total, out)


@torch.library.custom_op("weft::scatter_backward", mutates_args=())
def _scatter_backward(
    grad: Tensor, query: Tensor, key: Tensor, x: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    keep, q, k, v, out = _flat(scale, mask, query, key, x, grad)
    dq, dk, dx = torch.empty_like(q), _sums(k), torch.empty_like(v)
    for at, g, block, buffer in _blocks(q, k, keep):
        dx[at] = torch.bmm(block, out[g])
        scores = _softmax_backward(torch.bmm(v[at], out[g].mT, out=buffer), block)
        dq[at] = torch.bmm(scores, k[g])
        _add(dk[g], q[at].mT, scores)
    return dq.mul_(scale).view(query.shape), _finish(dk, key), dx.view(x.shape)


@_attend.register_fake
def _(query: Tensor, key: Tensor, x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    return x.new_empty(*query.shape[:-1], x.shape[-1])


@_scatter.register_fake
def _(query: Tensor, key: Tensor, x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    return x.new_empty(*key.shape[:-1], x.shape[-1])


def _fake_backward(
    grad: Tensor, query: Tensor, key: Tensor, x: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (t.new_empty(t.shape) for t in (query, key, x))
    return q, k, v


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


_attend_backward.register_fake(_fake_backward)
_scatter_backward.register_fake(_fake_backward)
_attend.register_autograd(
    lambda ctx, grad: (*_attend_backward(grad, *ctx.saved_tensors, ctx.scale), None, None), setup_context=_save
)
_scatter.register_autograd(
    lambda ctx, grad: (*_scatter_backward(grad, *ctx.saved_tensors, ctx.scale), None, None), setup_context=_save
)


@register_flop_formula([torch.ops.weft.attend, torch.ops.weft.scatter])
def _flops(query: Any, key: Any, x: Any, *_: Any, **__: Any) -> int:
    """Two products, ``Q K^T`` and ``A X`` (or ``A^T X``), of shapes."""
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[-2] * (width + x[-1])


# --- checks


def _zero_masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else torch.where(mask[:, None, :, None], x, 0.0)


def _some_key(mask: Tensor) -> Tensor:
    """The mask; where no key exists, all of them, so that the softmax is finite (the caller zeroes those rows)."""
    return mask | ~mask.any(dim=-1, keepdim=True)


def _check(r: Heads, d: Heads, alpha: float, steps: int, dropout: float, form: Form) -> None:
    if r.query.shape != d.query.shape:
        raise UserError(
            "cross-diffusion adds the token affinities of its two modalities: they need the same tokens and heads",
            f"queries of shape (B, H, N, d) {tuple(r.query.shape)} and {tuple(d.query.shape)}",
            "resample both maps to one grid, or refine a cross-attention, which takes unequal token counts "
            "(weft.fusion.post_diffusion.with_cross_diffusion)",
        )
    for name, value, good, rule in (
        ("alpha", alpha, 0 <= alpha <= 1, "in [0, 1]"),
        ("steps", steps, steps >= 1, "at least 1"),
        ("dropout", dropout, 0 <= dropout < 1, "in [0, 1)"),
    ):
        if not good:
            raise UserError(f"{name} of cross-diffusion is {rule}", f"{name}={value}", f"choose {name} {rule}")
    if dropout > 0 and form in ("associative", "streaming"):
        raise UserError(
            "dropout on the cross-affinity needs the N x N matrix: no factored form can drop its entries",
            f"dropout={dropout}, form={form!r}",
            "use form='dense' or 'auto', or dropout 0 (the published setting)",
        )

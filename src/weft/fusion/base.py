"""The interface of a fusion: many modalities in, one vector out.

An operator writes its constructor and :meth:`Fusion.fuse`. The base class checks the inputs, zeroes what lies under
the mask, applies the operator's absence policy, and counts the cost before anything is allocated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from weft.errors import UserError, some
from weft.ops.cost import Cost, empty_batch, measure_cost
from weft.registry import Registry
from weft.tokens import Fused, Tokens, full, pool, present, whole, zero_padding

Wants = Literal["vectors", "tokens", "aligned-tokens"]
Absent = Literal["native", "fill", "refuse"]


class Fusion(nn.Module, ABC):
    """Base of every fusion operator.

    Args:
        dims: width of each modality, ``{name: D_m}``. The order of the names is the order of the modalities.
        dim: width of the fused vector.

    Class attributes:
        arity: fewest and most modalities (None: any number).
        wants: ``"vectors"`` (every modality is mean-pooled to one token before ``fuse``), ``"tokens"`` (sequences of
            any length), or ``"aligned-tokens"`` (the same positions in every modality).
        absent: what a missing modality does. ``"native"``: the operator masks it itself; ``"fill"``: a learned vector
            stands in, in training and inference alike; ``"refuse"``: an error that names the rows.
        symmetric: permuting the modalities (with their weights) cannot change the vector.
        paper: the citation.

    Example:
        Four rows, one of them without an image:

        >>> import torch
        >>> from weft.fusion import create_fusion
        >>> from weft.tokens import as_tokens
        >>> fusion = create_fusion("gated", dims={"text": 384, "image": 1280}, dim=128)
        >>> there = torch.tensor([True, True, True, False])
        >>> batch = {"text": as_tokens(torch.randn(4, 384)), "image": as_tokens(torch.randn(4, 1280), there)}
        >>> fused = fusion(batch)
        >>> fused.vector.shape, fused.weights[3, 1].item()
        (torch.Size([4, 128]), 0.0)
        >>> fusion.cost({"text": 384, "image": 1280}, 128).parameters
        638976
    """

    arity: ClassVar[tuple[int, int | None]] = (1, None)
    wants: ClassVar[Wants] = "vectors"
    absent: ClassVar[Absent] = "native"
    symmetric: ClassVar[bool] = False
    paper: ClassVar[str] = ""

    def __init__(self, dims: Mapping[str, int], dim: int = 256) -> None:
        super().__init__()
        check_dims(type(self).__name__, dims, dim, self.arity)
        self.dims, self.dim, self.names = dict(dims), dim, tuple(dims)
        if self.absent == "fill":
            self.fillers = nn.ParameterList(nn.Parameter(torch.zeros(d).normal_(std=0.02)) for d in dims.values())

    @abstractmethod
    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        """Fuse checked inputs ``(B, T_m, D_m)``: names complete and in order, zeros under the mask, absence policy
        applied.
        """

    @final  # type: ignore[misc]
    def forward(self, inputs: dict[str, Tokens]) -> Fused:
        """Fuse a batch.

        Args:
            inputs: ``{name: Tokens}`` for every name of ``dims``: values ``(B, T_m, D_m)``, mask ``(B, T_m)``.

        Returns:
            Fused with ``vector`` of shape ``(B, dim)``.

        Raises:
            UserError: a modality is missing or unknown, a shape does not fit, or a row lacks one and ``absent`` is
                ``"refuse"``.
        """
        check_inputs(self.dims, inputs)
        return self.fuse(self._prepare(inputs))

    def _prepare(self, inputs: dict[str, Tokens]) -> dict[str, Tokens]:
        """The inputs in the order of the names, pooled or with zeros under the mask, their absent rows filled."""
        if self.wants == "aligned-tokens":
            _check_aligned(inputs)
        if self.absent == "refuse" and not torch.compiler.is_compiling():
            _refuse_absent(type(self).__name__, inputs)
        prepared, ready = {name: inputs[name] for name in self.names}, whole(inputs.values())
        if not ready or self.wants == "vectors":
            prepare = pool if self.wants == "vectors" else zero_padding
            for name, tokens in prepared.items():
                if not ready or tokens.values.shape[1] > 1:
                    prepared[name] = prepare(tokens)
        if self.absent == "fill":
            prepared = {n: filled(t, f) for (n, t), f in zip(prepared.items(), self.fillers, strict=True)}
        return prepared

    @classmethod
    def cost(
        cls, dims: Mapping[str, int], dim: int = 256, lengths: int | Mapping[str, int] = 1, /, **options: Any
    ) -> Cost:
        """Parameters, FLOPs and activation bytes of one sample, before building: nothing is allocated.

        Args:
            dims, dim, options: as for the constructor.
            lengths: of the sequence of every modality, or ``{name: length}``; by position, as an option may have any
                name.
        """
        return measure_cost(lambda: cls(dims, dim, **options), lambda: (empty_batch(dims, lengths),))


fusions: Registry[Fusion] = Registry("fusion", "weft.fusion")


def create_fusion(name: str, dims: Mapping[str, int], dim: int = 256, **options: Any) -> Fusion:
    """Build a registered fusion: ``create_fusion("gated", dims={"text": 384, "image": 1280}, dim=128)``."""
    return fusions.create(name, dims, dim, **options)


def list_fusions(pattern: str = "*", exclude: str | Sequence[str] = ()) -> list[str]:
    """Names of the registered fusions that match a shell pattern and none of ``exclude``, in natural order."""
    return fusions.names(pattern, exclude)


def filled(tokens: Tokens, filler: Tensor) -> Tokens:
    """With a vector ``(D,)`` in the place of absent rows. It has a gradient, of zeros, where every row is there too."""
    values, mask = tokens
    if full(mask):
        return Tokens(_Unused.apply(values, filler), mask)
    gone = ~mask.any(dim=1, keepdim=True)
    return Tokens(torch.where(gone.unsqueeze(-1), filler.to(values.dtype), values), mask | gone)


class _Unused(torch.autograd.Function):
    """The first argument, not copied; the second has a gradient of zeros."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, filler: Tensor) -> Tensor:
        ctx.save_for_backward(filler)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, torch.zeros_like(ctx.saved_tensors[0])


def check_dims(who: str, dims: Mapping[str, int], dim: int, arity: tuple[int, int | None]) -> None:
    """Refuse a number of modalities outside ``arity`` and widths that are not positive."""
    fewest, most = arity
    if len(dims) < fewest or (most is not None and len(dims) > most):
        bound = f"exactly {fewest}" if fewest == most else f"at least {fewest}" + (f", at most {most}" if most else "")
        raise UserError(
            f"{who} takes {bound} modalities",
            f"{len(dims)}: {some(dims)}",
            "choose another number of modalities, or another operator (weft list shows each one's arity)",
        )
    wrong = {name: d for name, d in {**dims, "dim": dim}.items() if not isinstance(d, int) or d < 1}
    if wrong:
        raise UserError(f"{who}: widths are positive integers", f"{wrong}", "give the width of one token as an int")


def check_inputs(dims: Mapping[str, int], inputs: Mapping[str, Tokens]) -> None:
    """Refuse inputs whose names or shapes do not fit ``dims``."""
    if inputs.keys() != dims.keys():
        raise UserError(
            "the batch does not hold the modalities this module was built for",
            f"missing {some(set(dims) - set(inputs)) or 'none'}; unknown {some(set(inputs) - set(dims)) or 'none'}",
            "a modality that is absent in every row still comes along, with an all-False mask",
        )
    batch = None
    for name, (values, mask) in inputs.items():
        shape = values.shape
        batch = shape[0] if batch is None else batch
        if len(shape) != 3 or shape != (*mask.shape, dims[name]) or shape[0] != batch:
            raise UserError(
                f"modality {name!r}: values are (B, T, {dims[name]}) and mask (B, T), with one B for all modalities",
                f"values {tuple(shape)}, mask {tuple(mask.shape)}, B {batch} in the first modality",
                "as_tokens() turns (B, D) vectors into Tokens, pad() a list of (T, D) sequences",
            )
        if mask.dtype != torch.bool:
            raise UserError(f"modality {name!r}: the mask is bool", f"{mask.dtype}", "use mask.bool(), True = real")


def _check_aligned(inputs: Mapping[str, Tokens]) -> None:
    lengths = {name: t.values.shape[1] for name, t in inputs.items()}
    first = next(iter(lengths.values()))
    if any(length != first for length in lengths.values()):
        raise UserError(
            "this operator needs the same positions in every modality",
            f"token counts {lengths}",
            "resample the maps to one grid, or use an operator that takes tokens of any length",
        )


def _refuse_absent(who: str, inputs: Mapping[str, Tokens]) -> None:
    for name, tokens in inputs.items():
        if tokens.mask.is_meta or full(tokens.mask):
            continue
        rows = (~present(tokens)).nonzero().flatten().tolist()
        if rows:
            raise UserError(
                f"{who} cannot do without modality {name!r}",
                f"absent in batch rows {some(rows)}",
                "drop those rows, or use an operator with absent = 'native' or 'fill'",
            )

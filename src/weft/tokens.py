"""The two values that travel through weft: :class:`Tokens` in, :class:`Fused` out.

Shapes: ``B`` rows of a batch, ``T`` tokens of a modality, ``D`` features of a token, ``M`` modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch._C import _is_tracing
from torch._C._functorch import peek_interpreter_stack
from torch.compiler import is_compiling

from weft.errors import UserError


class Tokens(NamedTuple):
    """One modality of a batch.

    Attributes:
        values: ``(B, T, D)`` float. A pooled vector has ``T == 1``; a feature map ``T == H*W``, row-major.
        mask: ``(B, T)`` bool, True where a token is real. A row without any True: the modality is absent there.

    Example:
        >>> import torch
        >>> from weft.tokens import mean_pool, pad, present
        >>> tokens = pad([torch.ones(3, 2), torch.zeros(0, 2), torch.ones(1, 2)])  # three rows, the second absent
        >>> tokens.values.shape, tokens.mask.tolist()
        (torch.Size([3, 3, 2]), [[True, True, True], [False, False, False], [True, False, False]])
        >>> present(tokens).tolist(), mean_pool(tokens)[:, 0].tolist()
        ([True, False, True], [1.0, 0.0, 1.0])
    """

    values: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> Self:
        """On another device, where it stays known whether every token is real (:func:`full`)."""
        moved = type(self)(self.values.to(device), self.mask.to(device))
        if moved.mask is not self.mask and full(self.mask):
            _note_full(moved.mask)
        return moved


class Fused(NamedTuple):
    """What a fusion returns.

    Attributes:
        vector: ``(B, D)``, the fused representation.
        tokens: the fused sequence or map, for fusions that keep one.
        per_modality: ``{name: (B, D)}``, what each modality contributes alone; decision-level heads read it. Where it
            takes more than the vector did it is computed when first read (:func:`when_read`).
        weights: ``(B, M)``, non-negative, how much each modality counted, where the method knows.
    """

    vector: Tensor
    tokens: Tokens | None
    per_modality: Mapping[str, Tensor]
    weights: Tensor | None


class Parts(Mapping[str, Tensor]):
    """``{name: tensor}`` whose tensors are computed, all at once, when the first is read; see :func:`when_read`."""

    def __init__(self, names: Sequence[str], compute: Callable[[], Iterable[Tensor]]) -> None:
        self._names, self._compute = names, compute
        self._parts: dict[str, Tensor] | None = None

    def __getitem__(self, name: str) -> Tensor:
        if self._parts is None:
            self._parts = dict(zip(self._names, self._compute(), strict=True))
            del self._compute
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def when_read(names: Sequence[str], compute: Callable[[], Iterable[Tensor]]) -> Mapping[str, Tensor]:
    """``{name: tensor}``, computed when it is first read, by the weights of that moment.

    While torch compiles, exports or transforms the code it is computed at once (what is not read is left out of the
    program by torch itself).
    """
    return dict(zip(names, compute(), strict=True)) if recorded() else Parts(names, compute)


def full(mask: Tensor) -> bool:
    """Whether every token of a mask is real, as far as that is known without waiting for a GPU.

    It is known of masks that :func:`everywhere` made or :meth:`Tokens.to` moved, until they are written in place (on a
    GPU in inference mode they are not to be). Of others it is looked up on the CPU. Never while torch compiles, exports
    or transforms the code.
    """
    return not recorded() and _known_full(mask)


def _known_full(mask: Tensor) -> bool:
    if type(mask) is not Tensor:
        return False
    noted = getattr(mask, "full", None)
    if noted is not None and noted == _writes(mask):
        return True
    return mask.is_cpu and bool(mask.all())


def union(masks: Sequence[Tensor]) -> Tensor:
    """Where any of the masks, all of one shape, is True; the first itself where it is known to be full."""
    return masks[0] if full(masks[0]) else torch.stack(list(masks)).any(dim=0)


def whole(parts: Iterable[Tokens]) -> bool:
    """Whether every token of all modalities is real, as far as :func:`full` knows."""
    return not recorded() and all(_known_full(mask) for _, mask in parts)


def keys_of(mask: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What attention to a sequence of this mask ``(B, K)`` has to mind; None and None where every token is real.

    Returns:
        Which keys a query may see, ``(B, 1, 1, K)`` bool, all of them in a row without any; and which rows have some,
        ``(B, 1, 1)``: what the others receive is for :func:`where_there` to drop. None for the second where all have.
    """
    if full(mask):
        return None, None
    there = mask.any(dim=1)[:, None, None]
    if type(mask) is Tensor and mask.is_cpu and not recorded() and bool(there.all()):
        return mask[:, None, None], None
    return (mask.unsqueeze(1) | ~there).unsqueeze(1), there


def where_there(there: Tensor | None, x: Tensor) -> Tensor:
    """``x``, with zeros where ``there`` is False; None: everywhere."""
    return x if there is None else torch.where(there, x, 0.0)


def everywhere(*shape: int, device: torch.device) -> Tensor:
    """A mask of this shape with every token real."""
    return _note_full(torch.ones(shape, dtype=torch.bool, device=device))


def _note_full(mask: Tensor) -> Tensor:
    if not recorded():
        mask.full = _writes(mask)  # type: ignore[attr-defined]
    return mask


def _writes(mask: Tensor) -> int | None:
    """How often the mask was written in place. Inference mode does not count it: None on the CPU, 0 on a GPU."""
    if mask.is_inference():
        return None if mask.is_cpu else 0
    return mask._version


def recorded() -> bool:
    """Whether what runs now is being compiled, traced or transformed, and must not depend on values."""
    return is_compiling() or _is_tracing() or peek_interpreter_stack() is not None


def present(tokens: Tokens) -> Tensor:
    """``(B,)`` bool: the rows in which the modality is there."""
    return tokens.mask.any(dim=1)


def mean_pool(tokens: Tokens) -> Tensor:
    """Mean over the real tokens, ``(B, D)``; zeros where the modality is absent."""
    if full(tokens.mask):
        return tokens.values[:, 0] if tokens.values.shape[1] == 1 else tokens.values.mean(dim=1)
    mask = tokens.mask.unsqueeze(-1)
    values = torch.where(mask, tokens.values, 0.0)
    return values.sum(dim=1) / mask.sum(dim=1).clamp(min=1).to(values.dtype)


def pool(tokens: Tokens) -> Tokens:
    """The mean over the real tokens as one token ``(B, 1, D)``, masked where the modality is absent."""
    if full(tokens.mask):
        return tokens if tokens.values.shape[1] == 1 else as_tokens(tokens.values.mean(dim=1))
    return as_tokens(mean_pool(tokens), present(tokens))


def zero_padding(tokens: Tokens) -> Tokens:
    """The same ``(B, T, D)`` with zeros under the mask."""
    if full(tokens.mask):
        return tokens
    return Tokens(torch.where(tokens.mask.unsqueeze(-1), tokens.values, 0.0), tokens.mask)


def as_tokens(vector: Tensor, mask: Tensor | None = None) -> Tokens:
    """A pooled vector ``(B, D)`` as a sequence of one token; ``mask`` ``(B,)`` says where it is present."""
    if mask is None:
        return Tokens(vector.unsqueeze(1), everywhere(vector.shape[0], 1, device=vector.device))
    return Tokens(vector.unsqueeze(1), mask.unsqueeze(1))


def pad(sequences: Sequence[Tensor]) -> Tokens:
    """Sequences ``(T_i, D)`` of unequal length, padded with zeros; an empty one stands for an absent modality.

    Raises:
        UserError: sequences of other axes, or of unequal width.
    """
    widths = {s.shape[-1] for s in sequences}
    if len(widths) != 1 or any(s.ndim != 2 for s in sequences):
        raise UserError(
            "pad() takes sequences of shape (T_i, D) with one common D",
            f"shapes {[tuple(s.shape) for s in sequences[:5]]}",
            "encode every sample of a modality with the same encoder",
        )
    if len({s.shape[0] for s in sequences}) == 1 and sequences[0].shape[0]:
        values = torch.stack(list(sequences))
        return Tokens(values, everywhere(*values.shape[:2], device=values.device))
    lengths = torch.tensor([s.shape[0] for s in sequences], device=sequences[0].device)
    values = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    if values.shape[1] == 0:
        values = values.new_zeros(len(sequences), 1, values.shape[2])
    mask = torch.arange(values.shape[1], device=values.device) < lengths.unsqueeze(1)
    return Tokens(values, mask)


def concatenate(parts: Sequence[Tokens]) -> Tokens:
    """Sequences of equal width one after the other along ``T``."""
    mask = torch.cat([p.mask for p in parts], dim=1)
    if whole(parts):
        _note_full(mask)
    return Tokens(torch.cat([p.values for p in parts], dim=1), mask)

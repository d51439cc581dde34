"""Coordinated architectures: every modality to a unit vector in one shared space, and what trains them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.fusion.base import check_dims, check_inputs
from weft.ops.cost import Cost, empty_batch, measure_cost
from weft.registry import Registry
from weft.tokens import Tokens, full, present, where_there, zero_padding


class Aligner(nn.Module, ABC):
    """Base of every aligner.

    Args:
        dims: width of each modality, ``{name: D_m}``, in the order of the modalities.
        dim: width of the shared space.

    Class attributes:
        arity: fewest and most modalities (None: any number).
        objective: the registered objective that suits it, where the user names none.
        scaling: how features are best scaled for it: each to unit variance (``"feature"``), or all of a modality by one
            number (``"modality"``).
        paper: the citation.

    Example:
        >>> import torch
        >>> from weft.alignment import create_aligner
        >>> from weft.tokens import as_tokens
        >>> aligner = create_aligner("two-tower", dims={"text": 384, "image": 1280}, dim=64)
        >>> found = aligner({"text": as_tokens(torch.randn(4, 384))})  # one side at a time, or both
        >>> found["text"].shape, bool(torch.allclose(found["text"].norm(dim=1), torch.ones(4)))
        (torch.Size([4, 64]), True)
    """

    arity: ClassVar[tuple[int, int | None]] = (1, None)
    objective: ClassVar[str] = "infonce"
    scaling: Literal["feature", "modality"] = "feature"
    paper: ClassVar[str] = ""

    def __init__(self, dims: Mapping[str, int], dim: int = 256) -> None:
        super().__init__()
        check_dims(type(self).__name__, dims, dim, self.arity)
        self.dims, self.dim, self.names = dict(dims), dim, tuple(dims)

    @abstractmethod
    def embed(self, name: str, tokens: Tokens) -> Tensor:
        """Embedding ``(B, dim)`` of one modality, not normalised, of what :meth:`readable` gives."""

    @final  # type: ignore[misc]
    def forward(self, inputs: dict[str, Tokens]) -> dict[str, Tensor]:
        """Align a batch.

        Args:
            inputs: ``{name: Tokens}`` for some or all names of ``dims`` (retrieval encodes one side at a time).

        Returns:
            ``{name: (B, dim)}`` unit vectors; zeros in the rows where the modality is absent.

        Raises:
            UserError: an unknown modality, or a shape that does not fit ``dims``.
        """
        check_inputs({name: d for name, d in self.dims.items() if name in inputs} or self.dims, inputs)
        embeddings = {}
        for name in (n for n in self.names if n in inputs):
            tokens = self.readable(inputs[name])
            unit = F.normalize(self.embed(name, tokens), dim=-1)
            embeddings[name] = where_there(None if full(tokens.mask) else present(tokens).unsqueeze(1), unit)
        return embeddings

    def begin(self, batches: Callable[[], Iterable[dict[str, Tokens]]], judge: Any = None) -> None:
        """Look at the training rows before the first step; nothing, unless it starts from a solution.

        Args:
            batches: makes the inputs, in chunks.
            judge: see :class:`~weft.alignment.closed_form.Judge`.
        """

    def readable(self, tokens: Tokens) -> Tokens:
        """What :meth:`embed` is given: the tokens, zeros under the mask."""
        return zero_padding(tokens)

    @classmethod
    def cost(
        cls, dims: Mapping[str, int], dim: int = 256, lengths: int | Mapping[str, int] = 1, /, **options: Any
    ) -> Cost:
        """As :meth:`weft.fusion.Fusion.cost`."""
        return measure_cost(lambda: cls(dims, dim, **options), lambda: (empty_batch(dims, lengths),))


class Objective(nn.Module, ABC):
    """A loss over matched pairs of embeddings; row ``i`` of ``a`` belongs with row ``i`` of ``b``.

    Example:
        Pairs that match have a smaller loss than pairs that do not:

        >>> import torch
        >>> from weft.alignment import create_objective
        >>> objective = create_objective("infonce", temperature=0.1)
        >>> a, valid = torch.eye(4), torch.ones(4, dtype=torch.bool)
        >>> bool(objective(a, a, valid) < objective(a, a.flip(0), valid))
        True
    """

    paper: ClassVar[str] = ""

    @abstractmethod
    def forward(self, a: Tensor, b: Tensor, valid: Tensor, group: Tensor | None = None) -> Tensor:
        """The loss, a scalar.

        Args:
            a, b: ``(B, D)`` unit vectors.
            valid: ``(B,)`` bool, False where either side of the pair is absent; such rows are no negatives either.
            group: ``(B,)`` int64; rows with the same number (the captions of one photo), on whatever process, are right
                partners of each other, and no negatives. None: no two rows are.
        """


def check_share(who: str, name: str, value: float) -> None:
    """Refuse a share that is not from 0 up to 1."""
    if not 0 <= value < 1:
        raise UserError(f"{who}: {name} is a share, 0 up to 1", f"{name}={value}", "0 switches it off, 0.1 is usual")


Inputs = dict[str, Tokens]


class Regulariser(nn.Module, ABC):
    """What is added to an objective in training: it sees what went in beside what came out."""

    paper: ClassVar[str] = ""

    def prepare(
        self,
        batch: Callable[[np.ndarray], Inputs],
        presence: Mapping[str, np.ndarray],
        standardise: Callable[[Inputs], Inputs],
    ) -> None:
        """Look at the training rows, before the first step.

        Args:
            batch: inputs of training rows, by position.
            presence: ``{name: (N,) bool}`` of the training rows.
            standardise: inputs to what the aligner reads.
        """

    @abstractmethod
    def forward(
        self, inputs: Inputs, embeddings: dict[str, Tensor], embed: Callable[[Inputs], dict[str, Tensor]]
    ) -> Tensor:
        """What is added to the loss, a scalar; over several processes the mean of its gradients is what counts.

        Args:
            inputs: of a batch, as read.
            embeddings: ``{name: (B, dim)}`` of these inputs.
            embed: the model, for other inputs.
        """


def check_weight(who: str, weight: float) -> None:
    """Refuse a weight that is not a number, 0 or more."""
    if not 0 <= weight < float("inf"):
        raise UserError(f"{who}: weight is a number, 0 or more", f"weight={weight}", "0 switches it off")


aligners: Registry[Aligner] = Registry("aligner", "weft.alignment")
objectives: Registry[Objective] = Registry("objective", "weft.alignment")


regularisers: Registry[Regulariser] = Registry("regulariser", "weft.alignment")


def create_aligner(name: str, dims: Mapping[str, int], dim: int = 256, **options: Any) -> Aligner:
    """Build a registered aligner: ``create_aligner("two-tower", dims={"text": 384, "image": 1280})``."""
    return aligners.create(name, dims, dim, **options)


def create_objective(name: str, **options: Any) -> Objective:
    """Build a registered objective: ``create_objective("infonce", temperature=0.07)``."""
    return objectives.create(name, **options)


def create_regulariser(name: str, **options: Any) -> Regulariser:
    """Build a registered regulariser: ``create_regulariser("structure", weight=10.0)``."""
    return regularisers.create(name, **options)


def list_aligners(pattern: str = "*", exclude: str | Sequence[str] = ()) -> list[str]:
    """Names of the registered aligners that match a shell pattern and none of ``exclude``, in natural order."""
    return aligners.names(pattern, exclude)

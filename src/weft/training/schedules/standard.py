"""The schedules of every toolbox.

``cosine`` after the warm-up equals torch's ``LinearLR`` followed by ``CosineAnnealingLR``: Loshchilov and Hutter 2017,
SGDR (ICLR).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from weft.errors import UserError
from weft.training.schedule import Schedule, schedules


@schedules.register("cosine")
class Cosine(Schedule):
    """Half a cosine, to zero at the last step."""

    def factor(self, step: int, steps: int, reductions: int = 0) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / steps))


@schedules.register("linear")
class Linear(Schedule):
    """A straight line, to zero after the last step."""

    def factor(self, step: int, steps: int, reductions: int = 0) -> float:
        return 1 - step / steps


@schedules.register("constant")
class Constant(Schedule):
    """The peak rate."""

    def factor(self, step: int, steps: int, reductions: int = 0) -> float:
        return 1.0


@schedules.register("step")
class Step(Schedule):
    """Lowered by a factor every so often.

    Args:
        every: share of the steps, in (0, 1].
        factor: of one lowering.
    """

    def __init__(self, *, every: float = 1 / 3, factor: Annotated[float, Field(ge=0)] = 0.1) -> None:
        if not 0 < every <= 1:
            raise UserError("schedule 'step' lowers the rate after a share of the steps", f"every={every}", "0.33, say")
        self.every, self.by = every, factor

    def factor(self, step: int, steps: int, reductions: int = 0) -> float:
        return self.by ** math.floor(step / (self.every * steps))


@schedules.register("plateau")
class Plateau(Schedule):
    """A tenth after every ``patience // 2`` epochs without a better dev score."""

    def factor(self, step: int, steps: int, reductions: int = 0) -> float:
        return 0.1**reductions

    def judge(self, epochs: Sequence[dict[str, float]], best: int, patience: int, reductions: int) -> tuple[int, bool]:
        stale = len(epochs) - 1 - best
        return reductions + bool(stale and stale % max(1, patience // 2) == 0), bool(patience and stale >= patience)

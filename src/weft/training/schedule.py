r"""The learning rate as a function of the step: a linear warm-up, then one of the registered schedules.

With ``W = warmup * S`` of ``S`` steps, at step ``s = 0 .. S - 1``:

.. math::
    \text{factor}(s) = \tfrac{s + 1}{W + 1} \;\; (s < W), \qquad f(s - W,\ S - W) \;\; (s \ge W)

A schedule is a class with :meth:`Schedule.factor` and, where what happens on the dev rows lowers the rate or ends
training, :meth:`Schedule.judge`. It keeps no state: what it needs is the list of finished epochs, which a checkpoint
has anyway. One of your own is registered like the others and named by the training setting ``schedule``, its options by
``schedule_options``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from weft.registry import Registry

if TYPE_CHECKING:
    from weft.training.config import TrainConfig


class Schedule(ABC):
    """Base of every schedule; the keyword-only arguments of its constructor are its options.

    >>> schedules.create("step", every=0.5, factor=0.1).factor(75, 100)
    0.1
    """

    @abstractmethod
    def factor(self, step: int, steps: int, reductions: int = 0) -> float:
        """What the peak rate is multiplied by.

        Args:
            step: from 0, of the steps after the warm-up.
            steps: how many those are.
            reductions: what :meth:`judge` said after the last epoch.
        """

    def judge(self, epochs: Sequence[dict[str, float]], best: int, patience: int, reductions: int) -> tuple[int, bool]:
        """``(reductions, stop)`` after an epoch. Default: stop after ``patience`` epochs without a better one.

        Args:
            epochs: the log so far, with ``dev_loss`` and ``dev_score``.
            best: the best of them.
            patience: of the training settings; 0 never stops.
            reductions: so far.
        """
        return reductions, bool(patience and len(epochs) - 1 - best >= patience)


schedules: Registry[Schedule] = Registry("schedule", "weft.training.schedules")


def learning_rate(
    config: TrainConfig, step: int, steps: int, reductions: int = 0, schedule: Schedule | None = None
) -> float:
    """Learning rate of ``step`` (from 0) of ``steps``.

    Args:
        config: the settings.
        reductions: so far, see :meth:`Schedule.judge`.
        schedule: that of the settings, made already.
    """
    warmup = int(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    return config.lr * (schedule or make_schedule(config)).factor(step - warmup, steps - warmup, reductions)


def make_schedule(config: TrainConfig) -> Schedule:
    """The schedule of some settings.

    Raises:
        UserError: no schedule of that name, or it has no such option.
    """
    return schedules.create(config.schedule, **config.schedule_options)

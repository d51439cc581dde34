"""What judges the predictions of a system, whatever they are: the metrics, the score of each row, the figures.

A :class:`~weft.tasks.base.Task` is a judge too, of the outputs of a head. Judges are registered among the tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np


class Judge(ABC):
    """Base of every judge; the keyword-only arguments of its constructor are its options.

    Attributes:
        primary: the metric that models are selected and compared by, a key of :meth:`metrics`.
        higher_is_better: whether more of ``primary`` is better.
    """

    primary: str
    higher_is_better: bool = True

    @abstractmethod
    def metrics(self, outputs: Any, target: Any) -> dict[str, float]:
        """Metrics of predictions, one per row, against what they should be; NaN where these rows do not define one."""

    @abstractmethod
    def scores(self, outputs: Any, target: Any) -> np.ndarray:
        """``(N,)`` score of each row, higher is better: what the dev rows choose by and what paired tests compare.

        Raises:
            UserError: the judge looks at all rows together, and no row has a score of its own.
        """

    def row_scores(self, outputs: Any, target: Any) -> dict[str, np.ndarray]:
        """Scores ``(N,)`` by name, all that paired tests compare. Default: :meth:`scores`, as the primary metric."""
        return {self.primary: self.scores(outputs, target)}

    def figures(self, outputs: Any, target: Any, folder: Path) -> list[Path]:
        """Draw figures as PNG files in ``folder``. Default: nothing."""
        return []

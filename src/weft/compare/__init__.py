"""Operators x seeds x folds, baselines, statistics, and the verdict in one sentence.

Example:
    Two signs, one in each modality; the label is whether they differ, which neither knows alone:

    >>> import tempfile
    >>> import numpy as np
    >>> from weft.compare import CompareConfig, compare
    >>> from weft.store import MemoryFeatures
    >>> rng = np.random.default_rng(0)
    >>> signs = rng.choice([-1.0, 1.0], (200, 2))
    >>> a, b = (np.stack([sign, 0.1 * rng.normal(size=200)], axis=1) for sign in signs.T)
    >>> label = np.where(signs[:, 0] == signs[:, 1], "same", "different")
    >>> features = MemoryFeatures([f"row {i}" for i in range(200)], {"a": a, "b": b}, {"label": label})
    >>> quick = {"fusions": ["concat"], "decisions": [], "ensembles": False, "seeds": 1, "trials": 1, "resamples": 99}
    >>> config = CompareConfig(**quick, dim=8)
    >>> found = compare(features, config, tempfile.mkdtemp(), progress=False)
    >>> sorted(row.method for row in found.rows if row.role == "fusion")
    ['concat']
"""

import inspect
import sys
from types import ModuleType
from typing import Any

from weft.compare.comparison import Comparison, compare
from weft.compare.config import CompareConfig
from weft.compare.frames import compare_frame, fit_frame
from weft.compare.verdict import Verdict


class _Callable(ModuleType):
    """``weft.compare`` is this package and, as a person in a notebook expects, the verb on a table in memory."""

    def __call__(self, frame: Any, target: Any = None, **options: Any) -> Comparison:
        return compare_frame(frame, target, **options)


_Callable.__call__.__doc__ = compare_frame.__doc__
sys.modules[__name__].__class__ = _Callable
__signature__ = inspect.signature(compare_frame)

__all__ = ["CompareConfig", "Comparison", "Verdict", "compare", "compare_frame", "fit_frame"]

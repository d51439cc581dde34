"""Operators x seeds x folds, baselines, statistics, and the verdict in one sentence."""

from weft.compare.comparison import Comparison, compare
from weft.compare.config import CompareConfig
from weft.compare.verdict import Verdict

__all__ = ["CompareConfig", "Comparison", "Verdict", "compare"]

"""Settings of a comparison."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from weft.data.splits import FRACTIONS
from weft.errors import did_you_mean, first_fault
from weft.fusion import fusions
from weft.models.boosted import LIBRARIES
from weft.training import TrainConfig

DECISIONS = ("late", "hybrid")
ENSEMBLE, SINGLES_ENSEMBLE = "ensemble", "ensemble of singles"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class CompareConfig(BaseModel):
    """What is compared, and with how much care. Every method gets the same rows, seeds and trials.

    Attributes:
        fusions: names or shell patterns of fusion operators, ``"late"`` and ``"hybrid"`` among them; empty: all that
            suit the features.
        only, without: names or shell patterns of methods as the table shows them, of families ("linear", "boosting",
            "network", "ensemble") or of operators: what is compared, and what is not. Chance always is.
        options: ``{operator: its options}``.
        variants: further rows of the table, ``{name: {"fusion": operator, its options}}``: one operator several times.
        show: methods whose outputs the report draws side by side, with all seeds.
        decisions: models with one decision per modality: ``"late"``, ``"hybrid"``, each optionally with the rule that
            combines (:mod:`weft.tasks.decision`), as in ``"late:product"`` or ``"hybrid:weighted"``; empty: none.
        boosters: libraries that boost, "lightgbm" and "scikit-learn"; empty: LightGBM where it is installed.
        subsets: classical models on subsets of the modalities too, and the plain fusions on the best subset.
        ensembles: average the methods by ensemble selection.
        task: what is asked of the target ("ordinal"); None: what the data say.
        metric: what everything is chosen and judged by ("auc", "mae"); None: what suits the target.
        class_weights: "balanced": rows weigh so that every class counts the same in every loss.
        missing: score every method under the patterns of missing modalities that the dev rows show too, and train
            networks to bear them (modality dropout, more against fewer) as far as that is better on dev; where no dev
            row lacks any, each modality is hidden in turn.
        refit: fit the model that is kept on train and dev rows, once its settings are chosen: five times, each time
            without a fifth of them, averaged (:mod:`weft.compare.crossfit`).
        seeds: repetitions of every method whose training is random.
        sequence_seeds: repetitions of operators that read token sequences, which cost far more; None: as ``seeds``.
        folds: cross-validation folds instead of one test set.
        trials: settings tried on the dev rows for each method, at the first seed; later seeds keep the best.
        target: column of the targets; None: the first.
        fractions: train, dev and test, where the features bring no split.
        split_seed: of the split or the folds.
        dim: width of the fused vector, and of a single modality's hidden layer.
        train: settings of the training loop, the same for every network (``lr`` and ``weight_decay`` are tuned).
        budget: seconds for everything ("90s", "20m" and "2h" are understood): jobs, contributions, tests, figures. The
            cheap answers come first, and what did not run is stated. None: no limit.
        jobs: processes that train at the same time; figures do not depend on it. A script that asks for more than one
            keeps what it does under ``if __name__ == "__main__"``, as for every use of multiprocessing.
        on: where jobs run: None, here; "ray", in processes of Ray (:mod:`weft.compare.ray`), ``jobs`` of them on this
            machine or all cores of the cluster of ``RAY_ADDRESS``; "ray://HOST:PORT" or "auto", on that cluster.
        threads: of torch while jobs run, in each process. One is fastest for small models, and figures do not depend on
            the machine's cores; raise it for operators on long, wide token sequences.
        resamples: random draws of each permutation test and bootstrap.

    Raises:
        UserError: an unknown setting, or a value out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fusions: list[str] = Field(default_factory=list)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    show: list[str] = Field(default_factory=list)
    decisions: list[str] = Field(default_factory=lambda: ["late", "hybrid"])
    only: list[str] = Field(default_factory=list)
    without: list[str] = Field(default_factory=list)
    boosters: list[str] = Field(default_factory=list)
    subsets: bool = True
    ensembles: bool = True
    task: str | None = None
    metric: str | None = None
    class_weights: Literal["balanced"] | None = None
    missing: bool = False
    refit: bool = True
    seeds: int = Field(5, ge=1)
    sequence_seeds: int | None = Field(None, ge=1)
    folds: int | None = Field(None, ge=2)
    trials: int = Field(4, ge=1, le=12)
    target: str | None = None
    fractions: tuple[float, float, float] = FRACTIONS
    split_seed: int = Field(0, ge=0)
    dim: int = Field(128, ge=1)
    train: TrainConfig = Field(default_factory=TrainConfig)
    budget: float | None = Field(None, ge=0)
    jobs: int = Field(1, ge=1)
    on: str | None = None
    threads: int = Field(1, ge=1)
    resamples: int = Field(9999, ge=99)

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            inner = error.errors()[0]["loc"][:1] == ("train",)
            known = (TrainConfig if inner else CompareConfig).model_fields
            raise first_fault(error, "a comparison", "setting", known, "see weft.compare.CompareConfig") from None

    def seeds_of(self, reads_tokens: bool) -> int:
        """Repetitions of a random method."""
        return min(self.sequence_seeds or self.seeds, self.seeds) if reads_tokens else self.seeds

    @field_validator("budget", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        """``"20m"`` as seconds."""
        if not isinstance(value, str):
            return value
        found = re.fullmatch(r"\s*([0-9.]+)\s*([smh]?)\s*", value)
        if found is None:
            raise ValueError("a budget is a number of seconds, or like 90s, 20m, 2h")
        return float(found[1]) * _UNITS[found[2] or "s"]

    @field_validator("fusions")
    @classmethod
    def _found(cls, value: list[str]) -> list[str]:
        for pattern in value:
            if pattern.partition(":")[0] not in DECISIONS and not fusions.names(pattern):
                known = did_you_mean(pattern, [*fusions.names(), *DECISIONS], "fusion operators")
                raise ValueError(f"no fusion operator is called {pattern!r}; {known}")
        return value

    @field_validator("boosters")
    @classmethod
    def _libraries(cls, value: list[str]) -> list[str]:
        if set(value) - set(LIBRARIES):
            raise ValueError(f"libraries that boost are {' and '.join(LIBRARIES)}")
        return value

    @field_validator("variants")
    @classmethod
    def _operators(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        nameless = [name for name, options in value.items() if "fusion" not in options]
        if nameless:
            raise ValueError(f"variant {nameless[0]!r} names its operator: {{{nameless[0]}: {{fusion: araf, ...}}}}")
        for name, options in value.items():
            if options["fusion"] not in fusions.names():
                known = did_you_mean(str(options["fusion"]), fusions.names(), "fusion operators")
                raise ValueError(f"variant {name!r}: no fusion operator is called {options['fusion']!r}; {known}")
        return value

    @field_validator("decisions")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        if {name.partition(":")[0] for name in value} - set(DECISIONS):
            raise ValueError("decision-level models are 'late' and 'hybrid', with a rule as in 'late:product'")
        return value

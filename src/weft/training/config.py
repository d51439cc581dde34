"""Settings of a training run. The defaults suit small problems on frozen features."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from weft.errors import UserError, first_fault
from weft.training.schedule import make_schedule


class Settings(BaseModel):
    """Settings of a kind of training, checked as they are made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def of(cls, settings: Self | dict[str, Any] | None) -> Self:
        """Settings given as keywords, checked.

        Raises:
            UserError: an unknown setting (the closest known ones are offered), or a value out of range.
        """
        if isinstance(settings, cls):
            return settings
        try:
            return cls(**dict(settings or {}))
        except ValidationError as error:
            cause = error.errors()[0].get("ctx", {}).get("error")
            if isinstance(cause, UserError):
                raise cause from None
            remedy = f"see {cls.__module__}.{cls.__name__}"
            raise first_fault(error, "training", "setting", cls.model_fields, remedy) from None


class TrainConfig(Settings):
    """How a model is trained.

    Attributes:
        epochs: most passes over the training rows.
        batch_size: rows of a step, over all processes; the last batches of an epoch are evened out, so none is tiny.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay, on matrices only (not on biases, norms and scalars).
        schedule: learning rate after the warm-up, a registered :class:`~weft.training.schedule.Schedule`: ``"cosine"``
            to zero at the last step, ``"linear"``, ``"constant"``, ``"step"``, ``"plateau"`` (a tenth after every
            ``patience // 2`` epochs without a better dev score), or ``"lightcrl"``, that of its code, which also
            decides when to stop (``patience`` is 5 there, and ``monitor`` the loss).
        schedule_options: of the schedule, e.g. ``{"every": 0.5}``.
        warmup: share of all steps in which the learning rate rises linearly.
        patience: epochs without a better dev score before training stops; 0 never stops early.
        monitor: what is better on the dev rows: the task's ``"score"`` (ties: the loss), or the ``"loss"``.
        clip: largest gradient norm; 0 does not clip.
        precision: ``"fp32"``, or autocast to ``"bf16"`` or ``"fp16"`` (with loss scaling).
        seed: order of rows, dropout, modality dropout.
        modality_dropout: probability with which a present modality is hidden from a training row; never all of a row.
        more_vs_fewer: weight of the loss that a row with all its modalities is predicted no worse than with fewer of
            them (:mod:`weft.models.fused`); 0: off.
        chunk: rows an aligner embeds at a time, so that a batch need not fit in memory; the same gradient for one more
            forward pass (:mod:`weft.alignment.grad_cache`). 0: all at once.
        per_group: what a step of an aligner takes of a group (the captions of one photo): ``"one"`` of its rows at
            random, ``"all"`` of them, as partners of each other, or their ``"mean"`` with random weights
            (:mod:`weft.training.mixing`). ``batch_size`` counts groups.
        mix: FuseMix's alpha: rows of an aligner's batch are mixed in pairs, more evenly the larger it is; 0: not mixed.
        regularisers: of an aligner, ``{registered name: options}``, e.g. ``{"structure": {"weight": 10}}``.
        log_every: steps between progress updates, checks for a loss that is not finite, and looks at the clock whether
            a checkpoint is due; the end of an epoch is always such a point.
        checkpoint_seconds: least time between two checkpoints; the end of training always writes one.
        cache_mb: features are kept in memory up to this size, and read batch by batch above it.
        log_to: ``"tensorboard"`` writes event files beside ``log.jsonl``.
    """

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(128, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    schedule: str = "cosine"
    schedule_options: dict[str, Any] = Field(default_factory=dict)
    warmup: float = Field(0.05, ge=0, lt=1)
    patience: int = Field(10, ge=0)
    monitor: Literal["score", "loss"] = "score"
    clip: float = Field(1.0, ge=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = Field(0, ge=0)
    modality_dropout: float = Field(0.0, ge=0, lt=1)
    more_vs_fewer: float = Field(0.0, ge=0)
    chunk: int = Field(0, ge=0)
    per_group: Literal["one", "all", "mean"] = "one"
    mix: float = Field(0.0, ge=0)
    regularisers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    log_every: int = Field(50, ge=1)
    checkpoint_seconds: float = Field(30.0, ge=0)
    cache_mb: float = Field(2048.0, ge=0)
    log_to: Literal["tensorboard"] | None = None

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        make_schedule(self)
        return self

"""Phases of the loop: stages one after the other, optimizers shared or not, averages, several processes, schedules."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.test_loop import on_two_processes
from weft.data import Split
from weft.errors import UserError
from weft.training.config import TrainConfig
from weft.training.loop import run
from weft.training.phase import Optimizer, Phase
from weft.training.schedule import schedules
from weft.training.training_task import Gather, Scatter, TrainingTask

SPLIT = Split(np.arange(8), np.arange(8, 10), np.arange(0))
SETTINGS = {"epochs": 4, "batch_size": 4, "schedule": "constant", "warmup": 0.0, "clip": 0.0, "patience": 0, "lr": 0.1}


class Two(nn.Module):
    """Two weights, each with a wish of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def save_pretrained(self, folder: Path | str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)


class TwoTask(TrainingTask):
    """``a`` wants to be 1 and ``b`` 2; each phase's loss looks at both."""

    model: Two

    def __init__(self, phases: Any, scores: list[float] | None = None) -> None:
        super().__init__()
        self.model, self._make, self._scores, self.steps_over = Two(), phases, scores, 8

    def prepare(self, device: torch.device) -> None:
        self.phases = self._make(self.model)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(8)

    def batch(self, positions: np.ndarray, seed: tuple[int, ...] = ()) -> tuple[Any, ...]:
        return (len(positions),)

    def forward(self, batch: Any, phase: int = 0) -> Tensor:
        return self.phases[phase].loss(batch).mean()

    def evaluate(self, scatter: Scatter, gather: Gather) -> dict[str, float]:
        return {} if self._scores is None else {"loss": 0.0, "score": self._scores.pop(0)}

    def describe(self) -> dict[str, Any]:
        return {}


def wish(model: Two) -> Any:
    return lambda batch: (model.a - 1) ** 2 + (model.b - 2) ** 2


def test_a_phase_moves_its_own_weights_alone() -> None:
    task = TwoTask(lambda m: [Phase("a", wish(m), Optimizer([m.a])), Phase("b", wish(m), Optimizer([m.b], rate=0.5))])
    history = run(task, TrainConfig.of({**SETTINGS, "epochs": 1, "weight_decay": 0.0}), progress=False)
    assert task.model.a.item() == pytest.approx(0.2, abs=1e-3), "two steps of Adam at 0.1"
    assert task.model.b.item() == pytest.approx(0.1, abs=1e-3), "and at half of it"
    assert set(history.best) >= {"a", "b", "lr"}
    assert "dev_loss" not in history.best
    assert history.best_epoch == 0


def test_layers_learn_at_rates_of_their_own() -> None:
    task = TwoTask(lambda m: [Phase("both", wish(m), Optimizer([m.a, m.b], layers=[(0.5, [m.b])]))])
    run(task, TrainConfig.of({**SETTINGS, "epochs": 1, "weight_decay": 0.0}), progress=False)
    assert task.model.a.item() == pytest.approx(0.2, abs=1e-3), "two steps of Adam at 0.1"
    assert task.model.b.item() == pytest.approx(0.1, abs=1e-3), "and at half of it"


def test_phases_that_share_an_optimizer_share_its_moments() -> None:
    """Two phases a step on one Adam are twice as many steps of it."""

    def twice(m: Two) -> list[Phase]:
        both = Optimizer([m.a, m.b], weight_decay=0.0)
        return [Phase("first", wish(m), both), Phase("second", wish(m), both)]

    task = TwoTask(twice)
    run(task, TrainConfig.of({**SETTINGS, "epochs": 1}), progress=False)
    weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    adam = torch.optim.Adam(weights, lr=0.1)
    for _ in range(4):
        adam.zero_grad()
        ((weights[0] - 1) ** 2 + (weights[1] - 2) ** 2).backward()
        adam.step()
    torch.testing.assert_close([task.model.a.data, task.model.b.data], [w.data for w in weights])


def stages(m: Two) -> list[Phase]:
    return [
        Phase("first", wish(m), Optimizer([m.a]), stop=0.5),
        Phase("second", wish(m), Optimizer([m.b]), start=0.5),
    ]


def test_the_best_epoch_is_one_of_the_last_stage(tmp_path: Path) -> None:
    task = TwoTask(stages, scores=[0.9, 0.8, 0.3, 0.2])
    history = run(task, TrainConfig.of(SETTINGS), tmp_path, progress=False)
    assert [("first" in epoch, "second" in epoch) for epoch in history.epochs] == [(True, False)] * 2 + [
        (False, True)
    ] * 2
    assert history.best_epoch == 2
    assert task.model.a.item() > 0.3
    assert task.model.b.item() == pytest.approx(0.2, abs=1e-2), "the weights after the third epoch"


def test_a_killed_run_goes_on_in_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**SETTINGS, "checkpoint_seconds": 0.0, "log_every": 1}
    whole = TwoTask(stages, [0.0] * 4)
    run(whole, TrainConfig.of(settings), progress=False)
    calls, batch = [0], TwoTask.batch

    def dying(self: TwoTask, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return batch(self, *args)

    monkeypatch.setattr(TwoTask, "batch", dying)
    with pytest.raises(KeyboardInterrupt):
        run(TwoTask(stages, [0.0] * 4), TrainConfig.of(settings), tmp_path, progress=False)
    resumed = TwoTask(stages, [0.0] * 2)
    run(resumed, TrainConfig.of(settings), tmp_path, progress=False)
    assert calls[0] == 6 + 3, "the five finished steps are not done again"
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_epoch_without_a_phase_is_refused() -> None:
    task = TwoTask(lambda m: [Phase("a", wish(m), Optimizer([m.a]), start=0.5)])
    with pytest.raises(UserError, match="none of a is at work in epoch 0"):
        run(task, TrainConfig.of(SETTINGS), progress=False)


TWO = """
import json, sys
from tests.training.test_phases import adversaries
print(json.dumps(adversaries()))
"""


def adversaries() -> list[dict[str, float]]:
    """The log of two phases whose losses are means over the positions of a batch."""

    def phases(m: Two) -> list[Phase]:
        first = Phase("first", lambda rows: (m.a - torch.tensor(rows) / 4) ** 2, Optimizer([m.a]))
        return [first, Phase("second", lambda rows: (m.b - m.a * torch.tensor(rows)) ** 2, Optimizer([m.b]))]

    task = TwoTask(phases)
    task.batch = lambda positions, seed=(): (positions.astype(np.float32),)  # type: ignore[method-assign]
    return run(task, TrainConfig.of({**SETTINGS, "epochs": 3}), progress=False).epochs


@pytest.mark.slow
def test_two_processes_average_the_gradients_of_every_phase(tmp_path: Path) -> None:
    """Equal global batches of 4 rows: the losses of one process."""
    two = on_two_processes(TWO, tmp_path)
    for ours, theirs in zip(adversaries(), two, strict=True):
        assert ours["first"] == pytest.approx(theirs["first"], abs=1e-5)
        assert ours["second"] == pytest.approx(theirs["second"], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("linear", {}, [1.0, 0.75, 0.5, 0.25]),
        ("step", {"every": 0.5, "factor": 0.1}, [1.0, 1.0, 0.1, 0.1]),
        ("constant", {}, [1.0] * 4),
        ("cosine", {}, [0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]),
    ],
)
def test_schedules(name: str, options: dict[str, Any], expected: list[float]) -> None:
    schedule = schedules.create(name, **options)
    assert [schedule.factor(step, 4) for step in range(4)] == pytest.approx(expected)
    assert schedule.judge([{}] * 4, 0, 3, 0) == (0, True)
    assert schedule.judge([{}] * 4, 1, 3, 0) == (0, False)


def test_a_schedule_is_known_before_training() -> None:
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        TrainConfig.of({"schedule": "cosin"})
    with pytest.raises(UserError, match="no option 'evry'"):
        TrainConfig.of({"schedule": "step", "schedule_options": {"evry": 0.5}})
    with pytest.raises(UserError, match="share of the steps"):
        TrainConfig.of({"schedule": "step", "schedule_options": {"every": 2.0}})

"""The verdict on sets whose answer is known, and its words in the cases without one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from tests.compare.cases import generated, quick, small
from weft.compare import compare
from weft.compare.evidence import Evidence, Gain
from weft.compare.verdict import decide, shows_gain
from weft.training import load_model


@pytest.mark.slow
def test_xor_needs_fusion(tmp_path: Path) -> None:
    """Either modality is at chance; the winner is above 95 % and can be loaded."""
    features = generated("xor", rows=1000)
    config = quick(
        seeds=5, fusions=["tfn", "concat"], train={"epochs": 40, "lr": 1e-2, "patience": 15, "batch_size": 64}
    )
    found = compare(features, config, tmp_path, progress=False)
    assert found.verdict.outcome == "helps", found.sentence
    best = found.verdict.fusion
    assert found.sentence.startswith(f"Fusion helps: {best} of a and b reaches accuracy 0.9")
    row = next(row for row in found.rows if row.method == best)
    assert row.test is not None
    assert row.test > 0.95
    assert row.seeds == len(row.spread) == 5
    assert all(abs(row.test - 0.5) < 0.12 for row in found.rows if row.role == "single" and row.test is not None)
    assert row.p_holm is not None
    assert row.p_holm < 0.05
    singles = [row.test for row in found.rows if row.role == "single" and row.test is not None]
    assert found.verdict.lead == pytest.approx(row.test - max(singles))
    assert f"better by {found.verdict.lead:.3f} than the best single modality" in found.sentence
    hidden = row.missing["a"]
    assert hidden is not None
    assert hidden["hidden"] < 0.7
    assert found.contributions is not None
    worth = found.contributions
    assert sum(worth.shapley.values()) == pytest.approx(worth.full - worth.chance)
    assert min(worth.leave_one_out.values()) > 0.3
    assert min(worth.shapley.values()) > 0.15
    assert found.best is not None
    model = load_model(found.best)
    assert model.evaluate(features, np.arange(len(features)))["accuracy"] > 0.95


@pytest.mark.slow
def test_redundant_modalities_do_not_reward_fusion(tmp_path: Path) -> None:
    found = compare(generated("redundant"), quick(seeds=5), tmp_path, progress=False)
    assert found.verdict.outcome == "does not help"
    assert found.sentence.startswith("Fusion does not help: ")
    assert found.verdict.carrier in ("a", "b")
    assert found.best is not None
    assert load_model(found.best).names == (found.verdict.carrier,)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["a", "c"])
def test_the_one_informative_modality_is_named(which: str, tmp_path: Path) -> None:
    features = generated("unique", which=which)
    found = compare(features, quick(seeds=5, fusions=["concat"]), tmp_path, progress=False)
    assert found.verdict.outcome == "does not help"
    assert f"{which} alone is enough" in found.sentence
    assert found.contributions is not None
    assert max(found.contributions.shapley, key=found.contributions.shapley.__getitem__) == which


def test_noise_predicts_nothing(tmp_path: Path) -> None:
    found = compare(generated("noise", rows=300), quick(seeds=1, fusions=["concat"]), tmp_path, progress=False)
    assert found.verdict.outcome == "nothing predicts"
    assert "no modality predicts the target better than chance" in found.sentence
    assert found.verdict.carrier is None


def test_one_modality_has_nothing_to_fuse(tmp_path: Path) -> None:
    features = generated("redundant", rows=300).subset(["b"])
    found = compare(features, quick(seeds=1), tmp_path, progress=False)
    assert found.verdict.outcome == "one modality"
    assert found.sentence.startswith("There is only one modality, b, so there is nothing to fuse")
    assert {row.role for row in found.rows} == {"single", "chance"}
    assert found.contributions is None
    assert found.best is not None
    assert load_model(found.best).names == ("b",)


def test_no_fusion_finished(tmp_path: Path) -> None:
    """The budget ends before the first job: everything is stated, nothing is claimed."""
    found = compare(small(), quick(budget=0), tmp_path, progress=False)
    assert found.verdict.outcome == "no result"
    assert found.best is None
    assert len(found.not_run) == 1 + 2 * 2 + 2 * 2 + 2 + 2 * 2
    assert any("budget" in note for note in found.notes)
    assert {row.status for row in found.rows} == {"not run"}
    broken = quick(fusions=["tfn"], options={"tfn": {"no_such_option": 1}}, seeds=1)
    failed = compare(small(), broken, tmp_path, progress=False)
    assert failed.verdict.outcome == "no fusion finished"
    assert failed.sentence.startswith("No fusion method finished")
    row = next(row for row in failed.rows if row.method == "tfn")
    assert row.status == "failed"
    assert row.error is not None
    assert "no_such_option" in row.error


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (Gain(0.1, 0.02, 0.2, 0.01), True),
        (Gain(0.1, -0.01, 0.2, 0.01), False),  # the interval, with its seeds, does not exclude zero
        (Gain(0.1, 0.02, 0.2, 0.06), False),  # the test is not significant
        (Gain(-0.1, -0.2, -0.02, 0.01), False),  # significantly worse
    ],
)
def test_the_rule(gain: Gain, expected: bool) -> None:
    assert shows_gain(gain) is expected


class Told:
    """What a comparison found, put down by hand: two singles and a fusion, and the gains of the fusion."""

    sign, primary, rows, results = 1.0, "accuracy", np.arange(9), {"concat": [0], "a": [0], "b": [0]}
    setup = SimpleNamespace(features=SimpleNamespace(dims={"a": 1, "b": 1}), splits=[None])
    methods = [SimpleNamespace(name=n, role="single", modalities=(n,), family="network") for n in "ab"]
    methods += [SimpleNamespace(name="concat", role="fusion", modalities=("a", "b"), family="network")]

    def __init__(self, test: dict[str, float], gains: dict[str, Gain]) -> None:
        self.figures, self.gains = test, gains

    def done(self, role: str) -> list[str]:
        return [m.name for m in self.methods if m.role == role]

    def best(self, names: list[str]) -> str | None:
        """On dev, where ``a`` is ahead of ``b``."""
        return min(names, default=None)

    def test(self, name: str) -> np.ndarray:
        return np.array([self.figures[name]])

    def compare(self, first: str, second: str) -> Gain:
        assert first == "concat"
        return self.gains[second]


def test_fusion_has_to_beat_the_single_modality_that_is_best_on_test_too() -> None:
    """Dev chose ``a``; on test ``b`` is as good as the fusion: a clear gain over ``a`` is no evidence."""
    sure, unsure = Gain(0.3, 0.2, 0.4, 0.001), Gain(0.01, -0.05, 0.07, 0.6)
    figures = {"concat": 0.8, "a": 0.5, "b": 0.79}
    found = decide(cast(Evidence, Told(figures, {"a": sure, "b": unsure})))
    assert found.outcome == "does not help"
    assert found.carrier == found.single == "b"
    assert found.sentence.startswith("Fusion does not help: b alone is enough;")
    assert "0.800 on 9 test rows against 0.790 by b (gain +0.010, p = 0.6," in found.sentence
    found = decide(cast(Evidence, Told({**figures, "b": 0.6}, {"a": sure, "b": Gain(0.2, 0.1, 0.3, 0.01)})))
    assert found.outcome == "helps"
    assert found.lead == 0.2
    words = (
        "better by 0.200 than the best single modality (b: 0.600) and by 0.300 than the one chosen on dev (a: 0.500;"
    )
    assert words in found.sentence
    assert found.sentence.endswith("p = 0.01, 95 % CI [+0.100, +0.300], 1 seed.")


def test_a_classical_gain_is_not_called_a_single_modality(tmp_path: Path) -> None:
    """Networks trained for one tiny step cannot fuse, but a linear model on both can: the sentence says so."""
    train = {"epochs": 1, "lr": 1e-6, "batch_size": 512}
    config = quick(seeds=1, fusions=["concat"], train=train)
    found = compare(small(rows=600), config, tmp_path, progress=False)
    assert found.verdict.outcome == "does not help"
    assert found.sentence.startswith("No fusion network helps, but the modalities together do: the linear baseline")
    assert found.verdict.carrier is None

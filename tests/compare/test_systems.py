"""Variants of a system side by side: rows out of fold, judged like loose scores are, kept jobs, damaged ones again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.systems.rgbd_saliency.files import write_set
from tests.systems.tiny import RESNET
from weft.compare import systems as module
from weft.compare.statistics import sign_flip_test
from weft.compare.systems import SystemComparison, compare_systems
from weft.data import Dataset, load_dataset, make_folds
from weft.errors import UserError
from weft.systems.rgbd_saliency.metrics import score_map
from weft.systems.rgbd_saliency.reader import mask
from weft.training.config import TrainConfig

VARIANTS = {name: {"fusion": name} for name in ("attention", "rgb", "depth")}
OPTIONS: dict[str, Any] = {"backbone": RESNET, "size": 32, "width": 8, "block": {"heads": 2}, "freeze": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("set")
    (root / "scenes.txt").write_text("s0 s1 s2\ns5 s6\n")
    return load_dataset("rgbd-saliency", write_set(root, rows=9), scenes=root / "scenes.txt")


def compared(
    data: Dataset, folder: Path, variants: Any = VARIANTS, seeds: int = 2, **settings: Any
) -> SystemComparison:
    config = TrainConfig.of({"epochs": 1, "batch_size": 4, "patience": 0, **settings})
    shared: dict[str, Any] = {"options": OPTIONS, "seeds": seeds, "config": config, "progress": False}
    return compare_systems("rgbd-saliency", data, make_folds(data, 3), variants, folder=folder, **shared)


def test_every_figure_comes_from_predictions_out_of_fold(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []
    train = module._train

    def watched(name: str, rows: Any, split: Any, *more: Any) -> None:
        seen.append({*split.train.tolist(), *split.dev.tolist()})
        train(name, rows, split, *more)

    monkeypatch.setattr(module, "_train", watched)
    found = compared(data, tmp_path)
    assert len(seen) == 3 * 2 * 3
    for trained, split in zip(seen, np.tile(np.repeat(np.arange(3), 3), 2), strict=True):
        assert trained.isdisjoint(make_folds(data, 3)[split].test.tolist())
    assert found.rows == data.ids
    s = {}
    for variant in VARIANTS:
        maps = found.outputs[variant]
        s[variant] = np.array([[score_map(one, mask(data, row)).s for row, one in enumerate(seed)] for seed in maps])
        np.testing.assert_allclose(found.metrics[variant]["S"], s[variant].mean(axis=1), atol=1e-12)
    tests = []
    for other in ("rgb", "depth"):
        difference = s["attention"].mean(axis=0) - s[other].mean(axis=0)
        gain = found.gains[other]["S"]
        assert gain["gain"] == pytest.approx(difference.mean(), abs=1e-12)
        assert gain["low"] <= gain["gain"] <= gain["high"]
        tests.append(sign_flip_test(difference, data.group))
        assert gain["p"] == pytest.approx(tests[-1])
    adjusted = sorted(found.gains[other]["S"]["p_holm"] for other in ("rgb", "depth"))
    assert adjusted[0] == pytest.approx(min(1, 2 * min(tests)))
    mae = found.gains["rgb"]["MAE"]["gain"]
    assert mae == pytest.approx(np.mean(found.metrics["rgb"]["MAE"]) - np.mean(found.metrics["attention"]["MAE"]))


def test_jobs_are_kept_and_variants_added(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compared(data, tmp_path, {"rgb": VARIANTS["rgb"]}, seeds=1)
    assert first.gains == {}
    trained: list[str] = []
    train = module._train

    def counted(*args: Any) -> None:
        trained.append(args[3]["fusion"])
        train(*args)

    monkeypatch.setattr(module, "_train", counted)
    both = {name: VARIANTS[name] for name in ("depth", "rgb")}
    second = compared(data, tmp_path, both, seeds=1)
    assert trained == ["depth"] * 3
    assert second.metrics["rgb"] == first.metrics["rgb"]
    next(tmp_path.glob("jobs/*.json")).write_text("{")
    assert compared(data, tmp_path, both, seeds=1).metrics == second.metrics
    assert len(trained) == 4, "the damaged job is done again"
    assert compared(data, tmp_path, {"rgb": VARIANTS["rgb"]}, seeds=1, lr=0.1).metrics != first.metrics
    assert len(trained) == 7, "other settings find no old jobs"
    with pytest.raises(UserError, match="needs variants"):
        compared(data, tmp_path, {})


@pytest.mark.parametrize(
    ("p", "gain", "words"), [(0.01, 0.1, "better than b"), (0.01, -0.1, "worse than b"), (0.2, 0.1, "not shown")]
)
def test_the_sentence_says_what_is_shown(p: float, gain: float, words: str) -> None:
    metrics = {"a": {"S": [0.5]}, "b": {"S": [0.6]}}
    gains = {"b": {"S": {"gain": gain, "low": 0, "high": 0, "p": p, "p_holm": p}}}
    found = SystemComparison("x", metrics, gains, {}, [], "S", True)
    assert words in found.sentence
    assert found.sentence.startswith("b has the best S, 0.6000.")

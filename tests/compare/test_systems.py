"""Variants of a system side by side: rows out of fold, judged like loose scores are, kept jobs, damaged ones again."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.systems.rgbd_saliency.files import write_set
from tests.systems.tiny import RESNET
from weft.compare import systems as module
from weft.compare.statistics import Gain, sign_flip_test
from weft.compare.systems import SystemComparison, compare_systems
from weft.compare.verdict import Said, decide_variants
from weft.data import Dataset, load_dataset, make_folds
from weft.errors import UserError
from weft.models import load_model
from weft.report import render_terminal, write_report
from weft.systems.rgbd_saliency.metrics import score_map
from weft.systems.rgbd_saliency.reader import mask
from weft.training.config import TrainConfig
from weft.training.system import systems

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
    fit = module.fit_system

    def watched(system: Any, rows: Any, split: Any, *more: Any, **options: Any) -> Any:
        seen.append({*split.train.tolist(), *split.dev.tolist()})
        return fit(system, rows, split, *more, **options)

    monkeypatch.setattr(module, "fit_system", watched)
    found = compared(data, tmp_path)
    assert len(seen) == 3 * 2 * 3
    for trained, split in zip(seen, np.tile(np.repeat(np.arange(3), 3), 2), strict=True):
        assert trained.isdisjoint(make_folds(data, 3)[split].test.tolist())
    assert found.ids == data.ids
    s = {}
    for variant in VARIANTS:
        maps = found.outputs[variant]
        s[variant] = np.array([[score_map(one, mask(data, row)).s for row, one in enumerate(seed)] for seed in maps])
        np.testing.assert_allclose(found.metrics[variant]["S"], s[variant].mean(axis=1), atol=1e-12)
    tests = []
    for other in ("rgb", "depth"):
        difference = s["attention"].mean(axis=0) - s[other].mean(axis=0)
        gain = found.gains[other]["S"]
        assert gain["gain"] == pytest.approx(-difference.mean(), abs=1e-12)
        assert gain["low"] <= gain["gain"] <= gain["high"]
        tests.append(sign_flip_test(difference, data.group))
        assert gain["p"] == pytest.approx(tests[-1])
    adjusted = sorted(found.gains[other]["S"]["p_holm"] for other in ("rgb", "depth"))
    assert adjusted[0] == pytest.approx(min(1, 2 * min(tests)))
    mae = found.gains["rgb"]["MAE"]["gain"]
    assert mae == pytest.approx(np.mean(found.metrics["attention"]["MAE"]) - np.mean(found.metrics["rgb"]["MAE"]))
    lines = {row.method: row for row in found.rows}
    for variant, line in lines.items():
        assert line.test == pytest.approx(s[variant].mean())
        assert line.low <= line.test <= line.high
        assert line.role == "system"
        assert line.modalities == ("rgb", "depth")
        assert line.seeds == 2
    assert lines["rgb"].gain == found.gains["rgb"]["S"]["gain"]
    assert lines["rgb"].p_holm == found.gains["rgb"]["S"]["p_holm"]
    assert found.verdict.winner == max(lines, key=lambda name: lines[name].dev)
    assert found.verdict.against == "attention"
    assert found.rows[0].tied


def test_jobs_are_kept_and_variants_added(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compared(data, tmp_path, {"rgb": VARIANTS["rgb"]}, seeds=1)
    assert first.gains == {}
    trained: list[str] = []
    make = module.make_system

    def counted(*args: Any, **options: Any) -> Any:
        trained.append(options["fusion"])
        return make(*args, **options)

    monkeypatch.setattr(module, "make_system", counted)
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


def test_the_model_kept_is_that_of_the_best_job_of_the_best_variant(data: Dataset, tmp_path: Path) -> None:
    found = compared(data, tmp_path, {name: VARIANTS[name] for name in ("rgb", "depth")})
    jobs = [json.loads(path.read_text()) for path in tmp_path.glob("jobs/*.json")]
    dev = {name: [job["best"]["dev_score"] for job in jobs if job["method"] == name] for name in ("rgb", "depth")}
    best = max(dev, key=lambda name: np.mean(dev[name]))
    top = next(job for job in jobs if job["method"] == best and job["best"]["dev_score"] == max(dev[best]))
    assert found.verdict.winner == best
    assert f"The model kept is {best}, seed {top['seed']} of fold {top['fold']}, the best on dev." in found.notes
    test = make_folds(data, 3)[top["fold"]].test
    model: Any = load_model(tmp_path / "winner")
    assert found.kept is not None
    assert all(values.max() <= 1 for values in found.kept.outputs)
    again = model.evaluate(data, test)
    assert found.kept.metrics["S"] == pytest.approx(again["S"], abs=1e-12), "of maps as they are kept"
    assert len(list(tmp_path.glob("jobs/*/model.safetensors"))) == 2, "one model per variant"
    for folder in tmp_path.glob("jobs/*/"):
        shutil.rmtree(folder)
    assert compared(data, tmp_path, {name: VARIANTS[name] for name in ("rgb", "depth")}).notes == found.notes
    assert load_model(tmp_path / "winner").config() == model.config(), "a model that is gone is trained again"


def test_dev_rows_without_a_score_choose_nothing(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An undefined score, NaN in memory and null in the job's file, is no score."""
    monkeypatch.setattr(systems.get("rgbd-saliency"), "validate", lambda *_: {"loss": 1.0, "score": float("nan")})
    found = compared(data, tmp_path, {"rgb": VARIANTS["rgb"]}, seeds=1)
    assert found.rows[0].dev is None
    assert found.notes[0] == "The model kept is rgb, seed 0 of fold 0, as its dev rows have no score to choose by."


def test_the_report_is_that_of_any_comparison(data: Dataset, tmp_path: Path) -> None:
    found = compared(data, tmp_path)
    page = write_report(found, tmp_path).read_text()
    assert html.escape(found.sentence) in page
    assert "gone" not in page
    assert {path.name for path in (tmp_path / "figures").iterdir()} >= {"methods.png", "seeds.png", "maps.png"}
    kept = json.loads((tmp_path / "comparison.json").read_text())
    assert kept["sentence"] == found.sentence
    assert kept["system"] == "rgbd-saliency"
    assert {line["method"] for line in kept["table"]} == set(VARIANTS)
    assert kept["gains"]["rgb"]["S"]["p_holm"] == found.gains["rgb"]["S"]["p_holm"]
    console = Console(record=True, width=120)
    render_terminal(found, console)
    assert "attention" in console.export_text()


@pytest.mark.parametrize(
    ("p", "gain", "words", "outcome"),
    [
        (0.01, -0.1, "a is shown to be better than b", "variants differ"),
        (0.01, 0.1, "a is shown to be worse than b", "variants differ"),
        (0.2, -0.1, "a is not shown to differ from b", "variants alike"),
    ],
)
def test_the_sentence_says_what_is_shown(p: float, gain: float, words: str, outcome: str) -> None:
    said = {n: Said(n, "system", "system", ("rgb",), v, None, None, 3) for n, v in (("a", 0.5), ("b", 0.6))}
    over = {"b": Gain(gain, gain - 0.01, gain + 0.01, p)}
    facts: dict[str, Any] = {"primary": "S", "rows": 67, "said": said, "winner": "a"}
    verdict = decide_variants("a", over, **facts)
    assert verdict.outcome == outcome
    assert words in verdict.sentence
    assert verdict.sentence.startswith("On 67 test rows b has the best S, 0.600 (3 seeds).")
    assert verdict.sentence.endswith("Use a, best on dev (S 0.500 on test).")

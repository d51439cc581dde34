"""Saliency methods side by side: maps out of fold, judged like loose scores are, kept jobs, wrong folders refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from tests.data.saliency_files import write_set
from tests.systems.tiny import RESNET
from weft.compare import saliency
from weft.compare.saliency import compare_saliency, map_path
from weft.compare.statistics import sign_flip_test
from weft.data import make_folds
from weft.data.rgbd_saliency import RgbdSaliency, read_rgbd_saliency
from weft.errors import UserError
from weft.tasks.saliency import score_map
from weft.training.config import TrainConfig

METHODS = {name: {"fusion": name} for name in ("attention", "rgb", "depth")}
MODEL: dict[str, Any] = {"size": 32, "width": 8, "block": {"heads": 2}, "freeze": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RgbdSaliency:
    root = tmp_path_factory.mktemp("set")
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**RESNET)).save_pretrained(root / "backbone")
    (root / "scenes.txt").write_text("s0 s1 s2\ns5 s6\n")
    return read_rgbd_saliency(write_set(root, rows=9), scenes=root / "scenes.txt")


def compared(data: RgbdSaliency, folder: Path, methods: Any = METHODS, seeds: int = 2, **settings: Any) -> Any:
    config = TrainConfig.of({"epochs": 1, "batch_size": 4, "patience": 0, **settings})
    splits = make_folds(data, 3)
    model = {"backbone": data.photos[0].parents[1] / "backbone", **MODEL}
    return compare_saliency(data, splits, methods, seeds, config, folder, model=model, fit={}, progress=False)


def test_every_figure_comes_from_the_maps_out_of_fold(
    data: RgbdSaliency, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []
    fit = saliency.fit_saliency

    def watched(model: Any, rows: Any, split: Any, *args: Any, **options: Any) -> Any:
        seen.append({*split.train.tolist(), *split.dev.tolist()})
        return fit(model, rows, split, *args, **options)

    monkeypatch.setattr(saliency, "fit_saliency", watched)
    found = compared(data, tmp_path)
    assert len(seen) == 3 * 2 * 3
    for trained, split in zip(seen, np.tile(np.repeat(np.arange(3), 3), 2), strict=True):
        assert trained.isdisjoint(make_folds(data, 3)[split].test.tolist())
    assert found.rows == data.ids
    s = {}
    for method in METHODS:
        s[method] = np.array(
            [
                [
                    score_map(np.asarray(Image.open(map_path(tmp_path, method, seed, row))), data.mask(i)).s
                    for i, row in enumerate(data.ids)
                ]
                for seed in range(2)
            ]
        )
        np.testing.assert_allclose(found.metrics[method]["S"], s[method].mean(axis=1), atol=1e-12)
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


def test_jobs_are_kept_and_methods_added(data: RgbdSaliency, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compared(data, tmp_path, {"rgb": METHODS["rgb"]}, seeds=1)
    assert first.gains == {}
    trained: list[str] = []
    job = saliency._job

    def counted(*args: Any) -> Any:
        trained.append(f"{args[5]}-{args[6]}")
        return job(*args)

    monkeypatch.setattr(saliency, "_job", counted)
    second = compared(data, tmp_path, {name: METHODS[name] for name in ("depth", "rgb")}, seeds=1)
    assert trained == ["depth-0"] * 3
    assert second.metrics["rgb"] == first.metrics["rgb"]
    with pytest.raises(UserError, match="other settings"):
        compared(data, tmp_path, {"rgb": METHODS["rgb"]}, seeds=1, lr=0.1)

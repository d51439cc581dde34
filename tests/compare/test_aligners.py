"""Aligners side by side: figures are those of the task, jobs resume, the winner loads, noise is told apart."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tests.training.test_aligned import pairs
from weft.alignment import create_objective
from weft.compare import aligners as engine
from weft.compare.aligners import AlignConfig, Result, alignment_test, compare_aligners, part_of
from weft.data import make_splits
from weft.errors import UserError
from weft.files import read_json
from weft.models import AlignedModel, load_model
from weft.store import MemoryFeatures
from weft.training import fit_aligner

CONFIG = AlignConfig(("procrustes", "two-tower"), 2, 6, {"epochs": 2}, 19)


def test_the_table_is_what_the_task_measures_and_jobs_resume(tmp_path, monkeypatch):
    features, _ = pairs(captions=2)
    split = make_splits(features)
    first = compare_aligners(features, CONFIG, tmp_path, split=split, progress=False)
    table = {row["aligner"]: row for row in first["table"]}
    assert table["procrustes"]["seeds"] == 1
    assert table["two-tower"]["seeds"] == 2
    assert [row["dev"] for row in first["table"]] == sorted((row["dev"] for row in first["table"]), reverse=True)
    assert all(row["low"] <= row["test"] <= row["high"] for row in first["table"])
    winner = load_model(first["winner"])
    assert 100 * winner.evaluate(features, split.test)["sum of recalls"] == pytest.approx(first["table"][0]["test"])
    assert first["aligned"] == 1 / 20
    assert first["table"][0]["aligner"] in first["sentence"]
    monkeypatch.setattr(engine, "fit_aligner", lambda *a, **k: pytest.fail("done already"))
    assert compare_aligners(features, CONFIG, tmp_path, split=split, progress=False) == first


def test_scores_of_groups_average_to_the_sum_of_recalls():
    features, split = pairs(captions=2)
    part, rng = part_of(features, split.test), np.random.default_rng(0)
    z = {n: rng.normal(size=(len(split.test), 4)) for n in features.dims}
    expected = part.task.metrics(z, part.groups, part.presence)["sum of recalls"]
    assert part.scores(z).mean() == pytest.approx(expected)


def test_the_sentence_says_who_is_ahead_on_test():
    """Rows stand by dev; one that is better on test, and shown to be, is not called worse."""

    def row(name: str, test: float, p: float | None) -> Result:
        return Result(name, 1, 0.0, test, test - 1, test + 1, test, 1, 1.0, p_value=p)

    def sentence(*others: Result) -> str:
        return engine._sentence([row("cca", 300.0, None), *others], None)

    assert sentence().endswith("300 with hub correction.")
    assert sentence(row("ridge", 200, 0.01)).endswith(", better than every other one shown.")
    both = sentence(row("whitened", 400, 0.01), row("ridge", 310, 0.4), row("procrustes", 200, 0.01))
    assert both.endswith("; shown to be better on test: whitened; not shown to be worse: ridge.")


def test_modalities_that_have_nothing_in_common_are_not_called_aligned():
    rng = np.random.default_rng(0)
    noise = {"a": rng.normal(size=(120, 5)), "b": rng.normal(size=(120, 4))}
    features = MemoryFeatures([f"r{i}" for i in range(120)], noise, {}, task="retrieval")
    split = make_splits(features)
    assert alignment_test(features, split, part_of(features, split.test), CONFIG) > 0.05


def test_an_aligner_stands_several_times_with_options_settings_and_objectives(tmp_path):
    features, _ = pairs(captions=2)
    split = make_splits(features)
    variants = {
        "narrow": {"aligner": "whitened", "width": 2, "choose": "fixed"},
        "several": {"aligner": "two-tower", "train": {"per_group": "all", "epochs": 1}, "objective": "siglip"},
    }
    config = AlignConfig(("whitened", "two-tower"), 1, 6, {"epochs": 2}, 0, variants=variants)
    table = compare_aligners(features, config, tmp_path, split=split, progress=False)["table"]
    found = {row["aligner"]: row for row in table if row["members"] is None}
    assert set(found) == {"whitened", "two-tower", *variants}
    kept = {read_json(path)["aligner"]: load_model(path.parent) for path in tmp_path.glob("jobs/*/job.json")}
    assert kept["narrow"].aligner.setting.width == 2
    alone = AlignedModel.build(dims=features.dims, aligner="two-tower", dim=6)
    settings = {"epochs": 1, "per_group": "all", "seed": 0}
    fit_aligner(alone, create_objective("siglip"), features, split, settings, progress=False)
    expected = alone.evaluate(features, split.test)["sum of recalls"]
    assert found["several"]["test"] == pytest.approx(100 * expected)


@pytest.mark.parametrize(
    ("variants", "match"),
    [
        ({"cca": {"aligner": "cca"}}, "a name of its own"),
        ({"x": "whitened"}, "NAME="),
        ({"x": {"width": 3}}, "names its aligner"),
        ({"x": {"aligner": "whitend"}}, "did you mean 'whitened'"),
        ({"x": {"aligner": "whitened", "with": 3}}, "no option 'with'"),
        ({"x": {"aligner": "two-tower", "train": {"epoch": 3}}}, "epochs"),
        ({"x": {"aligner": "two-tower", "objective": "infonc"}}, "infonce"),
    ],
)
def test_a_variant_is_checked_before_anything_is_trained(tmp_path, monkeypatch, variants, match):
    monkeypatch.setattr(engine, "fit_aligner", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(UserError, match=match):
        compare_aligners(pairs()[0], AlignConfig(("cca",), variants=variants), tmp_path, progress=False)


def test_every_row_is_tested_against_the_first_with_holm_by_hand():
    """Exact p-values over all signs of seven groups; then Holm's steps, one after the other."""
    rng = np.random.default_rng(1)
    scores = {"first": rng.normal(size=(2, 7))}
    for name, gap in (("a", 0.5), ("b", 2.0), ("c", 0.0), ("d", 1.2)):
        scores[name] = scores["first"] - gap + rng.normal(size=(2, 7))

    def exact(name):
        gap = (scores["first"] - scores[name]).mean(axis=0)
        means = [abs(np.dot(signs, gap)) for signs in product((1, -1), repeat=7)]
        return sum(mean >= abs(gap.sum()) - 1e-12 for mean in means) / len(means)

    raw, floor, expected = {name: exact(name) for name in "abcd"}, 0.0, {}
    for left, name in zip((4, 3, 2, 1), sorted(raw, key=raw.get), strict=True):
        floor = max(floor, min(1.0, left * raw[name]))
        expected[name] = floor
    assert len({round(p, 6) for p in expected.values()}) > 2
    rows = [Result(name, 2, 0.0, 0.0, 0.0, 0.0, 0.0, 1, 1.0) for name in scores]
    found = engine._tested(rows, scores)
    assert found[0].p_value is None
    assert {row.aligner: row.p_value for row in found[1:]} == pytest.approx(expected)


def test_an_unknown_aligner_is_refused(tmp_path):
    features, _ = pairs()
    with pytest.raises(UserError, match="did you mean 'procrustes'"):
        compare_aligners(features, AlignConfig(("procruste",)), tmp_path, progress=False)


def test_a_learning_curve_grows_with_the_pairs(tmp_path):
    features, split = pairs(captions=2)
    groups = len(np.unique(features.group[split.train]))
    config = AlignConfig(("procrustes",), 3, 6, None, 0, (7, groups))
    result = compare_aligners(features, config, tmp_path, split=split, progress=False)
    few, every = result["curve"]
    assert (few["groups"], every["groups"]) == (7, groups)
    assert every["test"] == pytest.approx(result["table"][0]["test"], abs=1e-6)
    assert every["sd"] == 0
    assert few["test"] < every["test"]
    drawn = [engine.fewer_groups(split, features.group, 7, seed).train for seed in (0, 0, 1)]
    assert len(np.unique(features.group[drawn[0]])) == 7
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()
    with pytest.raises(UserError, match="2 to"):
        compare_aligners(features, AlignConfig(("procrustes",), 1, curve=(9999,)), tmp_path, split=split)

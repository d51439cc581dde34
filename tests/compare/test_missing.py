"""``compare --missing``: every method under every pattern, networks trained to bear them, and what the notes say."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from tests.compare.cases import quick
from weft.compare import Comparison, compare
from weft.compare.evidence import Degraded
from weft.compare.jobs import outputs_of
from weft.compare.ledger import Job
from weft.compare.methods import PROTECTIONS, Method, plan_methods
from weft.compare.prepare import prepare
from weft.compare.verdict import rare_patterns
from weft.models import load_model
from weft.models.predictor import answers
from weft.report.html import to_html
from weft.report.terminal import render_terminal
from weft.store import MemoryFeatures

FAST = {"epochs": 12, "lr": 1e-2, "patience": 6, "batch_size": 64}


def views(rows: int = 400, lacking: float = 0.0) -> MemoryFeatures:
    """The label is in ``a``, and less clearly in ``b``; ``c`` is noise. A share of the rows lacks ``a``."""
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, rows)
    signs = np.repeat(2.0 * y[:, None] - 1, 4, axis=1)
    parts = {
        "a": signs + 0.8 * rng.normal(size=(rows, 4)),
        "b": signs + 2.0 * rng.normal(size=(rows, 4)),
        "c": rng.normal(size=(rows, 4)),
    }
    parts = {name: part.astype(np.float32) for name, part in parts.items()}
    parts["a"][rng.random(rows) < lacking] = np.nan
    return MemoryFeatures([f"r{i}" for i in range(rows)], parts, {"y": y})


def run(features: MemoryFeatures, folder: Path, **settings: object) -> Comparison:
    given = {"seeds": 1, "fusions": ["concat"], "subsets": False, "ensembles": True, "train": FAST, "trials": 1}
    return compare(features, quick(**{**given, **settings}), folder, progress=False)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return run(views(), tmp_path_factory.mktemp("whole"), missing=True)


def test_every_method_has_a_score_of_every_pattern(found: Comparison) -> None:
    """Against the kept models, row by row answered like chance where nothing is left that a method sees."""
    features = views()
    setup = prepare(features, quick(**found.config | {"missing": True}), found.folder)
    test, y = setup.splits[0].test, features.targets["y"]
    parts = features.pooled(np.arange(len(features)))
    for row in found.rows:
        if row.role in ("chance", "ensemble", "ensemble of singles"):
            continue
        method = next(m for m in _methods(found) if m.name == row.method)
        model = load_model(setup.ledger.model(Job(method, 0, 0)))
        for pattern in "abc":
            lacks = {n: np.full_like(v, np.nan) if n == pattern else v for n, v in parts.items()}
            hidden = MemoryFeatures(features.ids, lacks, features.targets)
            right = model.task.decide(answers(model, hidden, test, setup.answer(0)))["prediction"] == y[test]
            entry = row.missing[pattern]
            assert entry is not None
            assert entry["hidden"] == pytest.approx(right.mean()), (row.method, pattern)
            assert entry["full"] == pytest.approx(row.test)
            assert entry["rows"] == len(test)
    assert found.patterns == ["a", "b", "c"]


def _methods(found: Comparison) -> list[Method]:
    return plan_methods(views(), quick(**found.config))[0]


def test_an_ensemble_is_the_mean_of_its_members_where_something_is_hidden(found: Comparison) -> None:
    features = views()
    setup = prepare(features, quick(**found.config), found.folder)
    row = next(row for row in found.rows if row.role == "ensemble")
    of = {m.name: Job(m, 0, 0) for m in _methods(found)}
    weights, test = row.settings["weights"], setup.splits[0].test
    for number, pattern in enumerate("abc"):
        parts = [outputs_of(setup, of[name])[f"hidden-{number}"] for name in weights]
        p = sum(w * setup.tasks[0].decide(o)["probability"] for w, o in zip(weights.values(), parts, strict=True))
        entry = row.missing[pattern]
        assert entry is not None
        assert entry["hidden"] == pytest.approx((p.argmax(axis=1) == features.targets["y"][test]).mean())


def test_networks_are_trained_to_bear_it(found: Comparison, tmp_path: Path) -> None:
    """No dev row lacks anything, so each modality is hidden in turn; the protected network loses less without ``a``."""
    plain = run(views(), tmp_path, only=["concat"], ensembles=False)
    ours, theirs = (next(row for row in each.rows if row.method == "concat") for each in (found, plain))
    assert set(ours.settings) - {"lr", "dropout", "weight_decay"} in [set(way) for way in PROTECTIONS]
    assert set(theirs.settings) == {"lr", "dropout", "weight_decay"}
    lost = [entry["full"] - entry["hidden"] for row in (ours, theirs) if (entry := row.missing["a"])]
    assert lost[0] < lost[1]
    setup = prepare(views(), quick(**found.config), found.folder)
    trials = setup.ledger.get(Job(Method("concat", "network", ("a", "b", "c")), 0, 0))
    assert trials is not None
    tried = [
        {k: v for k, v in trial.items() if k in ("modality_dropout", "more_vs_fewer")} for trial in trials["trials"]
    ]
    assert tried == [{}, *PROTECTIONS]
    best = max(trials["trials"], key=lambda trial: -trial["loss"])
    assert trials["settings"] == {key: best[key] for key in trials["settings"]}


def test_what_the_report_says(found: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    notes = " ".join(found.notes)
    winner = next(row for row in found.rows if row.method == found.verdict.winner)
    facts = Degraded.of(winner.method, winner.missing, 1.0)
    assert facts is not None
    hidden = {pattern: entry["hidden"] for pattern, entry in winner.missing.items() if entry}
    assert facts.worst == min(hidden.values()) == hidden[facts.pattern]
    assert facts.hidden == pytest.approx(np.mean(list(hidden.values())))
    assert f"{winner.method} {facts.hidden:.3f} instead of {facts.full:.3f} (worst {facts.worst:.3f}" in notes
    assert "Best where modalities are missing: " in notes
    page = to_html(found, [])
    assert "Missing modalities: each pattern by method" in page
    assert all(f"<th>without {name}</th>" in page for name in "abc")
    table = list(csv.DictReader(StringIO(found.to_csv())))
    assert float(next(r for r in table if r["method"] == winner.method)["without a"]) == hidden["a"]
    render_terminal(found)
    assert "with modalities hidden, over 3 patterns" in capsys.readouterr().out


def test_patterns_of_dev_rows_and_rare_ones_of_test(tmp_path: Path) -> None:
    """What dev rows lack is a pattern too; a row of test that lacks what hardly a training row does is pointed out."""
    features = views(300, lacking=0.3)
    pooled = features.pooled(np.arange(300))
    pooled["c"][::3] = np.nan
    features = MemoryFeatures(features.ids, pooled, features.targets)
    found = run(features, tmp_path, missing=True, only=["linear", "concat"], ensembles=False)
    assert {"a", "b", "c", "a+c"} == set(found.patterns)
    setup = prepare(features, quick(), tmp_path)
    rare = rare_patterns(setup)
    presence = features.presence
    count = {part: int((presence[rows] == [False, True, False]).all(axis=1).sum())
             for part, rows in setup.splits[0]._asdict().items()}  # fmt: skip
    assert rare["a+c"] == (count["train"], count["test"])
    assert all(train < 20 for train, _ in rare.values())
    assert "b" not in rare
    assert any(f"Only {count['train']} training rows lack a+c" in note for note in found.notes)
    whole = replace(setup, features=views(300))
    assert rare_patterns(whole) == {}

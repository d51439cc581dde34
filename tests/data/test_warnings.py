"""What ``weft init`` warns of: targets of which nothing can be learned, columns that tell them, dates in doubt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.metrics import roc_auc_score

from tests.conftest import ROOT
from weft.data import load_dataset, propose_table, read_table, to_commented_yaml
from weft.data.giveaway import why_given_away
from weft.errors import UserError
from weft.tasks import create_task

RANDOM = np.random.default_rng(0)
Y = RANDOM.integers(2, size=200)
SIZE, NOISE = RANDOM.normal(size=200).tolist(), RANDOM.normal(size=200).tolist()


def warned(target: str = "y", **columns: Any) -> list[str]:
    """Warnings about a table with a target ``y`` and a column ``size``."""
    return propose_table({"size": SIZE, "y": Y.tolist(), **columns}, target=target).warnings


def test_a_column_that_gives_the_target_away_is_said_with_its_figure_and_the_way_out() -> None:
    stars = np.where(RANDOM.random(200) < 0.97, Y, 1 - Y)
    (text,) = warned(stars=[f"{s} stars" for s in stars], noise=NOISE)
    assert "'stars' alone tells 'y'" in text
    assert "--drop 'stars'" in text
    said = float(text.partition("AUC ")[2][:5])
    assert said == pytest.approx(roc_auc_score(Y, stars), abs=0.02)
    proposal = propose_table({"size": SIZE, "stars": stars.tolist(), "y": Y.tolist()}, target="y", drop=["stars"])
    assert not proposal.warnings


def test_a_target_that_some_rows_lack_is_told_all_the_same() -> None:
    y = [None if k % 20 == 0 else int(v) for k, v in enumerate(Y)]
    (text,) = propose_table({"size": SIZE, "stars": [f"{v} stars" for v in Y], "y": y}, target="y").warnings
    assert "'stars' alone tells 'y' (AUC 1.000" in text


def test_so_is_a_number_that_tells_a_number() -> None:
    price = RANDOM.normal(size=200)
    columns: dict[str, Any] = {"tax": (0.19 * price + 0.001 * RANDOM.normal(size=200)).tolist(), "noise": NOISE}
    found = why_given_away({**columns, "size": SIZE}, "price", price)
    assert found is not None
    assert "'tax'" in found
    assert "of its variance" in found
    assert why_given_away({"size": SIZE, "noise": NOISE}, "price", price) is None


def test_features_of_a_network_that_knew_the_answers_are_suspected_all_at_once(data_root: Path) -> None:
    """CMU-MOSI's text was made by a network trained on its training rows, and on those alone it tells the answer."""
    data = load_dataset("mosi", data_root / "mosi")
    values, target = np.stack(data.modalities["text"].values), data.targets["label"]
    for part, told in (("train", True), ("test", False)):
        rows = data.split == part
        columns = {f"f{k}": values[rows, k].tolist() for k in range(0, 100, 5)}
        noise = {f"n{k}": RANDOM.normal(size=rows.sum()).tolist() for k in range(30)}
        found = why_given_away({**columns, **noise}, "label", target[rows])
        assert (found is not None) == told
        assert found is None or ("leave them out" in found and found.count("--drop") == 5)


@pytest.mark.parametrize("load", [load_breast_cancer, load_diabetes, load_iris, load_wine])
def test_a_fair_table_is_not_suspected(load: Any) -> None:
    found = load()
    columns = {str(name): found.data[:, k].tolist() for k, name in enumerate(found.feature_names)}
    assert why_given_away(columns, "target", found.target) is None


def test_reviews_are_suspected_and_pets_are_not_but_their_classes_are_steps(data_root: Path) -> None:
    (text,) = propose_table(data_root / "tables" / "reviews.csv").warnings
    assert "'Rating' alone tells 'Recommended IND' (AUC 0.97" in text
    pets = propose_table(data_root / "tables" / "pets.csv")
    assert (pets.config.target, pets.config.task) == ("AdoptionSpeed", "classification")
    (text,) = pets.warnings
    assert "0 to 4" in text
    assert "steps of a scale: --task ordinal" in text


def test_ids_and_constants_are_no_targets() -> None:
    ids = [f"p{k:03d}" for k in range(200)]
    for target, columns in (
        ("code", {"code": ids}),
        ("row_id", {"row_id": list(range(200))}),
        ("place", {"place": list(range(7, 207))}),
        ("key", {"key": RANDOM.permutation(200).tolist()}),
    ):
        (text,) = warned(target, **columns)
        assert f"{target!r} has 200 different values in 200 rows" in text
        assert "--target" in text
    assert "same in every row" in warned("flat", flat=[5] * 200)[0]
    assert not warned("price", price=RANDOM.permutation(2000)[:200].tolist())


@pytest.mark.parametrize("task", ["classification", "regression", "ordinal"])
def test_a_constant_target_is_read_and_refused_where_it_is_to_be_learned(task: str) -> None:
    frame = {"size": SIZE, "flat": [5] * 200}
    data = read_table(frame, propose_table(frame, target="flat", task=task).config)
    with pytest.raises(UserError, match=r"at least two classes|varies") as error:
        create_task(task, data.targets["flat"])
    assert "target" in error.value.remedy


def test_dates_that_read_both_ways_are_said() -> None:
    both = [f"{1 + k % 12}/{1 + k % 11}/2024" for k in range(200)]
    (text,) = warned(day=both)
    assert "'day'" in text
    assert "date, day first" in text
    assert not warned(day=[f"{1 + k % 12}/{1 + k % 28}/2024" for k in range(200)])
    proposal = propose_table({"day": both, "y": Y.tolist()}, target="y")
    yaml = to_commented_yaml(proposal.config, ROOT, proposal)
    assert f"# Warning: {proposal.warnings[0]}" in yaml


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["3. Januar 2021", "4. Mai 2020"], "words"),
        (["31/1/2021", "1/31/2021"], "some with the day"),
        (["2021-01-03", "2021-01-04", "2021-01-05", "soon"], "'soon'"),
        (["10:30 on", "11:45 on"], "words"),
        (["20210103", "20201231"], "numbers"),
    ],
)
def test_dates_that_are_not_understood_are_said(cells: list[str], read: str) -> None:
    (text,) = warned(created=[cells[k % len(cells)] for k in range(200)])
    assert "column 'created'" in text
    assert read in text


@pytest.mark.parametrize("cells", [["3 Jan 2021", "4 May 2020"], ["Jan-21", "Feb-20"], ["2021-W01", "2021-W02"]])
def test_dates_that_are_understood_are_not(cells: list[str]) -> None:
    proposal = propose_table({"when": [cells[k % 2] for k in range(200)], "y": Y.tolist()}, target="y")
    assert [m.kind for m in proposal.config.modalities.values()] == ["date"]
    assert not proposal.warnings


@pytest.mark.parametrize("cells", [["Model 2021", "Model 2020"], ["a", "b"], ["10 pcs", "11 pcs"]])
def test_words_that_are_no_dates_are_not(cells: list[str]) -> None:
    assert not warned(kind=[cells[k % 2] for k in range(200)])


def test_a_column_of_numbers_and_many_words_is_said_to_be_read_as_words() -> None:
    odd = ["about three" if k % 9 == 0 else f"{size:.3f}" for k, size in enumerate(SIZE)]
    doubts = propose_table({"size": odd, "noise": NOISE, "y": Y.tolist()}, target="y").doubts()
    assert any("column 'size'" in doubt and "'about three'" in doubt for doubt in doubts)


def test_a_task_is_asked_for_in_one_word() -> None:
    asked = propose_table({"size": SIZE, "y": [k % 3 for k in range(200)]}, target="y", task="ordinal")
    assert (asked.config.task, asked.reasons["task"]) == ("ordinal", "as asked for")
    (text,) = propose_table({"size": SIZE, "y": [k % 3 for k in range(200)]}, target="y").warnings
    assert "--task ordinal" in text
    assert not propose_table({"size": SIZE, "y": Y.tolist()}, target="y").warnings
    assert not asked.warnings

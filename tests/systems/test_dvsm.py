"""D-VSM: rows placed in the graph, missing views, the published folds, and what the graph is worth on made sets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import coverage_error, label_ranking_average_precision_score, label_ranking_loss

from weft.compare.systems import compare_systems
from weft.data import Dataset, Modality, load_dataset, make_splits
from weft.errors import UserError
from weft.models import load_model
from weft.systems.dvsm import Dvsm
from weft.systems.dvsm.graph import nearest, standardised
from weft.systems.dvsm.network import DvsmNet
from weft.training.config import TrainConfig
from weft.training.system_task import fit_system, make_system

SMALL = {"width": 16, "layers": 1, "heads": 2, "k": 3}


def made(rows: int = 90, seed: int = 0, gone: float = 0.0, third: bool = False) -> Dataset:
    """Four topics; one view shows the first three with noise, the other the last three, a third one the sum."""
    rng = np.random.default_rng(seed)
    topics = (rng.random((rows, 4)) < 0.4).astype(np.int64)
    topics[~topics.any(axis=1), 0] = 1
    views = {
        "a": topics[:, :3] + rng.normal(size=(rows, 3)) * 0.3,
        "b": topics[:, 1:] + rng.normal(size=(rows, 3)) * 0.3,
    }
    if third:
        views["c"] = topics.sum(axis=1, keepdims=True) + rng.normal(size=(rows, 1)) * 0.3
    columns = {}
    for name, view in views.items():
        lost = (rng.random(rows) < gone) & (np.arange(rows) % 2 == (name == "a"))
        columns[name] = Modality(
            "vector", [None if g else v.astype(np.float32) for v, g in zip(view, lost, strict=True)]
        )
    ids = [f"r{seed}-{k}" for k in range(rows)]
    return Dataset("made", ids, columns, {"labels": topics}, None, None, "multilabel", {"labels": tuple("wxyz")})


def test_neighbours_equal_a_loop_and_skip_what_is_not_there():
    rng = np.random.default_rng(1)
    view = rng.normal(size=(12, 3))
    view[4] = np.nan
    for heard in (None, np.array([0, 4, 6, 7, 9])):
        found = nearest([view], 4, heard)[0]
        for row in range(12):
            near = [j for j in (range(12) if heard is None else heard) if j != row and j != 4]
            near = [] if row == 4 else sorted(near, key=lambda j: np.linalg.norm(view[row] - view[j]))[:4]
            assert found[row].tolist() == near + [-1] * (4 - len(near))
    np.testing.assert_array_equal(nearest([view], 4), nearest([view], 4, method="faiss"))


def test_a_constant_column_of_a_view_says_nothing():
    view = np.array([[1.0, 14.62], [3.0, 14.62], [2.0, 14.63]])
    assert standardised(view, np.array([0, 1])).tolist() == [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("edges", ["both", "intra", "inter", "none", "merged"])
def test_what_is_not_there_is_not_heard(edges):
    torch.manual_seed(0)
    net = DvsmNet({"a": 3, "b": 2}, 2, width=8, heads=2, edges=edges).double().eval()
    a, b = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    there = torch.ones(6, 2, dtype=torch.bool)
    there[2, 1] = there[5, 0] = False
    neighbours = torch.from_numpy(nearest([a.numpy(), b.numpy()], 2))
    before = net([a, b], neighbours, there)
    b[2], a[5] = 1e4, 1e4
    torch.testing.assert_close(net([a, b], neighbours, there), before)
    assert before.isfinite().all()


def test_inductive_answers_do_not_depend_on_the_other_rows():
    data = made()
    split = make_splits(data, seed=1)
    model = make_system("dvsm", data, split.train, **SMALL).eval()
    new = made(8, seed=5, gone=0.5)
    together = list(model.predictions(new, np.arange(8)))
    for row in range(8):
        columns = {name: Modality("vector", [m.values[row]]) for name, m in new.modalities.items() if m.presence[row]}
        alone = Dataset("alone", [new.ids[row]], columns, {}, None, None, "multilabel")
        (answer,) = model.predictions(alone, np.array([0]))
        np.testing.assert_allclose(answer, together[row], atol=1e-6)


def test_it_learns_survives_its_folder_and_needs_both_views(tmp_path: Path):
    data = made(160, gone=0.2)
    split = make_splits(data, seed=0)
    model = make_system("dvsm", data, split.train, **SMALL)
    fit_system(model, data, split, {"epochs": 40, "lr": 0.02}, tmp_path, progress=False)
    found = model.evaluate(data, split.test)
    chance = 0.5
    assert found["average_precision"] > chance + 0.3
    again = load_model(tmp_path)
    assert isinstance(again, Dvsm)
    assert again.evaluate(data, split.test) == pytest.approx(found)
    assert again.make_judge().labels == list("wxyz")


def test_three_views_are_compared_with_gaps_in_them(tmp_path: Path):
    """Beside itself without a graph; the model kept answers for rows that lack a view."""
    data = made(60, gone=0.3, third=True)
    split = make_splits(data, seed=0)
    variants = {"dvsm": {}, "no graph": {"edges": "none"}}
    config = TrainConfig(epochs=3, lr=0.02)
    how = {"options": SMALL, "seeds": 1, "config": config, "progress": False}
    found = compare_systems("dvsm", data, [split], variants, folder=tmp_path, **how)
    assert {row.method for row in found.rows if row.status == "done"} == {"dvsm", "no graph"}
    outputs = np.stack(list(load_model(tmp_path / "winner").predictions(data, split.test)))
    assert outputs.shape == (len(split.test), 4)
    assert np.isfinite(outputs).all()
    assert any(data.modalities["a"].values[row] is None for row in split.test)


def test_a_label_that_no_row_has_is_named():
    """In training; one that only the rows asked lack is judged like others."""
    data = made(60)
    split = make_splits(data, seed=0)
    data.targets["labels"][split.test, 2] = 0
    model = make_system("dvsm", data, split.train, **SMALL)
    assert all(np.isfinite(value) for value in model.evaluate(data, split.test).values())
    data.targets["labels"][:, 2] = 0
    with pytest.raises(UserError, match="'y' are in none or all of 42 rows"):
        make_system("dvsm", data, split.train, **SMALL)


def test_ranking_metrics_are_those_of_scikit_learn():
    """Coverage counts from 0 and is not divided, as in the papers."""
    data = made(60)
    split = make_splits(data, seed=0)
    model = make_system("dvsm", data, split.train, **SMALL)
    found = model.evaluate(data, split.test)
    outputs = np.stack(list(model.predictions(data, split.test)))
    truth = data.targets["labels"][split.test]
    assert found["ranking_precision"] == pytest.approx(label_ranking_average_precision_score(truth, outputs))
    assert found["ranking_loss"] == pytest.approx(label_ranking_loss(truth, outputs))
    assert found["coverage"] == pytest.approx(coverage_error(truth, outputs) - 1)
    top = truth[np.arange(len(truth)), outputs.argmax(axis=1)]
    assert found["one_error"] == pytest.approx(1 - top.mean())


def test_the_published_folds(data_root: Path):
    sizes = []
    for fold in range(1, 6):
        data = load_dataset("multilabel-views", data_root / "mvml_emotions", fold=fold)
        sizes.append(int((data.split == "test").sum()))
    assert sizes == [118, 118, 118, 118, 121]
    assert data.modalities["view0"].values[0].shape == (8,)
    with pytest.raises(UserError, match="has 5 folds"):
        load_dataset("multilabel-views", data_root / "mvml_emotions", fold=6)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="share the width"):
        DvsmNet({"a": 2}, 1, width=6, heads=4)
    with pytest.raises(UserError, match="edges say"):
        DvsmNet({"a": 2}, 1, edges="all")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="one or more rows"):
        nearest([np.zeros((3, 1))], 0)
    with pytest.raises(UserError, match="'exact' or 'faiss'"):
        nearest([np.zeros((3, 1))], 1, method="annoy")
    with pytest.raises(UserError, match="in some training row"):
        standardised(np.full((3, 1), np.nan), np.arange(3))

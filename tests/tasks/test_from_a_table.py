"""Tasks end to end from a table: how the target is read, the split, training, and the names in what comes out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from weft.data import load_config, make_splits, read_table
from weft.data.targets import tasks
from weft.errors import UserError
from weft.models import FusedModel
from weft.models.outputs import write_table
from weft.store import MemoryFeatures
from weft.tasks.regression import RegressionTask
from weft.training.train import train_model

RNG = np.random.default_rng(0)
X = RNG.normal(size=160)


def table(folder: Path, task: str, extra: str, columns: dict[str, list[object]]) -> Path:
    columns = {"x": [f"{v:.4f}" for v in X], "z": [f"{v:.4f}" for v in RNG.normal(size=160)], **columns}
    with (folder / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    text = f"table: t.csv\ntask: {task}\n{extra}\nmodalities:\n  m: {{kind: tabular, columns: [x, z]}}\n"
    (folder / "t.yaml").write_text(text)
    return folder / "t.yaml"


def trained(config: Path, folder: Path) -> tuple[FusedModel, MemoryFeatures, dict[str, dict[str, float]]]:
    settings = load_config(config)
    dataset = read_table(settings.table, settings)
    values = np.array([[float(c) for c in row] for row in dataset.modalities["m"].values], dtype=np.float32)
    features = MemoryFeatures(
        dataset.ids, {"m": values}, dataset.targets, task=dataset.task, labels=dataset.labels, split=dataset.split
    )
    found = train_model(features, "concat", folder, dim=8, config={"epochs": 30, "lr": 0.02}, progress=False)
    return FusedModel.from_pretrained(folder), features, found


def test_survival_reads_two_columns(tmp_path: Path) -> None:
    time = RNG.exponential(np.exp(-2 * X)) + 0.01
    columns = {"months": [f"{t:.4f}" for t in time], "died": (RNG.random(160) < 0.8).astype(int).tolist()}
    config = table(tmp_path, "survival", "target: [months, died]", columns)
    model, features, found = trained(config, tmp_path / "run")
    assert features.targets["months"].shape == (160, 2)
    assert model.task.labels == ["months", "died"]
    assert found["test"]["concordance"] > 0.7
    assert model.predict(features, progress=False)["prediction"].shape == (160,)


def test_ordinal_words_in_their_order(tmp_path: Path) -> None:
    words = np.array(["poor", "fair", "good"])[np.digitize(X, [-0.5, 0.5])]
    config = table(tmp_path, "ordinal", "target: grade\nlabels: [poor, fair, good]", {"grade": words.tolist()})
    model, features, found = trained(config, tmp_path / "run")
    assert model.task.labels == ["poor", "fair", "good"]
    assert model.task.primary == "kappa_quadratic"
    assert found["test"]["kappa_quadratic"] > 0.5
    share = [np.unique(words[rows], return_counts=True)[1] / len(rows) for rows in make_splits(features)]
    np.testing.assert_allclose(share[0], share[2], atol=0.05)
    result = model.predict(features, progress=False)
    write_table("label", tmp_path / "p.csv", result.pop("id"), result, model.task.labels)
    head = (tmp_path / "p.csv").read_text().splitlines()[0].replace('"', "").split(",")
    assert {"probability_poor", "probability_fair", "probability_good"} <= set(head)


def test_labels_of_a_multilabel_table_have_their_names(tmp_path: Path) -> None:
    sets = ["|".join(n for n, there in (("red", x > 0), ("big", x > 1), ("old", x < 0.5)) if there) for x in X]
    model, features, _ = trained(table(tmp_path, "multilabel", "target: tags", {"tags": sets}), tmp_path / "run")
    assert sorted(model.task.labels) == ["big", "old", "red"]
    found = model.predict(features, progress=False)
    write_table("label", tmp_path / "p.csv", found.pop("id"), found, model.task.labels)
    assert "probability_red" in (tmp_path / "p.csv").read_text().splitlines()[0]


def test_a_task_from_outside_is_read_and_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered here, used by its name in a YAML; no file of the package knows it."""
    monkeypatch.setattr(tasks, "_classes", dict(tasks._classes))
    tasks.names()

    @tasks.register("robust-regression")
    class Robust(RegressionTask):
        """Absolute instead of squared errors."""

        def loss(self, outputs, target):  # type: ignore[no-untyped-def]
            return (outputs - target).abs().mean(dim=-1)

    y = [f"{3 * x + 1:.4f}" for x in X]
    model, _, found = trained(table(tmp_path, "robust-regression", "target: y", {"y": y}), tmp_path / "run")
    assert type(model.task) is Robust
    assert found["test"]["nrmse"] < 0.6
    wrong = table(tmp_path, "robust-regresion", "target: y", {"y": y})
    with pytest.raises(UserError, match="did you mean 'robust-regression'"):
        read_table(load_config(wrong).table, load_config(wrong))

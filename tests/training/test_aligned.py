from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from tests.training.problems import pairs
from weft.alignment import Aligner, Objective
from weft.alignment.base import aligners
from weft.alignment.infonce import InfoNCE
from weft.errors import UserError
from weft.models import AlignedModel
from weft.models.aligned import retrieval_task
from weft.store import MemoryFeatures
from weft.tokens import mean_pool
from weft.training import fit_aligner
from weft.training.aligned_task import AlignedTask
from weft.training.config import TrainConfig

SETTINGS = {"epochs": 12, "patience": 0, "batch_size": 40, "lr": 1e-2}


@aligners.register("test-linear")
class Linear(Aligner):
    paper = "none: of these tests"

    def __init__(self, dims, dim=256):
        super().__init__(dims, dim)
        self.project = nn.ModuleList(nn.Linear(d, dim) for d in self.dims.values())

    def embed(self, name, tokens):
        return self.project[self.names.index(name)](mean_pool(tokens))


class Nce(Objective):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.seen = []

    def forward(self, a, b, valid):
        self.seen.append((a, b, valid))
        logits = self.log_scale.exp() * a[valid] @ b[valid].T
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def build(features):
    return AlignedModel.build(dims=features.dims, aligner="test-linear", dim=16)


def test_two_views_are_aligned_and_the_model_folder_gives_the_same_vectors(tmp_path):
    features, split = pairs()
    model, objective = build(features), Nce()
    before = model.evaluate(features, split.test)["sum of recalls"]
    history = fit_aligner(model, objective, features, split, SETTINGS, tmp_path, progress=False)
    after = model.evaluate(features, split.test)
    assert after["sum of recalls"] > max(5, before + 1)
    assert after["text->image R@5"] > 0.9
    assert objective.log_scale.item() != 2.0
    assert model.evaluate(features, split.dev)["sum of recalls"] == pytest.approx(history.best["dev_score"])
    ours, again = (m.embed(features) for m in (model, AlignedModel.from_pretrained(tmp_path)))
    for name, vectors in ours.items():
        assert np.array_equal(vectors, again[name])
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(features)), abs=1e-5)


def test_one_side_can_be_embedded_alone():
    features, _ = pairs(20)
    model = build(features)
    alone = model.embed(features.subset(["text"]))
    assert list(alone) == ["text"]
    assert np.array_equal(alone["text"], model.embed(features)["text"])


def test_no_batch_holds_two_rows_of_a_group_and_every_caption_gets_its_turn():
    features, split = pairs(30, captions=5)
    task = AlignedTask(build(features), Nce(), features, split, TrainConfig())
    rng = np.random.default_rng(0)
    drawn = [task.order(rng) for _ in range(60)]
    for positions in drawn:
        groups = features.group[split.train[positions]]
        assert len(groups) == len(np.unique(groups)) == task.steps_over == 20
    assert len(np.unique(np.concatenate(drawn))) == len(split.train)


def test_an_image_of_five_captions_is_searched_once():
    features, split = pairs(30, captions=5)
    task, groups, presence = retrieval_task(features, split.dev)
    assert task.unique == ("image",)
    assert task.pairs == (("image", "text"),)
    assert len(groups) == 25
    assert presence["text"].all()
    embeddings = build(features).embed(features, split.dev)
    found = {direction: len(rows) for direction, rows, _ in task.rankings(embeddings, groups, presence)}
    assert found == {"image->text": 5, "text->image": 25}


def test_a_row_that_lacks_one_side_is_no_valid_pair():
    features, split = pairs(60)
    values = {name: features.pooled(np.arange(60))[name] for name in features.dims}
    values["text"][split.train[:7]] = np.nan
    features = MemoryFeatures(features.ids, values, {}, group=features.group, task="retrieval")
    objective = Nce()
    fit_aligner(build(features), objective, features, split, {**SETTINGS, "epochs": 1}, progress=False)
    train = objective.seen[0]
    assert int((~train[2]).sum()) == 7
    assert sorted(F.normalize(train[1], dim=1).norm(dim=1).round().tolist())[:7] == [0.0] * 7


def test_aligner_runs_resume_exactly(tmp_path):
    features, split = pairs(captions=3)
    settings = {**SETTINGS, "epochs": 4, "checkpoint_seconds": 0, "log_every": 1}
    whole = fit_aligner(build(features), Nce(), features, split, settings, progress=False)

    class Interrupted(Nce):
        def forward(self, a, b, valid):
            if len(self.seen) == 8:
                raise KeyboardInterrupt
            return super().forward(a, b, valid)

        def __repr__(self):
            return repr(Nce())

    with pytest.raises(KeyboardInterrupt):
        fit_aligner(build(features), Interrupted(), features, split, settings, tmp_path, progress=False)
    resumed = fit_aligner(build(features), Nce(), features, split, settings, tmp_path, progress=False)
    for one, other in zip(whole.epochs, resumed.epochs, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_chunks_train_the_same_model():
    features, split = pairs(60)
    settings = {**SETTINGS, "epochs": 3}
    whole, parts = (
        fit_aligner(build(features), Nce(), features, split, {**settings, "chunk": chunk}, progress=False)
        for chunk in (0, 7)
    )
    for one, other in zip(whole.epochs, parts.epochs, strict=True):
        assert one["dev_loss"] == pytest.approx(other["dev_loss"], rel=1e-4)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def without_text(part, kept):
    """The two views, with a text in the first ``kept`` rows of a part alone."""
    features, split = pairs(60)
    values = {name: features.pooled(np.arange(60))[name] for name in features.dims}
    values["text"][getattr(split, part)[kept:]] = np.nan
    return MemoryFeatures(features.ids, values, {}, group=features.group, task="retrieval"), split


@pytest.mark.parametrize(("part", "kept"), [("train", 0), ("train", 1), ("dev", 0), ("dev", 1)])
def test_a_modality_that_is_absent_in_every_row_is_named(part, kept):
    features, split = without_text(part, kept)
    with pytest.raises(
        UserError, match=rf"two or more {part} rows have both 'image' and 'text'[\s\S]*{kept} of \d+ do"
    ):
        fit_aligner(build(features), InfoNCE(), features, split, SETTINGS, progress=False)


def test_a_modality_that_is_absent_in_every_row_of_a_batch_is_named():
    features, split = without_text("train", 3)
    settings = {**SETTINGS, "batch_size": 4}
    with pytest.raises(UserError, match=r"at least 2 valid pairs[\s\S]*larger batches, or drop rows"):
        fit_aligner(build(features), InfoNCE(), features, split, settings, progress=False)


def test_mistakes_are_named():
    features, split = pairs(30)
    alone = features.subset(["text"])
    with pytest.raises(UserError, match="two modalities"):
        fit_aligner(build(alone), Nce(), alone, split, SETTINGS, progress=False)
    with pytest.raises(UserError, match="none to drop"):
        fit_aligner(build(features), Nce(), features, split, {**SETTINGS, "modality_dropout": 0.5}, progress=False)


def test_checkpoints_hold_what_was_trained_and_the_statistics_of_the_rows_alone(tmp_path):
    features, split = pairs(60)
    model = AlignedModel.build(dims=features.dims, aligner="lightcrl", dim=16, aligner_options={"feedforward": 32})
    fit_aligner(model, InfoNCE(), features, split, {"epochs": 1}, tmp_path, progress=False)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters()}
    statistics = {name for name, _ in model.named_buffers()}
    assert all(name.startswith("standardise.") for name in statistics)
    assert load_file(tmp_path / "best" / "model.safetensors").keys() == trained | statistics
    kept = {
        part.split(".", 2)[-1] if part.startswith(("model.model.", "best.model.")) else part
        for part in load_file(tmp_path / "last" / "checkpoint.safetensors")
        if not part.startswith("optimizer.")
    }
    assert kept == trained | statistics | {"model.objective.log_scale", "best.objective.log_scale"}

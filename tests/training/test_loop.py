from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.training.problems import build, pairs, sequences, xor
from weft.alignment import create_objective
from weft.data import Split
from weft.errors import UserError
from weft.models import AlignedModel, FusedModel
from weft.store import MemoryFeatures
from weft.training import TrainConfig, fit, fit_aligner
from weft.training.batches import Batches
from weft.training.fused_task import FusedTask
from weft.training.log import RunLog
from weft.training.loop import make_optimizer

QUICK = {"epochs": 4, "patience": 0, "batch_size": 32}


def without_time(history):
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in history.epochs]


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    features, split = xor(200)
    runs = [fit(build(features, split), features, split, {**QUICK, "seed": s}, progress=False) for s in (0, 0, 1)]
    assert without_time(runs[0]) == without_time(runs[1])
    assert without_time(runs[0]) != without_time(runs[2])


def test_every_epoch_has_an_order_of_its_own(monkeypatch):
    features, split = xor(100)
    seen, original = [], FusedTask.batch
    monkeypatch.setattr(FusedTask, "batch", lambda self, p, *seed: (seen.append(p), original(self, p, *seed))[1])
    fit(build(features, split), features, split, QUICK, progress=False)
    epochs = np.concatenate(seen).reshape(QUICK["epochs"], len(split.train))
    assert (np.sort(epochs, axis=1) == np.arange(len(split.train))).all()
    assert len({tuple(epoch) for epoch in epochs}) == QUICK["epochs"]


def test_training_does_not_depend_on_the_callers_random_state():
    features, split = xor(200)
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(fit(build(features, split), features, split, QUICK, progress=False))
    assert without_time(runs[0]) == without_time(runs[1])


def test_an_epoch_equals_steps_written_by_hand():
    """One batch per epoch: plain torch AdamW on scikit-learn's standardised features gives the same weights."""
    from sklearn.preprocessing import StandardScaler

    features, split = xor(60)
    model = build(features, split, dropout=0.0)
    weight, bias = (p.detach().clone().requires_grad_() for p in model.fusion.project.parameters())
    head, head_bias = (p.detach().clone().requires_grad_() for p in model.head[-1].parameters())
    settings = {"epochs": 3, "batch_size": 100, "warmup": 0, "schedule": "constant", "clip": 0.1, "patience": 0}
    history = fit(model, features, split, settings, progress=False)

    pooled = features.pooled(split.train)
    x = torch.from_numpy(np.hstack([StandardScaler().fit_transform(v) for v in pooled.values()])).float()
    y = torch.from_numpy(features.targets["label"][split.train])
    decayed, others = [weight, head], [bias, head_bias]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 1e-2}, {"params": others, "weight_decay": 0.0}], lr=1e-3
    )
    losses, weights = [], []
    for _ in range(3):
        logits = torch.relu(x @ weight.T + bias) @ head.T + head_bias
        loss = torch.nn.functional.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*decayed, *others], 0.1)
        optimizer.step()
        losses.append(loss.item())
        weights.append([p.detach().clone() for p in (weight, bias, head, head_bias)])
    assert [epoch["loss"] for epoch in history.epochs] == pytest.approx(losses, abs=1e-6)
    ours = [*model.fusion.project.parameters(), *model.head[-1].parameters()]
    for parameter, expected in zip(ours, weights[history.best_epoch], strict=True):
        assert torch.allclose(parameter, expected, atol=1e-6)


def test_the_model_ends_with_the_weights_of_the_best_epoch(tmp_path):
    features, split = xor(200)
    model = build(features, split)
    history = fit(model, features, split, {**QUICK, "epochs": 15}, tmp_path, progress=False)
    ranked = [(epoch["dev_score"], -epoch["dev_loss"]) for epoch in history.epochs]
    assert history.best_epoch == max(range(15), key=lambda epoch: ranked[epoch])
    target = features.targets["label"][split.dev]
    assert model.task.scores(model.outputs(features, split.dev), target).mean() == history.best["dev_score"]
    assert np.array_equal(FusedModel.from_pretrained(tmp_path).outputs(features), model.outputs(features))


def test_an_epoch_without_a_score_is_best_of_none(monkeypatch):
    """A dev score that is not defined after the first epoch does not stand in the way of those after it."""
    features, split = xor(200)
    original, scores = FusedTask.evaluate, iter([np.nan, 0.2, 0.7, np.nan])
    monkeypatch.setattr(FusedTask, "evaluate", lambda *args: {**original(*args), "score": next(scores)})
    assert fit(build(features, split), features, split, QUICK, progress=False).best_epoch == 2


def test_patience_stops_training():
    rng = np.random.default_rng(0)
    noise = MemoryFeatures([str(i) for i in range(90)], {"a": rng.normal(size=(90, 3))}, {"y": rng.integers(0, 2, 90)})
    split = Split(*np.split(np.arange(90), [50, 70]))
    history = fit(build(noise, split), noise, split, {"epochs": 200, "patience": 3}, progress=False)
    assert history.stopped_early
    assert len(history.epochs) == history.best_epoch + 4


def test_the_log_has_one_line_per_epoch(tmp_path):
    features, split = xor(100)
    history = fit(build(features, split), features, split, QUICK, tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == history.epochs
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "log.jsonl",
        "config.json",
        "model.safetensors",
        "checkpoint.safetensors",
    }


def test_a_figure_that_is_not_defined_is_null_in_the_log(tmp_path):
    with RunLog(tmp_path, 1, progress=False) as log:
        log.epoch({"epoch": 0.0, "dev_score": float("nan")})
        assert json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)["dev_score"] is None
        log.resume([{"epoch": 0.0, "dev_score": float("nan")}])
    assert json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)["dev_score"] is None


def test_tensorboard_events_are_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    features, split = xor(100)
    history = fit(build(features, split), features, split, {**QUICK, "log_to": "tensorboard"}, tmp_path, progress=False)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    written = [event.value for event in events.Scalars("dev_loss")]
    assert written == pytest.approx([epoch["dev_loss"] for epoch in history.epochs])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_and_keeps_weights_in_fp32(precision):
    features, split = xor()
    model = build(features, split, hidden=32)
    settings = {"epochs": 25, "patience": 0, "lr": 3e-3, "batch_size": 32, "precision": precision}
    history = fit(model, features, split, settings, progress=False)
    assert history.best["dev_score"] > 0.95
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_batches_from_memory_equal_batches_read_one_by_one():
    features, split = sequences()
    device = torch.device("cpu")
    for pooled in (False, True):
        kept = Batches(features, split.train, device, pooled, 1e9)
        read = Batches(features, split.train, device, pooled, 0)
        for positions in (np.array([3, 1, 2]), np.array([0]), np.arange(len(split.train))):
            for name, tokens in kept[positions].items():
                for ours, theirs in zip(tokens, read[positions][name], strict=True):
                    assert torch.equal(ours, theirs)


def test_an_uncached_run_gives_the_numbers_of_a_cached_one():
    features, split = sequences()
    runs = [
        fit(build(features, split, decision="late"), features, split, {**QUICK, "cache_mb": mb}, progress=False)
        for mb in (0, 10)
    ]
    assert without_time(runs[0]) == without_time(runs[1])


def test_matrices_decay_and_biases_do_not():
    features, split = xor(50)
    model = build(features, split)
    groups = make_optimizer(model, TrainConfig(weight_decay=0.1)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_loss_that_is_not_finite_names_epoch_and_step():
    features, split = xor(100)
    model = build(features, split)
    with torch.no_grad():
        model.head[-1].bias[0] = float("nan")
    with pytest.raises(UserError, match=r"epoch 0, step 0[\s\S]*lower lr"):
        fit(model, features, split, QUICK, progress=False)


@pytest.mark.parametrize("part", ["train", "dev"])
def test_an_empty_split_is_refused(part):
    features, split = xor(100)
    model = build(features, split)
    with pytest.raises(UserError, match=f"the {part} split has no rows"):
        fit(model, features, split._replace(**{part: np.array([], dtype=int)}), QUICK, progress=False)


def test_rows_in_both_splits_are_refused():
    features, split = xor(100)
    with pytest.raises(UserError, match="1 rows are in both"):
        fit(build(features, split), features, split._replace(dev=split.train[:1]), QUICK, progress=False)


def test_a_row_without_any_modality_is_refused_by_id():
    values = {"a": np.array([[1.0], [np.nan], [3.0], [4.0]]), "b": np.array([[1.0], [np.nan], [3.0], [4.0]])}
    features = MemoryFeatures(["w", "x", "y", "z"], values, {"label": np.array([0, 1, 0, 1])})
    split = Split(np.array([0, 1]), np.array([2, 3]), np.array([], dtype=int))
    with pytest.raises(UserError, match="ids 'x'"):
        fit(build(features, split), features, split, QUICK, progress=False)


def test_unknown_settings_are_refused_with_the_closest_name():
    with pytest.raises(UserError, match="did you mean 'epochs'"):
        TrainConfig.of({"epoch": 3})
    with pytest.raises(UserError, match="greater than 0"):
        TrainConfig.of({"lr": -1})


def test_chunks_are_refused_where_rows_have_losses_of_their_own():
    features, split = xor(100)
    with pytest.raises(UserError, match=r"chunk is for aligners[\s\S]*batch_size"):
        fit(build(features, split), features, split, {**QUICK, "chunk": 8}, progress=False)


def test_a_folder_of_another_run_is_refused(tmp_path):
    features, split = xor(100)
    fit(build(features, split), features, split, QUICK, tmp_path, progress=False)
    with pytest.raises(UserError, match="another run"):
        fit(build(features, split), features, split, {**QUICK, "lr": 0.5}, tmp_path, progress=False)


@pytest.mark.parametrize("changed", ["values", "labels"])
def test_the_same_folder_with_other_features_or_labels_is_refused(tmp_path, changed):
    features, split = xor(100)
    fit(build(features, split), features, split, QUICK, tmp_path, progress=False)
    values, targets = features.pooled(np.arange(100)), dict(features.targets)
    if changed == "values":
        values["b"][split.dev[-1]] += 1
    else:
        targets["label"] = np.where(np.arange(100) == split.dev[-1], 1 - targets["label"], targets["label"])
    other = MemoryFeatures(features.ids, values, targets)
    with pytest.raises(UserError, match="another run"):
        fit(build(other, split), other, split, QUICK, tmp_path, progress=False)
    features.targets["label"] = targets["label"]
    if changed == "labels":
        with pytest.raises(UserError, match=r"another run[\s\S]*target"):
            fit(build(features, split), features, split, QUICK, tmp_path, progress=False)


def test_the_same_folder_with_other_pairs_is_refused(tmp_path):
    features, split = pairs()
    other, _ = pairs(seed=1)

    def align(on):
        model = AlignedModel.build(dims=on.dims, aligner="two-tower", dim=8)
        return fit_aligner(model, create_objective("infonce"), on, split, QUICK, tmp_path, progress=False)

    before = align(features)
    assert align(pairs()[0]).epochs == before.epochs
    with pytest.raises(UserError, match=r"another run[\s\S]*features"):
        align(other)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    features, split = xor(100)
    fit(build(features, split), features, split, QUICK, tmp_path, progress=False)
    path = tmp_path / "last" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="damaged"):
        fit(build(features, split), features, split, QUICK, tmp_path, progress=False)


RUN = """
import sys
from tests.training.problems import build, xor
from weft.training import fit
features, split = xor(300)
settings = {"epochs": 120, "patience": 0, "batch_size": 32, "schedule": "plateau", "modality_dropout": 0.2,
            "more_vs_fewer": 0.5, "checkpoint_seconds": 0.02, "log_every": 1}
fit(build(features, split, hidden=8), features, split, settings, sys.argv[1], progress=False)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_numbers_of_one_that_was_not(tmp_path):
    def start(folder):
        return subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path / folder)])

    killed, log = start("killed"), tmp_path / "killed" / "log.jsonl"
    while killed.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= 5):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert 5 <= len(log.read_text().splitlines()) < 120
    assert start("killed").wait() == 0
    assert start("whole").wait() == 0
    first, second = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("killed", "whole")
    )
    for epoch in [*first, *second]:
        del epoch["seconds"]
    assert len(first) == 120
    assert first == second
    best = [(tmp_path / name / "best" / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert best[0] == best[1]


def test_a_run_stopped_inside_an_epoch_goes_on_at_that_step(tmp_path, monkeypatch):
    """Interrupt after the seventh of twelve steps: the resumed run equals the whole one."""
    features, split = xor(200)
    settings = {**QUICK, "batch_size": 10, "checkpoint_seconds": 0, "log_every": 1}
    whole = fit(build(features, split), features, split, settings, progress=False)

    original, calls = FusedTask.batch, []

    def batch(self, positions, *seed):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return original(self, positions, *seed)

    monkeypatch.setattr(FusedTask, "batch", batch)
    with pytest.raises(KeyboardInterrupt):
        fit(build(features, split), features, split, settings, tmp_path, progress=False)
    calls.clear()
    monkeypatch.setattr(FusedTask, "batch", lambda self, *args: (calls.append(1), original(self, *args))[1])
    resumed = fit(build(features, split), features, split, settings, tmp_path, progress=False)
    assert without_time(resumed) == without_time(whole)
    assert len(calls) == 4 * 12 - 19


TWO = """
import json, sys
from tests.training.problems import build, xor
from weft.training import fit
features, split = xor(100, absent=0.3)
model = build(features, split, decision="hybrid", dropout=0.0)
history = fit(model, features, split, {"epochs": 4, "patience": 0, "batch_size": 20}, sys.argv[1], progress=False)
if int(__import__("os").environ["RANK"]) == 0:
    print(json.dumps(history.epochs))
"""


ALIGNED = """
import json, sys
from tests.training.problems import pairs
from tests.training.test_loop import CHUNKS
from weft.alignment import create_objective
from weft.models import AlignedModel
from weft.training import fit_aligner
features, split = pairs()
model = AlignedModel.build(dims=features.dims, aligner="convirt", dim=8)
history = fit_aligner(model, create_objective("infonce", chunk=4), features, split, CHUNKS, progress=False)
if int(__import__("os").environ["RANK"]) == 0:
    print(json.dumps(history.epochs))
"""
CHUNKS = {"epochs": 3, "patience": 0, "batch_size": 50, "chunk": 7, "lr": 1e-2}


LEAVE = """
from torch import distributed
if distributed.is_initialized():
    distributed.destroy_process_group()
"""
"""A process that ends with threads of gloo still there may be aborted by them."""


def on_two_processes(code, folder):
    """The epochs that a program prints, which two gloo processes run together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code + LEAVE, str(folder)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    return json.loads(printed[0].splitlines()[-1])


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    """Equal global batches of 20 rows: gloo data parallel gives the losses and the scores of one process."""
    two = on_two_processes(TWO, tmp_path)
    features, split = xor(100, absent=0.3)
    settings = {"epochs": 4, "patience": 0, "batch_size": 20}
    one = fit(build(features, split, decision="hybrid", dropout=0.0), features, split, settings, progress=False)
    for ours, theirs in zip(one.epochs, two, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours["dev_loss"] == pytest.approx(theirs["dev_loss"], abs=1e-5)
        assert ours["dev_score"] == theirs["dev_score"]
    assert FusedModel.from_pretrained(tmp_path).names == ("a", "b")


@pytest.mark.slow
def test_two_processes_align_in_chunks_as_one_does_whole(tmp_path):
    """GradCache and streaming InfoNCE on two processes against the full matrix and the whole batch on one."""
    two = on_two_processes(ALIGNED, tmp_path)
    features, split = pairs()
    model = AlignedModel.build(dims=features.dims, aligner="convirt", dim=8)
    one = fit_aligner(model, create_objective("infonce"), features, split, {**CHUNKS, "chunk": 0}, progress=False)
    assert one.epochs[-1]["loss"] < 0.9 * one.epochs[0]["loss"]
    for ours, theirs in zip(one.epochs, two, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["dev_loss"] == pytest.approx(theirs["dev_loss"], rel=1e-4)

"""Training, encoding, comparing and searching on the GPU, which the library takes by itself; read back on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.gpu import DEVICE, GPU, exact_float32, near, needs_device
from tests.systems.tiny import write_bert, write_resnet
from tests.systems.verbs import weft
from tests.training.problems import build, pairs, sequences, xor
from tests.training.test_towers import build as build_towers
from tests.training.test_towers import data, folders, towers  # noqa: F401 - fixtures
from weft.alignment import aligners, create_objective, list_aligners
from weft.alignment.closed_form import ClosedForm
from weft.data import Dataset, make_splits
from weft.encoders import create_encoder
from weft.models import AlignedModel
from weft.models.aligned_ensemble import AlignedEnsemble
from weft.models.pretrained import load_model
from weft.retrieval.metrics import rank
from weft.retrieval.search import ExactIndex
from weft.systems.lightcrl.probing import fine_tune
from weft.training import fit, fit_aligner
from weft.training.towers import RawRows

pytestmark = needs_device
QUICK = {"epochs": 3, "patience": 0, "batch_size": 16}


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """accelerate chooses the CPU here."""
    from accelerate.state import AcceleratorState

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        AcceleratorState._reset_state(True)
        yield
    AcceleratorState._reset_state(True)


def losses(history: Any) -> list[float]:
    return [epoch[name] for epoch in history.epochs for name in ("loss", "dev_loss")]


@pytest.mark.parametrize(
    ("problem", "name"),
    [(sequences, "gated"), (sequences, "mult"), (sequences, "bottleneck"), (xor, "lmf"), (xor, "block")],
)
def test_a_training_has_the_losses_of_the_cpu(name: str, problem: Any) -> None:
    features, split = problem(80)
    drops = {"dropout": 0.0, "attention_dropout": 0.0, "embed_dropout": 0.0, "output_dropout": 0.0}
    options = {"fusion_options": drops} if name == "mult" else {}
    with on_the_cpu():
        expected = fit(build(features, split, fusion=name, dropout=0.0, **options), features, split, QUICK, None, False)
    model = build(features, split, fusion=name, dropout=0.0, **options)
    found = fit(model, features, split, QUICK, None, False)
    assert next(model.parameters()).device.type == ("cuda" if GPU else "cpu")
    assert losses(found) == pytest.approx(losses(expected), rel=2e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns(precision: str) -> None:
    if precision == "fp16" and not GPU:
        pytest.skip("fp16 is for GPUs")
    features, split = xor(600)
    settings = {"epochs": 40, "lr": 0.01, "precision": precision}
    history = fit(build(features, split, fusion="lmf"), features, split, settings, None, False)
    assert history.best["dev_score"] > 0.9


def test_a_run_that_was_killed_goes_on_with_the_same_numbers_and_is_read_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weft.training.fused_task import FusedTask

    features, split = xor(200)
    settings = {**QUICK, "checkpoint_seconds": 0, "log_every": 1}
    whole = fit(build(features, split), features, split, settings, tmp_path / "whole", False)
    original, steps = FusedTask.batch, []

    def killed(self: FusedTask, positions: np.ndarray, *seed: Any) -> Any:
        steps.append(positions)
        if len(steps) == 12:
            raise KeyboardInterrupt
        return original(self, positions, *seed)

    monkeypatch.setattr(FusedTask, "batch", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(build(features, split), features, split, settings, tmp_path / "parts", False)
    monkeypatch.setattr(FusedTask, "batch", original)
    model = build(features, split)
    again = fit(model, features, split, settings, tmp_path / "parts", False)
    assert losses(again) == pytest.approx(losses(whole), rel=1e-5)
    read: Any = load_model(tmp_path / "parts")
    assert next(read.parameters()).device.type == "cpu"
    rows = split.test
    near(read.outputs(features, rows), model.outputs(features, rows), "outputs on the CPU", 1e-4)


@pytest.mark.parametrize("settings", [{}, {"chunk": 5}, {"mix": 0.4}, {"per_group": "mean"}, {"per_group": "all"}])
def test_an_aligner_trains(settings: dict[str, Any], tmp_path: Path) -> None:
    features, split = pairs(captions=3)
    found = []
    for place in (on_the_cpu(), None):
        model = AlignedModel.build(dims=features.dims, aligner="two-tower", dim=8)
        objective, config = create_objective("infonce"), {**QUICK, **settings}
        if place is None:
            found.append(fit_aligner(model, objective, features, split, config, tmp_path / "model", False))
        else:
            with place:
                found.append(fit_aligner(model, objective, features, split, config, None, False))
    if "mix" not in settings and settings.get("per_group") != "mean":
        assert losses(found[1]) == pytest.approx(losses(found[0]), rel=2e-3)
    read = load_model(tmp_path / "model")
    one, other = (m.embed(features, split.test) for m in (read, model))  # type: ignore[attr-defined]
    for name in one:
        near(one[name], other[name], name, 1e-4)


@pytest.mark.parametrize("chunk", [0, 3])
def test_towers_train_with_an_aligner(
    chunk: int,
    folders: dict[str, Path],  # noqa: F811
    data: Dataset,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Whole batches and GradCache; before, after and from the folder the model answers for raw rows."""
    split, settings = make_splits(data), {**QUICK, "batch_size": 8, "chunk": chunk}
    found = []
    for place in (on_the_cpu(), nullcontext()):
        rows = RawRows(data, towers(folders))
        model = build_towers(rows)
        with exact_float32(), place:
            model.evaluate(rows, split.train)
            found.append(fit_aligner(model, create_objective("convirt"), rows, split, settings, None, False))
            vectors = model.embed(rows)
    assert losses(found[1]) == pytest.approx(losses(found[0]), rel=2e-3)
    model.save_pretrained(tmp_path)
    read = AlignedModel.from_pretrained(tmp_path)
    for name, expected in read.embed(read.encode(data, progress=False)).items():
        near(vectors[name], expected, name, 1e-3)
    codes = np.unique(data.targets["colour"], return_inverse=True)[1]
    parts = [(part, codes[part]) for part in (split.train, split.test)]
    assert set(fine_tune(model, rows, "image", *parts, epochs=(1,))) == {1}


@pytest.mark.parametrize("name", [n for n in list_aligners() if issubclass(aligners.get(n), ClosedForm)])
def test_a_closed_form_is_solved_on_the_gpu(name: str) -> None:
    features, split = pairs(captions=2)
    scores = []
    for device, place in (("cpu", on_the_cpu()), (DEVICE, nullcontext())):
        model = AlignedModel.build(dims=features.dims, aligner=name, dim=6).to(device)
        with place:
            history = fit_aligner(model, create_objective("infonce"), features, split, QUICK, progress=False)
        assert next(model.buffers()).device.type == torch.device(device).type
        scores.append(history.best["dev_score"])
    assert scores[1] == pytest.approx(scores[0], rel=0.02)


def test_an_ensemble_of_aligners_is_on_one_device() -> None:
    features, split = pairs()
    members = []
    for name in ("two-tower", "cca"):
        members.append(AlignedModel.build(dims=features.dims, aligner=name, dim=6))
        fit_aligner(members[-1], create_objective("infonce"), features, split, {"epochs": 1}, progress=False)
    found = AlignedEnsemble(members, [1, 1]).eval().embed(features, split.test)
    assert {vectors.shape for vectors in found.values()} == {(len(split.test), 12)}


def test_ranks_and_neighbours_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    queries, gallery = (torch.nn.functional.normalize(torch.randn(n, 16), dim=1) for n in (50, 300))
    right = [[i, i + 50] for i in range(50)]
    here, there = (rank(q.to(d), g.to(d), right) for d in ("cpu", DEVICE) for q, g in [(queries, gallery)])
    for one, other in zip(here[:-1], there[:-1], strict=True):
        assert np.allclose(one, other)
    index = ExactIndex(gallery.to(DEVICE), fingerprint="x")
    assert (
        index.search(queries.to(DEVICE), k=5).rows == ExactIndex(gallery, fingerprint="x").search(queries, k=5).rows
    ).all()


@pytest.mark.parametrize("output", ["tokens", "mean", "cls"])
def test_a_transformers_model_encodes_on_the_gpu(output: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)) for _ in range(5)]
    for kind, folder, values in (
        ("text", write_bert(tmp_path / "bert"), ["a red photo", "a photo of a green thing", "blue"]),
        ("image", write_resnet(tmp_path / "resnet"), photos),
    ):
        spec = f"hf:{folder}"
        here, there = (create_encoder(spec, kind, output=output, device=d) for d in ("cpu", "auto"))
        assert there.device.type == ("cuda" if GPU else "cpu")  # type: ignore[attr-defined]
        assert here.identity() == there.identity()
        with exact_float32():
            found = there.encode(values)
        half = create_encoder(spec, kind, output=output, precision="bf16").encode(values)
        for one, other, rough in zip(here.encode(values), found, half, strict=True):
            near(other, one, kind, 1e-4)
            near(rough, one, f"{kind} in bf16", 0.1)


def test_the_verbs_from_encoding_to_predicting(tmp_path: Path) -> None:
    """A comparison ends in a verdict; the winner predicts; a system trains, evaluates and predicts."""
    source = ["shapes", "--data", "rows=120"]
    few = ["--fusions", "concat,gated,mult", "--seeds", "2", "--set", "trials=1"]
    store = ["--store", tmp_path / "store"]
    said = weft("compare", *source, *few, *store, "--set", "train={epochs: 3}", "--out", tmp_path / "out")
    assert said["sentence"].endswith(".")
    weft("fit", *source, *store, "--fusion", "gated", "--set", "epochs=3", "-o", tmp_path / "gated")
    found = weft("predict", tmp_path / "gated", *source)
    assert found["prediction"]
    system = ["--system", "frozen-fusion", "--set", "epochs=1", "-o", tmp_path / "system"]
    assert weft("fit", *source, *system)["weights"]
    assert weft("evaluate", tmp_path / "system", *source)

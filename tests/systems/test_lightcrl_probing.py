from __future__ import annotations

import numpy as np
import pytest
import torch

from weft.data import Dataset, Modality
from weft.errors import UserError
from weft.models import AlignedModel
from weft.models.embed import embed_values, pooled_outputs
from weft.store import MemoryFeatures, encode
from weft.systems.lightcrl.probing import fine_tune, fit_probe, make_head, sklearn_probe, top_k
from weft.tokens import Tokens


def blobs(rows: int, seed: int, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    centres = 1.5 * np.random.default_rng(0).normal(size=(4, width))
    rng = np.random.default_rng(seed)
    codes = np.arange(rows) % 4
    return (centres[codes] + rng.normal(size=(rows, width))).astype(np.float32), codes


def test_parameters_are_the_published_ones() -> None:
    for classes, hidden, published in ((100, 128, 45_796), (200, 256, 117_192)):
        head = make_head("official", 256, classes, hidden)
        assert sum(p.numel() for p in head.parameters()) == published
    assert sum(p.numel() for p in make_head("linear", 256, 100).parameters()) == 25_700


def test_probes_come_near_scikit_learn() -> None:
    train, test = blobs(1200, 1), blobs(600, 2)
    oracle = sklearn_probe(train, test)
    assert 0.6 < oracle < 0.99
    for kind in ("official", "linear"):
        curve = fit_probe(train, test, head=kind, hidden=16, epochs=(2, 30), lr=1e-2)  # type: ignore[arg-type]
        assert list(curve) == [2, 30]
        assert curve[30]["top-1"] == pytest.approx(oracle, abs=0.03)
        assert curve[30]["top-1"] <= curve[30]["top-2"] <= curve[30]["top-4"] == 1
    again = fit_probe(train, test, head="linear", epochs=(2,), seed=3)
    assert again == fit_probe(train, test, head="linear", epochs=(2,), seed=3)


def test_top_k_by_hand() -> None:
    logits = torch.tensor([[3.0, 2, 1], [1, 3, 2], [3, 1, 2]])
    assert top_k(logits, torch.tensor([0, 0, 2])) == {"top-1": 1 / 3, "top-2": 2 / 3, "top-3": 1.0}


def test_codes_are_checked() -> None:
    x = np.zeros((3, 2), np.float32)
    with pytest.raises(UserError, match="at least 2"):
        fit_probe((x, np.zeros(3, np.int64)), (x, np.zeros(3, np.int64)))
    with pytest.raises(UserError, match="codes 2"):
        fit_probe((x, np.array([0, 1, 1])), (x, np.array([0, 1, 2])))


def aligner(dims: dict[str, int]) -> AlignedModel:
    options = {"heads": 2, "feedforward": 16, "dropout": 0.0}
    return AlignedModel.build(dims=dims, aligner="lightcrl", dim=8, aligner_options=options)


def test_fine_tuning_trains_a_copy_of_the_encoder() -> None:
    (train, codes), (test, test_codes) = blobs(120, 1), blobs(60, 2)
    features = MemoryFeatures(
        [str(i) for i in range(180)], {"image": [row.reshape(3, 2) for row in np.concatenate([train, test])]}, {}
    )
    model = aligner({"image": 2, "text": 4})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    curve = fine_tune(
        model,
        features,
        "image",
        (np.arange(120), codes),
        (np.arange(120, 180), test_codes),
        epochs=(1, 15),
        lr=3e-3,
        batch_size=16,
    )
    assert curve[15]["top-1"] > max(0.5, curve[1]["top-1"])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_outputs_are_the_embedding_before_it_is_normalised() -> None:
    rng = np.random.default_rng(0)
    features = MemoryFeatures(
        [str(i) for i in range(5)], {"image": [rng.normal(size=(n, 3)) for n in (1, 4, 2, 3, 2)]}, {}
    )
    model = aligner({"image": 3, "text": 4}).eval()
    model.standardise.get_buffer("mean_0").fill_(0.5)
    outputs = pooled_outputs(model, features, "image", np.arange(5), batch_size=2)
    for row in range(5):
        tokens = features.gather(np.array([row]))["image"]
        with torch.no_grad():
            alone = model.aligner.embed("image", Tokens(tokens.values - 0.5, tokens.mask))
        np.testing.assert_allclose(outputs[row], alone[0], atol=1e-5)
    unit = model.embed(features)["image"]
    np.testing.assert_allclose(outputs / np.linalg.norm(outputs, axis=1, keepdims=True), unit, atol=1e-5)


def test_raw_values_and_the_store_give_the_same_vectors(tmp_path) -> None:
    from weft.encoders import create_encoder
    from weft.models.raw import encoder_specs

    texts = ["a dog runs", "two cats", "a dog runs", "the blue sea"]
    data = Dataset("texts", list("abcd"), {"text": Modality("text", texts)}, {}, None, None, "retrieval")
    store = encode(data, {"text": create_encoder("hashed-text", "text", dims=16)}, tmp_path, progress=False)
    model = AlignedModel.build(
        dims={"text": 16, "image": 3}, aligner="two-tower", dim=8, encoders=encoder_specs(store, ["text"])
    )
    np.testing.assert_allclose(embed_values(model, "text", texts), model.embed(store)["text"], atol=1e-6)
    with pytest.raises(UserError, match="no modality 'txt'"):
        embed_values(model, "txt", texts)
    with pytest.raises(UserError, match="non-empty str"):
        embed_values(model, "text", ["fine", " "])

"""What holds of a bucket, whoever's: tests for a fixture ``bucket``, a file system that has an empty one, ``weft``."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import numpy as np
import pytest

import weft
from tests.cli.test_aligned_verbs import weft as run
from tests.models.test_classical import linear
from weft.data import load_dataset
from weft.encoders import create_encoder, default_encoder
from weft.errors import UserError
from weft.places import OWN
from weft.store import Store, encode


def test_stores_and_models_lie_in_a_bucket(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    place = bucket.unstrip_protocol("weft")
    data = load_dataset("shapes", rows=40)
    encoders = {name: create_encoder(default_encoder(m.kind), m.kind) for name, m in data.modalities.items()}
    store = encode(data, encoders, tmp_path / "store", progress=False)
    store.push_to_hub(f"{place}/stores/shapes")
    assert Store.open(f"{place}/stores/shapes", verify=True).fingerprint == store.fingerprint

    one = ("--fusion", "concat", "--dim", 4, "--set", "epochs=1", "-q")
    run("fit", f"{place}/stores/shapes", *one, "-o", f"{place}/models/shapes")
    run("fit", store.folder, *one, "-o", tmp_path / "model")
    with bucket.open("weft/models/shapes/metrics.json") as file:
        assert json.load(file) == json.loads((tmp_path / "model" / "metrics.json").read_text())

    small, features = linear("classification")
    weft.push(small, f"{place}/models/shapes")  # in place of the other: nothing of it is left
    names = {path.removeprefix("weft/models/shapes/") for path in bucket.find("weft/models/shapes")}
    assert names == {"README.md", "config.json", "model.safetensors", OWN}
    again = weft.load(f"{place}/models/shapes")
    assert np.array_equal(again.predict(features)["probability"], small.predict(features)["probability"])


def test_what_a_bucket_lacks_or_refuses_is_said(bucket: fsspec.AbstractFileSystem) -> None:
    place = bucket.unstrip_protocol("weft")
    model, _ = linear("classification")
    with pytest.raises(UserError, match="there is nothing at this URL"):
        weft.load(f"{place}/models/none")
    bucket.pipe_file("weft/photos/cat.png", b"cat")
    with pytest.raises(UserError, match="only what weft published is replaced"):
        weft.push(model, f"{place}/photos")
    nowhere = bucket.unstrip_protocol("no-such-bucket/model")
    with pytest.raises(UserError, match=rf"{nowhere}[\s\S]*bucket"):
        weft.push(model, nowhere)

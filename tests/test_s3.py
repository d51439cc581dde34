"""Stores and models in a bucket: ``s3://`` through s3fs, against a server of moto that speaks S3 as MinIO's does."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

import weft
from tests.cli.test_aligned_verbs import weft as run
from tests.models.test_classical import linear
from weft.data import load_dataset
from weft.encoders import create_encoder, default_encoder
from weft.errors import UserError
from weft.places import OWN
from weft.store import Store, encode


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[fsspec.AbstractFileSystem]:
    """A bucket, ``s3://weft``, where s3fs looks for one that is not Amazon's: in the environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made-up")
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.makedirs("weft", exist_ok=True)  # what one server of moto holds, the next holds, too
    yield system
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # the next server has another port
    server.stop()


def test_stores_and_models_lie_in_a_bucket(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    data = load_dataset("shapes", rows=40)
    encoders = {name: create_encoder(default_encoder(m.kind), m.kind) for name, m in data.modalities.items()}
    store = encode(data, encoders, tmp_path / "store", progress=False)
    store.push_to_hub("s3://weft/stores/shapes")
    assert Store.open("s3://weft/stores/shapes", verify=True).fingerprint == store.fingerprint

    one = ("--fusion", "concat", "--dim", 4, "--set", "epochs=1", "-q")
    run("fit", "s3://weft/stores/shapes", *one, "-o", "s3://weft/models/shapes")
    run("fit", store.folder, *one, "-o", tmp_path / "model")
    with bucket.open("weft/models/shapes/metrics.json") as file:
        assert json.load(file) == json.loads((tmp_path / "model" / "metrics.json").read_text())

    small, features = linear("classification")
    weft.push(small, "s3://weft/models/shapes")  # in place of the other: nothing of it is left
    names = {path.removeprefix("weft/models/shapes/") for path in bucket.find("weft/models/shapes")}
    assert names == {"README.md", "config.json", "model.safetensors", OWN}
    again = weft.load("s3://weft/models/shapes")
    assert np.array_equal(again.predict(features)["probability"], small.predict(features)["probability"])


def test_what_a_bucket_lacks_or_refuses_is_said(bucket: fsspec.AbstractFileSystem) -> None:
    model, _ = linear("classification")
    with pytest.raises(UserError, match="there is nothing at this URL"):
        weft.load("s3://weft/models/none")
    bucket.pipe_file("weft/photos/cat.png", b"cat")
    with pytest.raises(UserError, match="only what weft published is replaced"):
        weft.push(model, "s3://weft/photos")
    with pytest.raises(UserError, match=r"s3://no-such-bucket/model[\s\S]*bucket"):
        weft.push(model, "s3://no-such-bucket/model")

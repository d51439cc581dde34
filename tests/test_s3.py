"""Stores and models in a bucket: ``s3://`` through s3fs, against a server of moto that speaks S3 as MinIO's does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from tests.buckets import test_stores_and_models_lie_in_a_bucket, test_what_a_bucket_lacks_or_refuses_is_said

__all__ = ["test_stores_and_models_lie_in_a_bucket", "test_what_a_bucket_lacks_or_refuses_is_said"]


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

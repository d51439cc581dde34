"""Stores and models in a bucket of Google's: ``gs://`` through gcsfs, against a server that speaks its API.

Run by ``make gs``, which installs both beside the project: ``python -m pytest tests/gs/bucket.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from gcp_storage_emulator.server import create_server

from tests.buckets import test_stores_and_models_lie_in_a_bucket, test_what_a_bucket_lacks_or_refuses_is_said

__all__ = ["test_stores_and_models_lie_in_a_bucket", "test_what_a_bucket_lacks_or_refuses_is_said"]

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # what gcsfs asks by gRPC first, the server does not speak


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[fsspec.AbstractFileSystem]:
    """A bucket, ``gs://weft``, where gcsfs looks for one that is not Google's: in the environment."""
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="weft")
    server.start()
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://{}:{}".format(*server._api._httpd.server_address))
    fsspec.get_filesystem_class("gs").clear_instance_cache()  # the last server had another port
    yield fsspec.filesystem("gs", skip_instance_cache=True)
    server.stop()

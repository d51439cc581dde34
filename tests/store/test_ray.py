"""What weft tells Ray before it is imported. (What it does with it: tests/ray, run by ``make ray``.)"""

from __future__ import annotations

import os
import sys

import pytest

from weft.store.ray import show_token


@pytest.mark.parametrize(
    ("token", "imported", "mode"), [(True, False, "token"), (False, False, None), (True, True, None)]
)
def test_a_token_is_shown_by_a_ray_that_has_yet_to_read_it(
    token: bool, imported: bool, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told later, Ray would start processes that ask it for a token which it does not show."""
    monkeypatch.setenv("RAY_AUTH_MODE", "none")  # so that what is set here is taken away again
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0123")
    if imported:
        monkeypatch.setitem(sys.modules, "ray", os)
    show_token()
    assert os.environ.get("RAY_AUTH_MODE") == mode

"""Verbs of the command line, called from tests."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from weft.cli import app


def weft(*arguments: object) -> Any:
    """What a verb says as JSON; a user's mistake is raised."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)

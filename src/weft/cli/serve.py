"""``weft serve``: a saved model behind HTTP, with a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.source import Data, Model, Root


def serve(
    model: Model,
    index: Annotated[Path | None, typer.Option(help="Folder of `weft search --index`, to search in.")] = None,
    source: Annotated[str | None, typer.Option(help="Data set or YAML whose rows are searched in and shown.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0: every network; there is no password.")] = "127.0.0.1",
    root: Root = None,
    data: Data = [],
) -> None:
    """Answer requests: predict, embed, search. / is a page to try it on, /docs the interface, /metrics for Prometheus.

    Examples:

        weft serve runs/shapes/compare/winner --port 8000

        weft serve runs/flickr8k/two-tower --source flickr8k --root data/flickr8k
    """
    import gc
    from importlib.util import find_spec

    from weft.errors import UserError

    gone = [name for name in ("fastapi", "uvicorn", "python_multipart") if find_spec(name) is None]
    if gone:
        raise UserError("serving needs packages that are not installed", ", ".join(gone), "pip install 'weft[serve]'")
    import uvicorn

    from weft.cli.source import read_source
    from weft.serve.app import create_app
    from weft.serve.engine import Engine

    rows = None if source is None else read_source(source, root, data)
    app = create_app(Engine(model, index, rows))
    gc.collect()
    gc.freeze()  # what is here stays: to look through it for garbage again makes everybody wait for 200 ms
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=10)

"""``weft serve``: a saved model behind HTTP, with a page."""

from __future__ import annotations

import socket
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

    from weft.cli.output import say
    from weft.cli.source import read_source
    from weft.serve.app import create_app
    from weft.serve.engine import Engine

    door = _door(host, port)
    rows = None if source is None else read_source(source, root, data)
    app = create_app(Engine(model, index, rows))
    gc.collect()
    gc.freeze()  # what is here stays: to look through it for garbage again makes everybody wait for 200 ms
    name = f"[{host}]" if ":" in host else host
    say(f"http://{name}:{door.getsockname()[1]} is the page to try it on, /docs the interface; Ctrl-C ends it")
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=10)
    uvicorn.Server(config).run(sockets=[door])


def _door(host: str, port: int) -> socket.socket:
    """The address that is served, asked for before the work begins.

    Raises:
        UserError: it cannot be had.
    """
    from weft.errors import UserError

    door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((host, port))
    except OSError as error:
        door.close()
        found = f"{host}:{port}: {error.strerror or error}"
        remedy = "choose another: --port 8001, or --port 0 for any that is free"
        raise UserError("the address cannot be served", found, remedy) from error
    return door

"""``weft push``: a model or a store to where others load it from."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli.source import Json


def push(
    folder: Annotated[str, typer.Argument(help="A model, a store, or the result of `weft compare` (its winner).")],
    place: Annotated[str, typer.Argument(help="user/name on the Hugging Face hub, or a URL: s3://bucket/models/shop.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private, if it is new.")] = False,
    json: Json = False,
) -> None:
    """Put a model or a store on the hub or at a URL, with a card written from the evidence.

    Every verb that takes a model or a store takes that address. HF_TOKEN, or `hf auth login`, says who you are.

    Examples:

        weft push runs/shapes/compare me/shapes --private

        weft push runs/shapes/store hub://datasets/me/shapes

        weft push runs/shapes/compare/winner s3://bucket/models/shapes
    """
    from weft.cli.output import say, write_json
    from weft.models.push import push as put

    found = put(folder, place, private=private)
    if json:
        write_json({"place": found})
    else:
        say(f"{folder} is at {found}")

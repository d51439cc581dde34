"""``weft encode``: raw samples to features on disk, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from weft.cli.source import Data, Encoders, Json, Quiet, Root, Source


def encode(
    source: Source,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Store folder (default runs/SOURCE/store).")] = None,
    root: Root = None,
    data: Data = [],
    encoder: Encoders = [],
    dtype: Annotated[Literal["fp16", "bf16", "fp32"], typer.Option(help="Data type of the stored features.")] = "fp16",
    batch_size: Annotated[int, typer.Option(help="Samples per encoder call.")] = 32,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode every modality once with a frozen encoder. Killed runs resume; a complete store is left as it is.

    Examples:

        weft encode weft.yaml --out store

        weft encode flickr8k --root data/flickr8k --encoder image=hf:facebook/dinov2-small
    """
    from weft.cli.output import say, write_json
    from weft.cli.source import choose_encoders, read_source
    from weft.files import ask_folder
    from weft.store import encode as encode_dataset

    folder = out or Path("runs") / Path(source).stem / "store"
    dataset = read_source(source, root, data)
    ask_folder(folder)
    store = encode_dataset(
        dataset,
        choose_encoders(dataset, source, encoder),
        folder,
        dtype=dtype,
        batch_size=batch_size,
        progress=not (quiet or json),
    )
    if json:
        write_json({"store": str(folder), "rows": len(store), "dims": store.dims})
    else:
        say(f"{len(store)} rows of {', '.join(f'{n} ({d})' for n, d in store.dims.items())} in {folder}")

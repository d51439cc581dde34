"""``weft encode``: raw samples to features on disk, once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from weft.cli.source import Data, Encoders, Json, Quiet, Root, Source, out_option

if TYPE_CHECKING:
    from weft.data import Dataset
    from weft.encoders import Encoder


def encode(
    source: Source,
    out: Annotated[Path | None, out_option("Store folder (default runs/SOURCE/store).")] = None,
    root: Root = None,
    data: Data = [],
    encoder: Encoders = [],
    dtype: Annotated[Literal["fp16", "bf16", "fp32"], typer.Option(help="Data type of the stored features.")] = "fp16",
    batch_size: Annotated[int, typer.Option(help="Samples per encoder call.")] = 32,
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="At a cell that cannot be read: stop, or leave it out and report it at the end."),
    ] = "stop",
    append: Annotated[
        bool, typer.Option("--append", help="Keep the rows of the store and add those whose ids are new.")
    ] = False,
    on: Annotated[
        str | None, typer.Option(help="Encode on Ray: ray, ray://HOST:PORT, auto; files have one path everywhere.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode every modality once with a frozen encoder. Killed runs resume; a complete store is left as it is.

    What cannot be read (a file that is missing or damaged, a cell of another kind) stops the run with the name of its
    row; what was encoded stays. With --on-error skip the modality counts as absent there, and failed.json in the store
    says where and why; the next run tries again.

    Examples:

        weft encode weft.yaml --out store

        weft encode flickr8k --root data/flickr8k --encoder image=hf:facebook/dinov2-small

        weft encode weft.yaml --out store --on-error skip

        weft encode new_rows.csv --append --out store
    """
    from weft.cli.output import say, say_failures, write_json
    from weft.cli.source import choose_encoders, read_source
    from weft.files import ask_folder
    from weft.store import encode as encode_dataset

    folder = out or Path("runs") / Path(source).stem / "store"
    if append and (folder / "manifest.json").is_file():
        dataset, encoders = read_added(folder, source, root, data, encoder, on_error)
    else:
        dataset = read_source(source, root, data, on_error)
        encoders = choose_encoders(dataset, source, encoder)
    ask_folder(folder)
    store = encode_dataset(
        dataset,
        encoders,
        folder,
        dtype=dtype,
        batch_size=batch_size,
        progress=not (quiet or json),
        on_error=on_error,
        append=append,
        on=on,
    )
    report = store.report
    if report is None:
        raise AssertionError("encode() reports")
    if json:
        failed = [failure.to_dict() for failure in report.failures]
        about = {"encoded": report.to_dict(), "failed": failed, "left_out": report.left_out}
        write_json({"store": str(folder), "rows": len(store), "dims": store.dims, **about})
        return
    say(f"{len(store)} rows of {', '.join(f'{n} ({d})' for n, d in store.dims.items())} in {folder}")
    if report.failures:
        gone = f"{len(report.left_out)} rows with nothing else are left out: " if report.left_out else ""
        say_failures(report.failures, f"{gone}{folder / 'failed.json'} lists all; another run tries again")


def read_added(
    folder: Path, source: str, root: Path | None, data: list[str], chosen: list[str], on_error: Literal["stop", "skip"]
) -> tuple[Dataset, dict[str, Encoder]]:
    """Rows to add to a store, and its encoders; a table is read as that of the store was."""
    from weft.cli.source import choose_encoders, read_source, said, settings
    from weft.data import load_config, read_more
    from weft.data.columns import is_table
    from weft.encoders.choice import encoders_like
    from weft.errors import UserError
    from weft.store.files import read_manifest

    manifest = read_manifest(folder) or {}
    table = manifest.get("table")
    if is_table(source):
        if table is None:
            found = f"{folder} was made of {manifest.get('name', 'a run that is not finished')!r}"
            raise UserError("a table is added to a store that was made of a table", found, "give a YAML or a data set")
        return said(read_more(source, table, on_error)), encoders_like(
            manifest["modalities"], settings(chosen, "encoder")
        )
    if table is None or not source.endswith((".yaml", ".yml")):
        dataset = read_source(source, root, data, on_error)
    else:
        dataset = said(read_more(load_config(source).table, table, on_error))
    return dataset, choose_encoders(dataset, source, chosen)

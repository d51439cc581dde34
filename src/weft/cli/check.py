"""``weft check``: is the installation sound, and is this source ready to encode?"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from weft.cli.source import Data, Json, Root

EXTRAS = {"audio": "soundfile", "video": "imageio-ffmpeg", "ann": "faiss-cpu", "log": "tensorboard"}
PACKAGES = ("weft", "torch", "transformers", "accelerate", "numpy", "scikit-learn", "pyarrow", "safetensors")


def check(
    source: Annotated[str | None, typer.Argument(help="A YAML or data set to read through, row by row.")] = None,
    root: Root = None,
    data: Data = [],
    json: Json = False,
) -> None:
    """Versions, devices and extras; with a source, also reads every sample of it and names the first bad row.

    Of a source it says the classes, the columns, and what to mend before time is spent: columns that give the target
    away, contents on both sides of the split, classes with few rows or two spellings, constants, duplicates.

    Examples:

        weft check

        weft check weft.yaml
    """
    from weft.cli.output import write_json, write_table

    report: dict[str, Any] = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    report |= {f"extra {extra}": _version(package) for extra, package in EXTRAS.items()}
    report |= _devices()
    if source is not None:
        from weft.cli.source import read_source
        from weft.data.findings import read_through

        report |= read_through(read_source(source, root, data))
    if json:
        write_json(report)
    else:
        warnings = report.pop("warnings", [])
        rows = [{"what": key, "found": value} for key, value in report.items()]
        write_table("weft check", rows + [{"what": "warning", "found": warning} for warning in warnings])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, Any]:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"devices": ", ".join(names) or "cpu", "threads": torch.get_num_threads()}

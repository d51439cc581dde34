"""``weft check``: is the installation sound, and is this source ready to encode?"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from weft.cli.source import Data, Json, Root

EXTRAS = {"audio": "soundfile", "ann": "faiss-cpu", "log": "tensorboard"}
PACKAGES = ("weft", "torch", "transformers", "accelerate", "numpy", "scikit-learn", "pyarrow", "safetensors")


def add_to(app: typer.Typer) -> None:
    app.command("check")(check)


def check(
    source: Annotated[str | None, typer.Argument(help="A YAML or data set to read through, row by row.")] = None,
    root: Root = None,
    data: Data = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Versions, devices and extras; with a source, also reads every sample of it and names the first bad row.

    Examples:

        weft check

        weft check weft.yaml
    """
    from weft.cli.output import write_json, write_table

    report: dict[str, Any] = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    report |= {f"extra {extra}": _version(package) for extra, package in EXTRAS.items()}
    report |= _devices()
    if source is not None:
        report |= _samples(source, root, data)
    if json:
        write_json(report)
    else:
        write_table("weft check", [{"what": key, "found": value} for key, value in report.items()])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, Any]:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"devices": ", ".join(names) or "cpu", "threads": torch.get_num_threads()}


def _samples(source: str, root: Any, data: list[str]) -> dict[str, Any]:
    import numpy as np

    from weft.cli.source import read_source
    from weft.data import make_splits

    dataset = read_source(source, root, data)
    split = make_splits(dataset)
    found: dict[str, Any] = {"rows": len(dataset), "task": dataset.task}
    for name, modality in dataset.modalities.items():
        rows = [i for i, value in enumerate(modality.values) if value is not None]
        dataset.verify(name)
        found[f"modality {name}"] = f"{modality.kind}, present in {len(rows)} rows"
    for part, rows_of in zip(split._fields, split, strict=True):
        found[f"split {part}"] = int(np.size(rows_of))
    return found

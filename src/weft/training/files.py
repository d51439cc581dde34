"""Files of models and checkpoints: tensors as safetensors, the rest as JSON, each replaced in one step.

A file is written under a temporary name, synced to the disk and renamed, so a killed run leaves the old file or the
new one and never half of one. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from weft.errors import UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``path`` in one step: all of it, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, written in one step."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON of a file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("a model folder lacks a file", str(path), "check the path, or train the model again") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError("a file of a model folder is damaged", f"{path}: {error}", "restore it from a copy") from None


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Tensors and text as one safetensors file, written in one step."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(content, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError("a model folder lacks a file", str(path), "check the path, or train the model again") from None
    except (SafetensorError, OSError) as error:
        raise UserError("a file of a model folder is damaged", f"{path}: {error}", "restore it from a copy") from None


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the weights of a file into a module of exactly those names and shapes.

    Raises:
        UserError: the file is missing or damaged, or holds other weights.
    """
    tensors, _ = read_tensors(path)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            "the weights do not fit the model that config.json describes",
            f"{path}: {error}",
            "keep config.json and model.safetensors of one model together",
        ) from None


def read_config(folder: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """Where the model is (the folder, or its ``best/``), and its ``config.json`` without the format.

    Raises:
        UserError: the file is missing or damaged, or describes something else.
    """
    if not (folder / "config.json").exists() and (folder / "best" / "config.json").exists():
        folder = folder / "best"
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("format") != kind:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise UserError(
            f"the folder holds no {kind.split('/')[0]}",
            f"{folder / 'config.json'}: format {found!r}, not {kind!r}",
            "give the folder of such a model, or read this one with the class that its format names",
        )
    return folder, {key: value for key, value in config.items() if key != "format"}


def not_a_model(folder: Path, error: Exception) -> UserError:
    """The error for a ``config.json`` that does not describe a model."""
    return UserError("config.json does not describe a model", f"{folder}: {error!r}", "restore it from a copy")

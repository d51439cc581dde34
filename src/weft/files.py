"""Files: bytes, JSON and tensors, each replaced in one step; locks between processes; hashes.

A file is written under a temporary name of its process, synced to the disk and renamed, so a killed run leaves the old
file or the new one and never half of one, and two processes never share a temporary file. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import filelock

from weft.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


SAFETENSORS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""What a file of tensors calls the types of torch."""


def write_bytes(path: Path, content: bytes, *, lasting: bool = True) -> None:
    """Write ``path`` in one step: all of it, or nothing. Its folder is made; a device or a pipe is written into.

    Args:
        path, content: what goes where.
        lasting: it has to be there after a power failure; False where it can be had again.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(content)
        return
    with in_one_step(path, lasting) as temporary:
        temporary.write_bytes(content)


@contextmanager
def in_one_step(path: Path, lasting: bool = True) -> Iterator[Path]:
    """A file beside ``path`` to write, which takes its place when the block ends well; see :func:`write_bytes`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        if lasting:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if lasting:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names written into a folder last."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def lock(path: Path, seconds: float = -1) -> Iterator[None]:
    """Hold ``path`` (a lock file, made where it is missing) against other processes; freed when the holder dies.

    Args:
        path: the lock file.
        seconds: how long to wait for another holder; -1: as long as it takes.

    Raises:
        UserError: another process still holds it.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path, timeout=seconds):
            yield
    except filelock.Timeout:
        raise UserError(
            "another process is at work in this folder",
            f"{path} is held",
            "wait until it ends, or choose another folder",
        ) from None


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: NumPy and tensors as numbers and lists, NaN and infinities as None, the rest text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    for method in ("tolist", "model_dump", "to_dict"):
        if hasattr(value, method):
            return plain(getattr(value, method)())
    return str(value)


def to_json(value: Any) -> str:
    """``value`` as indented JSON that every reader takes: figures that are not defined are null (see :func:`plain`)."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def canonical(value: Any) -> bytes:
    """JSON with sorted keys: the form that is hashed."""
    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def sha256(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """:func:`to_json` of ``value``, written in one step."""
    write_bytes(path, to_json(value).encode())


def read_json(path: Path) -> Any:
    """The JSON of a file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _missing(path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Named tensors, of any shapes, and text as one safetensors file, written in one step and from where they lie: the
    bytes of the whole file, as :func:`write_bytes` would have them, are the tensors twice over."""
    from safetensors.torch import save_file

    with in_one_step(path) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata)


def write_tensors_in_turn(
    path: Path, tensors: Mapping[str, Tensor], ask: Callable[[Tensor], Tensor], metadata: dict[str, str]
) -> None:
    """As :func:`write_tensors`, where all of them are not to be in memory at once, or some share it.

    Args:
        path, metadata: as there.
        tensors: of the shapes and types that are written; those of larger elements first, so that each lies at a
            multiple of its own.
        ask: the values of one of them; asked in their order, each when the one before has been written.
    """
    import torch

    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        dtype = SAFETENSORS[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with in_one_step(path) as temporary, temporary.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for tensor in tensors.values():
            file.write(ask(tensor).detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        UserError: the file is missing or damaged.
    """
    with tensors_of(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


@contextmanager
def tensors_of(path: Path) -> Iterator[Any]:
    """A safetensors file, open to ask it for one tensor after the other; errors as for :func:`read_tensors`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise _missing(path) from None
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _missing(path: Path) -> UserError:
    return UserError("a file is missing", str(path), "check the path, or make the file again")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError("a file is damaged", f"{path}: {error}", "restore it from a copy, or make it again")


def ask_file(path: Path) -> None:
    """Whether a file can be written there, asked before the work begins; its folder is made.

    Raises:
        UserError: it cannot.
    """
    there = path.exists()
    if path.is_dir():
        raise UserError("the output is a file", f"{path} is a folder", "name a file in it")
    if there and not path.is_file():  # a device or a pipe: opening it could wait for its reader
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if not there:
            path.unlink()


def ask_folder(path: Path) -> None:
    """Whether files can be written into a folder, asked before the work begins; it is made.

    Raises:
        UserError: they cannot.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system says into a UserError."""
    try:
        yield
    except OSError as error:
        remedy = "choose another place (--out, folder=), free some space, or ask for the right to write there"
        raise UserError("the output cannot be written", f"{path}: {error.strerror or error}", remedy) from error


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of ``folder`` at the end; nothing is replaced by what failed."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)

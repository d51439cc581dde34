"""Embeddings that exist already: arrays, Parquet cells, ``.npy`` and ``.safetensors`` files, as they are.

A vector ``(D,)`` becomes one token ``(1, D)``, a matrix ``(T, D)`` stays. A ``.safetensors`` file holds one tensor.
Nothing is scaled. When not to use it: for files that need a model first; pickled arrays are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from weft.data.files import read_array
from weft.encoders.base import BadValue, Encoder, encoders, read_each
from weft.errors import UserError, some


@encoders.register("precomputed")
class Precomputed(Encoder):
    """Ready-made vectors or token sequences of one width, learned from the training rows."""

    kinds = ("vector", "tokens")

    def __init__(self) -> None:
        self.width = 0

    def fit(self, values: Sequence[Any]) -> None:
        """Take the width of the first value.

        Raises:
            UserError: a value of another width than the first.
        """
        if not values:
            raise UserError("embeddings have one width", "no training row to learn it from", "check the split")
        self.width = read_each(values[:1], read_embedding)[0].shape[1]

    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """``(T, D)`` float32 per value.

        Raises:
            UserError: the width is not known yet.
            BadValue: a value has another width; its place is named.
        """
        if not self.width:
            raise UserError("the width of the embeddings is not known yet", "no value seen", "call fit() first")
        arrays = read_each(values, read_embedding)
        for index, array in enumerate(arrays):
            if array.shape[1] != self.width:
                raise BadValue(
                    index,
                    "embeddings of one modality have one width",
                    f"shape {array.shape}, expected width {self.width}",
                    "compute all of them with the same model",
                )
        return arrays

    def identity(self) -> dict[str, Any]:
        """The name; the values themselves are in the hash of the rows."""
        return {"name": "precomputed", "version": 1}

    def state(self) -> dict[str, Any]:
        """The width."""
        return {"width": self.width}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put the width back."""
        self.width = int(state["width"])


def read_embedding(value: Any) -> np.ndarray:
    """A vector or matrix of numbers, or a file with one, as ``(T, D)`` float32.

    Raises:
        UserError: neither ``(D,)`` nor ``(T, D)``, or empty.
    """
    array = np.asarray(read_file(Path(value)) if isinstance(value, str | Path) else value, dtype=np.float32)
    if array.ndim not in (1, 2) or array.size == 0:
        raise UserError("an embedding is (D,) or (T, D), not empty", f"shape {array.shape}", "flatten or pool it first")
    return array.reshape(-1, array.shape[-1])


def read_file(path: Path) -> np.ndarray:
    """The array ``(D,)`` or ``(T, D)`` of a ``.npy`` file, or the only tensor of a ``.safetensors`` file.

    Raises:
        UserError: another ending, several tensors, or a damaged file.
    """
    if path.suffix == ".npy":
        return read_array(path, "embedding")
    if path.suffix != ".safetensors":
        raise UserError("embeddings are read from .npy and .safetensors files", f"{path}", "save them with numpy.save")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            tensors = [file.get_tensor(name).float().numpy() for name in names[:1]]
    except SafetensorError as error:
        raise UserError("the safetensors file is damaged", f"{path}: {error}", "write it again") from error
    if len(names) != 1:
        raise UserError("an embedding file holds one tensor", f"{path}: {some(names)}", "save one tensor per file")
    return tensors[0]

"""Ready-made sequences of embeddings: a ``(T, D)`` array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.data.columns import array_values
from weft.data.kinds.base import Kind, Place, check_arrays, kinds


@kinds.register("tokens")
class TokenSequence(Kind):
    """Lists of lists or ``.npy`` files; never proposed, as a series looks the same."""

    encoder = "precomputed"
    several = True

    def convert(self, columns: Sequence[Sequence[Any]], place: Place) -> list[Any]:
        """``(T, D)`` float32."""
        return array_values(columns, "tokens", place.modality, place.ids, place.folder)

    def check(self, name: str, ids: Sequence[str], values: Sequence[Any], fields: Sequence[str]) -> None:
        """``(T, D)``, the same ``D`` in every row."""
        check_arrays(name, ids, values, "tokens", "(T, D)")

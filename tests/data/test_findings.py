"""What ``weft check`` warns of: contents known from training, and no mere repetition of a category."""

from __future__ import annotations

from typing import Any

import pytest

from weft.data import Dataset, Modality, make_splits
from weft.data.findings import look_over


def leaks(kind: str, values: list[Any]) -> list[str]:
    """Warnings of contents on both sides of the split."""
    ids = [f"r{row}" for row in range(len(values))]
    data = Dataset("made", ids, {"comment": Modality(kind, values)}, {}, None, None, "regression")
    return [text for text in look_over(data, make_splits(data)).warnings if "training rows have too" in text]


def test_a_few_phrases_that_come_again_and_again_are_no_leak() -> None:
    assert not leaks("text", [("good", "bad", "so so", "none")[row % 4] for row in range(200)])


@pytest.mark.parametrize("kind", ["text", "image"])
def test_contents_of_few_rows_each_are(kind: str) -> None:
    (found,) = leaks(kind, [f"{row // 3}.png" for row in range(200)])
    assert "test rows have a 'comment'" in found
    assert "if it tells the answer, name a group" in found


def test_a_file_is_content_however_often_it_comes() -> None:
    assert leaks("image", [f"{row % 4}.png" for row in range(200)])

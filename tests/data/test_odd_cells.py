"""Cells that are no words are never read as words in silence: printed arrays, pictures, structs, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from weft.data import guess_table, propose_table, read_table
from weft.data.written import as_list, is_cut
from weft.errors import UserError

RANDOM = np.random.default_rng(0)
Y = (["a", "b"] * 12)[:24]


def read(source: Any) -> tuple[str, list[Any]]:
    """Kind and values of the first modality of a table."""
    config = guess_table(source, target="y")
    data = read_table(source, config)
    modality = next(iter(data.modalities.values()))
    return modality.kind, list(modality.values)


@pytest.mark.parametrize("shape", [(5,), (40,), (3, 2)])
@pytest.mark.parametrize("write", [str, repr, lambda a: str(torch.tensor(a)), lambda a: str(list(a.ravel()))])
def test_an_array_comes_back_from_what_was_printed(shape: tuple[int, ...], write: Any) -> None:
    array = RANDOM.normal(size=shape) * 1000
    found = np.array(as_list(write(array)))
    np.testing.assert_allclose(found.ravel(), array.ravel(), rtol=1e-3)


@pytest.mark.parametrize(
    ("cell", "items"),
    [
        ("[1, 2]", [1, 2]),
        ("[ 1.  nan -inf]", [1.0, float("nan"), float("-inf")]),
        ("[1.0, nan]", [1.0, None]),
        ("['a b', 'c']", ["a b", "c"]),
        ("['a b' 'c']", ["a b", "c"]),
        ("('a', 'b')", ["a", "b"]),
        ("{'b', 'a'}", ["a", "b"]),
        ("(0.5, 1.5)", [0.5, 1.5]),
        ("tensor([1., 2.], device='cuda:0', grad_fn=<MulBackward0>)", [1.0, 2.0]),
        ("array([1, 2], dtype=int32)", [1, 2]),
        ("[ True False]", [True, False]),
        ("[]", []),
        ("(5.00)", None),
        ("(1,234)", None),
        ("(0.5, 1.5]", None),
        ("[deleted by user]", None),
        ("[1] as he said, and [2] too", None),
        ("[1 2", None),
        ("array of pictures", None),
    ],
)
def test_lists_as_programs_write_them(cell: str, items: list[Any] | None) -> None:
    assert repr(as_list(cell)) == repr(items)


@pytest.mark.parametrize("write", [str, repr, lambda a: str(torch.tensor(a))])
def test_an_array_that_was_cut_is_refused_and_never_read(write: Any) -> None:
    cells = [write(RANDOM.normal(size=2000)) for _ in Y]
    assert all(map(is_cut, cells))
    assert not is_cut("[well ... he said]")
    with pytest.raises(UserError, match=r"column 'emb'.*printed with '\.\.\.'"):
        propose_table({"emb": cells, "y": Y})
    config = guess_table({"emb": [[0.5, 1.5]] * 23 + [[1.5, 2]], "y": Y}, target="y")
    with pytest.raises(UserError, match=r"row '0'.*printed"):
        read_table({"emb": cells, "y": Y}, config)


def test_embeddings_in_a_csv_of_pandas_are_vectors(tmp_path: Path) -> None:
    array = RANDOM.normal(size=(24, 32)).astype(np.float32)
    pd.DataFrame({"emb": list(array), "y": Y}).to_csv(tmp_path / "t.csv", index=False)
    kind, values = read(tmp_path / "t.csv")
    assert kind == "vector"
    np.testing.assert_allclose(np.stack(values), array, rtol=1e-4)


def test_a_few_vectors_of_another_length_are_named_not_taken_for_a_series() -> None:
    cells = RANDOM.normal(size=(24, 6)).tolist()
    cells[17] = cells[17][:4]
    config = guess_table({"emb": cells, "y": Y}, target="y")
    assert config.modalities["emb"].kind == "vector"
    with pytest.raises(UserError, match="mostly 6, but '17: 4'") as caught:
        read_table({"emb": cells, "y": Y}, config)
    assert "series" in caught.value.remedy
    cells[3] = cells[3][:4]
    assert guess_table({"emb": cells, "y": Y}, target="y").modalities["emb"].kind == "series"


def test_a_space_behind_a_separator_is_no_part_of_a_label() -> None:
    x = RANDOM.normal(size=24).tolist()
    config = guess_table({"x": x, "genres": ["a; b", "b"] * 12}, target="genres")
    assert (config.task, config.labels) == ("multilabel", ["a", "b"])


def test_an_enum_of_polars_has_an_order() -> None:
    levels = ["mild", "grave", "fatal"]
    frame = pl.DataFrame({"x": RANDOM.normal(size=24), "y": pl.Series(levels * 8, dtype=pl.Enum(levels))})
    assert guess_table(frame, target="y", task="ordinal").labels == levels
    words = frame.with_columns(y=pl.col("y").cast(pl.Categorical))
    assert guess_table(words, target="y", task="ordinal").labels == sorted(levels)

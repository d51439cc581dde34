"""Cells that are no words are never read as words in silence: printed arrays, pictures, structs, files."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from weft.data import guess_table, propose_table, read_table
from weft.data.kinds import kind_named
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


def test_words_of_a_person_are_no_python_and_make_no_noise() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_list(r"(so, 1or 2 \d, 'is \w' he said)") is None
        assert as_list(r"['a\d', 'b']") == [r"a\d", "b"]


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
    (said,) = propose_table({"emb": cells, "y": Y}, target="y").warnings
    assert "vectors of 6 numbers, but for 1 of 24 rows: '17: 4'" in said
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


PIXELS = RANDOM.integers(0, 256, size=(24, 9, 8, 3), dtype=np.uint8)
PICTURES = [Image.fromarray(pixels) for pixels in PIXELS]


def file_of(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def sound_of(k: int) -> bytes:
    buffer = io.BytesIO()
    wavfile.write(buffer, 8000, np.arange(k, k + 99, dtype=np.int16))
    return buffer.getvalue()


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, dict], ids=["pandas", "polars", "dictionary"])
@pytest.mark.parametrize(
    "cells",
    [
        list(map(file_of, PICTURES)),
        [{"bytes": file_of(p), "path": None} for p in PICTURES],
        PICTURES,
        list(PIXELS),
        list(torch.tensor(PIXELS)),
    ],
    ids=["bytes", "struct", "PIL", "arrays", "tensors"],
)
def test_pictures_in_cells_are_images(make: Any, cells: list[Any]) -> None:
    if make is pl.DataFrame and not isinstance(cells[0], bytes | dict):
        cells = pl.Series(cells, dtype=pl.Object)
    source = make({"photo": cells, "y": Y})
    config = guess_table(source, target="y")
    assert config.modalities["photo"].kind == "image"
    data = read_table(source, config)
    read = kind_named("image").read(data.modalities["photo"].values[5], "row 5")
    np.testing.assert_array_equal(np.asarray(read), PIXELS[5])


def test_grey_arrays_are_images_and_flat_ones_are_not() -> None:
    assert guess_table({"a": list(PIXELS[..., 0]), "y": Y}, target="y").modalities["a"].kind == "image"
    assert guess_table({"a": list(PIXELS[:, 0, 0]), "y": Y}, target="y").modalities["a"].kind == "vector"


def test_bytes_in_parquet_are_pictures_or_sound(tmp_path: Path) -> None:
    pictures = pd.DataFrame({"photo": list(map(file_of, PICTURES)), "y": Y})
    pictures.to_parquet(tmp_path / "p.parquet")
    assert read(tmp_path / "p.parquet")[0] == "image"
    kind, values = read({"sound": [sound_of(k) for k in range(24)], "y": Y})
    assert (kind, values[3][1]) == ("audio", 8000)
    np.testing.assert_array_equal(values[3][0], np.arange(3, 102))
    pictures.loc[7, "photo"] = b"no picture"
    with pytest.raises(UserError, match="row '7': the embedded image cannot be read"):
        read({name: pictures[name].tolist() for name in pictures})


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (b"abc", "bytes of neither a picture nor a sound"),
        (len, "Python objects"),
        (object(), "Python objects"),
        ([{"a": 1}, {"a": 2}], "objects with fields"),
    ],
)
def test_what_no_kind_reads_is_left_out_in_words_and_refused_as_a_text(cell: Any, why: str) -> None:
    table = {"x": RANDOM.normal(size=24).tolist(), "odd": [cell] * 24, "y": Y}
    proposal = propose_table(table, target="y")
    assert why in proposal.left_out["odd"]
    with pytest.raises(UserError, match=f"'odd' is left out: {why}"):
        propose_table({name: table[name] for name in ("odd", "y")}, target="y")
    words = guess_table({"odd": [f"a text of several words {i}" for i in range(24)], "y": Y}, target="y")
    with pytest.raises(UserError, match="modality 'odd': its cells are words"):
        read_table(table, words)


@pytest.mark.parametrize("cell", [torch.tensor, lambda a: torch.tensor(a, requires_grad=True), pd.Series, np.array])
def test_objects_that_are_arrays_are_vectors(cell: Any) -> None:
    array = RANDOM.normal(size=(24, 5)).astype(np.float32)
    kind, values = read(pd.DataFrame({"emb": pd.Series([cell(row) for row in array], dtype=object), "y": Y}))
    assert kind == "vector"
    np.testing.assert_allclose(np.stack(values), array, rtol=1e-6)


@pytest.mark.parametrize("where", ["dictionary", "pandas", "polars", "pyarrow", "jsonl", "parquet"])
def test_fields_of_structs_are_columns(where: str, tmp_path: Path) -> None:
    points = [None if i == 3 else {"lat": i / 7, "of": {"lon": -i / 3, "land": "ab"[i % 2]}} for i in range(24)]
    table = {"loc": points, "y": Y}
    frame = pl.DataFrame(table)
    frame.write_parquet(tmp_path / "t.parquet")
    lines = [json.dumps({"loc": loc, "y": y}) for loc, y in zip(points, Y, strict=True)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    source = {
        "dictionary": table,
        "pandas": pd.DataFrame(table),
        "polars": frame,
        "pyarrow": frame.to_arrow(),
        "jsonl": tmp_path / "t.jsonl",
        "parquet": tmp_path / "t.parquet",
    }[where]
    proposal = propose_table(source, target="y", types={"loc.of.land": "category"})
    assert proposal.config.modalities["tabular"].types == {
        "loc.lat": "number",
        "loc.of.lon": "number",
        "loc.of.land": "category",
    }
    assert "loc.of.lon" in proposal.reasons["column 'loc'"]
    data = read_table(source, proposal.config)
    assert "3" not in data.ids
    assert data.modalities["tabular"].values[data.ids.index("7")] == (1.0, pytest.approx(-7 / 3), "b")


def test_structs_of_all_sorts_are_left_out() -> None:
    counts = [{f"word {i}": 1, f"word {i + 1}": 2} for i in range(200)]
    proposal = propose_table({"x": list(range(200)), "counts": counts, "y": ["a", "b"] * 100}, target="y")
    assert "objects with fields" in proposal.left_out["counts"]


def test_files_that_no_kind_reads_are_not_learned_by_their_names(tmp_path: Path) -> None:
    for i in range(24):
        (tmp_path / f"dev {i}.csv").write_text("time,temp\n1,2\n")
        np.save(tmp_path / f"dev{i}.npy", RANDOM.normal(size=(4 + i, 2)))
    frame = pd.DataFrame({"file": [f"dev {i}.csv" for i in range(24)], "x": RANDOM.normal(size=24), "y": Y})
    frame.to_csv(tmp_path / "t.csv", index=False)
    proposal = propose_table(tmp_path / "t.csv", target="y")
    assert "name files ('.csv')" in proposal.left_out["file"]
    assert "numpy.save" in proposal.left_out["file"]
    frame.assign(file=[f"dev{i}.npy" for i in range(24)]).to_csv(tmp_path / "u.csv", index=False)
    assert guess_table(tmp_path / "u.csv", target="y").modalities["file"].kind == "series"


def test_words_that_look_like_paths_are_said_to_be_words() -> None:
    x = RANDOM.normal(size=24).tolist()
    files = [f"series/dev{i % 5}.csv" for i in range(24)]
    (said,) = propose_table({"x": x, "file": files, "y": Y}, target="y").warnings
    assert "'series/dev0.csv' look like paths of files" in said
    words = [f"{w} and/or etc." for w in RANDOM.permutation(list("abcd") * 6)]
    assert not propose_table(
        {"x": x, "w": words, "u": ["http://a.org/b.html"] * 12 + ["c"] * 12, "y": Y}, target="y"
    ).warnings


@pytest.mark.parametrize(
    "name", [lambda p: str(PureWindowsPath(p)), lambda p: p.replace(" ", "%20"), lambda p: Path(p)]
)
def test_paths_of_other_systems_are_found(name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my pics").mkdir()
    for i, picture in enumerate(PICTURES):
        picture.save(tmp_path / f"my pics/{i}.png")
    kind, values = read({"photo": [name(f"my pics/{i}.png") for i in range(24)], "y": Y})
    assert kind == "image"
    np.testing.assert_array_equal(np.asarray(kind_named("image").read(values[5], "row 5")), PIXELS[5])
    address = {"photo": [(tmp_path / f"my pics/{i}.png").as_uri() for i in range(24)], "y": Y}
    assert read(address)[0] == "image"

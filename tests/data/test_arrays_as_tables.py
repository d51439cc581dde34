"""Arrays where a table was meant, and lists of numbers as Python prints them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from weft.cli import app
from weft.data import ModalityConfig, TableConfig, propose_table, read_table
from weft.data.columns import Columns
from weft.errors import UserError


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "a.pkl", "a.safetensors"])
@pytest.mark.parametrize("verb", ["init", "align", "compare"])
def test_a_file_of_arrays_is_told_what_it_is_and_where_it_goes(tmp_path: Path, verb: str, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x93NUMPY")
    found = CliRunner().invoke(app, [verb, str(tmp_path / name)]).exception
    assert isinstance(found, UserError)
    assert found.what == "a file of arrays is no table"
    assert "own_features.md" in found.remedy


@pytest.mark.parametrize(("save", "said"), [(np.save, "an array of NumPy"), (np.savez, "a zip archive")])
def test_another_name_makes_no_table_of_it(tmp_path: Path, save, said: str) -> None:
    with (tmp_path / "a.csv").open("wb") as file:
        save(file, np.ones((3, 4)))
    with pytest.raises(UserError, match=f"no table of text(.|\n)*{said}") as at:
        Columns(tmp_path / "a.csv")
    assert "UTF-16" not in str(at.value)


def series(path: Path, cell: str) -> None:
    path.write_text(f'x,y\n"{cell}",a\n"[1.0, 2.0]",b\n')
    config = {"x": ModalityConfig(kind="series", column="x")}
    read_table(path, TableConfig(table=str(path), target="y", task="classification", modalities=config))


@pytest.mark.parametrize("cell", ["[20.1, nan]", "[20.1, None]", "[20.1, -inf]", "[20.1, NaN]"])
def test_nan_in_a_printed_list_is_the_trouble_and_its_place(tmp_path: Path, cell: str) -> None:
    with pytest.raises(UserError, match=r"row '0': NaN, infinite or empty values(.|\n)*1 of 2, at 1"):
        series(tmp_path / "t.csv", cell)


def test_the_way_out_of_an_empty_list_is_an_empty_cell(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="an array without values") as at:
        series(tmp_path / "t.csv", "[]")
    assert at.value.remedy.startswith("leave the cell empty")
    series(tmp_path / "t.csv", "")


def test_one_modality_is_not_aligned_and_nothing_is_encoded(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 4)).round(3)
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",", header="t0,t1,i0,i1", comments="", fmt="%.3f")
    runner = CliRunner()
    arguments = ["init", str(tmp_path / "t.csv"), "--target", "none", "-o", str(tmp_path / "t.yaml")]
    assert runner.invoke(app, arguments).exit_code == 0
    assert len(propose_table(tmp_path / "t.csv", target="none").config.modalities) == 1
    store = tmp_path / "store"
    found = runner.invoke(app, ["align", str(tmp_path / "t.yaml"), "--store", str(store), "-o", str(tmp_path / "o")])
    assert isinstance(found.exception, UserError)
    assert "two modalities" in found.exception.what
    assert "in the YAML" in found.exception.remedy
    assert not store.exists()

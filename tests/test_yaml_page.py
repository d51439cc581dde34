"""docs/yaml.md has every key of the schema and no other, and its examples are read as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from pydantic import BaseModel

from tests.conftest import ROOT
from weft.data import load_config, make_splits, read_table
from weft.data.cells import CELL_TYPES, read_cell
from weft.data.kinds import kind_named, kinds
from weft.data.splits import FRACTIONS, METHODS
from weft.data.table import SPLIT_WORDS
from weft.data.table_config import ModalityConfig, SplitsConfig, TableConfig
from weft.tasks.base import tasks

PAGE = (ROOT / "docs" / "yaml.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def listed(head: str) -> dict[str, list[str]]:
    """Tables whose first column is called ``head``, joined: ``{first cell: the others}``."""
    found = {}
    for table in re.findall(r"((?:^\|.*\|\n)+)", PAGE, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
        if lines[0][0].strip("| ") == head:
            found |= {line[0].strip("| `"): [cell.strip("| ") for cell in line[1:]] for line in lines[2:]}
    return found


def test_every_key_and_no_other() -> None:
    models: tuple[type[BaseModel], ...] = (TableConfig, ModalityConfig, SplitsConfig)
    keys = listed("key")
    assert set(keys) == {name for model in models for name in model.model_fields}
    for model in models:
        for name, field in model.model_fields.items():
            assert keys[name][-1].startswith("required") == field.is_required(), name
    for word in SPLIT_WORDS:
        assert word in keys["split"][0] or word in ("training", "testing")
    for name in re.findall("`([a-z]+)`", keys["task"][0]):
        assert name == "retrieval" or name in tasks.names()
    assert keys["fractions"][1] == f"`{list(FRACTIONS)}`"


def test_kinds_types_and_methods() -> None:
    found = listed("kind")
    assert list(found) == sorted(kinds.names())
    for name, (_, several, encoder) in found.items():
        assert (several == "yes", encoder) == (kind_named(name).several, f"`{kind_named(name).encoder}`"), name
    assert set(listed("method")) == set(METHODS)
    types = listed("type")
    assert set(types) == {*CELL_TYPES, "number in kg"}
    for type_, (cells,) in types.items():
        read = [read_cell(cell, type_) for cell in re.findall("`([^`]+)`", cells)]
        assert read
        assert None not in read


def shop(folder: Path) -> None:
    """The table of the examples."""
    words = ["a red chair", "an old lamp", "a new table", "one rare book"]
    head = "number,photo,title,price,size,shelf,day,seller,sold,rank,tags,days,gone"
    lines = [head]
    for i in range(48):
        Image.new("RGB", (8, 8), (5 * i, 0, 0)).save(folder / f"{i % 24}.png")
        rank, tags = ["low", "middle", "high", "none"][i % 4], ["new|red", "rare", ""][i % 3]
        day = f"{1 + i % 28}.0{1 + i // 28}.2024"
        lines.append(
            f'n{i},{i % 24}.png,"{words[i % 4]}, number {i}","{i},5",{i % 7},0{i % 5}0,{day},'
            f"s{i // 4},{['yes', 'no'][i % 2]},{rank},{tags},{i + 1},{i % 2}"
        )
    (folder / "shop.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_are_read(number: int, tmp_path: Path) -> None:
    shop(tmp_path)
    text = EXAMPLES[number]
    if "target: price" in text:  # the price of this example is a plain number
        (tmp_path / "shop.csv").write_text((tmp_path / "shop.csv").read_text().replace(',5",', '.5",'))
    (tmp_path / "weft.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "weft.yaml")
    data = read_table(config.table, config)
    assert list(data.modalities) == list(config.modalities)
    assert not data.notes or "left out" in data.notes[0]
    assert all(modality.presence.all() for modality in data.modalities.values())
    assert all(len(part) for part in make_splits(data))


def test_there_are_examples_of_every_key() -> None:
    text = "\n".join(EXAMPLES)
    for name in {*TableConfig.model_fields, *ModalityConfig.model_fields, *SplitsConfig.model_fields} - {
        "split",
        "seed",
    }:
        assert re.search(rf"\b{name}:", text), name

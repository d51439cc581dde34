"""What a folder of a model says: older versions are read under new names, newer ones and other classes refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weft.errors import UserError
from weft.files import read_json, write_json
from weft.models.pretrained import Pretrained


class Old(Pretrained, nn.Module):
    format = "Toy/1"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.project, self.projection = nn.Linear(width, 2), nn.Linear(2, 1)

    def config(self) -> dict[str, Any]:
        return {"width": self.width}


class New(Pretrained, nn.Module):
    format, renames = "Toy/2", {"project.": "first.", "projection.": "second."}

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, 2), nn.Linear(2, 1)

    def config(self) -> dict[str, Any]:
        return {"width": self.first.in_features}


def test_weights_of_an_older_version_come_under_their_new_names(tmp_path: Path) -> None:
    old = Old(3)
    old.save_pretrained(tmp_path)
    new = New.from_pretrained(tmp_path)
    assert torch.equal(new.first.weight, old.project.weight)
    assert torch.equal(new.second.bias, old.projection.bias)
    assert not new.training
    new.save_pretrained(tmp_path / "again")
    assert torch.equal(New.from_pretrained(tmp_path / "again").second.weight, old.projection.weight)


def test_a_newer_version_and_another_class_are_refused(tmp_path: Path) -> None:
    New(3).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="newer version"):
        Old.from_pretrained(tmp_path)
    write_json(tmp_path / "config.json", {**read_json(tmp_path / "config.json"), "format": "Other/1"})
    with pytest.raises(UserError, match=r"no Toy[\s\S]*load_model"):
        Old.from_pretrained(tmp_path)
    write_json(tmp_path / "config.json", {"format": "Toy/1", "breadth": 3})
    with pytest.raises(UserError, match="does not describe a model"):
        Old.from_pretrained(tmp_path)

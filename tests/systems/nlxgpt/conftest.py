"""A model trained on the made world."""

from __future__ import annotations

import pytest

from tests.systems.nlxgpt.sheets import QUICK, sheets
from weft.data import make_splits
from weft.training.system_task import fit_system, make_system


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    data, folder = sheets(120), tmp_path_factory.mktemp("nlx")
    split = make_splits(data)
    net = make_system("nlx-gpt", data, split.train, longest=16, steps=10)
    fit_system(net, data, split, QUICK, folder, progress=False)
    return data, split, net, folder

"""Sentence pairs in their official layouts: counts as stated by the data's own description."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.test_readers import sizes
from weft.data import load_dataset, make_splits
from weft.errors import UserError


def test_qqp(data_root: Path) -> None:
    data = load_dataset("qqp", data_root / "QQP")
    assert len(data) == 23496
    assert np.mean(data.targets["label"]) == pytest.approx(0.372, abs=5e-4)
    assert data.modalities["first"].values[0].startswith("What causes stool color"), "the first row has five fields"
    assert data.group is not None
    with gzip.open(data_root / "QQP/qqp_23k.tsv.gz", "rt") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    questions: dict[str, set[str]] = {}
    place = {key: i for i, key in enumerate(data.ids)}
    for row in rows:
        if len(row) == 6:
            for question in row[1:3]:
                questions.setdefault(question, set()).add(data.group[place[row[0]]])
    assert all(len(groups) == 1 for groups in questions.values()), "a question in two groups"
    assert len(set(data.group)) > 10000
    split = make_splits(data)
    assert not set(data.group[split.train]) & set(data.group[split.test])


def test_qqp_in_the_layouts_of_glue_and_the_hub(tmp_path: Path) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    original = tmp_path / "original"
    original.mkdir()
    text = header + '0\t1\t2\t"What\nnow?"\tWhat is next?\t1\n1\t2\t3\tWhat is next?\tWhy?\t0\n2\t4\t5\t\tWhy?\t0\n'
    (original / "quora_duplicate_questions.tsv").write_text(text)
    data = load_dataset("qqp", original)
    assert data.ids == ["0", "1"]
    assert data.modalities["first"].values[0] == "What\nnow?"
    assert data.targets["label"].tolist() == [1, 0]
    assert data.group is not None
    assert data.group[0] == data.group[1]
    glue = tmp_path / "glue"
    glue.mkdir()
    (glue / "train.tsv").write_text(header + "5\t1\t2\ta\tb\t1\n")
    (glue / "dev.tsv").write_text(header + "5\t3\t4\tc\td\t0\n")
    assert sizes(load_dataset("qqp", glue)) == {"train": 1, "test": 1}
    hub = tmp_path / "hub"
    hub.mkdir()
    columns = {"question1": ["a", "b"], "question2": ["c", None], "label": [0, 1], "idx": [7, 8]}
    pq.write_table(pa.table(columns), hub / "validation-00000-of-00001.parquet")
    data = load_dataset("qqp", hub)
    assert data.ids == ["dev-7"]
    assert data.group is None
    pq.write_table(pa.table({"question1": ["a"]}), hub / "validation-00000-of-00001.parquet")
    with pytest.raises(UserError, match="lacks columns"):
        load_dataset("qqp", hub)
    with pytest.raises(UserError, match="official layout"):
        load_dataset("qqp", tmp_path)


def test_mrpc(data_root: Path, tmp_path: Path) -> None:
    data = load_dataset("mrpc", data_root / "MRPC")
    assert sizes(data) == {"train": 4076, "test": 1725}
    assert data.split is not None
    assert [int(data.targets["label"][data.split == part].sum()) for part in ("train", "test")] == [2753, 1147]
    assert '"the witness"' in data.modalities["first"].values[0]
    columns = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1], "idx": [0, 1]}
    for part in ("train", "validation"):
        pq.write_table(pa.table(columns), tmp_path / f"{part}-00000-of-00001.parquet")
    assert sizes(load_dataset("mrpc", tmp_path)) == {"train": 2, "dev": 2}


def test_stsb(data_root: Path, tmp_path: Path) -> None:
    data = load_dataset("stsb", data_root / "STS-B")
    assert sizes(data) == {"train": 5749, "dev": 1500, "test": 1379}
    score = data.targets["score"]
    assert (score.min(), score.max()) == (0, 5)
    assert data.modalities["first"].values[0] == "A plane is taking off."
    assert score[0] == 5.0
    columns = {"sentence1": ["a"], "sentence2": ["b"], "similarity_score": [3.5]}
    pq.write_table(pa.table(columns), tmp_path / "dev-00000-of-00001.parquet")
    assert load_dataset("stsb", tmp_path).targets["score"].tolist() == [3.5]
    (tmp_path / "dev-00000-of-00001.parquet").unlink()
    for part in ("train", "dev", "test"):
        (tmp_path / f"sts-{part}.csv").write_text("g\tf\ty\t1\thigh\tone\ttwo\n")
    with pytest.raises(UserError, match=r"'train-0: high'"):
        load_dataset("stsb", tmp_path)


@pytest.mark.parametrize("name", ["qqp", "mrpc", "stsb"])
def test_no_folder_is_said(name: str) -> None:
    with pytest.raises(UserError, match="read from a folder"):
        load_dataset(name)

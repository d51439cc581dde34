"""`weft search` asked by arrays: features of one's own search the captions they belong to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_aligned_verbs import weft
from weft.errors import UserError

PLACES = 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors and their mirror images, in `.npy` files, as a YAML, a store and an aligner of the two."""
    root, rng = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    vectors, rows = rng.normal(size=(PLACES, 4)).astype(np.float32), []
    np.save(root / "matrix.npy", vectors[:3])
    np.save(root / "wide.npy", np.zeros(7, np.float32))
    for i, vector in enumerate(vectors):
        np.save(root / f"v{i}.npy", vector)
        rows.append(f"v{i}.npy,{json.dumps((-vector).tolist())}".replace(",[", ',"[') + '"')
    (root / "table.csv").write_text("\n".join(["one,other", *rows]))
    columns = "modalities:\n  one: {kind: vector, column: one}\n  other: {kind: vector, column: other}\n"
    (root / "weft.yaml").write_text(f"table: table.csv\ntask: retrieval\n{columns}")
    weft("encode", root / "weft.yaml", "-o", root / "store", "-q")
    weft("fit", root / "store", "--fusion", "ridge", "--dim", "4", "-o", root / "model", "-q")
    return root


@pytest.mark.parametrize("source", ["weft.yaml", "store"])
def test_an_array_is_a_query(world: Path, source: str) -> None:
    search = ["search", world / "model", world / source, "--find", "other", "--by", "one", "--split", "all", "--json"]
    one = json.loads(weft(*search, "--query", world / "v7.npy", "--top", "1"))
    assert [hit["id"] for hit in one] == ["7"]
    many = json.loads(weft(*search, "--query", world / "matrix.npy", "--top", "1"))
    assert [hit["id"] for hit in many] == ["0", "1", "2"]
    assert [hit["query"] for hit in many] == [f"{world / 'matrix.npy'}[{i}]" for i in range(3)]
    typed = json.loads(weft(*search, "--query", json.dumps(np.load(world / "v5.npy").tolist()), "--top", "1"))
    assert typed[0]["id"] == "5"


@pytest.mark.parametrize(
    ("query", "said"),
    [("wide.npy", "expected width 4"), ("gone.npy", "missing"), ("words", "a vector is a list of numbers")],
)
def test_a_query_that_is_no_such_array_is_named(world: Path, query: str, said: str) -> None:
    asked = str(world / query) if query.endswith(".npy") else query
    with pytest.raises(UserError, match=said):
        weft("search", world / "model", world / "store", "--find", "other", "--by", "one", "--query", asked)


def test_two_vectors_are_measured_both_ways_without_being_named(world: Path) -> None:
    recalls = json.loads(weft("search", world / "model", world / "store", "--json"))["retrieval"]
    assert {"one->other R@1", "other->one R@1"} <= set(recalls)

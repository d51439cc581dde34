"""Retrieval as a task: rows of samples, groups, absence, repeated items."""

from __future__ import annotations

import json

import numpy as np
import pytest

from weft.errors import UserError
from weft.retrieval.metrics import cross_modal_metrics, retrieval_metrics
from weft.tasks.retrieval import RetrievalTask


@pytest.fixture
def captions() -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    image = np.repeat(rng.normal(size=(15, 8)), 5, axis=0)
    groups = np.array([f"photo {i // 5}" for i in range(75)])
    return {"text": image + rng.normal(size=(75, 8)), "image": image}, groups


def test_repeated_items_count_once(captions):
    embeddings, groups = captions
    found = RetrievalTask((("text", "image"),), unique=("image",)).metrics(embeddings, groups)
    once = {"text": embeddings["text"], "image": embeddings["image"][::5]}
    assert found == pytest.approx(cross_modal_metrics(once, {"text": groups, "image": groups[::5]}))


def test_absent_items_are_neither_asked_nor_found(captions):
    embeddings, groups = captions
    presence = {name: np.random.default_rng(i).random(75) < 0.5 for i, name in enumerate(embeddings)}
    hidden = {name: np.where(presence[name][:, None], e, np.nan) for name, e in embeddings.items()}
    found = RetrievalTask((("text", "image"),)).metrics(hidden, groups, presence)
    text, image = (np.flatnonzero(presence[name]) for name in ("text", "image"))
    asked = [t for t in text if (groups[image] == groups[t]).any()]
    lists = [np.flatnonzero(groups[image] == groups[t]) for t in asked]
    expected = retrieval_metrics(embeddings["text"][asked], embeddings["image"][image], lists)
    assert {k: v for k, v in found.items() if k.startswith("text")} == pytest.approx(
        {f"text->image {k}": v for k, v in expected.items()}
    )
    assert len(asked) < 75


def test_closeness_hears_every_query(captions):
    """Against a loop over queries: the rank of the nearest partner; nothing is between equal and perfect."""
    (embeddings, groups), logs = captions, []
    for a, b in (("text", "image"), ("image", "text")):
        keep = np.arange(75) if b == "text" else np.arange(0, 75, 5)
        asking = np.arange(75) if a == "text" else np.arange(0, 75, 5)
        ranks = []
        for q in asking:
            s = embeddings[a][q] @ embeddings[b][keep].T
            right = groups[keep] == groups[q]
            ranks.append(1 + (s[~right] > s[right].max()).sum())
        logs.append(np.log(ranks).mean())
    task = RetrievalTask((("text", "image"),), unique=("image",))
    assert task.closeness(embeddings, groups) == pytest.approx(-np.mean(logs))
    alike = dict.fromkeys(embeddings, np.eye(15)[np.arange(75) // 5])
    assert task.closeness(alike, groups) == 0


def test_config_is_json_and_rebuilds_it():
    task = RetrievalTask((("a", "b"), ("a", "c")), ("c",), (1, 3), "pessimistic")
    assert RetrievalTask.from_config(json.loads(json.dumps(task.config()))) == task


def test_the_figure_is_written(captions, tmp_path):
    (path,) = RetrievalTask((("text", "image"),), unique=("image",)).figures(*captions, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_mistakes_are_named(captions):
    embeddings, groups = captions
    with pytest.raises(UserError, match="did you mean 'image'"):
        RetrievalTask((("text", "imag"),)).metrics(embeddings, groups)
    for pairs in ((), (("text", "text"),)):
        with pytest.raises(UserError, match="between two modalities"):
            RetrievalTask(pairs)
    nothing = {"text": np.arange(75) < 5, "image": np.arange(75) >= 5}
    with pytest.raises(UserError, match="no group has both 'text' and 'image'"):
        RetrievalTask((("text", "image"),)).metrics(embeddings, groups, nothing)


def test_constant_embeddings_score_at_chance():
    embeddings = {name: np.ones((40, 4)) for name in ("text", "image")}
    found = RetrievalTask((("text", "image"),)).metrics(embeddings, np.arange(40))
    assert found["text->image R@1"] == pytest.approx(1 / 40)
    assert found["sum of recalls"] == pytest.approx(2 * (1 + 5 + 10) / 40)

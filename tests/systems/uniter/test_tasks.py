"""UNITER's other answers: choices, two pictures in three forms, regions that are meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.systems.meter.test_system import COLOURS, captioned, painted
from tests.systems.uniter.test_system import SMALL, detected
from weft.data import Dataset, Modality, make_splits
from weft.errors import UserError
from weft.models import load_model
from weft.systems.uniter.tasks import by_turns, one_row, overlap
from weft.training.system_task import fit_system, make_system

FAST = {"epochs": 25, "batch_size": 16, "lr": 3e-3, "warmup": 0.1, "patience": 0}


def chosen(rows: int = 60, why: bool = False) -> Dataset:
    """Which colour is it? The three colours are the choices, in any order."""
    data, rng = painted(rows * 3), np.random.default_rng(1)
    asked = [i for i, text in enumerate(data.modalities["text"].values) if text.startswith("what")][:rows]
    data = data.take(asked)
    orders = [rng.permutation(list(COLOURS)).tolist() for _ in asked]
    labels = [str(order.index(answer)) for order, answer in zip(orders, data.targets["answer"].tolist(), strict=True)]
    columns = {
        **data.modalities,
        "choices": Modality("texts", [tuple(f"it is {name}" for name in order) for order in orders]),
        "context": Modality("text", ["a photo of paint" if why else None] * len(asked)),
    }
    return replace(data, modalities=columns, targets={"label": np.array(labels)})


@pytest.mark.parametrize("why", [False, True])
def test_one_of_several_choices(why: bool, tmp_path: Path) -> None:
    data = chosen(120, why)
    split = make_splits(data)
    model = make_system("uniter-choices", data, split.train, **SMALL)
    asked = model.inputs(data, np.arange(2))
    pieces = [model.read.vocabulary.pieces(row[mask].tolist()) for row, mask in zip(asked.ids, asked.mask, strict=True)]
    assert len(pieces) == 6
    assert pieces[0].count("[SEP]") == 2 + why
    kinds = asked.types[0][asked.mask[0]].tolist()
    first = pieces[0].index("[SEP]")
    assert kinds[:first] == [0] * first
    assert kinds[first:] == sorted([2] * (len(kinds) - first)) if not why else kinds[-4:] == [3] * 4
    fit_system(model, data, split, {**FAST, "epochs": 2 if why else 50}, tmp_path, progress=False)
    if not why:
        assert model.evaluate(data, split.test)["accuracy"] > 0.6, "a third by chance"
    one, two = (list(m.predictions(data, split.test)) for m in (model, load_model(tmp_path)))
    np.testing.assert_array_equal(one, two)
    fewer = replace(data, modalities={**data.modalities, "choices": Modality("texts", [("a", "b")] * len(data))})
    with pytest.raises(UserError, match="every question has 3 choices"):
        model.evaluate(fewer, split.test)
    long = replace(
        data, modalities={**data.modalities, "choices": Modality("texts", [("a " * 40, "b", "c")] * len(data))}
    )
    with pytest.raises(UserError, match="at most 12 word pieces"):
        model.evaluate(long, split.test)


def told(rows: int = 120) -> Dataset:
    """Who likes it stays, who fears it leaves; picture and question say nothing."""
    data, rng = chosen(rows), np.random.default_rng(3)
    fear, turned = rng.random(rows) < 0.3, rng.random(rows) < 0.5
    columns = {
        **data.modalities,
        "context": Modality("text", [("they like it", "they fear it")[int(k)] for k in fear]),
        "choices": Modality("texts", [("leave", "stay") if turn else ("stay", "leave") for turn in turned]),
    }
    return replace(data, modalities=columns, targets={"label": (fear ^ turned).astype(int).astype(str)})


def test_the_context_decides() -> None:
    """Right with the context of the row, wrong with the other one: so it is the context that is read."""
    data = told()
    split = make_splits(data)
    model = make_system("uniter-choices", data, split.train, **{**SMALL, "layers": 2})
    asked = model.inputs(data, np.arange(1))
    pieces = model.read.vocabulary.pieces(asked.ids[0][asked.mask[0]].tolist())
    assert pieces[7:10] == data.modalities["context"].values[0].split()
    fit_system(
        model, data, split, {**FAST, "epochs": 15, "batch_size": 8, "lr": 1e-2, "schedule": "constant"}, progress=False
    )
    other = {"they like it": "they fear it", "they fear it": "they like it"}
    turned = [other[text] for text in data.modalities["context"].values]
    wrong = replace(data, modalities={**data.modalities, "context": Modality("text", turned)})
    assert model.evaluate(data, split.test)["accuracy"] > 0.9
    assert model.evaluate(wrong, split.test)["accuracy"] < 0.1


@pytest.mark.parametrize(
    ("role", "value", "said"),
    [
        ("context", "like " * 20, r"at most 12 word pieces[\s\S]*22"),
        ("choices", None, r"reads 'choices' of every row"),
        ("text", None, r"reads 'text' of every row"),
        ("label", "", "every question has an answer"),
        ("label", "7", "only knows the answers"),
    ],
)
def test_a_bad_row_of_choices_is_named(role: str, value: str | None, said: str) -> None:
    data = told(24)
    model = make_system("uniter-choices", data, np.arange(24), **SMALL)
    if role == "label":
        labels = data.targets["label"].astype(object)
        labels[5] = value
        bad = replace(data, targets={"label": labels})
    else:
        bad = put(data, role, value)
    with pytest.raises(UserError, match=said) as raised:
        model.check(bad, np.arange(24))
    assert data.ids[5] in str(raised.value)


def two_pictures(rows: int = 120) -> Dataset:
    """Is the right one dark?"""
    data = painted(rows)
    rng = np.random.default_rng(2)
    images = data.modalities["image"].values
    other = rng.permutation(rows)
    dark = [bool(images[k].mean() < 60) for k in other]
    columns = {
        "image": data.modalities["image"], "other": Modality("image", [images[k] for k in other]),
        "text": Modality("text", ["the right one is dark ."] * rows),
    }  # fmt: skip
    return replace(data, modalities=columns, targets={"label": np.array([str(d) for d in dark])})


@pytest.mark.parametrize("form", ["", "-pair", "-triplet"])
def test_two_pictures(form: str, tmp_path: Path) -> None:
    data = two_pictures()
    split = make_splits(data)
    model = make_system(f"uniter-two{form}", data, split.train, **SMALL)
    asked = model.inputs(data, np.arange(3))
    assert asked.ids.shape[0] == (3 if form == "-triplet" else 6)
    fit_system(model, data, split, {**FAST, "epochs": 30 if form == "-triplet" else 12}, tmp_path, progress=False)
    common = np.mean(data.targets["label"][split.test] == "False")
    assert model.evaluate(data, split.test)["accuracy"] > max(common, 1 - common) + 0.1
    one, two = (list(m.predictions(data, split.test)) for m in (model, load_model(tmp_path)))
    np.testing.assert_array_equal(one, two)


def test_regions_of_two_pictures_keep_their_order(tmp_path: Path) -> None:
    data = detected(captioned(6), tmp_path)
    model = make_system("uniter-pairs", data, np.arange(6), **SMALL, regions=str(tmp_path / "regions"))
    one, two = (model.show(data, np.array(rows)) for rows in ([0, 1], [2, 3]))
    counts = [int(m.sum()) for side in (one, two) for m in side.mask]
    mixed, types = by_turns(one, two)
    assert mixed.mask.sum(dim=1).tolist() == [counts[0], counts[2], counts[1], counts[3]]
    assert types[:, 0].tolist() == [1, 2, 1, 2]
    joined, kinds = one_row(one, two)
    assert joined.mask.sum(dim=1).tolist() == [counts[0] + counts[2], counts[1] + counts[3]]
    torch.testing.assert_close(joined.values[1, counts[1]], two.values[1, 0])
    assert kinds[0, : counts[0]].eq(1).all()
    assert kinds[0, counts[0] : counts[0] + counts[2]].eq(2).all()


def test_types_begin_as_copies(tmp_path: Path) -> None:
    data = captioned(12)
    make_system("uniter-pairs", data, np.arange(12), **SMALL).save_pretrained(tmp_path)
    table = load_model(tmp_path).network.uniter.embeddings.token_type_embeddings.weight
    for name, source, rows in (
        ("uniter-two", two_pictures(12), [0, 1, 1]),
        ("uniter-choices", chosen(12), [0, 1, 0, 0]),
    ):
        model = make_system(name, source, np.arange(12), begin=str(tmp_path))
        torch.testing.assert_close(model.network.uniter.embeddings.token_type_embeddings.weight, table[rows])


def test_the_region_that_is_meant(tmp_path: Path) -> None:
    """One of three boxes has the colour that is named."""
    rng, names = np.random.default_rng(0), list(COLOURS)
    data = detected(captioned(90), tmp_path)
    boxes, texts = [], []
    for row in data.ids:
        order = rng.permutation(3)
        places = np.array([[k / 3, 0.1, (k + 0.9) / 3, 0.9] for k in range(3)], dtype=np.float32)
        features = np.zeros((3, 6), dtype=np.float32)
        features[:, :3] = np.array([COLOURS[names[k]] for k in order]) / 255
        np.savez(tmp_path / "regions" / f"{row}.npz", features=features, norm_bb=places)
        meant = int(rng.integers(3))
        texts.append(f"the {names[order[meant]]} one")
        boxes.append(places[meant] + 0.01)
    columns = {"image": data.modalities["image"], "text": Modality("text", texts), "box": Modality("vector", boxes)}
    data = replace(data, modalities=columns, group=None)
    split = make_splits(data)
    model = make_system("uniter-refers", data, split.train, **SMALL, regions=str(tmp_path / "regions"))
    fit_system(model, data, split, {**FAST, "epochs": 40}, tmp_path / "m", progress=False)
    found = model.evaluate(data, split.test)
    assert found["accuracy"] > 0.8
    assert found["overlap"] <= 1
    assert load_model(tmp_path / "m").evaluate(data, split.test) == found


def test_overlap_by_hand() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 0.5, 1], [0, 0, 0.2, 0.2]], dtype=float)
    np.testing.assert_allclose(overlap(boxes, np.array([[0, 0, 1, 1.0]] * 3)), [1, 0.5, 0.04])
    assert overlap(boxes[:1], np.array([[2.0, 2, 3, 3]]))[0] == 0


def put(data: Dataset, role: str, value: str | None) -> Dataset:
    """The value of row 5 replaced."""
    values = list(data.modalities[role].values)
    values[5] = value
    return replace(data, modalities={**data.modalities, role: replace(data.modalities[role], values=values)})


def test_a_row_without_what_is_read_is_named() -> None:
    boxes = {**captioned(12).modalities, "box": Modality("vector", [np.array([0, 0, 0.5, 0.5])] * 12)}
    for name, data, roles in (
        ("uniter-two", two_pictures(12), ("image", "other", "text")),
        ("uniter-refers", replace(captioned(12), modalities=boxes, group=None), ("image", "text", "box")),
    ):
        model = make_system(name, data, np.arange(12), **SMALL)
        for role in roles:
            with pytest.raises(UserError, match=rf"reads '{role}' of every row[\s\S]*'q5'"):
                model.check(put(data, role, None), np.arange(12))

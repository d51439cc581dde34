"""METER as systems: answers, pairs, beginning from what was learned, the verbs, mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.systems.tiny import write_bert
from tests.systems.verbs import weft
from weft.data import Dataset, Modality, Split, make_splits
from weft.errors import UserError
from weft.models import load_model
from weft.systems.meter.system import Meter, MeterPairs
from weft.training.config import TrainConfig
from weft.training.system_task import fit_system, make_system

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 210)}
TOWER = {"dim": 16, "heads": 2, "blocks": 1, "patch": 8}
SMALL = {
    "image": TOWER,
    "pixels": 16,
    "dim": 16,
    "heads": 2,
    "layers": 1,
    "text": {"layers": 1},
    "dropout": 0.0,
    "length": 12,
}
FAST = {"epochs": 15, "batch_size": 16, "lr": 3e-3, "warmup": 0.1, "patience": 0}
EVEN = {"head_rate": 1.0, "cross_rate": 1.0}


def painted(rows: int = 48) -> Dataset:
    """Dark or light, red, green or blue; the text says which of the two is asked."""
    rng, names = np.random.default_rng(0), list(COLOURS)
    colours, bright, asks = rng.integers(3, size=rows), rng.integers(2, size=rows), rng.integers(2, size=rows)
    images = [
        np.clip(np.full((16, 16, 3), COLOURS[names[c]]) * (0.4 + 0.6 * b) + rng.normal(0, 8, (16, 16, 3)), 0, 255)
        for c, b in zip(colours, bright, strict=True)
    ]
    texts = [("what colour is it ?", "is it dark or light ?")[ask] for ask in asks]
    answers = [(names[c], ("dark", "light")[b])[ask] for c, b, ask in zip(colours, bright, asks, strict=True)]
    columns = {
        "image": Modality("image", [image.astype(np.uint8) for image in images]),
        "text": Modality("text", texts),
    }
    ids = [f"q{i}" for i in range(rows)]
    return Dataset("painted", ids, columns, {"answer": np.array(answers)}, None, None, "classification")


def captioned(rows: int = 40) -> Dataset:
    """The same pictures, and what is on them."""
    asked, rng, names = painted(rows), np.random.default_rng(0), list(COLOURS)
    colours, bright = rng.integers(3, size=rows), rng.integers(2, size=rows)
    texts = [f"a {('dark', 'light')[b]} photo of {names[c]} paint" for c, b in zip(colours, bright, strict=True)]
    group = np.array([f"{c}{b}" for c, b in zip(colours, bright, strict=True)])
    columns = {**asked.modalities, "text": Modality("text", texts)}
    return replace(asked, modalities=columns, targets={}, group=group, task="retrieval")


@pytest.mark.parametrize("fusion", ["co", "merged"])
def test_it_learns_what_text_and_picture_say_together(fusion: str, tmp_path: Path) -> None:
    data = painted(150)
    split = make_splits(data)
    model = make_system("meter", data, split.train, **SMALL, **EVEN, fusion=fusion)
    fit_system(model, data, split, FAST, tmp_path, progress=False)
    assert model.evaluate(data, split.test)["accuracy"] > 0.8, "neither side alone knows more than half"
    again = load_model(tmp_path)
    for one, other in zip(*(m.predictions(data, split.test) for m in (model, again)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_tower_trains_along_and_weights_learn_at_their_rates() -> None:
    data = painted(12)
    model = make_system("meter", data, np.arange(12), **SMALL, head_rate=7.0, cross_rate=3.0)
    groups = model.phases()[0].optimizer.build(TrainConfig()).param_groups
    rate = {id(p): group["factor"] for group in groups for p in group["params"]}
    for name, p in model.network.named_parameters():
        expected = 7.0 if name.startswith("vqa_classifier") else 3.0 if "cross_modal" in name else 1.0
        assert rate[id(p)] == expected, name
    model.loss(model.batch(data, np.arange(4))).sum().backward()
    silent = [n for n, p in model.network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_pairs_are_learned_and_questions_begin_from_them(tmp_path: Path) -> None:
    data = captioned(100)
    split = Split(np.arange(70), np.arange(70, 80), np.arange(80, 100))
    model = make_system("meter-pairs", data, split.train, **SMALL, objectives=("mlm", "itm", "mim"), **EVEN)
    batch = model.batch(data, split.test)
    before = {name: loss.item() for name, loss in model.losses(batch).items()}
    fit_system(model, data, split, {**FAST, "epochs": 12}, tmp_path / "pairs", progress=False)
    after = model.evaluate(data, split.test)
    now = {name: loss.item() for name, loss in model.losses(batch).items()}
    assert now["mlm"] < 0.75 * before["mlm"]
    assert sum(now.values()) < 0.8 * sum(before.values())
    assert 0 <= after["choice accuracy"] <= 1
    assert 0 < after["text->image R@1"] <= after["text->image R@5"] <= 1
    again = load_model(tmp_path / "pairs")
    assert again.evaluate(data, split.test) == after
    asked = painted(24)
    begun = make_system("meter", asked, np.arange(24), begin=str(tmp_path / "pairs"))
    for name in ("cross_modal_text_layers.0.attention.self.query.weight", "token_type_embeddings.weight"):
        torch.testing.assert_close(begun.network.state_dict()[name], again.network.state_dict()[name])
    ranks = make_system("meter-pairs", data, split.train, begin=str(tmp_path / "pairs"), objectives=("rank",))
    torch.testing.assert_close(ranks.network.rank_output.weight[0], again.network.itm_score["fc"].weight[1])
    loss = ranks.loss(ranks.batch(data, split.train[:3]))
    assert loss.item() == pytest.approx(np.log(16), abs=3)
    begun.save_pretrained(tmp_path / "answers")
    with pytest.raises(UserError, match="begins from a MeterPairs"):
        make_system("meter", asked, np.arange(24), begin=str(tmp_path / "answers"))


def test_what_a_step_asks() -> None:
    data = captioned(20)
    model = make_system("meter-pairs", data, np.arange(20), **SMALL, objectives=("mlm", "itm", "mim", "rank"))
    asked = model.batch(data, np.arange(8), np.random.default_rng(1))
    ids, mask, _, labels = asked["mlm"]
    whole = model.read.vocabulary.padded(model.words(data, np.arange(8)))
    assert torch.equal(torch.where(labels == -100, ids, labels)[mask], whole.values[mask])
    assert ((labels != -100).sum(dim=1) >= 1).all()
    assert not (labels[:, 0] != -100).any()
    assert asked["itm"][-1].sum() == 4
    images = model.show(data, np.arange(8))
    for row, match in enumerate(asked["itm"][-1].tolist()):
        assert torch.equal(asked["itm"][2][row], images[row]) == bool(match)
    assert asked["rank"][0].shape[0] == 8 * 16
    losses = model.losses(asked)
    assert set(losses) == {"mlm", "itm", "mim", "rank"}
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_masked_patches_by_codes(tmp_path: Path) -> None:
    """Codes of patches, of pixels or of frozen tokens: learned of the training rows, kept, and found again."""
    data = captioned(80)
    for image, pixels, less in ((TOWER, 16, 0.5), ("image-patches", None, 1.0)):
        options = {**SMALL, **EVEN, "image": image, "pixels": pixels, "objectives": ("mim-codes",), "codes": 6}
        model = make_system("meter-pairs", data, np.arange(60), **options)
        batch = model.batch(data, np.arange(60, 80))
        before = model.loss(batch).item()
        folder = tmp_path / str(type(image))
        fit_system(
            model,
            data,
            Split(np.arange(60), np.arange(60, 70), np.arange(70, 80)),
            {**FAST, "epochs": 30},
            folder,
            progress=False,
        )
        assert model.loss(batch).item() < less * before
        assert torch.equal(load_model(folder).codebook.means, model.codebook.means)
        begun = make_system("meter-pairs", data, np.arange(5), begin=str(folder), objectives=("mim-codes",), codes=6)
        assert torch.equal(begun.codebook.means, model.codebook.means)
    with pytest.raises(UserError, match="ask for fewer codes"):
        make_system("meter-pairs", data, np.arange(4), **{**SMALL, "objectives": ("mim-codes",), "codes": 1000})


def test_a_decoder_answers_and_writes_hidden_spans(tmp_path: Path) -> None:
    data = captioned(80)
    split = Split(np.arange(60), np.arange(60, 70), np.arange(70, 80))
    options = {**SMALL, **EVEN, "decoder": 1}
    pairs = make_system("meter-pairs", data, split.train, **options, objectives=("mlm", "itm", "rank"))
    asked = pairs.batch(data, np.arange(60, 80))
    ids, mask, _, labels, said, there = asked["mlm"]
    vocabulary = pairs.read.vocabulary
    for row in range(len(ids)):
        whole = pairs.words(data, np.array([60 + row]))[0]
        written = labels[row][labels[row] != -100].tolist()
        assert written[-1] == vocabulary.last
        assert said[row][there[row]].tolist() == [vocabulary.first, *written[:-1]]
        assert written.count(vocabulary.mask) == ids[row].tolist().count(vocabulary.mask)
        kept = [i for i in ids[row][mask[row]].tolist() if i != vocabulary.mask]
        assert sorted(kept + [i for i in written[:-1] if i != vocabulary.mask]) == sorted(whole)
    before = pairs.losses(asked)["mlm"].item()
    fit_system(pairs, data, split, FAST, tmp_path, progress=False)
    assert pairs.losses(asked)["mlm"].item() < 0.75 * before
    questions = painted(150)
    parts = make_splits(questions)
    model = make_system("meter", questions, parts.train, begin=str(tmp_path), dropout=0.0, **EVEN)
    assert model.decoder == 1
    fit_system(model, questions, parts, {**FAST, "epochs": 20}, progress=False)
    assert model.evaluate(questions, parts.test)["accuracy"] > 0.7


@pytest.mark.parametrize("frozen", [False, True])
def test_a_text_about_two_pictures(frozen: bool, tmp_path: Path) -> None:
    """Is the other one dark? From pairs, the second picture's type begins as the first one's."""
    data, rng = painted(120), np.random.default_rng(2)
    images = data.modalities["image"].values
    order = rng.permutation(len(data))
    columns = {**data.modalities, "other": Modality("image", [images[k] for k in order])}
    columns["text"] = Modality("text", ["the other photo is dark paint"] * len(data))
    dark = np.array([str(bool(images[k].mean() < 60)) for k in order])
    data = replace(data, modalities=columns, targets={"label": dark})
    split = make_splits(data)
    options = {**SMALL, **EVEN, **({"image": "image-patches", "pixels": None} if frozen else {})}
    model = make_system("meter-two", data, split.train, **options)
    fit_system(model, data, split, FAST, tmp_path / "two", progress=False)
    common = np.mean(dark[split.test] == "False")
    assert model.evaluate(data, split.test)["accuracy"] > max(common, 1 - common) + 0.1
    assert load_model(tmp_path / "two").evaluate(data, split.test) == model.evaluate(data, split.test)
    make_system("meter-pairs", captioned(12), np.arange(12), **options).save_pretrained(tmp_path / "pairs")
    begun = make_system("meter-two", data, split.train, begin=str(tmp_path / "pairs"))
    table = load_model(tmp_path / "pairs").network.token_type_embeddings.weight
    torch.testing.assert_close(begun.network.token_type_embeddings.weight, table[[0, 1, 1]])


def test_soft_scores_of_several_annotators() -> None:
    data = painted(6)
    given = np.array([["red"] * k + ["blue"] * (5 - k) for k in range(6)])
    data = replace(data, targets={"answer": np.array(["red", "blue", "green"] * 2), "answers": given})
    model = make_system("meter", data, np.arange(6), **SMALL)
    _, scores = model.batch(data, np.arange(6))
    at = {label: k for k, label in enumerate(model.answers.labels)}
    assert scores[:, at["red"]].tolist() == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1])
    assert not scores[:, at["green"]].any()


def test_a_text_encoder_of_transformers(tmp_path: Path) -> None:
    bert = write_bert(tmp_path / "bert")
    data = painted(12)
    model = make_system("meter", data, np.arange(12), **{**SMALL, "text": str(bert)})
    assert model.network.text_transformer.embeddings["word_embeddings"].weight.shape[1] == 16
    assert model.vocabulary == ()
    with pytest.raises(UserError, match="cannot be loaded"):
        make_system("meter", data, np.arange(12), **{**SMALL, "text": str(tmp_path)})
    with pytest.raises(UserError, match="positions 512"):
        make_system("meter", data, np.arange(12), **{**SMALL, "text": str(bert), "length": 600})


def test_mistakes_are_named() -> None:
    data = painted(24)
    split = make_splits(data)
    with pytest.raises(UserError, match="at most 4 word pieces"):
        fit_system(make_system("meter", data, split.train, **{**SMALL, "length": 4}), data, split, FAST)
    make_system("meter", data, split.train, **{**SMALL, "length": 4, "cut": True}).check(data, split.train)
    model = make_system("meter", data, split.train, **SMALL)
    strange = replace(data, targets={"answer": np.array(["mauve", *data.targets["answer"][1:]])})
    with pytest.raises(UserError, match="'q0: mauve'; known: 'blue', 'dark'"):
        model.evaluate(strange, np.arange(24))
    empty = replace(data, targets={"answer": np.array(["", *data.targets["answer"][1:]])})
    with pytest.raises(UserError, match=r"every question has an answer[\s\S]*q0"):
        model.evaluate(empty, np.arange(24))
    assert len(list(model.predictions(empty, np.arange(24)))) == 24, "which prediction does not need"
    blind = replace(data.modalities["image"], values=[None, *data.modalities["image"].values[1:]])
    with pytest.raises(UserError, match=r"reads 'image' of every row[\s\S]*q0"):
        model.evaluate(replace(data, modalities={**data.modalities, "image": blind}), np.arange(24))
    with pytest.raises(UserError, match="did you mean 'blocks'"):
        make_system("meter", data, split.train, **{**SMALL, "image": {"block": 2}})
    with pytest.raises(UserError, match="did you mean 'mlm'"):
        make_system("meter-pairs", captioned(8), np.arange(8), **SMALL, objectives=("mml",))
    alone = replace(captioned(8), group=np.array(["one"] * 8))
    pairs = make_system("meter-pairs", alone, np.arange(8), **SMALL)
    with pytest.raises(UserError, match="another group"):
        pairs.loss(pairs.batch(alone, np.arange(4)))


def test_the_verbs(data_root: Path, tmp_path: Path) -> None:
    source = ["vqa", "--root", data_root / "vqa", "--data", "answers=[bed, 4]"]
    options = {**SMALL, "image": "image-patches", "pixels": "null", "text": "{layers: 1}", "length": 30}
    small = [f"--option={key}={value}" for key, value in options.items()]
    weft(
        "fit", *source, "--system", "meter", *small, "--set", "epochs=1", "--set", "batch_size=16", "-o", tmp_path / "m"
    )
    assert set(weft("predict", tmp_path / "m", *source, "--split", "test")) >= {"id", "prediction", "probability"}
    assert 0 <= weft("evaluate", tmp_path / "m", *source)["accuracy"] <= 1
    assert isinstance(load_model(tmp_path / "m"), Meter)
    assert MeterPairs.reads.keys() == {"image", "text"}

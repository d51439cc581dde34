"""UNITER as systems: regions of a detector and of a grid, answers, pairs, alignment, hard negatives, mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional as F
from transformers import BertConfig

from tests.systems.meter.test_system import captioned, painted
from tests.systems.tiny import write_bert
from tests.systems.verbs import weft
from weft.data import Dataset, Modality, Split, make_splits
from weft.errors import UserError
from weft.models import load_model
from weft.ops.ipot import transport_distance
from weft.systems.uniter.figures import heat
from weft.systems.uniter.heads import UniterFor
from weft.systems.uniter.objectives import UniterForPretraining
from weft.systems.uniter.regions import grid, read_regions, with_area
from weft.systems.uniter.system import Uniter
from weft.training.system_task import fit_system, make_system

SMALL = {"dim": 16, "heads": 2, "layers": 1, "dropout": 0.0, "length": 12}


def detected(data: Dataset, folder: Path, classes: int = 4) -> Dataset:
    """The pictures as files, and regions of each: its mean colour among other things."""
    rng, paths = np.random.default_rng(0), []
    (folder / "regions").mkdir(parents=True)
    for row, image in zip(data.ids, data.modalities["image"].values, strict=True):
        count = int(rng.integers(3, 7))
        features = rng.normal(0, 0.3, (count, 6)).astype(np.float32)
        features[:, :3] += image.mean(axis=(0, 1)) / 64 - 2
        boxes = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
        labels = rng.dirichlet(np.ones(classes), count)
        np.savez(folder / "regions" / f"{row}.npz", features=features, norm_bb=boxes, soft_labels=labels)
        paths.append(folder / f"{row}.png")
        Image.fromarray(image).save(paths[-1])
    return replace(data, modalities={**data.modalities, "image": Modality("image", paths)})


def test_places_of_cells_and_of_the_picture() -> None:
    found = grid(5)
    np.testing.assert_allclose(found[0], [0, 0, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(found[2], [0.5, 0, 1, 0.5, 0.5, 0.5, 0.25])
    np.testing.assert_allclose(found[3], [0, 0.5, 0.5, 1, 0.5, 0.5, 0.25])


def test_as_many_regions_as_are_sure(tmp_path: Path) -> None:
    boxes = np.tile([[0.0, 0.0, 0.5, 0.2]], (120, 1))
    for sure, kept in ((3, 10), (30, 30), (110, 100)):
        conf = np.where(np.arange(120) < sure, 0.9, 0.1)
        np.savez(tmp_path / "a.npz", features=np.ones((120, 2)), norm_bb=boxes, conf=conf)
        features, places, classes = read_regions(tmp_path / "a.npz", "a")
        assert (len(features), classes) == (kept, None)
        np.testing.assert_allclose(places[0], [0, 0, 0.5, 0.2, 0.5, 0.2, 0.1], rtol=1e-6)


def test_it_answers_from_a_detectors_regions(tmp_path: Path) -> None:
    data = detected(painted(150), tmp_path)
    split = make_splits(data)
    options = {**SMALL, "regions": str(tmp_path / "regions"), "head_rate": 1.0}
    model = make_system("uniter", data, split.train, **options)
    settings = {"epochs": 12, "batch_size": 16, "lr": 3e-3, "patience": 0}
    fit_system(model, data, split, settings, tmp_path / "run", progress=False)
    assert model.evaluate(data, split.test)["accuracy"] > 0.8, "neither side alone knows more than half"
    again = load_model(tmp_path / "run")
    for one, other in zip(*(m.predictions(data, split.test) for m in (model, again)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_objective_learns_and_questions_begin_from_it(tmp_path: Path) -> None:
    data = detected(captioned(60), tmp_path)
    names = ("mlm", "itm", "mrfr", "mrc", "mrc-kl", "rank", "hard-rank")
    options = {**SMALL, "regions": str(tmp_path / "regions"), "candidates": 6, "hard": 2}
    model = make_system("uniter-pairs", data, np.arange(40), **options, objectives=dict.fromkeys(names, 1))
    batch = model.eval().batch(data, np.arange(40, 50))
    before = {name: loss.item() for name, loss in model.losses(batch).items()}
    split = Split(np.arange(40), np.arange(40, 50), np.arange(50, 60))
    fit_system(model, data, split, {"epochs": 6, "batch_size": 10, "lr": 3e-3}, tmp_path / "pairs", progress=False)
    after = {name: loss.item() for name, loss in model.losses(batch).items()}
    assert set(before) == set(names)
    assert sum(after.values()) < sum(before.values())
    assert after["mlm"] < before["mlm"]
    found = model.evaluate(data, split.test)
    assert 0 <= found["choice accuracy"] <= 1
    assert 0 < found["text->image R@5"] <= 1
    asked = detected(painted(24), tmp_path / "asked")
    answers = make_system("uniter", asked, np.arange(24), begin=str(tmp_path / "pairs"), regions=options["regions"])
    assert answers.vocabulary[: len(model.vocabulary)] == model.vocabulary
    assert "what" in answers.vocabulary[len(model.vocabulary) :], "words of the questions get rows of their own"
    for one, other in zip(answers.network.uniter.parameters(), model.network.uniter.parameters(), strict=True):
        torch.testing.assert_close(one[: len(other)], other)


def test_a_step_masks_words_or_regions_and_draws_by_weight() -> None:
    data = captioned(30)
    weights = {"mlm": 2, "itm": 1, "mrfr": 1}
    model = make_system("uniter-pairs", data, np.arange(30), **SMALL, objectives=weights)
    drawn = [model.batch(data, np.arange(4), np.random.default_rng(k)) for k in range(80)]
    assert all(len(asked) == 1 for asked in drawn)
    share = np.mean([next(iter(asked)) == "mlm" for asked in drawn])
    assert share == pytest.approx(0.5, abs=0.15)
    ids, mask, _, labels = next(asked["mlm"] for asked in drawn if "mlm" in asked)
    whole = model.read.vocabulary.padded(model.words(data, np.arange(4)))
    assert torch.equal(torch.where(labels == -1, ids, labels)[mask], whole.values[mask])
    ids, _, regions, hidden = next(asked["mrfr"] for asked in drawn if "mrfr" in asked)
    assert torch.equal(ids, whole.values)
    assert hidden.any(dim=1).all()
    assert not (hidden & ~regions.mask).any()


def test_alignment_pulls_matches_and_pushes_others() -> None:
    data = captioned(12)
    plain, with_wra = (
        make_system("uniter-pairs", data, np.arange(12), **SMALL, objectives={"itm": 1}, wra=w).eval()
        for w in (0.0, 0.5)
    )
    with_wra.load_state_dict(plain.state_dict())
    ids, mask, regions, match = plain.batch(data, np.arange(12))["itm"]
    sequence = plain._pass(ids, mask, regions)
    distance = transport_distance(sequence.text(), sequence.image())
    added = 0.5 * (distance[match == 1].sum() - distance[match == 0].sum()) / 12
    torch.testing.assert_close(with_wra._itm(ids, mask, regions, match), plain._itm(ids, mask, regions, match) + added)


def test_the_alignment_is_drawn_over_the_photo(tmp_path: Path) -> None:
    """The plan is that of the network's own tokens, and its mass is where the figure says."""
    data = captioned(12)
    model = make_system("uniter-pairs", data, np.arange(12), **SMALL).eval()
    for words, plan, places in model.alignment(data, np.arange(4)):
        assert plan.shape == (len(places), len(words))
        assert words[0] == "a"
        np.testing.assert_allclose(plan.sum(axis=0), 1 / (len(words) + 2), rtol=1e-4)
    model.evaluate(data, np.arange(8), tmp_path)
    assert len(list(tmp_path.glob("alignment-*.png"))) == 3
    quarters = grid(4)
    drawn = heat(np.array([0.1, 0.2, 0.3, 0.4]), quarters, (8, 6))
    assert drawn[0, 0] == 0.1
    assert drawn[-1, -1] == 0.4
    assert drawn[0, -1] == 0.2
    np.testing.assert_array_equal(heat(np.ones(1), with_area(np.array([[0.0, 0.0, 1.0, 1.0]])), (4, 4)), 0)


def test_the_hardest_are_ranked_against() -> None:
    data = captioned(20)
    options = {**SMALL, "candidates": 5, "hard": 2}
    model = make_system("uniter-pairs", data, np.arange(20), **options, objectives={"hard-rank": 1}).eval()
    asked = model.batch(data, np.arange(3))["hard-rank"]
    ids, mask, regions, wrong_ids, wrong_mask, wrong = asked
    total = 0.0
    for row in range(3):
        one = slice(row, row + 1)
        picture = type(regions)(*(None if p is None else p[one] for p in regions))
        right = model.score(type(model.read.vocabulary.padded([[1]]))(ids[one], mask[one]), picture).sigmoid()
        for side in ("text", "picture"):
            scores = []
            for k in range(5):
                at = slice(k * 3 + row, k * 3 + row + 1)
                text = (wrong_ids[at], wrong_mask[at]) if side == "text" else (ids[one], mask[one])
                seen = picture if side == "text" else type(wrong)(*(None if p is None else p[at] for p in wrong))
                scores.append(model.score(type(model.read.vocabulary.padded([[1]]))(*text), seen).sigmoid())
            hardest = torch.stack(scores)[:, 0].topk(2).values
            total += F.relu(0.2 + hardest - right).mean().item() / 3
    assert model.losses({"hard-rank": asked})["hard-rank"].item() == pytest.approx(total, abs=1e-5)


def test_classes_of_cells_are_the_classifiers(tmp_path: Path) -> None:
    config = transformers.MobileNetV2Config(num_labels=5, depth_multiplier=0.35, image_size=64)
    transformers.MobileNetV2ForImageClassification(config).save_pretrained(tmp_path)
    transformers.MobileNetV2ImageProcessorPil(size={"shortest_edge": 64}, do_center_crop=False).save_pretrained(
        tmp_path
    )
    data = captioned(12)
    model = make_system(
        "uniter-pairs", data, np.arange(12), **SMALL, image=f"hf:{tmp_path}", objectives={"mrc-kl": 1, "mrc": 1}
    )
    shown = model.show(data, np.arange(2))
    assert shown.classes is not None
    assert shown.classes.shape == (2, 4, 5)
    torch.testing.assert_close(shown.classes.sum(dim=2), torch.ones(2, 4))
    assert all(torch.isfinite(loss) for loss in model.losses(model.batch(data, np.arange(4))).values())
    with pytest.raises(UserError, match="classes of regions come from"):
        make_system("uniter-pairs", data, np.arange(12), **SMALL, objectives={"mrc": 1})


def test_a_bert_to_begin_from(tmp_path: Path) -> None:
    bert, data = write_bert(tmp_path), painted(12)
    model = make_system("uniter", data, np.arange(12), text=str(bert), length=20)
    theirs = transformers.AutoModel.from_pretrained(bert)
    own = model.network.uniter.state_dict()
    taken = [name for name, tensor in theirs.state_dict().items() if name in own and torch.equal(own[name], tensor)]
    assert len(taken) == len(theirs.state_dict())
    assert model.dim == 16


def test_the_published_size() -> None:
    """86 M (base) and 303 M (large) beside the word embeddings, as the paper's code has them."""
    for layers, dim, heads, millions in ((12, 768, 12, 86), (24, 1024, 16, 303)):
        config = BertConfig(vocab_size=28996, hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads,
                            intermediate_size=4 * dim)  # fmt: skip
        with torch.device("meta"):
            trunk = UniterFor(config, 2048, "vqa", 3129)
            whole = UniterForPretraining(config, 2048, 1601)
        encoder = sum(p.numel() for p in trunk.uniter.encoder.parameters()) + sum(
            p.numel() for p in trunk.uniter.pooler.parameters()
        )
        assert encoder == pytest.approx(millions * 1e6, rel=0.01)
        ids, regions = torch.zeros(2, 60, dtype=torch.long, device="meta"), torch.zeros(2, 36, 2048, device="meta")
        places = torch.zeros(2, 36, 7, device="meta")
        image = trunk.uniter.img_embeddings(regions, places, trunk.uniter.embeddings.token_type_embeddings.weight[1])
        joint = trunk.uniter.encoder(torch.cat([trunk.uniter.embeddings(input_ids=ids), image], dim=1))[0]
        assert joint.shape == (2, 96, dim)
        assert trunk.head(None, trunk.uniter.pooler(joint)).shape == (2, 3129)
        assert whole.region_classifier["net"](joint[:, 60:]).shape == (2, 36, 1601)


def test_mistakes_are_named(tmp_path: Path) -> None:
    data = detected(painted(12), tmp_path)
    options = {**SMALL, "regions": str(tmp_path / "regions")}
    model = make_system("uniter", data, np.arange(12), **options)
    np.savez(tmp_path / "regions" / "q3.npz", features=np.zeros((0, 6)), norm_bb=np.zeros((0, 4)))
    with pytest.raises(UserError, match="'q3' has one region or more"):
        model.evaluate(data, np.arange(12))
    (tmp_path / "regions" / "q3.npz").unlink()
    with pytest.raises(UserError, match="regions of row 'q3' cannot be read"):
        model.evaluate(data, np.arange(12))
    np.savez(tmp_path / "regions" / "q3.npz", boxes=np.zeros(3))
    with pytest.raises(UserError, match="lack arrays"):
        model.evaluate(data, np.arange(12))
    with pytest.raises(UserError, match="name of the picture's file"):
        make_system("uniter", painted(12), np.arange(12), **options)
    with pytest.raises(UserError, match="did you mean 'mrc-kl'"):
        make_system("uniter-pairs", captioned(12), np.arange(12), **SMALL, objectives={"mrckl": 1})
    with pytest.raises(UserError, match="longer than UNITER has positions"):
        make_system("uniter", painted(12), np.arange(12), **{**SMALL, "length": 600, "text": str(write_bert(tmp_path))})


def test_rows_that_cannot_be_read_or_judged_are_named() -> None:
    """A text longer than the positions, answers outside the vocabulary, a question without an answer, no picture."""
    data = painted(24)
    model = make_system("uniter", data, np.arange(24), **SMALL)
    texts = ["what " * 30, *data.modalities["text"].values[1:]]
    long = replace(data, modalities={**data.modalities, "text": Modality("text", texts)})
    with pytest.raises(UserError, match=r"at most 12 word pieces[\s\S]*q0: 32"):
        model.evaluate(long, np.arange(24))
    pairs = make_system("uniter-pairs", captioned(24), np.arange(24), **SMALL)
    with pytest.raises(UserError, match=r"at most 12 word pieces[\s\S]*q0: 32"):
        pairs.check(replace(long, targets={}, task="retrieval"), np.arange(24))
    for answer, said in (
        ("mauve", "'q0: mauve'; known: 'blue', 'dark'"),
        ("", r"every question has an answer[\s\S]*q0"),
    ):
        other = replace(data, targets={"answer": np.array([answer, *data.targets["answer"][1:]])})
        with pytest.raises(UserError, match=said):
            model.evaluate(other, np.arange(24))
    blind = replace(data.modalities["image"], values=[None, *data.modalities["image"].values[1:]])
    with pytest.raises(UserError, match=r"reads 'image' of every row[\s\S]*q0"):
        list(model.predictions(replace(data, modalities={**data.modalities, "image": blind}), np.arange(24)))


def test_the_verbs(data_root: Path, tmp_path: Path) -> None:
    source = ["vqa", "--root", data_root / "vqa", "--data", "answers=[bed, 4]"]
    small = [f"--option={key}={value}" for key, value in {**SMALL, "length": 30}.items()]
    fast = ["--set", "epochs=1", "--set", "batch_size=16"]
    weft("fit", *source, "--system", "uniter", *small, *fast, "-o", tmp_path / "m")
    assert set(weft("predict", tmp_path / "m", *source, "--split", "test")) >= {"id", "prediction", "probability"}
    assert 0 <= weft("evaluate", tmp_path / "m", *source)["accuracy"] <= 1
    assert isinstance(load_model(tmp_path / "m"), Uniter)
    found = weft(
        "compare", *source, "--system", "uniter", *small, *fast, "--seeds", "1", "--variant", "layers=1",
        "--variant", "system=meter", "-o", tmp_path / "c",
    )  # fmt: skip
    assert set(found["metrics"]) == {"layers=1", "system=meter"}

"""The verbs of an aligner, end to end, on four colours: photos of one colour and captions that name it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from weft.cli import app
from weft.errors import UserError

COLOURS = {"red": (200, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 200), "white": (240, 240, 240)}
ZERO_SHOT = ("--protocol", "zero-shot")
FIT = (
    "--fusion lightcrl --dim 16 --option heads=2 --option feedforward=32 --set epochs=15 --set batch_size=8 "
    "--set lr=0.003"
)


def weft(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def noise(rng: np.random.Generator, colour: str) -> Image.Image:
    return Image.fromarray(
        (np.array(COLOURS[colour]) + rng.integers(-20, 15, (16, 16, 3))).clip(0, 255).astype(np.uint8)
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in the layout of Flickr8k, an image folder of the same colours, and an aligner trained on the first."""
    root, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    (root / "flickr/Images").mkdir(parents=True)
    rows, parts = [], {"train": [], "dev": [], "test": []}
    for i in range(48):
        colour = list(COLOURS)[i % 4]
        noise(rng, colour).save(root / f"flickr/Images/{i:02d}.png")
        parts["train" if i < 32 else "dev" if i < 40 else "test"].append(f"{i:02d}.png")
        rows += [(f"{i:02d}.png", text) for text in (colour, f"a photo of a {colour} thing", f"something {colour}")]
    with (root / "flickr/captions.txt").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    for part, names in parts.items():
        (root / f"flickr/Flickr_8k.{part}Images.txt").write_text("\n".join(names))
    for part, count in (("train", 8), ("test", 4)):
        for colour in COLOURS:
            (root / f"folder/{part}/{colour}").mkdir(parents=True)
            for k in range(count):
                noise(rng, colour).save(root / f"folder/{part}/{colour}/{k}.png")
    weft("encode", "flickr8k", "--root", root / "flickr", "-o", root / "store", "-q")
    weft("fit", root / "store", *FIT.split(), "-o", root / "model", "-q")
    return root


def test_zeroshot(world: Path) -> None:
    arguments = ["evaluate", world / "model", "image_folder", "--root", world / "folder", "--json"]
    arguments += ["--protocol", "zero-shot", "--option"]
    found = json.loads(weft(*arguments, 'prompt=[name, "a {} thing"]'))
    assert found["rows"] == 16
    assert set(found["prompts"]) == {"name", "a {} thing"}
    top = found["prompts"]["name"]
    assert top["top-1"] > 0.6
    assert top["top-4"] == 1
    with pytest.raises(UserError, match="where the name goes"):
        weft(*arguments, "prompt=a thing")


def test_probe_and_fine_tune(world: Path) -> None:
    store = world / "folder-store"
    source = ["image_folder", "--root", world / "folder", "--option", f"store={store}"]
    settings = ["head=[official, linear, sklearn, fine-tune]", "epochs=[1, 30]", "seeds=2", "lr=0.01"]
    options = [word for setting in settings for word in ("--option", setting)]
    probe = ["evaluate", world / "model", "--protocol", "probe", "--json"]
    found = json.loads(weft(*probe, *source, *options))
    assert (found["train"], found["test"]) == (32, 16)
    assert {kind: len(runs) for kind, runs in found["curves"].items()} == {
        "official": 2,
        "linear": 2,
        "sklearn": 1,
        "fine-tune": 2,
    }
    for kind in ("official", "linear", "fine-tune"):
        assert found["curves"][kind][0]["30"]["top-1"] > 0.8
    few = ["--option", "head=linear", "--option", "epochs=2", "--option", "features=frozen"]
    again = weft(*probe, store, *few)
    assert list(json.loads(again)["curves"]["linear"][0]) == ["2"]
    with pytest.raises(UserError, match="did you mean 'linear'"):
        weft(*probe, store, "--option", "head=linaer")


def test_search_by_text_and_back(world: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    arguments = ["search", world / "model", "flickr8k", "--root", world / "flickr", "--json", "--top", "2"]
    first = weft(*arguments, "--query", "something blue", "--query", "red", "--index", index)
    hits = json.loads(first)
    assert [hit["rank"] for hit in hits] == [1, 2, 1, 2]
    assert len({hit["id"] for hit in hits[:2]}) == 2, "an image is found once, however many captions it has"
    assert int(hits[0]["id"][:2]) % 4 == 2
    assert json.loads(weft(*arguments, "--query", "something blue", "--query", "red", "--index", index)) == hits
    back = ["--find", "text", "--by", "image", "--query", world / "flickr/Images/42.png"]
    assert all("blue" in caption(world, hit["id"]) for hit in json.loads(weft(*arguments, *back)))
    pytest.importorskip("faiss")
    near = json.loads(weft(*arguments, "--query", "something blue", "--approximate"))
    assert near[0]["score"] == pytest.approx(hits[0]["score"], abs=1e-5)
    flat = json.loads(weft(*arguments, "--query", "something blue", "--approximate", "--factory", "Flat"))
    assert [hit["id"] for hit in flat] == [hit["id"] for hit in hits[:2]]
    weft("fit", world / "store", *FIT.split(), "--set", "seed=1", "-o", tmp_path / "other", "-q")
    with pytest.raises(UserError, match="built with another model"):
        weft("search", tmp_path / "other", "flickr8k", "--root", world / "flickr", "--query", "red", "--index", index)


def test_an_index_answers_for_its_rows_and_its_modality_only(world: Path, tmp_path: Path) -> None:
    search = ["search", world / "model", "flickr8k", "--root", world / "flickr", "--json", "--query", "red"]
    weft(*search, "--index", tmp_path)
    for other in (["--split", "train"], ["--find", "text", "--by", "text"], ["--hubs", "0.5"]):
        with pytest.raises(UserError, match="holds other rows"):
            weft(*search, "--index", tmp_path, *other)
    with pytest.raises(UserError, match="holds other rows"):
        weft(
            "search", world / "model", "image_folder", "--root", world / "folder", "--query", "red", "--index", tmp_path
        )
    ids = {hit["id"] for hit in json.loads(weft(*search, "--split", "train", "--top", "99"))}
    assert ids == {f"{i:02d}.png#0" for i in range(32)}, "without --index every question has an index of its own"


def test_a_gallery_is_encoded_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.encoders.image_patches import ImagePatches

    search = ["search", world / "model", "image_folder", "--root", world / "folder", "--json", "--query"]
    first = weft(*search, "something red")

    def broken(*_: object) -> None:
        raise AssertionError("images are encoded again")

    monkeypatch.setattr(ImagePatches, "encode", broken)
    again, before = json.loads(weft(*search, "something red")), json.loads(first)
    assert [hit["id"] for hit in again] == [hit["id"] for hit in before]
    scores = pytest.approx([hit["score"] for hit in before], abs=1e-6)  # vectors that are read lie elsewhere in memory
    assert [hit["score"] for hit in again] == scores
    assert json.loads(weft(*search, "blue"))[0]["id"] != before[0]["id"]
    with pytest.raises(AssertionError):
        weft(*search, "red", "--split", "all")


def test_hubs_are_lowered_by_what_training_asks(world: Path) -> None:
    search = ["search", world / "model", world / "store", "--json", "--query", "something blue", "--top", "8"]
    plain, lowered = (json.loads(weft(*search, *extra)) for extra in ([], ["--hubs", "0.5"]))
    assert {hit["id"] for hit in plain} == {hit["id"] for hit in lowered}
    assert all(a["score"] != b["score"] for a, b in zip(plain, lowered, strict=True))
    assert int(lowered[0]["id"][:2]) % 4 == 2


def test_measuring_with_hubs_lowered(world: Path) -> None:
    from weft.models import load_model
    from weft.models.aligned import retrieval_task
    from weft.models.asked import rows_of
    from weft.retrieval.hub import HubCorrection, Hubs, choose_correction
    from weft.retrieval.metrics import Positives
    from weft.store import Store

    search = ["search", world / "model", world / "store", "--json"]
    plain = json.loads(weft(*search))
    store, model = Store.open(world / "store"), load_model(world / "model")
    split = {part: rows_of(store, part, model) for part in ("train", "dev", "test")}
    z = {part: model.embed(store, rows) for part, rows in split.items()}
    (dev, *of_dev), (test, *of_test) = (retrieval_task(store, split[part]) for part in ("dev", "test"))
    bank = {n: np.concatenate([z["train"][n], z["dev"][n]]) for n in z["dev"]}
    chosen = {
        f"{a}->{b}": choose_correction(
            z["dev"][a][q], z["dev"][b][g], Positives.from_groups(of_dev[0][q], of_dev[0][g]), z["train"][a]
        )
        for a, b, q, g in dev.directions(*of_dev)
    }
    fixed = {
        "0.5": HubCorrection(0.5),
        "softmax:1": HubCorrection(1.0, "softmax"),
        "gated:1": HubCorrection(1.0, "softmax", gated=True),
    }
    for option, corrections in (("dev", chosen), *((name, dict.fromkeys(chosen, how)) for name, how in fixed.items())):
        found = json.loads(weft(*search, "--hubs", option))
        (lowered,) = [found[title] for title in found if title.startswith("retrieval, hubs")]
        assert found["retrieval"] == plain["retrieval"]
        assert lowered == test.metrics(z["test"], *of_test, hubs=Hubs(bank, corrections))
    with pytest.raises(UserError, match="0 or more, or dev"):
        weft(*search, "--hubs", "-1")
    with pytest.raises(UserError, match="transductive"):
        weft(*search, "--hubs", "0.5", "--split", "dev")
    with pytest.raises(UserError, match="a gate looks at the query"):
        weft(*search, "--hubs", "gated:1", "--query", "red")
    assert json.loads(weft(*search, "--hubs", "softmax:1", "--query", "red"))


def test_one_pool_of_pictures_and_texts(world: Path, tmp_path: Path) -> None:
    search = ["search", world / "model", world / "store", "--json", "--find", "image", "--find", "text"]
    hits = json.loads(weft(*search, "--query", "something blue", "--top", "6", "--index", tmp_path))
    found = [hit["id"].split("/") for hit in hits]
    names = {name: [row for kind, row in found if kind == name] for name in ("image", "text")}
    assert len(names["image"]) + len(names["text"]) == 6
    assert min(len(ids) for ids in names.values()) >= 1, "each modality by its merits"
    assert all(int(row[:2]) % 4 == 2 for row in names["image"][:2])
    assert "blue" in caption(world, names["text"][0])
    with pytest.raises(UserError, match="between two modalities"):
        weft(*search)
    with pytest.raises(UserError, match="hubs are lowered in one"):
        weft(*search, "--query", "red", "--hubs", "1")


def test_columns_of_any_name_and_no_split(world: Path, tmp_path: Path) -> None:
    """Kinds say what is searched; test rows are those the model has not seen, wherever they are asked for."""
    rows = [(f"r{i:02d}", world / f"flickr/Images/{i:02d}.png", f"something {list(COLOURS)[i % 4]}") for i in range(48)]
    with (tmp_path / "shop.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "photo", "caption"), *rows])
    (tmp_path / "shop.yaml").write_text(
        f"table: {tmp_path / 'shop.csv'}\nid: id\ntask: retrieval\nmodalities:\n"
        "  photo: {kind: image, column: photo}\n  caption: {kind: text, column: caption}\n"
    )
    weft("encode", tmp_path / "shop.yaml", "-o", tmp_path / "store", "-q")
    weft("fit", tmp_path / "store", *FIT.split(), "-o", tmp_path / "model", "-q")
    found = {}
    for part in ("train", "dev", "test", "all"):
        for source in ("store", "shop.yaml"):
            search = ["search", tmp_path / "model", tmp_path / source, "--json", "--top", "99", "--split", part]
            found[part, source] = {hit["id"] for hit in json.loads(weft(*search, "--query", "something blue"))}
        assert found[part, "store"] == found[part, "shop.yaml"]
    with pytest.raises(UserError, match="no row here is new"):
        weft("search", tmp_path / "model", tmp_path / "store", "--split", "new", "--query", "red")
    parts = [found[part, "store"] for part in ("train", "dev", "test")]
    assert [len(part) for part in parts] == [34, 7, 7]
    assert set.union(*parts) == found["all", "store"]
    back = ["--find", "caption", "--by", "photo", "--query", world / "flickr/Images/42.png", "--top", "99"]
    for source in ("store", "shop.yaml"):
        hits = json.loads(weft("search", tmp_path / "model", tmp_path / source, "--json", "--split", "all", *back))
        assert len(hits) == len({rows[int(hit["id"][1:])][2] for hit in hits}) == 4, "equal captions are found once"
    measured = json.loads(weft("search", tmp_path / "model", tmp_path / "store", "--json"))
    assert "caption->photo R@1" in measured["retrieval"]
    with pytest.raises(UserError, match="did you mean 'photo'"):
        weft("search", tmp_path / "model", tmp_path / "store", "--find", "foto")


def caption(world: Path, row: str) -> str:
    name, _, k = row.partition("#")
    with (world / "flickr/captions.txt").open(newline="") as file:
        return [r["caption"] for r in csv.DictReader(file) if r["image"] == name][int(k)]


def test_search_measures_without_a_query(world: Path, tmp_path: Path) -> None:
    found = json.loads(weft("search", world / "model", world / "store", "--json", "--figures", tmp_path))
    assert (tmp_path / "retrieval-curve.png").stat().st_size > 5000
    recalls = found["retrieval"]
    assert recalls["text->image R@5"] >= recalls["text->image R@1"]
    corrected = found["text -> image curve, corrected, repeated rows"]
    published = found["text -> image curve, as published (last batch of 100)"]
    assert corrected == published, "24 captions are one batch"
    assert corrected["k=20"] >= found["text -> image curve, corrected, unique images"]["k=5"] - 1e-9


def test_one_modality_is_predicted_from_another(world: Path, tmp_path: Path) -> None:
    from weft.store import Store

    weft("fit", world / "store", "--fusion", "ridge", "--dim", "4", "-o", tmp_path / "ridge", "-q")
    asked = ["--find", "text", "--split", "test", "--json", "-o", tmp_path / "text.npz"]
    found = json.loads(weft("predict", tmp_path / "ridge", world / "store", *asked))
    with np.load(tmp_path / "text.npz") as kept:
        predicted, ids = kept["prediction"], kept["id"].tolist()
    store = Store.open(world / "store")
    truth = store.pooled(np.array([store.ids.index(i) for i in ids]))["text"]
    train = store.pooled(np.flatnonzero(np.asarray(store.split) == "train"))["text"].mean(axis=0)
    share = 1 - np.square(truth - predicted).sum() / np.square(truth - train).sum()
    assert found["explained"] == pytest.approx(share, abs=1e-5)
    assert 0.2 < share < 1
    raw = ["flickr8k", "--root", world / "flickr", *asked]
    assert json.loads(weft("predict", tmp_path / "ridge", *raw))["explained"] == pytest.approx(share, abs=1e-3)
    with pytest.raises(UserError, match="linear closed forms predict"):
        weft("predict", world / "model", world / "store", *asked)
    with pytest.raises(UserError, match="--explain and --missing are for models that predict a target"):
        weft("evaluate", world / "model", world / "store", "--missing")


def test_mine_then_fit_then_pairs(world: Path, tmp_path: Path) -> None:
    mined = json.loads(
        weft(
            "mine", "flickr8k", "--root", world / "flickr", "--encoder", "hashed-text",
            "-o", tmp_path / "pairs.csv", "--threshold", "0.3", "--json",
        )
    )  # fmt: skip
    assert mined["images"] == 48
    assert mined["identical"] == 144
    assert mined["pairs"] > 144
    weft("encode", tmp_path / "pairs.yaml", "-o", tmp_path / "store", "-q")
    weft("fit", tmp_path / "store", *FIT.split(), "--set", "epochs=3", "-o", tmp_path / "model", "-q")
    (tmp_path / "mrpc").mkdir()
    head = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    lines = [f"{int(a == b)}\t{a}\t{b}\tsomething {a}\ta {b} thing\n" for a in COLOURS for b in COLOURS]
    for part in ("train", "test"):
        (tmp_path / f"mrpc/msr_paraphrase_{part}.txt").write_text(head + "".join(lines))
    protocol = ["--protocol", "pairs", "--option", "encoder=hashed-text"]
    shared = ["evaluate", tmp_path / "model", "mrpc", "--root", tmp_path / "mrpc", *protocol, "--json"]
    found = json.loads(weft(*shared))
    assert found["rows"] == 16
    assert set(found["systems"]) == {
        "hashed-text, mean",
        "model: first x first",
        "model: first x second",
        "model: second x second",
    }
    assert found["systems"]["hashed-text, mean"]["AUC"] > 0.9, "equal colours share a word"
    assert json.loads(weft(*shared, "--option", "rows=10", "--option", "seed=3"))["rows"] == 10
    (tmp_path / "sts").mkdir()
    scored = [f"g\tf\ty\t{i}\t{5 * (a == b)}\t{a}\t{b}\n" for i, a in enumerate(COLOURS) for b in COLOURS]
    for part in ("train", "dev", "test"):
        (tmp_path / f"sts/sts-{part}.csv").write_text("".join(scored))
    arguments = ["evaluate", tmp_path / "model", "stsb", "--root", tmp_path / "sts", *protocol, "--split", "dev"]
    found = json.loads(weft(*arguments, "--figures", tmp_path / "figures", "--json"))
    assert found["systems"]["hashed-text, mean"]["Spearman"] > 0.8
    assert (tmp_path / "figures/tolerance.png").is_file()
    with pytest.raises(UserError, match="two text modalities"):
        weft("evaluate", tmp_path / "model", "image_folder", "--root", world / "folder", *protocol)
    with pytest.raises(UserError, match="not exactly one"):
        weft("evaluate", tmp_path / "model", "image_folder", "--root", world / "folder", *ZERO_SHOT)
    with pytest.raises(UserError, match="did you mean 'zero-shot'"):
        weft("evaluate", tmp_path / "model", "image_folder", "--root", world / "folder", "--protocol", "zeroshot")


def test_another_encoder_in_the_store_is_refused(world: Path, tmp_path: Path) -> None:
    from weft.data import load_dataset
    from weft.encoders import create_encoder
    from weft.store import encode

    rows = load_dataset("image_folder", world / "folder")
    encode(rows, {"image": create_encoder("image-patches", "image", grid=2)}, tmp_path / "store", progress=False)
    with pytest.raises(UserError, match="another encoder"):
        weft("evaluate", world / "model", tmp_path / "store", *ZERO_SHOT)


def test_a_single_pair_is_no_batch(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 2 valid pairs"):
        weft("fit", world / "store", *FIT.split(), "--set", "batch_size=1", "-o", tmp_path / "one", "-q")


def test_a_temperature_that_is_no_number(world: Path, tmp_path: Path) -> None:
    fit = ["fit", world / "store", *FIT.split(), "-o", tmp_path / "nan", "-q"]
    with pytest.raises(UserError, match="temperature=nan"):
        weft(*fit, "--objective", "convirt", "--objective-option", "temperature=.nan")


def test_an_empty_caption_is_absent_and_is_not_searched(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "flickr", tmp_path / "flickr")
    captions = (tmp_path / "flickr/captions.txt").read_text().replace("46.png,something blue", "46.png, ")
    (tmp_path / "flickr/captions.txt").write_text(captions)
    search = ["search", world / "model", "flickr8k", "--root", tmp_path / "flickr", "--json"]
    image = ["--find", "text", "--by", "image", "--query", tmp_path / "flickr/Images/42.png"]
    found = json.loads(weft(*search, *image, "--top", "100"))
    expected = {f"{i}.png#{k}" for i in range(40, 48) for k in range(3)} - {"46.png#2"}
    assert {hit["id"] for hit in found} < expected, "equal captions are found once"
    measured = json.loads(weft(*search))["retrieval"]
    assert 0 < measured["text->image R@5"] <= 1
    with pytest.raises(UserError, match="'text': a text is a non-empty str"):
        weft(*search, "--query", " ")
    weft("encode", "flickr8k", "--root", tmp_path / "flickr", "-o", tmp_path / "store", "-q")
    weft("fit", tmp_path / "store", *FIT.split(), "--set", "epochs=1", "-o", tmp_path / "model", "-q")


def test_a_class_without_a_name_has_no_prompt(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "folder", tmp_path / "folder")
    (tmp_path / "folder/test/red").rename(tmp_path / "folder/test/_")
    with pytest.raises(UserError, match="class names are different and not empty"):
        weft("evaluate", world / "model", "image_folder", "--root", tmp_path / "folder", *ZERO_SHOT)


def test_a_store_is_read_for_some_of_its_modalities(world: Path, tmp_path: Path) -> None:
    fit = ["fit", world / "store", "-q", "--set", "epochs=1", "-o", tmp_path / "model", "--modality"]
    with pytest.raises(UserError, match="two modalities"):
        weft(*fit, "image")
    with pytest.raises(UserError, match="did you mean 'image'"):
        weft(*fit, "imag")
    weft(*fit, "text", "--modality", "image")
    assert list(json.loads((tmp_path / "model/best/config.json").read_text())["dims"]) == ["text", "image"]

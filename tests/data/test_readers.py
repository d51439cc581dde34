"""Published sets in their official layouts: counts as stated by the data's own description."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weft.data import Dataset, datasets, load_dataset, make_folds, make_splits, read_audio, read_image
from weft.errors import UserError


def sizes(data: Dataset) -> dict[str, int]:
    assert data.split is not None
    return dict(zip(*(part.tolist() for part in np.unique(data.split, return_counts=True)), strict=True))


def test_flickr8k(data_root: Path) -> None:
    data = load_dataset("flickr8k", data_root / "flickr8k")
    assert len(data) == 5000
    assert data.task == "retrieval"
    assert sizes(data) == {"train": 4000, "dev": 500, "test": 500}
    paths = data.modalities["image"].values
    assert len(set(paths)) == 1000
    assert data.ids[:2] == ["1000268201_693b08cb0e.jpg#0", "1000268201_693b08cb0e.jpg#1"]
    assert (
        data.modalities["text"].values[0] == "A child in a pink dress is climbing up a set of stairs in an entry way ."
    )
    split = make_splits(data)
    for name, rows, images in zip(("train", "dev", "test"), split, (800, 100, 100), strict=True):
        listed = (data_root / f"flickr8k/Flickr_8k.{name}Images.txt").read_text().split()
        assert {paths[i].name for i in rows} == set(listed)
        assert len(listed) == images
    assert read_image(paths[0]).size == (150, 200)


def test_coco(data_root: Path) -> None:
    data = load_dataset("coco", data_root / "coco")
    assert len(data) == 795
    assert len(set(data.modalities["image"].values)) == 159
    assert sizes(data) == {"train": 400, "test": 395}
    assert data.modalities["text"].values[0] == "a family is sitting down at a table to have cake"
    assert data.modalities["image"].values[0].name == "000000000790.jpg"
    assert data.ids[0] == "790#0"
    for part in make_splits(data):
        assert len(part) % 5 == 0


def test_coco_keeps_the_first_captions(data_root: Path) -> None:
    whole, few = load_dataset("coco", data_root / "coco"), load_dataset("coco", data_root / "coco", captions=3)
    assert few.ids == [row for row in whole.ids if int(row.split("#")[1]) < 3]


def test_vqa_five_answers(data_root: Path) -> None:
    data = load_dataset("vqa", data_root / "vqa")
    assert sizes(data) == {"train": 646, "test": 495}
    assert set(data.targets["answer"]) == {"2", "3", "table", "chair", "window"}
    named = load_dataset("vqa", data_root / "vqa", answers=[2, 3, "table", "chair", "window"])
    assert named.ids == data.ids
    assert list(data.targets) == ["answer"]


def test_vqa_all_answers(data_root: Path) -> None:
    data = load_dataset("vqa", data_root / "vqa", answers=None)
    assert sizes(data) == {"train": 2772, "test": 1989}
    assert data.group is not None
    assert data.split is not None
    assert [len(set(data.group[data.split == part])) for part in ("train", "test")] == [330, 230]
    row = data.ids.index("1")
    assert data.modalities["text"].values[row].startswith("What is on the right side of the black telephone")
    assert data.modalities["image"].values[row].name == "COCO_train2014_000000000003.jpg"
    assert data.targets["answer"][row] == "desk"
    with pytest.raises(UserError, match="did you mean 'table'"):
        load_dataset("vqa", data_root / "vqa", answers=["tabel", "chair"])
    with pytest.raises(UserError, match="at least two"):
        load_dataset("vqa", data_root / "vqa", answers=1)


def test_vqa_keeps_every_annotator_and_reads_v2_names(tmp_path: Path) -> None:
    for official, first in (("train", 0), ("val", 10)):
        (tmp_path / f"{official}2014").mkdir()
        given = [["yes", "yes", "no"], ["no", "no"], ["blue"]]
        questions = [{"image_id": 1, "question_id": first + i, "question": f"what {i}?"} for i in range(3)]
        annotations = [
            {
                "image_id": 1,
                "question_id": first + i,
                "multiple_choice_answer": g[0],
                "answers": [{"answer": a} for a in g],
            }
            for i, g in enumerate(given)
        ]
        Image.new("RGB", (8, 8)).save(tmp_path / f"{official}2014/COCO_{official}2014_{1:012d}.jpg")
        parts = {
            f"v2_OpenEnded_mscoco_{official}2014_questions.json": {"questions": questions},
            f"v2_mscoco_{official}2014_annotations.json": {"annotations": annotations},
        }
        for name, content in parts.items():
            (tmp_path / name).write_text(json.dumps(content))
    data = load_dataset("vqa", tmp_path, answers=["yes", "no"])
    assert data.ids == ["0", "1", "10", "11"]
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    whole = path.read_text()
    path.write_text(whole.replace('"question_id": 12', '"question_id": 77'))
    with pytest.raises(UserError, match=r"1 annotations have no question(.|\n)*77"):
        load_dataset("vqa", tmp_path)
    path.write_text(whole.replace("blue", "red"))
    with pytest.raises(UserError, match=r"no question in the val part(.|\n)*'blue'"):
        load_dataset("vqa", tmp_path, answers=["no", "blue"])
    path.write_text(whole)
    assert data.targets["answers"].tolist() == [["yes", "yes", "no"], ["no", "no", ""]] * 2
    (tmp_path / "val2014" / f"COCO_val2014_{1:012d}.jpg").unlink()
    with pytest.raises(UserError, match=r"'image': 2 of 4 rows(.|\n)*'10', '11'"):
        load_dataset("vqa", tmp_path, answers=["yes", "no"])


def steps(data_root: Path) -> tuple[list[str], np.ndarray]:
    with gzip.open(data_root / "ETT-small/ETTh1.csv.gz", "rt") as file:
        header, *rows = csv.reader(file)
    assert header == ["date", "HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
    return [row[0] for row in rows], np.array([row[1:] for row in rows], dtype=np.float32)


@pytest.mark.parametrize(("window", "horizon", "stride"), [(96, 24, 6), (260, 1, 50), (24, 168, 7)])
def test_ett_windows(data_root: Path, window: int, horizon: int, stride: int) -> None:
    times, values = steps(data_root)
    assert len(times) == 17420
    data = load_dataset("ett", data_root / "ETT-small", window=window, horizon=horizon, stride=stride)
    assert data.split is not None
    assert data.group is not None
    where = {time: i for i, time in enumerate(times)}
    views = {"high": [0, 1], "middle": [2, 3], "low": [4, 5], "oil": [6]}
    assert list(data.modalities) == list(views)
    used: dict[str, set[int]] = {"train": set(), "dev": set(), "test": set()}
    for row in range(len(data)):
        answer = where[data.ids[row]]
        seen = list(range(answer - horizon - window + 1, answer - horizon + 1))
        assert data.targets["OT"][row] == values[answer, 6]
        used[data.split[row]] |= {*seen, answer}
        for name, columns in views.items():
            np.testing.assert_array_equal(data.modalities[name].values[row], values[seen][:, columns])
    assert not used["train"] & used["dev"]
    assert not used["dev"] & used["test"]
    assert max(used["train"]) < min(used["dev"])
    assert max(used["dev"]) < min(used["test"])
    week = 7 * 24
    assert 0 <= min(used["dev"]) - 0.6 * 17420 <= week + 1
    assert 0 <= min(used["test"]) - 0.8 * 17420 <= week + 1
    make_splits(data)
    make_folds(data, 3)


def test_ett_random_split_and_refusals(data_root: Path, tmp_path: Path) -> None:
    root = data_root / "ETT-small"
    data = load_dataset("ett", root, split="random", window=260, horizon=1, stride=1)
    assert len(data) == 17420 - 260
    counts = sizes(data)
    assert [counts[part] / len(data) for part in ("train", "dev", "test")] == pytest.approx([0.6, 0.2, 0.2], abs=1e-3)
    assert data.group is None
    assert len(load_dataset("ett", root, file="ETTh2")) == len(load_dataset("ett", root))
    with pytest.raises(UserError, match="too short"):
        load_dataset("ett", root, window=5000)
    with pytest.raises(UserError, match="at least 1"):
        load_dataset("ett", root, horizon=0)
    with pytest.raises(UserError, match="did you mean 'OT'"):
        load_dataset("ett", root, target="OTT")
    with pytest.raises(UserError, match="declared as"):
        load_dataset("ett", root, split="rndom")
    lines = gzip.decompress((root / "ETTh1.csv.gz").read_bytes()).decode().splitlines()
    (tmp_path / "ETTh1.csv").write_text("\n".join(lines[:3000]))
    assert load_dataset("ett", tmp_path).ids[0] == load_dataset("ett", root).ids[0]
    broken = lines[5].rsplit(",", 1)[0] + ","
    (tmp_path / "ETTh1.csv").write_text("\n".join([*lines[:5], broken, *lines[6:900]]))
    with pytest.raises(UserError, match="1 steps: '2016-07-01 04:00:00'"):
        load_dataset("ett", tmp_path)


def test_image_folder(data_root: Path, tmp_path: Path) -> None:
    data = load_dataset("image_folder", data_root / "cifar10")
    assert sizes(data) == {"train": 3000, "test": 1500}
    assert len(set(data.targets["class"])) == 10
    assert data.ids[0] == "test/airplane/0000.jpg"
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("L", (4, 4)).save(tmp_path / name / f"{i}.png")
        (tmp_path / name / "notes.txt").write_text("no image")
    plain = load_dataset("image_folder", tmp_path)
    assert plain.split is None
    assert plain.targets["class"].tolist() == ["cat"] * 3 + ["dog"] * 3
    assert load_dataset("image_folder", tmp_path, per_class=2).ids == [
        "cat/0.png",
        "cat/1.png",
        "dog/0.png",
        "dog/1.png",
    ]


def test_digits_av(data_root: Path) -> None:
    data = load_dataset("digits_av", data_root)
    assert sizes(data) == {"train": 360, "test": 120}
    assert data.split is not None
    takes = {part: {row[-1] for row, s in zip(data.ids, data.split, strict=True) if s == part} for part in sizes(data)}
    assert takes == {"test": {"0", "1"}, "train": set("234567")}
    assert [int(row[0]) for row in data.ids] == data.targets["digit"].tolist()
    images = np.stack(data.modalities["image"].values)
    labels = np.frombuffer(gzip.decompress((data_root / "mnist/t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    pixels = np.frombuffer(gzip.decompress((data_root / "mnist/t10k-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    known: dict[bytes, set[int]] = {}
    for image, label in zip(pixels.reshape(-1, 28, 28), labels, strict=True):
        known.setdefault(image.tobytes(), set()).add(int(label))
    keys = [image.tobytes() for image in images]
    assert all(digit in known[key] for key, digit in zip(keys, data.targets["digit"].tolist(), strict=True))
    train, test = ({k for k, s in zip(keys, data.split, strict=True) if s == part} for part in ("train", "test"))
    assert not train & test
    samples, rate = read_audio(data.modalities["audio"].values[0])
    assert rate == 8000
    assert 800 < len(samples) < 24000
    again, other = (load_dataset("digits_av", data_root, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(images, np.stack(again.modalities["image"].values))
    assert (images != np.stack(other.modalities["image"].values)).any()


def test_digits_av_several_images(data_root: Path) -> None:
    data = load_dataset("digits_av", data_root, images=3)
    assert len(data) == 1440
    assert len({image.tobytes() for image in data.modalities["image"].values}) == 1440
    assert data.group is not None
    assert len(set(data.group)) == 480
    with pytest.raises(UserError, match="not enough images"):
        load_dataset("digits_av", data_root, images=50)


def test_mosi(data_root: Path) -> None:
    data = load_dataset("mosi", data_root / "mosi")
    assert sizes(data) == {"train": 1447, "test": 752}
    assert {name: m.values[0].shape for name, m in data.modalities.items()} == {
        "text": (100,),
        "audio": (73,),
        "video": (100,),
    }
    assert np.mean(data.targets["label"][1447:]) == pytest.approx(0.621, abs=5e-4)
    split = make_splits(data)
    assert len(split.test) == 752
    assert len(load_dataset("mosi", data_root / "mosi" / "mosi_utt.npz")) == 2199


def test_mosi_rows_belong_together(data_root: Path) -> None:
    """The stated yardstick: logistic regression reaches 75.5, 56.3 and 52.7 %, and 76.5 % on all three."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = load_dataset("mosi", data_root / "mosi")
    columns = {name: np.stack(m.values) for name, m in data.modalities.items()}
    label = data.targets["label"]
    stated = {("text",): 75.5, ("audio",): 56.3, ("video",): 52.7, ("text", "audio", "video"): 76.5}
    for names, expected in stated.items():
        x = np.concatenate([columns[name] for name in names], axis=1)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(x[:1447], label[:1447])
        assert 100 * model.score(x[1447:], label[1447:]) == pytest.approx(expected, abs=1.5)


def test_multiview(data_root: Path) -> None:
    data = load_dataset("multiview", data_root / "multiview")
    widths = {name: m.values[0].shape[0] for name, m in data.modalities.items()}
    assert list(widths.values()) == [216, 76, 64, 6, 240, 47]
    assert len(data) == 2000
    assert data.split is None
    renamed = load_dataset("multiview", data_root / "multiview", views=list("abcdef"))
    assert list(renamed.modalities) == list("abcdef")
    with pytest.raises(UserError, match="6 views"):
        load_dataset("multiview", data_root / "multiview", views=["a", "a", "b", "c", "d", "e"])


def test_wikipedia(data_root: Path) -> None:
    data = load_dataset("multiview", data_root / "multiview", file="Wikipedia")
    assert {name: m.values[0].shape for name, m in data.modalities.items()} == {"image": (128,), "text": (10,)}
    assert sizes(data) == {"train": 2173, "test": 693}
    assert data.split is not None
    assert data.split.tolist() == ["train"] * 2173 + ["test"] * 693
    assert set(data.targets["class"]) >= {"art", "biology", "warfare"}


@pytest.mark.parametrize("name", ["flickr8k", "coco", "vqa", "ett", "digits_av", "mosi"])
def test_every_reader_states_its_source(name: str) -> None:
    assert datasets.get(name).paper

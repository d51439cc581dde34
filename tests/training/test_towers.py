"""Towers that train: what they compute, exact gradients in chunks, and a folder that every verb of an aligner reads."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional as F
from torch.testing import assert_close

from tests.cli.test_aligned_verbs import COLOURS, noise, weft
from tests.elsewhere import THERE, elsewhere
from tests.systems.tiny import write_bert, write_resnet
from weft.alignment import create_objective
from weft.data import Dataset, Modality, make_splits
from weft.encoders import create_encoder
from weft.encoders.tower import Tower
from weft.errors import UserError
from weft.models import AlignedModel
from weft.systems.lightcrl.probing import fine_tune, top_k
from weft.training import TrainConfig, fit_aligner
from weft.training.towers import RawRows, TowerModel, TowerTask

SETTINGS: dict[str, Any] = {"epochs": 6, "batch_size": 8, "lr": 3e-3, "patience": 0, "checkpoint_seconds": 0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("towers")
    return {"image": write_resnet(root / "resnet"), "text": write_bert(root / "bert")}


@pytest.fixture(scope="module")
def data() -> Dataset:
    """24 photos of one colour with two captions each; the second caption of the first photo is absent."""
    rng, colours = np.random.default_rng(0), list(COLOURS)
    photos = [np.array(noise(rng, colours[i % 4])) for i in range(24)]
    texts = [text for i in range(24) for text in (colours[i % 4], f"a photo of a {colours[i % 4]} thing")]
    group = np.repeat(np.arange(24), 2)
    return Dataset(
        name="colours",
        ids=[str(i) for i in range(48)],
        modalities={
            "image": Modality("image", [photos[i] for i in group]),
            "text": Modality("text", [None if i == 1 else text for i, text in enumerate(texts)]),
        },
        targets={"colour": np.array([colours[i % 4] for i in group])},
        split=np.repeat(["train", "dev", "test"], [32, 8, 8]),
        group=group,
        task="retrieval",
    )


def towers(folders: dict[str, Path]) -> dict[str, Tower]:
    return {name: Tower(create_encoder(f"hf:{folder}", name)) for name, folder in folders.items()}


def build(rows: RawRows, aligner: str = "convirt") -> TowerModel:
    return TowerModel.build(dims=rows.dims, aligner=aligner, dim=8, towers=rows.towers)


def test_raw_rows_are_known_by_what_the_towers_read(folders: dict[str, Path], data: Dataset) -> None:
    rows = RawRows(data, towers(folders))
    assert RawRows(data, towers(folders)).fingerprint == rows.fingerprint
    texts = [*data.modalities["text"].values[:-1], "another caption"]
    others = [
        RawRows(replace(data, modalities={**data.modalities, "text": Modality("text", texts)}), towers(folders)),
        RawRows(replace(data, group=np.arange(48)), towers(folders)),
        rows.subset(["text"]),
    ]
    assert len({rows.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_a_tower_computes_what_the_frozen_encoder_does(folders: dict[str, Path], data: Dataset) -> None:
    rows = RawRows(data, towers(folders))
    batch = rows.gather(np.arange(6))
    for name, tower in rows.towers.items():
        values, mask = tower.eval()(batch[name])
        present = [i for i in range(6) if data.modalities[name].values[i] is not None]
        encoded = create_encoder(f"hf:{folders[name]}", name).encode([data.modalities[name].values[i] for i in present])
        for row, expected in zip(present, encoded, strict=True):
            np.testing.assert_allclose(values[row][mask[row]].detach(), expected, atol=1e-5)
        assert sorted(set(range(6)) - set(present)) == torch.nonzero(~mask.any(dim=1)).flatten().tolist()
        repeated = tower.train()(batch[name])
        assert_close(repeated.values, values)
        assert torch.equal(repeated.mask, mask)


def test_equal_neighbours_are_computed_once(folders: dict[str, Path], data: Dataset) -> None:
    rows, seen = RawRows(data, towers(folders)), []
    rows.towers["image"].eval().network.register_forward_pre_hook(
        lambda module, args, given: seen.append(len(given["pixel_values"])), with_kwargs=True
    )
    rows.towers["image"](rows.gather(np.arange(6))["image"])
    assert seen == [3]


def test_gradients_are_those_of_the_published_loss(folders: dict[str, Path], data: Dataset) -> None:
    """Against transformers called directly and the loss in plain loops; the towers in chunks of 3 of 8 rows."""
    rows = RawRows(data, towers(folders))
    model, at = build(rows), np.arange(0, 16, 2)
    task = TowerTask(
        model, create_objective("convirt"), rows, make_splits(data), TrainConfig(chunk=3, batch_size=8)
    ).train()
    task.prepare(torch.device("cpu"))
    loss = task(*task.batch(at))
    loss.backward()

    vision, language = (transformers.AutoModel.from_pretrained(folders[n]).eval() for n in ("image", "text"))
    heads = copy.deepcopy(model.aligner.project)
    heads.zero_grad()
    processor, tokenizer = (
        transformers.AutoImageProcessor.from_pretrained(folders["image"]),
        transformers.AutoTokenizer.from_pretrained(folders["text"]),
    )
    a, b = [], []
    for row in at:
        photo = Image.fromarray(data.modalities["image"].values[row])
        feature_map = vision(**processor(photo, return_tensors="pt")).last_hidden_state[0]
        words = language(**tokenizer(data.modalities["text"].values[row], return_tensors="pt")).last_hidden_state[0]
        a.append(F.normalize(heads[0](feature_map.mean(dim=(1, 2))), dim=0))
        b.append(F.normalize(heads[1](words.max(dim=0).values), dim=0))
    expected = torch.zeros(())
    for i in range(8):
        right = a[i] @ b[i] / 0.1
        rest = [torch.stack([x[i] @ other / 0.1 for other in y]).logsumexp(dim=0) for x, y in ((a, b), (b, a))]
        expected = expected - (0.75 * (right - rest[0]) + 0.25 * (right - rest[1])) / 8
    expected.backward()
    assert_close(loss, expected)
    pairs = [(rows.towers["image"].network, vision), (rows.towers["text"].network, language)]
    for found, reference in [*pairs, (model.aligner.project, heads)]:
        ours = dict(found.named_parameters())
        for name, parameter in reference.named_parameters():
            if "pooler" not in name:
                assert_close(ours[name].grad, parameter.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_towers_and_rows_meet_on_one_device(folders: dict[str, Path], data: Dataset) -> None:
    """Encoders begin on the GPU, aligners and rows on the CPU: before, in and after a training by chunks, and tuned."""
    split, losses = make_splits(data), []
    codes = np.unique(data.targets["colour"], return_inverse=True)[1]
    for place in (nullcontext(), elsewhere()):
        with place:
            rows = RawRows(data, towers(folders))
            model = build(rows)
            model.evaluate(rows, split.train)
            settings = {**SETTINGS, "epochs": 1, "chunk": 3}
            history = fit_aligner(model, create_objective("convirt"), rows, split, settings, progress=False)
            losses.append([history.best["loss"], history.best["dev_loss"]])
            fine_tune(model, rows, "image", *((rows, codes[rows]) for rows in (split.dev, split.dev)), epochs=(1,))
            devices = {weight.device for weight in model.parameters()}
    assert devices == {THERE}
    assert losses[0] == losses[1]


def test_training_learns_and_the_folder_is_an_ordinary_aligner(
    folders: dict[str, Path], data: Dataset, tmp_path: Path
) -> None:
    rows, split = RawRows(data, towers(folders)), make_splits(data)
    model = build(rows)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start = model.evaluate(rows, split.train)["sum of recalls"]
    fit_aligner(model, create_objective("convirt"), rows, split, SETTINGS, tmp_path / "run", progress=False)
    assert model.evaluate(rows, split.train)["sum of recalls"] > start + 0.5
    moved = [n for n, t in model.state_dict().items() if n.startswith("towers.") and not torch.equal(t, before[n])]
    assert any("embedder" in name for name in moved), "the first layer of the image tower"
    assert any("word_embeddings" in name for name in moved)
    assert not [name for name in moved if "running_" in name], "batch normalisation keeps its statistics"
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    again = AlignedModel.from_pretrained(tmp_path / "elsewhere")
    encoded, ours = again.encode(data, progress=False), model.embed(rows)
    for name, vectors in again.embed(encoded).items():
        np.testing.assert_allclose(vectors, ours[name], atol=1e-5)
    weights = (tmp_path / "elsewhere/best/model.safetensors").read_bytes()
    assert b"towers" not in weights, "towers have folders of their own"
    again.save_pretrained(tmp_path / "copy")  # their folders go along
    shutil.rmtree(tmp_path / "elsewhere")
    copied = AlignedModel.from_pretrained(tmp_path / "copy")
    for name, vectors in copied.embed(copied.encode(data, progress=False)).items():
        np.testing.assert_allclose(vectors, ours[name], atol=1e-5)


def test_a_killed_run_gives_the_same_weights(
    folders: dict[str, Path], data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, settings = make_splits(data), {**SETTINGS, "epochs": 2, "log_every": 1, "chunk": 3}
    whole, parts = (build(RawRows(data, towers(folders))) for _ in range(2))

    def train(model: TowerModel, folder: Path | None) -> None:
        rows = RawRows(data, dict(zip(("image", "text"), model.towers, strict=True)))
        fit_aligner(model, create_objective("convirt"), rows, split, settings, folder, progress=False)

    train(whole, None)
    steps, batch = 0, TowerTask.batch

    def dying(self: TowerTask, positions: np.ndarray, *seed: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return batch(self, positions, *seed)

    monkeypatch.setattr(TowerTask, "batch", dying)
    with pytest.raises(KeyboardInterrupt):
        train(parts, tmp_path)
    monkeypatch.undo()
    fresh = build(RawRows(data, towers(folders)))
    train(fresh, tmp_path)
    for name, tensor in whole.state_dict().items():
        assert_close(fresh.state_dict()[name], tensor, msg=name)


def test_the_verbs(folders: dict[str, Path], tmp_path: Path) -> None:
    """``weft fit --train-towers``, then what is done with any aligner."""
    rng, rows = np.random.default_rng(0), []
    for part, count in (("train", 6), ("dev", 2), ("test", 2)):
        for colour in COLOURS:
            for k in range(count):
                path = tmp_path / f"{part}-{colour}-{k}.png"
                noise(rng, colour).save(path)
                (tmp_path / "folder" / part / colour).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, tmp_path / "folder" / part / colour)
                rows.append(f"{part}-{colour}-{k},{path.name},a {colour} thing,{part},{colour}")
    (tmp_path / "table.csv").write_text("\n".join(["id,image,text,split,colour", *rows]))
    (tmp_path / "weft.yaml").write_text(
        json.dumps(
            {
                "table": "table.csv",
                "id": "id",
                "split": "split",
                "task": "retrieval",
                "modalities": {
                    "image": {"kind": "image", "column": "image", "encoder": f"hf:{folders['image']}"},
                    "text": {"kind": "text", "column": "text", "encoder": f"hf:{folders['text']}"},
                },
            }
        )
    )
    out = tmp_path / "model"
    settings = [f"--set={key}={value}" for key, value in {**SETTINGS, "epochs": 12, "chunk": 4}.items()]
    fit = ["fit", tmp_path / "weft.yaml", "--fusion", "convirt", "--dim", "8", "--train-towers", *settings, "-o", out]
    found = json.loads(weft(*fit, "--json"))
    assert set(found) == {"folder", "dev", "test"}
    query = ["--query", "a blue thing", "--top", "2", "--split", "train", "--json"]
    hits = json.loads(weft("search", out, tmp_path / "weft.yaml", *query))
    assert all("blue" in hit["id"] for hit in hits)

    def probe(source: list[Any], **options: Any) -> dict[str, Any]:
        words = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
        return json.loads(weft("evaluate", out, *source, "--protocol", "probe", "--json", *words))

    photos = ["image_folder", "--root", tmp_path / "folder"]
    curves = probe(photos, head="fine-tune-all", epochs="[1, 8]", lr=0.01, size=16)["curves"]
    assert list(curves["fine-tune-all"][0]) == ["1", "8"]
    assert curves["fine-tune-all"][0]["8"]["top-1"] > 0.6
    images = tmp_path / "images"
    probe(photos, head="linear", epochs=1, store=images)
    weft("encode", tmp_path / "weft.yaml", "-o", tmp_path / "store", "-q")
    with pytest.raises(UserError, match="fine-tune-all trains on raw images"):
        probe([images], head="fine-tune-all")
    with pytest.raises(UserError, match="another encoder"):
        weft("search", out, tmp_path / "store", *query)
    with pytest.raises(UserError, match="store of frozen features"):
        weft("fit", tmp_path / "store", "--train-towers", "-o", tmp_path / "other")
    with pytest.raises(UserError, match="--encoder MODALITY=hf"):
        weft(*fit[:-1], tmp_path / "other", "--encoder", "text=hashed-text")


def test_fine_tuning_trains_the_backbone_of_a_copy(folders: dict[str, Path], data: Dataset) -> None:
    """The first steps, one batch each, against AdamW on transformers called directly; then it learns the colours."""
    rows = RawRows(data, {"image": towers(folders)["image"]})
    plain = AlignedModel.build(dims={"image": rows.dims["image"], "text": 16}, aligner="two-tower", dim=8)
    model = TowerModel.of(plain, rows.towers)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, codes = np.unique(data.targets["colour"], return_inverse=True)
    train, test = (np.arange(0, 32, 2), np.arange(32, 48, 2))
    options: dict[str, Any] = {"lr": 1e-2, "batch_size": 16}
    curve = fine_tune(model, rows, "image", (train, codes[train]), (test, codes[test]), epochs=(1, 2, 4, 25), **options)
    assert curve[25]["top-1"] > 0.8
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    torch.manual_seed(0)
    head = torch.nn.Linear(8, 4)
    vision = transformers.AutoModel.from_pretrained(folders["image"]).eval()
    project = copy.deepcopy(plain.aligner.project[0])
    optimiser = torch.optim.AdamW(
        [*vision.parameters(), *project.parameters(), *head.parameters()], lr=1e-2, weight_decay=1e-3
    )
    processor = transformers.AutoImageProcessor.from_pretrained(folders["image"])
    photos = processor(
        [Image.fromarray(data.modalities["image"].values[row]) for row in range(48)], return_tensors="pt"
    )

    def logits(at: np.ndarray) -> torch.Tensor:
        return head(project(vision(photos["pixel_values"][at]).last_hidden_state.mean(dim=(2, 3))))

    for epoch in range(1, 5):
        optimiser.zero_grad()
        F.cross_entropy(logits(train), torch.from_numpy(codes[train])).backward()
        optimiser.step()
        if epoch in curve:
            assert curve[epoch] == top_k(logits(test).detach(), torch.from_numpy(codes[test])), epoch


def test_mistakes_are_named(folders: dict[str, Path], data: Dataset, tmp_path: Path) -> None:
    both = towers(folders)
    with pytest.raises(UserError, match="leave output out"):
        Tower(create_encoder(f"hf:{folders['text']}", "text", output="mean"))
    with pytest.raises(UserError, match="no modality 'sound'"):
        RawRows(data, {"sound": both["text"]})
    with pytest.raises(UserError, match="reads text"):
        RawRows(data, {"image": both["text"]})
    with pytest.raises(UserError, match="closed form"):
        build(RawRows(data, both), "cca")
    with pytest.raises(UserError, match="as wide as"):
        TowerModel({"image": 5, "text": 16}, towers=both)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no image")
    broken = Dataset("broken", ["x", "y"], {"image": Modality("image", [damaged] * 2)}, {}, None, None, "retrieval")
    with pytest.raises(UserError, match="'image', row 'y'"):
        RawRows(broken, {"image": both["image"]}).gather(np.array([1]))

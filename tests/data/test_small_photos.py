"""CIFAR in both official layouts and Tiny ImageNet, written here byte by byte as their descriptions say."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.test_readers import sizes
from weft.data import load_dataset
from weft.errors import UserError


def planes(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, 3072), dtype=np.uint8)


def test_cifar10_python_and_binary_agree(tmp_path: Path) -> None:
    names = ["airplane", "automobile", "bird"]
    python, binary = tmp_path / "p/cifar-10-batches-py", tmp_path / "b/cifar-10-batches-bin"
    python.mkdir(parents=True)
    binary.mkdir(parents=True)
    (python / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, 2))
    (binary / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    for seed, file in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        pixels, labels = planes(4, seed), [seed % 3, 1, 2, 0]
        (python / file).write_bytes(pickle.dumps({"data": pixels, "labels": labels}, 2))
        rows = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1)
        (binary / f"{file}.bin").write_bytes(rows.tobytes())
    data, other = load_dataset("cifar10", python.parent), load_dataset("cifar10", binary.parent)
    assert sizes(data) == {"train": 20, "test": 4}
    assert data.targets["class"][:5].tolist() == ["airplane", "automobile", "bird", "airplane", "automobile"]
    assert data.targets["class"].tolist() == other.targets["class"].tolist()
    for ours, theirs in zip(data.modalities["image"].values, other.modalities["image"].values, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    first, raw = data.modalities["image"].values[0], planes(4, 0)[0]
    for channel in range(3):
        assert first[2, 5, channel] == raw[1024 * channel + 32 * 2 + 5], "planes red, green, blue; row by row"
    (binary / "test_batch.bin").write_bytes(b"\0" * 5000)
    with pytest.raises(UserError, match="cut off"):
        load_dataset("cifar10", binary)


class Harmful:
    def __reduce__(self):
        return os.getcwd, ()


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    for file in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (tmp_path / file).write_bytes(pickle.dumps({"data": Harmful(), "labels": [0]}))
    with pytest.raises(UserError, match=r"asks for \w+\.getcwd"):
        load_dataset("cifar10", tmp_path)
    (tmp_path / "data_batch_1").write_bytes(b"no pickle")
    with pytest.raises(UserError, match="fetch the official archive"):
        load_dataset("cifar10", tmp_path)


def test_cifar100_has_fine_and_coarse_labels(tmp_path: Path) -> None:
    meta = {"fine_label_names": ["apple", "bear"], "coarse_label_names": ["fruit", "mammals"]}
    (tmp_path / "meta").write_bytes(pickle.dumps(meta))
    for name, seed in (("train", 0), ("test", 1)):
        batch = {"data": planes(2, seed), "fine_labels": [1, 0], "coarse_labels": [1, 0]}
        (tmp_path / name).write_bytes(pickle.dumps(batch))
    data = load_dataset("cifar100", tmp_path)
    assert list(data.targets) == ["class", "coarse"]
    assert data.targets["class"].tolist() == ["bear", "apple"] * 2
    for name in ("train", "test"):
        (tmp_path / name).unlink()
        labels = np.array([[1, 1], [0, 0]], dtype=np.uint8)
        pixels = planes(2, name == "test")
        (tmp_path / f"{name}.bin").write_bytes(np.concatenate([labels, pixels], axis=1).tobytes())
    (tmp_path / "fine_label_names.txt").write_text("apple\nbear\n")
    (tmp_path / "coarse_label_names.txt").write_text("fruit\nmammals\n")
    assert load_dataset("cifar100", tmp_path).targets["coarse"].tolist() == data.targets["coarse"].tolist()


def test_the_coarse_byte_comes_first(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.bin").write_bytes(bytes([1, 0]) + bytes(3072))
    (tmp_path / "fine_label_names.txt").write_text("apple\nbear\n")
    (tmp_path / "coarse_label_names.txt").write_text("fruit\nmammals\n")
    data = load_dataset("cifar100", tmp_path)
    assert (data.targets["coarse"][0], data.targets["class"][0]) == ("mammals", "apple")


def test_tiny_imagenet(tmp_path: Path) -> None:
    root = tmp_path / "tiny-imagenet-200"
    (root / "val/images").mkdir(parents=True)
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn03\tunused\n")
    for wnid in ("n01", "n02"):
        (root / f"train/{wnid}/images").mkdir(parents=True)
        for k in range(2):
            Image.new("L", (64, 64)).save(root / f"train/{wnid}/images/{wnid}_{k}.JPEG")
    Image.new("RGB", (64, 64)).save(root / "val/images/val_0.JPEG")
    (root / "val/val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t32\t44\t62\n")
    data = load_dataset("tiny_imagenet", tmp_path)
    assert sizes(data) == {"train": 4, "test": 1}
    assert data.targets["class"].tolist() == ["n01", "n01", "n02", "n02", "n02"]
    assert data.targets["name"][0] == "goldfish"
    (root / "val/val_annotations.txt").write_text("val_0.JPEG\tn09\t0\t32\t44\t62\n")
    with pytest.raises(UserError, match="n09"):
        load_dataset("tiny_imagenet", tmp_path)

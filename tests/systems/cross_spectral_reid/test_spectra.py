"""The generated two-spectrum set: what each spectrum tells, who is in which part, the same bytes for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from weft.data import load_dataset, make_splits
from weft.errors import UserError
from weft.systems.cross_spectral_reid.metrics import reid_metrics
from weft.systems.cross_spectral_reid.spectra import MARKS, PAINTS, Spectra


def test_parts_cameras_and_seeds() -> None:
    data = load_dataset("spectra", share=2, images=3)
    assert {name: modality.kind for name, modality in data.modalities.items()} == {"rgb": "image", "nir": "image"}
    identity, camera, part = (data.targets[name] for name in ("identity", "camera", "part"))
    assert len(data) == 80 * 4 * 3
    assert sorted(set(identity)) == list(range(1, 81))
    assert not set(identity[part == "train"]) & set(identity[part != "train"])
    for name, images in (("train", 3), ("query", 1), ("gallery", 2)):
        _, counts = np.unique(np.stack([identity, camera])[:, part == name], axis=1, return_counts=True)
        assert (len(counts), set(counts)) == (40 * 4, {images})
    train, dev, test = make_splits(data)
    assert set(part[train]) | set(part[dev]) == {"train"}
    assert set(part[test]) == {"query", "gallery"}
    assert not set(identity[train]) & set(identity[dev])
    again, other = load_dataset("spectra", share=2, images=3), load_dataset("spectra", share=2, images=3, seed=1)
    for name, modality in data.modalities.items():
        np.testing.assert_array_equal(np.stack(modality.values), np.stack(again.modalities[name].values))
        assert (np.stack(modality.values) != np.stack(other.modalities[name].values)).mean() > 0.9


@pytest.mark.parametrize("share", [1, 2, 5])
def test_either_spectrum_alone_is_ambiguous(share: int) -> None:
    """As many vehicles of a part look alike as is promised, and an ideal eye reaches mAP 1 with both, bound, alone."""
    codes = Spectra(share=share).codes()
    test = slice(20 * share, None)
    for name, alike in (("rgb", 2 * share), ("nir", 2 * share), ("sum", 2), ("bound", 1)):
        assert len(codes[name]) == 40 * share
        for part in (slice(20 * share), test):
            assert set(np.unique(codes[name][part], return_counts=True)[1]) == {alike}
    assert len(set(codes["bound"])) == 40 * share, "no vehicle is in both parts, nor twice"
    identity, camera = np.repeat(np.arange(20 * share), 4), np.tile(np.arange(4), 20 * share)
    for name, low, high in (("rgb", 0, 0.6), ("nir", 0, 0.6), ("sum", 0.3, 0.6), ("bound", 1, 1)):
        seen = np.eye(40 * share)[codes[name]][test][identity]
        found = reid_metrics(seen, seen, identity, identity, camera, camera)["mAP"]
        assert low <= found <= high, (name, found)


def test_each_spectrum_tells_its_own_side() -> None:
    """Linear readings of the pixels: paints from the visible light alone, marks from the infrared alone."""
    source = Spectra(share=5, images=4, size=16, seed=3)
    data, codes = source.make(), source.codes()
    identity = data.targets["identity"] - 1
    pixels = {name: np.stack(m.values).reshape(len(data), -1) / 255.0 for name, m in data.modalities.items()}
    pixels["nir"] = pixels["nir"][:, ::3]
    assert (np.diff(np.stack(data.modalities["nir"].values).astype(int), axis=3) == 0).all()

    def reads(name: str, what: str) -> float:
        x, y = StandardScaler().fit_transform(pixels[name]), codes[what][identity]
        half = np.random.default_rng(0).permutation(len(x))
        train, test = half[: len(x) // 2], half[len(x) // 2 :]
        return float(RidgeClassifier(alpha=100).fit(x[train], y[train]).score(x[test], y[test]))

    chance = 1 / 10
    assert reads("rgb", "rgb") > 0.5
    assert reads("nir", "nir") > 0.5
    assert reads("nir", "rgb") == pytest.approx(chance, abs=0.06)
    assert reads("rgb", "nir") == pytest.approx(chance, abs=0.06)
    assert len(PAINTS) == len(MARKS)


def test_options() -> None:
    assert load_dataset("spectra", share=1, size=48).modalities["rgb"].values[0].shape == (48, 48, 3)
    for wrong in ({"share": 6}, {"share": 0}, {"images": 1}, {"size": 8}):
        with pytest.raises(UserError, match="share is 1 to 5"):
            load_dataset("spectra", **wrong)

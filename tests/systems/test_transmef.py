"""TransMEF: its metrics against libraries and loops, its colours, and the system from photos to pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.measure import shannon_entropy
from skimage.metrics import structural_similarity as skimage_ssim
from sklearn.metrics import mutual_info_score

from tests.systems.test_outside import weft
from weft.data import Dataset, Modality, Split, load_dataset
from weft.errors import UserError
from weft.models import load_model
from weft.systems.transmef import TransMef, metrics
from weft.systems.transmef.colour import fused_chroma, to_rgb, to_ycbcr
from weft.systems.transmef.corruptions import CORRUPTIONS, rectangles
from weft.systems.transmef.loss import restoring_loss
from weft.training.system_task import fit_system, make_system

SMALL = {"size": 32, "patch": 4, "depth": 1, "heads": 2, "head_width": 8, "mlp": 32, "dropout": 0.0}


def picture(seed: int, shape: tuple[int, ...] = (40, 44)) -> np.ndarray:
    """Smooth blobs, with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / 8
    waves = sum(np.sin(a * y + b * x + c) for a, b, c in rng.normal(size=(4, 3)))
    grey = np.clip(128 + 45 * waves + rng.normal(size=shape[:2]) * 4, 0, 255)
    return grey.astype(np.uint8) if len(shape) == 2 else np.stack([grey, grey[::-1], 255 - grey], 2).astype(np.uint8)


def test_metrics_equal_libraries():
    a, b = picture(0).astype(float), picture(1).astype(float)
    ours = metrics.ssim(a, b)
    theirs = skimage_ssim(a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert metrics.entropy(a) == pytest.approx(shannon_entropy(a.astype(np.uint8)), abs=1e-12)
    shared = mutual_info_score(a.astype(int).ravel(), b.astype(int).ravel()) / np.log(2)
    assert metrics.mutual_information(a, b) == pytest.approx(shared, abs=1e-9)


def test_mef_ssim_equals_a_loop_over_windows():
    y, xs = picture(2, (15, 14)).astype(float), [picture(k, (15, 14)).astype(float) for k in (3, 4, 5)]
    line = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    g = np.outer(line, line) / np.outer(line, line).sum()
    found = []
    for r in range(5):
        for c in range(4):
            cut = [image[r : r + 11, c : c + 11] for image in (*xs, y)]
            *centred, target = [w - (g * w).sum() for w in cut]
            norms = [np.sqrt((g * w * w).sum()) + 1e-3 for w in centred]
            ratio = min(1.0, np.sqrt((g * sum(centred) ** 2).sum()) / sum(norms))
            p = min(10.0, np.tan(np.pi / 2 * ratio))
            s = sum(n**p * w / n for n, w in zip(norms, centred, strict=True))
            x = max(norms) * s / np.sqrt((g * s * s).sum())
            c3 = (0.03 * 255) ** 2
            found.append((2 * (g * x * target).sum() + c3) / ((g * x * x).sum() + (g * target**2).sum() + c3))
    assert metrics.mef_ssim(y, xs) == pytest.approx(np.mean(found), abs=1e-9)


def test_edge_transfer_equals_a_loop_and_knows_what_is_lost():
    f, sources = picture(6).astype(float), [picture(7).astype(float), picture(8).astype(float)]

    def gradient(image, r, c):
        around = np.pad(image, 1, mode="edge")[r : r + 3, c : c + 3]
        kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        across, down = (kernel * around).sum(), (kernel.T * around).sum()
        return np.hypot(across, down), np.pi / 2 * np.sign(down) if across == 0 else np.arctan(down / across)

    above = below = 0.0
    for source in sources:
        for r in range(40):
            for c in range(44):
                (ga, aa), (gf, af) = gradient(source, r, c), gradient(f, r, c)
                strength = 0.9994 / (1 + np.exp(-15 * ((min(ga, gf) / max(ga, gf) if max(ga, gf) else 0) - 0.5)))
                direction = 0.9879 / (1 + np.exp(-22 * (1 - abs(aa - af) / (np.pi / 2) - 0.8)))
                above, below = above + strength * direction * ga, below + ga
    assert metrics.edge_transfer(f, sources) == pytest.approx(above / below, abs=1e-9)
    assert metrics.edge_transfer(sources[0], sources[:1]) > 0.95 > 0.1 > metrics.edge_transfer(f * 0, sources)
    assert metrics.mef_ssim(sources[0], [sources[0], sources[0]]) == pytest.approx(1, abs=1e-3)


def test_colours_come_back_and_chroma_follows_the_formula():
    image = picture(9, (20, 24, 3))
    assert np.abs(to_rgb(to_ycbcr(image)).astype(int) - image).max() <= 1
    assert to_ycbcr(np.full((1, 1, 3), 255, np.uint8))[0, 0].tolist() == pytest.approx([235, 128, 128])
    one, two = np.array([[140.0, 128.0, 100.0]]), np.array([[128.0, 128.0, 130.0]])
    expected = [140.0, 128.0, (100 * 28 + 130 * 2) / 30]
    assert fused_chroma([one, two])[0].tolist() == pytest.approx(expected)


def test_spoilt_copies_differ_in_rectangles_of_a_tenth():
    image, rng = picture(10, (64, 80)), np.random.default_rng(0)
    assert rectangles(image.shape, rng, largest=0.5)[:, :2].max(axis=0).tolist() > [6, 8]
    draws = np.concatenate([rectangles(image.shape, rng, places=2) for _ in range(50)])
    tall, wide, top, left, top2, left2 = draws.T
    assert tall.min() == wide.min() == 1
    assert tall.max() == 6
    assert wide.max() == 8
    assert (np.maximum(top, top2) + tall).max() == 64
    assert (np.maximum(left, left2) + wide).max() == 80
    for name, spoil in CORRUPTIONS.items():
        out = spoil(image, np.random.default_rng(1))
        assert out.dtype == np.uint8
        assert 0 < (out != image).mean() < 0.2, name
        np.testing.assert_array_equal(out, spoil(image, np.random.default_rng(1)))


@pytest.mark.parametrize("rule", ["mean", "max", "attention"])
def test_the_order_of_sources_does_not_matter_and_alike_sources_come_back(rule):
    model = TransMef(**SMALL, rule=rule).eval()
    a, b = picture(11), picture(12)
    np.testing.assert_array_equal(model.fuse([a, b]), model.fuse([b, a]))
    np.testing.assert_array_equal(model.fuse([a, a]), model.fuse([a, a, a]))
    x, y, z = encodings = [torch.randn(1, 48, 5, 6) for _ in range(3)]
    shares = [e.abs().mean(dim=1, keepdim=True).exp() for e in encodings]
    expected = {
        "mean": (x + y + z) / 3,
        "max": torch.maximum(torch.maximum(x, y), z),
        "attention": sum(share * e for share, e in zip(shares, encodings, strict=True)) / sum(shares),
    }
    torch.testing.assert_close(model.network.merge(encodings), expected[rule])


def test_a_rule_that_is_learned_trains_on_two_spoilt_copies(tmp_path: Path):
    """Each copy with the next; a picture alone is both sides; the folder comes back; three are refused."""
    torch.manual_seed(0)
    model = TransMef(**SMALL, rule="aff").train()
    photo = torch.rand(2, 1, SMALL["size"], SMALL["size"])
    copies = {name: (photo * k).clamp(0, 1) for name, k in zip(model.tasks, (0.5, 1.5, 0.9), strict=True)}
    found = model.loss({"photo": photo, **copies})
    given = [copies[name] for name in model.tasks]
    weights = {"mse": model.mse, "ssim": model.ssim, "tv": model.tv}
    pairs = [(given[k], given[(k + 1) % 3]) for k in range(3)]
    expected = sum(restoring_loss(photo, model.network(*pair), **weights) for pair in pairs)
    torch.testing.assert_close(found, expected)
    found.mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.network.fusion.parameters() if p.ndim > 1)
    model.eval()
    torch.testing.assert_close(model.network(photo), model.network(photo, photo))
    model.save_pretrained(tmp_path)
    a, b = picture(11), picture(12)
    np.testing.assert_array_equal(load_model(tmp_path).fuse([a, b]), model.fuse([a, b]))
    first, second = (copies[name] for name in model.tasks[:2])
    assert (model.network(first, second) - model.network(second, first)).abs().max() > 1e-6
    with pytest.raises(UserError, match="joins two pictures"):
        model.fuse([a, b, a])


def test_a_grey_picture_beside_a_coloured_one_is_a_picture_without_colour():
    model, colour, grey = TransMef(**SMALL).eval(), picture(9, (20, 24, 3)), picture(10, (20, 24))
    alike = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(model.fuse([colour, grey]), model.fuse([colour, alike]))
    assert model.fuse([grey, colour]).shape == (20, 24, 3)


def test_from_photos_to_pictures_of_any_size_and_colour(data_root: Path, tmp_path: Path):
    """Learns to restore; then fuses real exposures of odd sizes; survives its folder."""
    photos = load_dataset("photos", data_root / "flickr8k" / "Images")
    some = np.arange(8)
    model = make_system("transmef", photos, some, **SMALL)
    batch = model.batch(photos, np.arange(12, 16))
    before = model.loss(batch).mean().item()
    settings = {"epochs": 8, "batch_size": 4, "lr": 2e-3}
    fit_system(model, photos, Split(some, np.arange(12, 14), np.arange(16, 18)), settings, tmp_path, progress=False)
    assert model.eval().loss(batch).mean().item() < 0.6 * before
    (tmp_path / "pairs").mkdir()
    for letter, gain in (("A", 0.3), ("B", 1.8)):
        pixels = np.clip(picture(13, (37, 51, 3)) * gain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pairs" / f"{letter}0.png")
    pairs = load_dataset("exposures", tmp_path / "pairs")
    (fused,) = model.predictions(pairs, np.array([0]))
    assert fused.shape == (37, 51, 3)
    (again,) = load_model(tmp_path).predictions(pairs, np.array([0]))
    np.testing.assert_array_equal(fused, again)
    real = load_dataset("exposures", data_root / "mefb")
    assert list(real.modalities) == ["A", "B"]
    found = model.evaluate(real, np.array([0]), tmp_path / "figures")
    assert set(found) == {"MEF-SSIM", "Q^AB/F", "SSIM", "MI", "entropy", "STD"}
    assert all(np.isfinite(value) for value in found.values())
    assert (tmp_path / "figures" / "pictures.png").stat().st_size > 1000


def test_the_verbs_make_one_picture_of_three(tmp_path: Path):
    """From a folder of photos to a folder of pictures, one for each scene, of its own size."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "scenes").mkdir()
    for k in range(6):
        Image.fromarray(picture(20 + k)).save(tmp_path / "photos" / f"{k}.png")
    shapes = {"1": (33, 45), "2": (40, 36)}
    for scene, shape in shapes.items():
        for k, letter in enumerate("ABC"):
            Image.fromarray(picture(30 + k, shape)).save(tmp_path / "scenes" / f"{letter}{scene}.png")
    options = [part for name, value in SMALL.items() for part in ("--option", f"{name}={value}")]
    model = tmp_path / "model"
    weft(
        "fit",
        "photos",
        "--root",
        tmp_path / "photos",
        "--system",
        "transmef",
        *options,
        "--set",
        "epochs=1",
        "-o",
        model,
    )
    weft("predict", model, tmp_path / "scenes", "-o", tmp_path / "fused")
    made = {path.stem: np.asarray(Image.open(path)) for path in sorted((tmp_path / "fused").rglob("*.png"))}
    assert {name: pixels.shape for name, pixels in made.items()} == shapes
    sources = [picture(30 + k, shapes["1"]) for k in range(3)]
    np.testing.assert_array_equal(made["1"], load_model(model).fuse(sources))


def test_mistakes_are_named(tmp_path: Path):
    model = TransMef(**SMALL)
    with pytest.raises(UserError, match="two or more registered pictures"):
        model.fuse([picture(0)])
    with pytest.raises(UserError, match="of one size"):
        model.fuse([picture(0), picture(0, (40, 40))])
    alone = {"A": Modality("image", [picture(0)]), "B": Modality("image", [None])}
    with pytest.raises(UserError, match="row 'dusk': 1 of sizes"):
        model.predict(Dataset("x", ["dusk"], alone, {}, None, None, "exposure-fusion"), np.array([0]))
    with pytest.raises(UserError, match="corrupted in known ways"):
        TransMef(**{**SMALL, "size": 33})
    with pytest.raises(UserError, match="largest=0"):
        TransMef(**SMALL, largest=0.0)
    with pytest.raises(UserError, match="rule says"):
        TransMef(**SMALL, rule="median")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="multiples of 4"):
        model.network(torch.zeros(1, 1, 30, 32))
    Image.fromarray(picture(0)).save(tmp_path / "A1.png")
    with pytest.raises(UserError, match="no two pictures"):
        load_dataset("exposures", tmp_path)
    Image.fromarray(picture(0)).save(tmp_path / "B2.png")
    with pytest.raises(UserError, match="two or more pictures"):
        load_dataset("exposures", tmp_path)
    data = Dataset("x", ["a"], {"t": Modality("text", ["words"])}, {}, None, None, "retrieval")
    with pytest.raises(UserError, match="reads a column 'pictures'"):
        model.check(data, np.array([0]))

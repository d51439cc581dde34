"""Saliency metrics against PySODMetrics, losses against loops over pixels, and the degenerate masks."""

from __future__ import annotations

import math

import numpy as np
import py_sod_metrics
import pytest
import torch
from torch.testing import assert_close

from weft.errors import UserError
from weft.systems.rgbd_saliency.loss import focal_loss, saliency_loss, structure_loss
from weft.systems.rgbd_saliency.metrics import score_map, summarise

SHAPE = (23, 31)


def masks(rng: np.random.Generator) -> list[np.ndarray]:
    blob = np.zeros(SHAPE, dtype=bool)
    blob[4:15, 9:20] = True
    dot = np.zeros(SHAPE, dtype=bool)
    dot[3, 5] = True
    return [blob, rng.random(SHAPE) < 0.3, dot, ~dot, np.zeros(SHAPE, dtype=bool), np.ones(SHAPE, dtype=bool)]


def maps(rng: np.random.Generator, mask: np.ndarray) -> list[np.ndarray]:
    noise = rng.integers(0, 256, SHAPE)
    near = np.clip(200 * mask + noise // 5, 0, 255)
    constants = [np.full(SHAPE, value) for value in (0, 255, 100)]
    return [m.astype(np.uint8) for m in (noise, near, 255 * mask, 255 - 255 * mask, noise // 2 + 30, *constants)]


@pytest.mark.filterwarnings("ignore")
def test_metrics_equal_pysodmetrics() -> None:
    rng = np.random.default_rng(0)
    f, e, s, mae = (getattr(py_sod_metrics, name)() for name in ("Fmeasure", "Emeasure", "Smeasure", "MAE"))
    ours = []
    for mask in masks(rng):
        for prediction in maps(rng, mask):
            ours.append(score_map(prediction, mask))
            for tool in (f, e, s, mae):
                tool.step(prediction, mask.astype(np.uint8) * 255)
            np.testing.assert_allclose(ours[-1].f, f.changeable_fms[-1], atol=1e-12)
            np.testing.assert_allclose(ours[-1].e, e.changeable_ems[-1], atol=1e-12)
            np.testing.assert_allclose((ours[-1].s, ours[-1].mae), (s.sms[-1], mae.maes[-1]), atol=1e-12)
    found, n = summarise(ours), len(ours)
    assert n == 48
    expected = {
        "S": s.get_results()["sm"],
        "max F": f.get_results()["fm"]["curve"].max(),
        "max E": e.get_results()["em"]["curve"].max(),
        "MAE": mae.get_results()["mae"],
    }
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_mask_at_the_border_has_finite_scores() -> None:
    """The centre of the foreground lies in the last row or column, so two quadrants are empty."""
    for border in ((slice(None), -1), (-1, slice(None)), (-1, -1)):
        mask = np.zeros(SHAPE, dtype=bool)
        mask[border] = True
        assert score_map(mask.astype(np.float32), mask).s == pytest.approx(1, abs=1e-6)
        assert math.isfinite(score_map(np.random.default_rng(0).random(SHAPE), mask).s)


def test_a_mask_without_foreground_has_a_defined_score() -> None:
    nothing = np.zeros(SHAPE, dtype=bool)
    right = score_map(np.zeros(SHAPE, dtype=np.float32), nothing)
    assert (right.s, right.mae, right.f.max()) == (1.0, 0.0, 0.0)
    assert right.e[0] == pytest.approx(nothing.size / (nothing.size - 1))
    assert score_map(np.ones(SHAPE, dtype=np.float32), nothing).s == 0


def test_structure_loss_equals_a_loop_over_pixels() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 2, 7, 9, dtype=torch.float64), torch.rand(2, 1, 7, 9, dtype=torch.float64).round()
    for image, k in ((0, 0), (0, 1), (1, 0), (1, 1)):
        z, g = logits[image, k], mask[image, 0]
        weights, bce, common, union = 0.0, 0.0, 0.0, 0.0
        for i in range(7):
            for j in range(9):
                around = g[max(0, i - 15) : i + 16, max(0, j - 15) : j + 16].sum() / 31**2
                w, p = 1 + 5 * abs(around - g[i, j]), 1 / (1 + torch.exp(-z[i, j]))
                weights += w
                bce += w * -(g[i, j] * torch.log(p) + (1 - g[i, j]) * torch.log(1 - p))
                common += w * p * g[i, j]
                union += w * (p + g[i, j])
        expected = bce / weights + 1 - (common + 1) / (union - common + 1)
        assert_close(structure_loss(logits, mask)[image, k], expected)


def test_structure_loss_weighs_the_edges() -> None:
    """The published F3Net averages first; then an error costs the same everywhere. Here it costs more at an edge."""
    mask = torch.zeros(1, 1, 96, 96)
    mask[..., :48] = 1
    logits = 10 * (2 * mask - 1)
    at_edge, far = logits.clone(), logits.clone()
    at_edge[0, 0, 48, 48] = 10.0
    far[0, 0, 48, 95] = 10.0
    assert structure_loss(at_edge, mask) > 1.02 * structure_loss(far, mask)


def test_focal_loss() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(3, 1, 4, 5, dtype=torch.float64), torch.rand(3, 1, 4, 5, dtype=torch.float64).round()
    right = torch.where(mask == 1, logits.sigmoid(), 1 - logits.sigmoid())
    assert_close(focal_loss(logits, mask), (-((1 - right) ** 2) * right.log()).mean(dim=(2, 3)))
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, mask)
    assert_close(focal_loss(logits, mask, gamma=0).mean(), plain)


def test_saliency_loss_weighs_its_maps() -> None:
    torch.manual_seed(0)
    *maps, mask = torch.rand(7, 3, 1, 6, 8, dtype=torch.float64)
    structure = [structure_loss(z, mask)[:, 0] for z in maps[:4]]
    focal = [focal_loss(z, mask)[:, 0] for z in maps[4:]]
    expected = (structure[0] + structure[1]) / 2 + structure[2] / 2 + structure[3] / 4 + 0.7 * (focal[0] + focal[1])
    assert_close(saliency_loss(maps[:2], maps[2:4], maps[4:], mask, focal_weight=0.7), expected)
    assert_close(saliency_loss(maps[:2], maps[2:4], [], mask), expected - 0.7 * (focal[0] + focal[1]))


def test_losses_of_degenerate_masks_are_finite_and_train() -> None:
    for value in (0.0, 1.0):
        logits = torch.tensor([-300.0, 0.0, 300.0]).view(1, 1, 1, 3).requires_grad_()
        mask = torch.full_like(logits, value)
        loss = saliency_loss([logits, logits], [logits], [logits], mask, focal_weight=1.0)
        expected = (1.5 * structure_loss(logits, mask) + focal_loss(logits, mask))[:, 0]
        assert_close(loss, expected)
        loss.sum().backward()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_mistakes_are_named() -> None:
    mask = np.ones(SHAPE, dtype=bool)
    with pytest.raises(UserError, match="size of its mask"):
        score_map(np.zeros((3, 3)), mask)
    with pytest.raises(UserError, match="sigmoid"):
        score_map(np.full(SHAPE, 1.5), mask)
    with pytest.raises(UserError, match="0 images"):
        summarise([])

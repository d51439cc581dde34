r"""How far a restored picture is from the photo.

.. math::
    L = 20 \, \mathrm{mean}(r^2) + (1 - \mathrm{SSIM}(o, p)) + 20 \, (\mathrm{mean}(\partial_y r)^2
        + \mathrm{mean}(\partial_x r)^2), \qquad r = o - p

SSIM has a Gaussian window of 11 x 11 (1.5), zeros beyond the border, and is averaged over the map: common libraries
mirror or leave out the border and differ by that. The last term compares gradients; the paper calls it total variation.
The paper writes weights 1, 20, 20; the published code has 20, 1, 20, which is the default here.

Source: Qu et al., AAAI 2022 (arXiv 2112.01030).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

C1, C2 = 0.01**2, 0.03**2
WINDOW, SIGMA = 11, 1.5


def restoring_loss(target: Tensor, restored: Tensor, mse: float = 20.0, ssim: float = 1.0, tv: float = 20.0) -> Tensor:
    """``(B,)`` of photos and restored pictures, ``(B, 1, H, W)`` in [0, 1]."""
    residual = target - restored
    squares = residual.square().mean(dim=(1, 2, 3))
    return mse * squares + ssim * (1 - structural_similarity(target, restored)) + tv * gradient_difference(residual)


def gradient_difference(residual: Tensor) -> Tensor:
    """``(B,)`` mean squared differences of neighbours, down and to the right, of ``(B, 1, H, W)``."""
    down, right = residual.diff(dim=2), residual.diff(dim=3)
    return down.square().mean(dim=(1, 2, 3)) + right.square().mean(dim=(1, 2, 3))


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """``(B,)`` SSIM of pictures ``(B, 1, H, W)`` of range 1."""
    return similarity_map(a, b).mean(dim=(1, 2, 3))


def similarity_map(a: Tensor, b: Tensor) -> Tensor:
    """SSIM at every pixel, ``(B, 1, H, W)``."""
    line = gaussian(a.dtype).to(a.device)

    def mean(x: Tensor) -> Tensor:
        rows = F.conv2d(x, line.view(1, 1, -1, 1), padding=(WINDOW // 2, 0))
        return F.conv2d(rows, line.view(1, 1, 1, -1), padding=(0, WINDOW // 2))

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    return similarity / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))


def gaussian(dtype: torch.dtype) -> Tensor:
    """The window along one side, ``(11,)``, in sum 1."""
    line = torch.exp(-((torch.arange(WINDOW, dtype=dtype) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    return line / line.sum()

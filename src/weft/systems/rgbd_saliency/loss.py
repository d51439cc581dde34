r"""What trains a saliency map.

Of logits :math:`z` and masks :math:`g \in [0, 1]`, ``(B, 1, H, W)``, with :math:`p = \sigma(z)`:

.. math::
    w &= 1 + 5\,|\mathrm{avgpool}_{31}(g) - g| \\
    \text{structure} &= \frac{\sum w\,\mathrm{bce}(z, g)}{\sum w}
        + 1 - \frac{\sum w p g + 1}{\sum w (p + g) - \sum w p g + 1} \\
    \text{focal} &= \mathrm{mean}\big( (1 - p_g)^\gamma\,\mathrm{bce}(z, g) \big), \qquad p_g = p g + (1 - p)(1 - g)

with sums over the pixels of an image. F3Net's code averages the cross-entropy before weighting it, so that the weights
cancel; here they count. Wei et al. 2020, F3Net (AAAI); Lin et al. 2017, Focal Loss (ICCV).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def structure_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """The structure loss ``(B, K)`` of ``K`` maps of every image: logits ``(B, K, H, W)``, mask ``(B, 1, H, W)``."""
    around = F.avg_pool2d(F.avg_pool2d(mask, (31, 1), 1, (15, 0)), (1, 31), 1, (0, 15))
    weight = 1 + 5 * (around - mask).abs()
    bce = F.binary_cross_entropy_with_logits(logits, mask.expand_as(logits), reduction="none")
    p = logits.sigmoid()
    common = (weight * p * mask).sum(dim=(2, 3))
    union = (weight * (p + mask)).sum(dim=(2, 3)) - common
    return (weight * bce).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)) + 1 - (common + 1) / (union + 1)


def focal_loss(logits: Tensor, mask: Tensor, gamma: float = 2.0) -> Tensor:
    """The binary focal loss ``(B, K)`` of ``K`` maps of every image, shapes as for :func:`structure_loss`."""
    mask = mask.expand_as(logits)
    bce = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    p = logits.sigmoid()
    wrong = p * (1 - mask) + (1 - p) * mask
    return (wrong**gamma * bce).mean(dim=(2, 3))


def saliency_loss(
    finals: Sequence[Tensor],
    sides: Sequence[Tensor],
    auxiliary: Sequence[Tensor],
    mask: Tensor,
    focal_weight: float = 0.3,
) -> Tensor:
    """Loss of every image, ``(B,)``: mean structure loss of the final maps, that of side ``i`` times ``2^-i``, focal.

    Args:
        finals, sides, auxiliary: logits ``(B, 1, H, W)``; the finest of ``sides`` first.
        mask: ``(B, 1, H, W)`` in [0, 1].
        focal_weight: of the focal loss of each auxiliary map; published as a regularisation without its weight.
    """
    weights = [1 / len(finals)] * len(finals) + [2.0**-i for i in range(1, len(sides) + 1)]
    loss = structure_loss(torch.cat([*finals, *sides], dim=1), mask) @ mask.new_tensor(weights)
    if not auxiliary:
        return loss
    return loss + focal_weight * focal_loss(torch.cat(list(auxiliary), dim=1), mask).sum(dim=1)

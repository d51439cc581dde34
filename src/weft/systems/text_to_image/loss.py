r"""The losses of text-to-image training: hinge with mismatched pairs, and the matching-aware gradient penalty.

With :math:`s'` the sentence of the next sample:

.. math::
    L_D &= E\,[1 - D(x, s)]_+ + \tfrac12 E\,[1 + D(x, s')]_+ + \tfrac12 E\,[1 + D(G(z, s), s)]_+ \\
    L_{GP} &= 2\,E\,\lVert \nabla_{(x, s)} D(x, s) \rVert^6 \quad \text{(matching pairs, a step of its own)} \qquad
    L_G = -E\,D(G(z, s), s)

The length of Adam's steps does not depend on the size of a loss: in a step of its own the penalty has no weight to
choose. One step on :math:`L_D + w L_{GP}` is the alternative.

Source: Tao et al., "DF-GAN", CVPR 2022, arXiv 2008.05865; written from the formulas.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.errors import UserError
from weft.systems.text_to_image.network import Discriminator


def discriminator_loss(discriminator: Discriminator, real: Tensor, fake: Tensor, sentence: Tensor) -> Tensor:
    """The hinge loss of real, mismatched (B - 1) and generated pairs; ``fake`` gets no gradient.

    Args:
        real, fake: images ``(B, 3, size, size)``.
        sentence: ``(B, S)``.

    Raises:
        UserError: a batch of one, which has no mismatched pair.
    """
    if len(sentence) < 2:
        raise UserError(
            "the mismatched pairs need two captions or more", f"a batch of {len(sentence)}", "use a larger batch"
        )
    features = discriminator.features(real)
    matched = F.relu(1 - discriminator.score(features, sentence)).mean()
    mismatched = F.relu(1 + discriminator.score(features[:-1], sentence[1:])).mean()
    generated = F.relu(1 + discriminator(fake.detach(), sentence)).mean()
    return matched + (mismatched + generated) / 2


def gradient_penalty(discriminator: Discriminator, real: Tensor, sentence: Tensor) -> Tensor:
    """Twice the mean sixth power of the gradient's norm at the matching pairs, over image ``(B, 3, H, W)`` and sentence
    ``(B, D)`` together.
    """
    real, sentence = (x.detach().requires_grad_() for x in (real, sentence))
    slopes = torch.autograd.grad(discriminator(real, sentence).sum(), (real, sentence), create_graph=True)
    squares = torch.cat([slope.flatten(1) for slope in slopes], dim=1).square().sum(dim=1)
    return 2 * squares.pow(3).mean()


def generator_loss(discriminator: Discriminator, fake: Tensor, sentence: Tensor) -> Tensor:
    """Minus the mean score of the generated images ``(B, 3, H, W)``."""
    return -discriminator(fake, sentence).mean()

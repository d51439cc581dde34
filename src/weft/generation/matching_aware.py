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

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError
from weft.generation.araf_gan import Caption, Discriminator, Generator
from weft.tokens import Tokens


class Losses(NamedTuple):
    """The three losses of one update, as numbers; the penalty unweighted."""

    discriminator: float
    penalty: float
    generator: float


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
    """Twice the mean sixth power of the gradient's norm at the matching pairs, over image and sentence together."""
    real, sentence = (x.detach().requires_grad_() for x in (real, sentence))
    slopes = torch.autograd.grad(discriminator(real, sentence).sum(), (real, sentence), create_graph=True)
    squares = torch.cat([slope.flatten(1) for slope in slopes], dim=1).square().sum(dim=1)
    return 2 * squares.pow(3).mean()


def generator_loss(discriminator: Discriminator, fake: Tensor, sentence: Tensor) -> Tensor:
    """Minus the mean score of the generated images."""
    return -discriminator(fake, sentence).mean()


def make_optimizer(
    generator: Generator,
    discriminator: Discriminator,
    *,
    lr: float = 2e-4,
    ratio: float = 4.0,
    betas: tuple[float, float] = (0.5, 0.99),
) -> torch.optim.Adam:
    """Adam over both networks, the generator's group first; the defaults are the published recipe.

    Args:
        generator, discriminator: the networks.
        lr: of the generator.
        ratio: how many times faster the discriminator learns.
        betas: of Adam.
    """
    groups: list[dict[str, Any]] = [
        {"params": list(generator.parameters())},
        {"params": list(discriminator.parameters()), "lr": ratio * lr},
    ]
    return torch.optim.Adam(groups, lr=lr, betas=betas, fused=True)


def update(
    generator: Generator,
    discriminator: Discriminator,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    caption: Caption,
    penalty: float | None = None,
) -> Losses:
    """One step of the discriminator, one of its penalty unless that is part of the first, one of the generator.

    Args:
        generator, discriminator: the networks.
        optimizer: of :func:`make_optimizer`.
        images: ``(B, 3, size, size)`` in [-1, 1].
        caption: of each; no gradient reaches its encoder.
        penalty: weight ``w`` of the penalty in the discriminator's one step; None: a step of its own, as published.
    """
    words, sentence = Tokens(caption.words.values.detach(), caption.words.mask), caption.sentence.detach()
    fake = generator(images.new_empty(len(images), generator.noise).normal_(), Caption(words, sentence))
    of_generator, of_discriminator = (group["params"] for group in optimizer.param_groups)
    hinge = discriminator_loss(discriminator, images, fake, sentence)
    if penalty is None:
        _step(optimizer, of_discriminator, hinge)
        slope = gradient_penalty(discriminator, images, sentence)
        _step(optimizer, of_discriminator, slope)
    else:
        slope = gradient_penalty(discriminator, images, sentence)
        _step(optimizer, of_discriminator, hinge + penalty * slope)
    score = generator_loss(discriminator, fake, sentence)
    _step(optimizer, of_generator, score)
    return Losses(hinge.item(), slope.item(), score.item())


def _step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: Tensor) -> None:
    """Move these parameters; the others have no gradient, and Adam leaves them and their moments alone.

    ``backward`` lays gradients out as their parameters, which fused Adam takes for granted; ``autograd.grad`` does not.
    """
    optimizer.zero_grad()
    loss.backward(inputs=parameters)
    optimizer.step()

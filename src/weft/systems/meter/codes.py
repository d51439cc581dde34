"""Patches to codes: which of ``K`` typical patches one is nearest to.

Masked image modelling by codes asks for the code of a hidden patch. METER takes those of DALL-E's autoencoder, 8192 of
them; here they are the ``K`` means of the patches of the training rows (of their pixels, or of the tokens of a frozen
encoder), so nothing has to be had from elsewhere.

Source of the idea: Dou et al., METER, CVPR 2022, arXiv 2111.02387; Bao et al., BEiT, ICLR 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.tokens import Tokens

MOST = 20_000
"""Patches that the means are of, at most."""


class Codes(nn.Module):
    """``count`` means of patches ``(D,)``."""

    means: Tensor

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(count, width))

    def fit(self, patches: Tensor) -> None:
        """Learn them of patches ``(n, D)``, always the same of the same.

        Raises:
            UserError: there are fewer different patches than codes.
        """
        from sklearn.cluster import MiniBatchKMeans

        count, found = len(self.means), patches[:: max(1, len(patches) // MOST)].double().numpy()
        if len(patches.unique(dim=0)) < count:
            different = f"codes={count}, {len(patches.unique(dim=0))} different patches in the training rows"
            raise UserError("every code is the mean of some patches", different, "ask for fewer codes")
        learned = MiniBatchKMeans(count, n_init=1, random_state=0, batch_size=1024).fit(found)
        self.means.copy_(torch.from_numpy(learned.cluster_centers_))

    def forward(self, patches: Tensor) -> Tensor:
        """The code of each patch ``(..., D)``."""
        return torch.cdist(patches.flatten(0, -2), self.means).argmin(dim=1).view(patches.shape[:-1])


def patches_of(image: Tensor | Tokens, side: int) -> Tensor:
    """``(B, N, D)``: the tokens, or the pixels of every patch of ``(B, 3, R, R)``, row by row."""
    if isinstance(image, Tokens):
        return image.values
    return nn.functional.unfold(image, side, stride=side).transpose(1, 2)

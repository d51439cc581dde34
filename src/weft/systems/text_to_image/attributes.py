"""What a picture shows, read by a classifier of real images: the judge of generators where the answer is known.

One small convolutional network per data set, with a head per attribute, trained on real training images alone. A drawn
image agrees with its caption in an attribute if the reader sees the value the caption asks for. Its accuracy on real
test images is the ceiling, the share of the most frequent value the floor.

Four layers (3x3, stride 2, batch norm, ReLU) of ``width, 2 width, 4 width, 4 width`` channels, flattened: position has
to survive.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError, some


class AttributeReader(nn.Module):
    """Attributes of images.

    Args:
        values: the values of every attribute.
        size: height and width of the images in pixels, 16 or more.
        width: channels of the first layer.
        seed: of the weights and of the training.
    """

    def __init__(self, values: Mapping[str, list[str]], *, size: int, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        if size < 16:
            raise UserError(
                "attributes are read from images of at least 16 pixels a side", f"size={size}", "draw larger"
            )
        self.values, self.size, self.seed = {name: list(v) for name, v in values.items()}, size, seed
        channels = [3, width, 2 * width, 4 * width, 4 * width]
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            self.trunk = nn.Sequential(
                *(
                    nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
                    for a, b in pairwise(channels)
                ),
                nn.Flatten(),
            )
            wide = channels[-1] * ((size + 15) // 16) ** 2
            self.heads = nn.ModuleList(nn.Linear(wide, len(v)) for v in self.values.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``{attribute: (B, values)}`` logits of images ``(B, 3, size, size)`` in [-1, 1]."""
        trunk = self.trunk(images)
        return {name: head(trunk) for name, head in zip(self.values, self.heads, strict=True)}

    @classmethod
    def train_on(
        cls,
        images: np.ndarray,
        attributes: Mapping[str, np.ndarray],
        *,
        width: int = 16,
        steps: int = 300,
        batch_size: int = 32,
        lr: float = 2e-3,
        seed: int = 0,
    ) -> AttributeReader:
        """A reader of ``(n, size, size, 3)`` uint8 images, from ``{attribute: (n,)}``; Adam, rate falling to zero."""
        values = {name: np.unique(column).tolist() for name, column in attributes.items()}
        reader = cls(values, size=images.shape[1], width=width, seed=seed)
        codes = reader.codes(attributes)
        optimizer = torch.optim.Adam(reader.parameters(), lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        rng = np.random.default_rng(seed)
        reader.train()
        for _ in range(steps):
            chosen = rng.choice(len(images), min(batch_size, len(images)), replace=False)
            outputs = reader(as_input(images[chosen]))
            losses = [F.cross_entropy(outputs[name], codes[name][chosen]) for name in values]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
        return reader.eval()

    def codes(self, attributes: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Places of the values, ``{attribute: (n,)}``.

        Raises:
            UserError: an attribute or a value the reader does not know.
        """
        found = {}
        for name, known in self.values.items():
            if name not in attributes:
                raise UserError("the rows lack an attribute of the reader", name, f"they have {', '.join(attributes)}")
            strange = sorted(set(attributes[name].tolist()) - set(known))
            if strange:
                raise UserError(f"values of {name!r} that no training row has", some(strange), "train on more rows")
            place = {value: i for i, value in enumerate(known)}
            found[name] = torch.tensor([place[value] for value in attributes[name].tolist()])
        return found

    def agreement(self, images: np.ndarray, attributes: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Share of ``(n, size, size, 3)`` uint8 images that show what is asked for; ``"all"``: in every attribute."""
        right = self._right(images, attributes)
        shares = {name: float(r.float().mean()) for name, r in right.items()}
        return {**shares, "all": float(torch.stack(list(right.values())).all(dim=0).float().mean())}

    def shown(self, images: np.ndarray, attributes: Mapping[str, np.ndarray]) -> np.ndarray:
        """``(n,)`` share of the attributes that each image shows."""
        return torch.stack(list(self._right(images, attributes).values())).double().mean(dim=0).numpy()

    @torch.no_grad()
    def _right(self, images: np.ndarray, attributes: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        self.eval()
        codes = self.codes(attributes)
        parts = [self(as_input(images[start : start + 256])) for start in range(0, len(images), 256)]
        return {n: torch.cat([part[n].argmax(dim=1) for part in parts]) == codes[n] for n in self.values}


def as_input(images: np.ndarray) -> Tensor:
    """``(n, size, size, 3)`` uint8 to ``(n, 3, size, size)`` in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1

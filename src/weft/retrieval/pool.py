r"""One pool of several modalities: pictures and texts found by one question, each by its merits.

Embeddings of one modality lie together, away from those of another (the modality gap), and spread differently: in a
plain pool a question finds its own modality first, whatever is asked. So items are centred and scaled by modality. With
items :math:`g` of modality ``m``, their mean :math:`\bar g_m`, and a bank of questions :math:`r` of mean
:math:`\bar r`, the score of a question ``q`` is

.. math::
    \tilde g = \frac{g - \bar g_m}{\|g - \bar g_m\|}, \qquad
    s(q, g) = \frac{(q - \bar r) \cdot \tilde g}{\sigma_m}, \qquad
    \sigma_m^2 = \mathrm{mean}_{r, g \in m} \big((r - \bar r) \cdot \tilde g\big)^2

whose mean over the bank is 0 and whose deviation is 1 in every modality. It is linear in ``q``: an ordinary index holds
:math:`\tilde g / \sigma_m` with the bias :math:`-\bar r \cdot \tilde g / \sigma_m`; questions are asked as they are.

Cost: one product of the bank and the items. When not to use it: one modality (nothing but the mean moves), or a bank
that is unlike the questions to come.

Source: the gap: Liang et al., "Mind the Gap", NeurIPS 2022, arXiv 2203.02053. Scaling by a bank is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weft.errors import UserError
from weft.retrieval.metrics import Array, check_embeddings

CHUNK = 4096


class Pool(NamedTuple):
    """What an index is made of: ``ExactIndex(pool.vectors, ids, bias=pool.bias, ...)``.

    Attributes:
        vectors: ``(N, D)`` float32, the modalities one after the other.
        bias: ``(N,)`` float32.
        modalities: ``(N,)`` str, the modality of each row.
    """

    vectors: Tensor
    bias: Tensor
    modalities: np.ndarray


def mix_pool(items: Mapping[str, Array], bank: Array) -> Pool:
    """A pool in which modalities compete on equal terms.

    Args:
        items: ``{modality: (N_m, D)}`` embeddings, two rows or more of each.
        bank: ``(M, D)`` questions such as will be asked, two or more; of training and dev rows.

    Raises:
        UserError: widths differ, values are NaN or infinite, or a modality's rows, or the bank's, are all the same.
    """
    asked = check_embeddings(bank, "bank").float()
    centre = asked.mean(dim=0)
    vectors, biases = [], []
    for name, values in items.items():
        g = check_embeddings(values, f"items of {name!r}").float()
        if g.shape[1] != asked.shape[1]:
            found = f"{name!r} is {g.shape[1]} wide, the bank {asked.shape[1]}"
            raise UserError("items and bank live in one space", found, "embed all of them with the same aligner")
        unit = F.normalize(g - g.mean(dim=0), dim=1)
        squares = sum(float(((asked - centre) @ part.T).square().sum()) for part in unit.split(CHUNK))
        spread = (squares / (len(asked) * len(unit))) ** 0.5
        if spread < 1e-6:
            found = f"{len(unit)} items of {name!r}, {len(asked)} questions"
            raise UserError("a pool needs items, and questions, that differ", found, "give more of them")
        vectors.append(unit / spread)
        biases.append(-(unit @ centre) / spread)
    names = np.repeat(np.array(list(items), dtype=object), [len(v) for v in vectors])
    return Pool(torch.cat(vectors), torch.cat(biases), names)

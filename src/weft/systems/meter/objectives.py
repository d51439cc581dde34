r"""What METER is trained for: masked words, matching, masked patches, ranking, answers.

With ``t``, ``y`` the text and image after fusion and ``c`` the pooled pair (:mod:`.network`):

* MLM: cross-entropy of ``head(t)`` at masked words, the image whole.
* ITM: cross-entropy of ``Linear(c)``, the image another one, drawn at random, in half of the rows.
* MIM, which the paper tries and finds to hurt, in-batch: of all patches of the batch, which is the hidden one?
  :math:`\mathrm{softmax}(\cos(\mathrm{head}(y), v) / \tau)` over the projected patches ``v`` of the whole images, which
  get no gradient; :math:`\tau = 0.1`. Its head is not published and is ours.
* MIM by codes, the other variant, found to hurt as well: cross-entropy of ``head(y)`` over the codes of hidden patches
  (:mod:`.codes`).
* rank: cross-entropy of the scores of one right and several wrong texts; the head is at first the second row of ITM's.
* answers: binary cross-entropy against soft scores.

Each is a pass of its own; the total is their plain sum.

Source: Dou et al., METER, CVPR 2022, arXiv 2111.02387.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.systems.meter.masking import NOT_ASKED
from weft.systems.meter.network import Joint, MeterNet
from weft.tokens import Tokens

TEMPERATURE = 0.1


def vqa_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy against soft scores ``(B, answers)``: the sum over answers, the mean over the batch."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the masked tokens: logits ``(B, L, V)``, labels ``(B, L)`` with -100 where none is asked."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=NOT_ASKED)


def in_batch_mim_loss(net: MeterNet, joint: Joint, whole: Tokens, hidden: Tensor) -> Tensor:
    """Each hidden patch among all patches of the batch.

    Args:
        net: with the head ``mim`` of width ``H``.
        joint: of the image with its patches hidden.
        whole: tokens ``(B, N, D_v)`` of the image as it is.
        hidden: ``(B, N)``.
    """
    with torch.no_grad():
        patches = F.normalize(net.cross_modal_image_transform(whole.values[whole.mask]), dim=-1)
    guess = F.normalize(net.mim_score(joint.image[hidden]), dim=-1)
    return F.cross_entropy(guess @ patches.T / TEMPERATURE, hidden[whole.mask].nonzero()[:, 0])


def code_mim_loss(net: MeterNet, image: Tensor, codes: Tensor, hidden: Tensor) -> Tensor:
    """The code of each hidden patch: image tokens ``(B, N, H)`` after fusion, codes ``(B, N)``, hidden ``(B, N)``."""
    return F.cross_entropy(net.mim_codes_score(image[hidden]), codes[hidden])


@torch.no_grad()
def begin_ranking(net: MeterNet) -> None:
    """The score of a pair is at first what the ITM head says of a match."""
    itm = net.get_submodule("itm_score.fc")
    for own, its in zip(net.rank_output.parameters(), itm.parameters(), strict=True):
        own.copy_(its[1:])


def rank_loss(scores: Tensor) -> Tensor:
    """Cross-entropy of scores ``(B, S)``, the right text's first."""
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))

r"""GradCache: the exact gradient of a contrastive loss over a batch whose encoders do not fit in memory at once.

A loss over all pairs needs all embeddings :math:`z_i = f(x_i; w)`, but the encoder's gradient needs only
:math:`\partial L / \partial z`:

.. math::
    \frac{\partial L}{\partial w} = \sum_{C} \sum_{i \in C} \frac{\partial L}{\partial z_i}
        \frac{\partial z_i}{\partial w}

so each chunk ``C`` is embedded without its activations, the loss is taken over the embeddings of all chunks, and in the
backward pass each chunk is embedded once more, with the random state of the first time (its dropout masks are the
same), and takes its share of the gradient. Memory: the embeddings, and the activations of one chunk. Cost: one more
forward pass.

Here every chunk is a checkpoint of ``torch.utils.checkpoint`` without re-entry, so it is one backward pass to whoever
calls it: gradient scaling, clipping and DDP (which reduces once) need to know nothing of it.

When not to use it: the batch fits; or the encoder makes one row depend on others (batch normalisation in training
mode), for then a chunk is another batch.

Source: Gao, Zhang, Han, Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP
2021, arXiv 2101.06983.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from weft.errors import UserError
from weft.tokens import Tokens

Inputs = dict[str, Tokens]
Embed = Callable[[Inputs], dict[str, Tensor]]


def grad_cache(embed: Embed, inputs: Inputs, chunk: int) -> dict[str, Tensor]:
    """Embed a batch ``chunk`` rows at a time, to be embedded once more in the backward pass.

    Args:
        embed: inputs to ``{name: (B, D)}``; a row's embedding depends on that row alone.
        inputs: ``{name: Tokens}``, ``B`` rows.
        chunk: rows at a time, at least 1.

    Returns:
        ``{name: (B, D)}``: what ``embed(inputs)`` returns, in value and gradient. Under dropout every chunk draws by
        itself, one after the other.

    Raises:
        UserError: ``chunk`` is not positive.
    """
    if chunk < 1:
        raise UserError("chunk is a positive number of rows", f"chunk={chunk}", "choose 1 or more")
    parts: list[dict[str, Tensor]] = [checkpoint(embed, part, use_reentrant=False) for part in chunks(inputs, chunk)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def chunks(inputs: Inputs, chunk: int) -> Iterator[Inputs]:
    """Consecutive rows of a batch, ``chunk`` at a time, the last part what is left."""
    rows = len(next(iter(inputs.values())).mask)
    for start in range(0, max(rows, 1), chunk):
        part = slice(start, start + chunk)
        yield {name: Tokens(values[part], mask[part]) for name, (values, mask) in inputs.items()}

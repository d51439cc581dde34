"""A transformers encoder whose weights train: raw samples to tokens, with gradients.

What it computes is what the frozen encoder computes, so its folder (``save_pretrained``) is again an encoder for
:func:`weft.encoders.create_encoder`. Batch normalisation keeps the statistics it was trained with (its gain and bias
train): a sample's tokens depend on that sample alone, in training too, so a batch may be embedded in chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weft.encoders.base import Encoder
from weft.encoders.hf import PretrainedImage, PretrainedText, quiet
from weft.errors import UserError
from weft.tokens import Tokens, present


class Tower(nn.Module):
    """A model over text or images, to be trained.

    Args:
        encoder: of :func:`weft.encoders.create_encoder`, ``hf:<name or folder>``; its model is trained in place, and
            starts on the CPU as every module does.

    Attributes:
        width: ``D`` of its tokens.
        recipe: what the encoder was made with.

    Raises:
        UserError: an encoder without weights to train, of another kind, or one that pools its tokens.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        if not isinstance(encoder, PretrainedText | PretrainedImage):
            raise UserError(
                "towers that train are transformers models of text or images",
                type(encoder).__name__,
                "give --encoder MODALITY=hf:<name or folder> for every modality",
            )
        if encoder.output != "tokens":
            raise UserError(
                "a tower gives all its tokens", f"output={encoder.output!r}", "leave output out: the aligner pools"
            )
        self._encoder, self.network, self.width = encoder, encoder.model.cpu(), encoder.width
        self.recipe: dict[str, Any] = encoder.recipe or {}

    def identity(self) -> dict[str, Any]:
        """The encoder it started from."""
        return self._encoder.identity()

    def read(self, values: Sequence[Any]) -> Tokens:
        """Raw inputs of present values: tokens' numbers ``(n, T)`` with their mask, or pixels ``(n, C, H, W)`` with
        the mask ``(n, 1)``.

        Raises:
            BadValue: a value cannot be read.
        """
        return self._encoder.read(values)

    def forward(self, raw: Tokens) -> Tokens:
        """``(B, T, D)`` tokens of raw inputs; a row whose mask is empty stays empty.

        In evaluation, equal rows one after the other (the photo of five captions) are computed once.
        """
        there = present(raw)
        if self.training or len(there) < 2:
            return self._filled(raw, there)
        same = (raw.values[1:] == raw.values[:-1]).flatten(1).all(dim=1) & (raw.mask[1:] == raw.mask[:-1]).all(dim=1)
        new = torch.cat([same.new_ones(1), ~same])
        values, mask = self._filled(Tokens(raw.values[new], raw.mask[new]), there[new])
        index = new.cumsum(dim=0) - 1
        return Tokens(values[index], mask[index])

    def _filled(self, raw: Tokens, there: Tensor) -> Tokens:
        """The tokens of the rows that are there, zeros elsewhere."""
        if not bool(there.any()):
            return Tokens(torch.zeros(len(there), 1, self.width, device=there.device), there.unsqueeze(1))
        values, mask = self._encoder.hidden(Tokens(raw.values[there], raw.mask[there]))
        whole = Tokens(values.new_zeros(len(there), *values.shape[1:]), mask.new_zeros(len(there), mask.shape[1]))
        return Tokens(
            whole.values.index_put((there.nonzero()[:, 0],), values),
            whole.mask.index_put((there.nonzero()[:, 0],), mask),
        )

    def train(self, mode: bool = True) -> Tower:
        """As for any module; batch normalisation stays as in evaluation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.eval()
        return self

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a transformers folder, weights and preprocessing: ``hf:<folder>`` is the trained encoder."""
        model: Any = self.network
        with quiet():
            model.save_pretrained(folder)
            self._encoder.processor.save_pretrained(folder)

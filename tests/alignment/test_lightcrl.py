"""LightCRL's options: padding as the original reads it, the width of the context, original weights. (Golden cases:
tests/golden.)"""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.alignment.lightcrl import LightCRL, Operation
from weft.errors import UserError
from weft.tokens import Tokens

DIMS = {"text": 6, "image": 5}
OPTIONS = {"heads": 2, "feedforward": 12, "dropout": 0.0}


def build(operation: str, **options: object) -> LightCRL:
    torch.manual_seed(0)
    return LightCRL(DIMS, 8, operation=operation, **OPTIONS, **options).double()  # type: ignore[arg-type]


def tokens(width: int, lengths: list[int]) -> Tokens:
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    return Tokens(torch.randn(len(lengths), 4, width, dtype=torch.float64), mask)


@pytest.mark.parametrize("operation", get_args(Operation))
def test_official_padding_reads_what_lies_under_the_mask(operation: str) -> None:
    """The original knows no mask: a padded row is that of a full mask, with the very values of the padding."""
    module, batch = build(operation, official_padding=True), tokens(6, [4, 2, 1, 0])
    found = module({"text": batch})["text"]
    everything = module({"text": Tokens(batch.values, torch.ones_like(batch.mask))})["text"]
    assert torch.equal(found[:3], everything[:3])
    assert not found[3].any(), "a row without a token is absent"
    masked = build(operation)({"text": batch})["text"]
    assert_close(masked[0], found[0])
    for row in (1, 2):
        assert (masked[row] - found[row]).abs().max() > 1e-3
    other = Tokens(batch.values.masked_fill(~batch.mask.unsqueeze(2), 0.0), batch.mask)
    assert (module({"text": other})["text"][1] - found[1]).abs().max() > 1e-4, "zeros are other values"


def official(module: LightCRL) -> dict[str, Tensor]:
    """A module's weights under the original authors' names (concatenation)."""
    names = {"norm.": "fusion_encoder.layer_normalization.", "encoder.": "fusion_encoder.transformer_encoder."}
    names |= {"join.": "fusion_encoder.projection.", "context_network.": "context_encoder.model."}
    for index, name in enumerate(("text", "image")):
        head = f"{name}_encoder.projection_head"
        for position, layer in ((0, "linear_layer1"), (2, "linear_layer2"), (4, "normalization_layer")):
            names[f"heads.{index}.{position}."] = f"{head}.{layer}."
        names[f"context_vectors.{index}"] = f"context_encoder.{name}_context"
    return {
        new + key.removeprefix(old): value
        for key, value in module.state_dict().items()
        for old, new in names.items()
        if key.startswith(old)
    }


@pytest.mark.parametrize("width", [1, 7, 10])
def test_the_context_of_concatenation_has_any_width(width: int) -> None:
    module = build("concatenation", context_output_dim=width)
    assert module.context("text").shape == (1, width)
    loaded = LightCRL.from_official(official(module), heads=2)
    assert loaded.operation == "concatenation"
    batch = {"text": tokens(6, [4, 4]), "image": tokens(5, [4, 4])}
    for name, z in loaded.eval()(batch).items():
        assert torch.equal(z, module.eval()(batch)[name])
    with pytest.raises(UserError, match="context_output_dim=0"):
        build("concatenation", context_output_dim=0)

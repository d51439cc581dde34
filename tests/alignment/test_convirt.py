"""ConVIRT's projections against loops over tokens. (Its loss: test_objectives; the system: training/test_towers.)"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from weft.alignment import create_aligner
from weft.errors import UserError
from weft.tokens import Tokens


def test_equals_loops_over_the_tokens() -> None:
    torch.manual_seed(0)
    aligner = create_aligner("convirt", {"image": 3, "text": 5, "sound": 2}, 4, pooling=("mean", "max", "mean"))
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    inputs = {name: Tokens(torch.randn(3, 3, width) - 5, mask) for name, width in aligner.dims.items()}
    found = aligner(inputs)
    for index, (name, pooling) in enumerate(zip(inputs, aligner.pooling, strict=True)):
        first, _, second = aligner.project[index]
        for row in range(2):
            tokens = [inputs[name].values[row, t] for t in range(3) if mask[row, t]]
            pooled = sum(tokens) / len(tokens) if pooling == "mean" else torch.stack(tokens).max(dim=0).values
            hidden = (first.weight @ pooled + first.bias).clamp(min=0)
            out = second.weight @ hidden + second.bias
            assert_close(found[name][row], out / out.norm())
        assert not found[name][2].any()


def test_pooling_of_the_paper_by_default() -> None:
    assert create_aligner("convirt", {"image": 3, "text": 5}).pooling == ("mean", "max")
    with pytest.raises(UserError, match="one pooling per modality"):
        create_aligner("convirt", {"image": 3, "text": 5}, pooling=("max",))

"""Tokens: padding, pooling, presence, concatenation, against plain loops."""

from __future__ import annotations

import pytest
import torch

from weft.errors import UserError
from weft.tokens import Tokens, as_tokens, concatenate, keys_of, mean_pool, pad, present


def test_pad_keeps_values_and_marks_real_tokens() -> None:
    sequences = [torch.randn(n, 3) for n in (2, 5, 0, 1)]
    values, mask = pad(sequences)
    assert values.shape == (4, 5, 3)
    assert mask.sum(1).tolist() == [2, 5, 0, 1]
    for row, sequence in enumerate(sequences):
        assert torch.equal(values[row, mask[row]], sequence)
    assert torch.equal(values[~mask], torch.zeros_like(values[~mask]))


def test_pad_of_only_absent_rows_keeps_one_masked_position() -> None:
    values, mask = pad([torch.zeros(0, 3), torch.zeros(0, 3)])
    assert values.shape == (2, 1, 3)
    assert not mask.any()


def test_pad_refuses_unequal_widths() -> None:
    with pytest.raises(UserError, match="one common D"):
        pad([torch.zeros(2, 3), torch.zeros(2, 4)])


def test_mean_pool_ignores_what_lies_under_the_mask() -> None:
    tokens = pad([torch.randn(n, 4) for n in (3, 1, 0)])
    poisoned = Tokens(tokens.values.masked_fill(~tokens.mask.unsqueeze(-1), float("nan")), tokens.mask)
    for row, length in enumerate((3, 1)):
        expected = sum(tokens.values[row, t] for t in range(length)) / length
        torch.testing.assert_close(mean_pool(poisoned)[row], expected)
    assert torch.equal(mean_pool(poisoned)[2], torch.zeros(4))
    assert present(poisoned).tolist() == [True, True, False]


def test_concatenate_appends_along_the_tokens() -> None:
    a, b = pad([torch.randn(2, 3)]), as_tokens(torch.randn(1, 3), torch.tensor([False]))
    joined = concatenate([a, b])
    assert joined.values.shape == (1, 3, 3)
    assert joined.mask.tolist() == [[True, True, False]]


def test_keys_of_says_no_more_than_attention_has_to_mind() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert keys_of(torch.ones(2, 3, dtype=torch.bool)) == (None, None)
    keys, there = keys_of(mask)
    assert keys is not None
    assert torch.equal(keys[:, 0, 0], mask)
    assert there is None, "every row has a key, so nothing is to be dropped"
    keys, there = keys_of(torch.cat([mask, torch.zeros(1, 3, dtype=torch.bool)]))
    assert keys is not None
    assert there is not None
    assert keys[2].all(), "a row without keys sees all, and what it receives is dropped"
    assert there.flatten().tolist() == [True, True, False]

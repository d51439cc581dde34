"""Word-region alignment of an aligner's tokens, against a loop over rows and POT's exact plan."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch

from weft.alignment import Objective, create_aligner, create_regulariser
from weft.data import Split
from weft.errors import UserError
from weft.models import AlignedModel
from weft.store import MemoryFeatures
from weft.tokens import Tokens
from weft.training import fit_aligner


def batch() -> dict[str, Tokens]:
    torch.manual_seed(0)
    text = Tokens(torch.randn(4, 5, 3), torch.arange(5) < torch.tensor([[5], [2], [4], [0]]))
    image = Tokens(torch.randn(4, 6, 4), torch.arange(6) < torch.tensor([[6], [6], [3], [6]]))
    return {"text": text, "image": image}


def test_equals_the_exact_plans_of_rows_and_their_neighbours() -> None:
    inputs = batch()
    aligner = create_aligner("two-tower", {"text": 3, "image": 4}, 8)
    wra = create_regulariser("word-region", weight=0.5, beta=0.05, iterations=2000)

    def cost(row: int, other: int) -> float:
        x = torch.cat([aligner({"text": Tokens(v[None, None], torch.ones(1, 1, dtype=torch.bool))})["text"] for v in
                       inputs["text"].values[row][inputs["text"].mask[row]]])  # fmt: skip
        y = torch.cat([aligner({"image": Tokens(v[None, None], torch.ones(1, 1, dtype=torch.bool))})["image"] for v in
                       inputs["image"].values[other][inputs["image"].mask[other]]])  # fmt: skip
        return float(ot.emd2([], [], (1 - x @ y.T).double().detach().numpy()))

    expected = 0.5 * np.mean([cost(i, i) - cost(i, (i + 1) % 3) for i in range(3)])
    assert wra(inputs, aligner(inputs), aligner).item() == pytest.approx(expected, abs=1e-4)


def test_values_under_the_mask_do_not_count_and_a_single_row_says_nothing() -> None:
    inputs = batch()
    aligner, wra = create_aligner("two-tower", {"text": 3, "image": 4}, 8), create_regulariser("word-region")
    before = wra(inputs, aligner(inputs), aligner)
    spoilt = {n: Tokens(torch.where(t.mask[..., None], t.values, 1e4), t.mask) for n, t in inputs.items()}
    torch.testing.assert_close(wra(spoilt, aligner(spoilt), aligner), before)
    one = {n: Tokens(t.values[:1], t.mask[:1]) for n, t in inputs.items()}
    assert wra(one, aligner(one), aligner).item() == 0
    with pytest.raises(UserError, match="weight"):
        create_regulariser("word-region", weight=-1)


class Silent(Objective):
    """Says nothing."""

    def forward(
        self, a: torch.Tensor, b: torch.Tensor, valid: torch.Tensor, group: torch.Tensor | None = None
    ) -> torch.Tensor:
        return (a.sum() + b.sum()) * 0


def test_an_aligner_trains_under_it() -> None:
    """Tokens of a pair share their topics: transport learns to tell pairs apart without any other objective."""
    rng = np.random.default_rng(0)
    topics, maps = rng.normal(size=(60, 3, 6)), rng.normal(size=(2, 6, 6))
    sides = {
        name: [(topic @ m + 0.1 * rng.normal(size=(3, 6))).astype(np.float32) for topic in topics]
        for name, m in zip(("a", "b"), maps, strict=True)
    }
    features = MemoryFeatures([f"r{i}" for i in range(60)], sides, {}, task="retrieval")
    split = Split(np.arange(40), np.arange(40, 50), np.arange(50, 60))
    found = {}
    for weight in (0.0, 20.0):
        torch.manual_seed(0)
        model = AlignedModel.build(dims=features.dims, aligner="two-tower", dim=8)
        added = {"regularisers": {"word-region": {"weight": weight}}}
        settings = {"epochs": 20, "batch_size": 20, "lr": 0.02, "monitor": "loss", **added}
        fit_aligner(model, Silent(), features, split, settings, progress=False)
        inputs = features.gather(split.train)
        wra = create_regulariser("word-region", weight=1.0)
        found[weight] = wra(inputs, model(inputs), model).item()
    assert found[20.0] < found[0.0] - 0.2

"""The linear aligner against loops, and trained to a known answer."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from tests.contract.sampling import build, sample, widths
from tests.fusion.references import pooled
from weft.alignment import create_aligner, create_objective
from weft.alignment.two_tower import TwoTower
from weft.tokens import as_tokens


def test_equals_the_loops() -> None:
    dims = widths(TwoTower)
    module, inputs = build(TwoTower, dims), sample(TwoTower, dims)
    found = module(inputs)
    for index, name in enumerate(dims):
        for row in range(len(inputs[name].mask)):
            value = pooled(inputs[name], row)
            expected = torch.zeros(module.dim, dtype=torch.float64)
            if value is not None:
                expected = module.project[index].weight @ value + module.project[index].bias
                expected = expected / torch.sqrt((expected**2).sum())
            assert_close(found[name][row], expected)


def test_finds_two_rotated_views_of_one_source() -> None:
    """Both modalities are linear in a hidden vector: after training, partners are nearest neighbours, before hardly."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(80, 4, generator=generator)
    views = {n: hidden @ torch.randn(4, d, generator=generator) for n, d in (("text", 6), ("image", 9))}
    inputs = {n: as_tokens(v) for n, v in views.items()}
    torch.manual_seed(0)
    aligner, objective = create_aligner("two-tower", {"text": 6, "image": 9}, 8), create_objective("infonce")
    optimizer = torch.optim.Adam([*aligner.parameters(), *objective.parameters()], lr=0.05)

    def hits() -> float:
        z = aligner(inputs)
        return float(((z["text"] @ z["image"].T).argmax(dim=1) == torch.arange(80)).float().mean())

    before, scale = hits(), objective.log_scale.item()
    for _ in range(60):
        optimizer.zero_grad()
        z = aligner(inputs)
        objective(z["text"], z["image"], torch.ones(80, dtype=torch.bool)).backward()
        optimizer.step()
    assert before < 0.2
    assert hits() > 0.9
    assert objective.log_scale.item() != scale

"""Every registered objective: one process equals many, chunked equals whole, what is not valid never matters.

Regularisers too: one process equals many, with GradCache and without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch.testing import assert_close

from tests.contract.processes import (
    GRAD_CACHE,
    REGULARISERS,
    Outcome,
    Trained,
    build,
    groups,
    label,
    pairs,
    regularise,
    run,
    share,
    train,
    variants,
    whole,
    work,
)
from weft.alignment import objectives
from weft.errors import UserError

VARIANTS = [pytest.param(n, o, id=label(n, o)) for n, o in variants()]
every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS)
ALL = slice(None)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """The outcomes of every variant on 2 and on 3 processes, by rank."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, (str(folder),), nprocs=3)
    return {w: [torch.load(Path(folder) / f"outcome-{w}-{r}.pt") for r in range(w)] for w in (2, 3)}


@every_variant
@pytest.mark.parametrize("world", [2, 3])
def test_many_processes_equal_one(together: Any, name: str, options: dict[str, Any], world: int) -> None:
    """The loss on every process, and the mean over processes of the parameter gradients, are those of one process."""
    alone = run(name, options, ALL)
    outcomes = [Outcome(*outcome[label(name, options)]) for outcome in together[world]]
    for rank, outcome in enumerate(outcomes):
        assert_close(outcome.loss, alone.loss)
        assert_close(outcome.a / world, alone.a[share(rank, world)])
        assert_close(outcome.b / world, alone.b[share(rank, world)])
    for index, expected in enumerate(alone.parameters):
        assert_close(torch.stack([o.parameters[index] for o in outcomes]).mean(dim=0), expected)


@every_variant
@pytest.mark.parametrize("world", [1, 2, 3])
def test_grad_cache_equals_the_whole_batch(together: Any, name: str, options: dict[str, Any], world: int) -> None:
    """Embedding in chunks, on any number of processes: the loss, and the gradient of the encoder and the objective."""
    expected_all = train(name, whole(options), ALL, None)
    if world == 1:
        parts = [train(name, options, ALL, GRAD_CACHE)]
    else:
        parts = [Trained(*outcome["trained " + label(name, options)]) for outcome in together[world]]
    for part in parts:
        assert_close(part.loss, expected_all.loss)
    for index, expected in enumerate(expected_all.parameters):
        assert_close(torch.stack([part.parameters[index] for part in parts]).mean(dim=0), expected)


@pytest.mark.parametrize("name", REGULARISERS)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_regularisers_are_the_same_on_many_processes_and_in_chunks(together: Any, name: str, world: int) -> None:
    """The loss, and the mean over processes of the encoder's gradient; a process whose rows all lack a side too."""
    expected_all = regularise(name, ALL, None)
    if world == 1:
        parts = [regularise(name, ALL, GRAD_CACHE)]
    else:
        parts = [Trained(*outcome[f"regularised {name}"]) for outcome in together[world]]
    assert float(expected_all.loss) > 1e-3
    for part in parts:
        assert_close(part.loss, expected_all.loss)
    for index, expected in enumerate(expected_all.parameters):
        mean = torch.stack([part.parameters[index] for part in parts]).mean(dim=0)
        assert_close(mean, expected, rtol=1e-4, atol=1e-6)


@every_variant
def test_evaluation_is_of_this_process_alone(together: Any, name: str, options: dict[str, Any]) -> None:
    """Evaluating, every process holds all rows already: they are not gathered again."""
    alone = build(name, options).double().eval()(*pairs(), groups(options))
    for outcome in together[2]:
        assert_close(outcome["eval " + label(name, options)][0], alone.detach())


@every_variant
def test_chunked_equals_whole(name: str, options: dict[str, Any]) -> None:
    all_at_once, found = run(name, whole(options), ALL), run(name, options, ALL)
    assert_close(found.loss, all_at_once.loss)
    expected = (all_at_once.a, all_at_once.b, *all_at_once.parameters)
    for one, other in zip((found.a, found.b, *found.parameters), expected, strict=True):
        assert_close(one, other)


@every_variant
def test_rows_that_are_not_valid_are_no_negatives(name: str, options: dict[str, Any]) -> None:
    (a, b, valid), group = pairs(), groups(options)
    objective = build(name, options).double()
    known = None if group is None else group[valid]
    kept = objective(a[valid], b[valid], torch.ones(int(valid.sum()), dtype=torch.bool), known)
    for fill in (1e4, float("nan")):
        filled = [x.masked_fill(~valid.unsqueeze(1), fill).requires_grad_() for x in (a, b)]
        loss = objective(*filled, valid, group)
        assert_close(loss, kept)
        for gradient in torch.autograd.grad(loss, filled):
            assert bool(gradient.isfinite().all())
            assert not gradient[~valid].any()
            assert bool((gradient[valid].abs().sum(dim=1) > 0).any())


@every_variant
def test_the_order_of_the_pairs_never_matters(name: str, options: dict[str, Any]) -> None:
    (a, b, valid), group = pairs(), groups(options)
    objective, order = build(name, options).double(), torch.randperm(len(a))
    shuffled = None if group is None else group[order]
    assert_close(objective(a[order], b[order], valid[order], shuffled), objective(a, b, valid, group))


@every_variant
def test_a_batch_without_pairs_is_refused(name: str, options: dict[str, Any]) -> None:
    a, b, valid = pairs()
    with pytest.raises(UserError):
        build(name, options).double()(a, b, torch.zeros_like(valid), groups(options))


@every_variant
def test_gradients_are_right(name: str, options: dict[str, Any]) -> None:
    (a, b, valid), group = pairs(), groups(options)
    objective = build(name, options).double()
    leaves = (a.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, y: objective(x, y, valid, group), leaves, fast_mode=True)


@pytest.mark.parametrize("name", objectives.names())
def test_says_where_it_comes_from(name: str) -> None:
    assert objectives.get(name).paper

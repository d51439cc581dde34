"""Weights, gradients and the moments of Adam in shares, one for each process: fully sharded data parallel (FSDP).

``accelerate launch --use_fsdp`` (``ACCELERATE_USE_FSDP=true``) asks for it. Between steps a process of ``P`` holds
``1 / P`` of every weight, of the best one so far and of both its moments; a step puts the weights together, and leaves
each process its share of the mean gradient. The task is one unit: while it computes, all its weights and gradients are
there, and while dev rows are scored all weights. What is written is put together tensor by tensor, in the first process
alone. Accelerate shards on GPUs alone; torch's ``fully_shard``, used here, does on CPUs, too.

Rajbhandari et al. 2020, ZeRO (SC); Zhao et al. 2023, PyTorch FSDP (VLDB).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from weft.allocator import return_freed_memory
from weft.errors import UserError
from weft.training.phase import Phase


def wanted() -> bool:
    """Whether the launcher asked for shares."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes")


def share(task: nn.Module, device: torch.device, phases: Sequence[Phase]) -> list[Phase]:
    """Give every process its share of the weights; the phases, which move shares now.

    Raises:
        UserError: a step of the task has several phases.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if len(phases) > 1:
        raise UserError(
            "weights in shares are for training in one phase",
            f"ACCELERATE_USE_FSDP is set, and a step of this system has {len(phases)} phases",
            "launch without --use_fsdp: every process then has all weights",
        )
    return_freed_memory()
    names = {id(weight): name for name, weight in task.named_parameters()}
    fully_shard(task, mesh=init_device_mesh(device.type, (dist.get_world_size(),)))
    shares = dict(task.named_parameters())

    def own(weights: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        return [shares[names[id(weight)]] for weight in weights]

    moves = [phase.optimizer for phase in phases]
    changed = [replace(m, parameters=own(m.parameters), layers=[(f, own(some)) for f, some in m.layers]) for m in moves]
    return [replace(phase, optimizer=optimizer) for phase, optimizer in zip(phases, changed, strict=True)]


def is_share(tensor: Tensor) -> bool:
    """Whether it is a DTensor; asked without the second that it takes to import what no other run needs."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> Tensor:
    """A tensor of which every process has a share, in full; all processes have to ask for it at once."""
    full: Tensor = tensor.full_tensor() if is_share(tensor) else tensor
    return full


def like(tensor: Any, full: Tensor) -> Tensor:
    """A full tensor as ``tensor`` is: this process's share of it, or all."""
    if not is_share(tensor):
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full.to(tensor.device), tensor.device_mesh, tensor.placements)


def first_has(tensor: Any) -> Any:
    """As :func:`whole`, in the first process alone; None in the others, which send it their shares."""
    if not is_share(tensor):
        return tensor
    import torch.distributed as dist

    share: Tensor = tensor.to_local().contiguous()
    if dist.get_rank():
        if share.numel():
            dist.send(share, 0)
        return None
    full = torch.empty(tensor.shape, dtype=tensor.dtype, device=share.device)
    for rank, part in enumerate(full.chunk(dist.get_world_size())):
        if rank:
            dist.recv(part, rank)
        else:
            part.copy_(share)
    return full


@torch.no_grad()
def unite(task: nn.Module, gather: Callable[[Any], Any] = whole) -> list[tuple[nn.Module, str, Any]]:
    """Put full weights in the place of the shares.

    Args:
        task: its modules.
        gather: :func:`whole`, or :func:`first_has`: the other processes then go on with their shares.

    Returns:
        The shares, and where they were.
    """
    made: dict[int, nn.Parameter] = {}
    shares = [(m, name, w) for m in task.modules() for name, w in m.named_parameters(recurse=False) if is_share(w)]
    for module, name, weight in shares:
        if id(weight) not in made:  # a weight may be that of several modules
            full = gather(weight)
            made[id(weight)] = weight if full is None else nn.Parameter(full, weight.requires_grad)
        module.register_parameter(name, made[id(weight)])
    return shares


@contextmanager
def together(task: nn.Module, gather: Callable[[Any], Any] = whole) -> Iterator[None]:
    """All weights are there, see :func:`unite`; what is written to those that were shares is lost afterwards."""
    shares = unite(task, gather)
    yield
    for module, name, weight in shares:
        module.register_parameter(name, weight)

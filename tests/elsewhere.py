"""A second device that is not there: finds on a CPU what would meet tensors of two devices on a GPU.

Tensors stay in the CPU's memory. Which of them were moved is known beside them, what an operation makes is where its
inputs are, and an operation on tensors of two places fails as it would on a GPU; in backward passes, too, and where
these compute something once more. The library sees a GPU and takes it. What torch makes from nothing inside of an
operation or a backward pass (zeros, a causal mask) counts as the CPU's: it is not for code where that happens.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, THERE = torch.device("cpu"), torch.device("cuda", 0)
ANYWHERE = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten._index_put_impl_, torch.ops.aten.copy_}
"""Operations whose second tensor may lie on the CPU."""
MAKERS = ("arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm")
MAKERS += ("tensor", "zeros", "empty_like", "full_like", "ones_like", "rand_like", "randn_like", "zeros_like")
OF_TENSORS = ("new_empty", "new_full", "new_ones", "new_tensor", "new_zeros")


class Places(TorchDispatchMode):
    """Where tensors are. An operation takes tensors of one place, and numbers (0-d ones of the CPU) from anywhere.

    Raises:
        RuntimeError: it is given others.
    """

    def __init__(self) -> None:
        super().__init__()
        self._there: dict[int, Any] = {}  # storages, kept so that no other one gets their address

    def of(self, tensor: Tensor) -> torch.device:
        return THERE if tensor.untyped_storage()._cdata in self._there else _real(tensor)

    def put(self, made: Any, place: torch.device) -> None:
        for storage in (tensor.untyped_storage() for tensor in tree_leaves(made) if isinstance(tensor, Tensor)):
            if place == THERE:
                self._there[storage._cdata] = storage
            else:
                self._there.pop(storage._cdata, None)

    def moved(self, tensor: Tensor, place: torch.device) -> Tensor:
        if place == self.of(tensor):
            return tensor
        copy = tensor.clone()
        self.put(copy, place)
        return copy

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        places = [self.of(tensor) for tensor in tensors if tensor.ndim] or [self.of(tensor) for tensor in tensors]
        if len(set(places)) > 1 and func.overloadpacket not in ANYWHERE:
            found = ", ".join(f"{tensor.dtype} {tuple(tensor.shape)} on {self.of(tensor)}" for tensor in tensors)
            raise RuntimeError(f"{func} meets tensors of two devices: {found}")
        made = func(*args, **(kwargs or {}))
        if THERE in places[:1]:
            self.put(made, THERE)
        return made


_get_device, _to = Tensor.device.__get__, Tensor.to


def _real(tensor: Tensor) -> torch.device:
    return _get_device(tensor)


def _named(value: Any) -> torch.device | None:
    """The place that an argument names, or None."""
    text = str(value) if isinstance(value, str | torch.device) else ""
    return {"cpu": CPU, "cuda": THERE}.get(text.partition(":")[0])


def _moving(places: Places) -> Callable[..., Tensor]:
    """``Tensor.to`` between the two places."""

    def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        args = tuple(part for a in args for part in ((places.of(a), a.dtype) if isinstance(a, Tensor) else (a,)))
        place = next((place for place in map(_named, (*args, kwargs.get("device"))) if place), None)
        if place is None:
            return _to(tensor, *args, **kwargs)
        args, kwargs = tuple(a for a in args if not _named(a)), {k: v for k, v in kwargs.items() if k != "device"}
        return places.moved(_to(tensor, CPU, *args, **kwargs), place)

    return to


def _making(places: Places, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that makes a tensor, at either place."""

    @functools.wraps(make)
    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        place = _named(device) or (places.of(args[0]) if device is None and make.__name__ == "new_tensor" else None)
        if place is None:
            return make(*args, **kwargs) if device is None else make(*args, device=device, **kwargs)
        return places.moved(make(*args, device=CPU, **kwargs), place)

    return made


@contextmanager
def elsewhere() -> Iterator[None]:
    """The library sees a GPU and takes it."""
    from accelerate.state import AcceleratorState

    _device_constructors()  # torch remembers which they are, and is to remember its own
    with pytest.MonkeyPatch.context() as patch, Places() as places:
        patch.setattr(Tensor, "device", property(places.of))
        patch.setattr(Tensor, "is_cpu", property(lambda tensor: places.of(tensor) == CPU))
        patch.setattr(Tensor, "to", _moving(places))
        patch.setattr(Tensor, "cpu", lambda tensor: places.moved(tensor, CPU))
        for owner, names in ((torch, MAKERS), (Tensor, OF_TENSORS)):
            for name in names:
                patch.setattr(owner, name, _making(places, getattr(owner, name)))
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_rng_state", lambda *args: torch.get_rng_state())
        patch.setattr(torch.cuda, "set_rng_state", lambda *args: None)
        patch.setattr(
            "accelerate.Accelerator.device", property(lambda _: CPU if os.environ.get("ACCELERATE_USE_CPU") else THERE)
        )
        check = "_accelerator_graph_capture_health_check"  # a build for GPUs asks the driver there
        patch.setattr(torch.optim.Optimizer, check, lambda _: None, raising=False)
        AcceleratorState._reset_state(True)
        try:
            yield
        finally:
            AcceleratorState._reset_state(True)

"""What makes a GPU wait, found without one: on the meta device, a tensor that no operation made came from the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from weft.tokens import Tokens


class NothingFromTheHost(TorchDispatchMode):
    """Operations read what was given and what other operations made.

    A list as an index, or ``torch.tensor([...], device=...)``, is copied from the host, and a GPU waits for it. Reading
    a value back (``item()``, ``nonzero()``) is an error on the meta device by itself. Numbers may come from anywhere.

    Args:
        module: of which parameters and buffers are given.
        inputs: of the module.
    """

    def __init__(self, module: nn.Module, inputs: Mapping[str, Tokens]) -> None:
        super().__init__()
        self._known: dict[int, Tensor] = {}
        self._keep([*module.parameters(), *module.buffers(), *(part for tokens in inputs.values() for part in tokens)])

    def _keep(self, tensors: Iterable[Any]) -> None:
        self._known |= {id(tensor): tensor for tensor in tensors if isinstance(tensor, Tensor)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and tensor.ndim and id(tensor) not in self._known:
                raise AssertionError(f"{func} reads {tensor.dtype} of shape {tuple(tensor.shape)} from the host")
        found = func(*args, **(kwargs or {}))
        self._keep(tree_leaves(found))
        return found

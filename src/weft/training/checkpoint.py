"""The state of a run: one safetensors file that holds all a killed run needs to go on with the same numbers.

Tensors: ``model.*``, ``best.*`` (the best weights so far), ``optimizer.<optimizer>.<parameter>.<slot>``. The header
holds the rest as JSON: position (epoch, step), history, loss scale, and a fingerprint of what is being run. There is no
random state to save: every step draws its seeds from (seed, epoch, step). One file, replaced in one step, cannot
disagree with itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.files import canonical, sha256, tensors_of, write_tensors_in_turn
from weft.training.shares import first_has, like

NAME = "checkpoint.safetensors"


@dataclass
class Position:
    """Where a run is.

    Attributes:
        epoch, step: the next step to do.
        losses: losses of the steps already done in this epoch.
        reductions: how often the plateau schedule has lowered the learning rate.
        best_epoch: epoch of the best weights; -1 before the first evaluation.
        epochs: the log so far, one entry per finished epoch.
        seconds: time spent in earlier processes.
        finished: nothing is left to do.
    """

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    reductions: int = 0
    best_epoch: int = -1
    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    finished: bool = False


def fingerprint(value: Any) -> str:
    """A short hash of a JSON value."""
    return sha256(canonical(value))[:16]


def save_checkpoint(
    folder: Path,
    state: dict[str, Tensor],
    best: dict[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler,
    position: Position,
    run: dict[str, str],
    main: bool = True,
) -> None:
    """Write the state of a run in one step: weights, the best ones, and what the optimizers remember.

    Of tensors in shares every process has to ask for it at once; one after the other they are put together in the
    first, which alone is ``main`` and writes.
    """
    tensors = {f"model.{name}": t for name, t in state.items()} | {f"best.{name}": t for name, t in best.items()}
    for k, optimizer in enumerate(optimizers):
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{k}.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    if main:
        header = {"position": asdict(position), "scaler": scaler.state_dict(), "run": run}
        write_tensors_in_turn(folder / NAME, tensors, first_has, {"weft": json.dumps(header)})
    else:
        for tensor in tensors.values():
            first_has(tensor)


def load_checkpoint(
    folder: Path,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler,
    run: dict[str, str],
) -> tuple[Position, dict[str, Tensor]] | None:
    """Put the state of a run back; its position and the best weights so far. None if there is no checkpoint.

    Raises:
        UserError: the file is damaged, or belongs to another run.
    """
    if not (folder / NAME).exists():
        return None
    with tensors_of(folder / NAME) as file:
        try:
            header = json.loads((file.metadata() or {})["weft"])
            position, then = Position(**header["position"]), header["run"]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise UserError(
                "the checkpoint is damaged", f"{folder / NAME}: {error!r}", "delete the folder and train again"
            ) from None
        other = [key for key in run if run[key] != then.get(key)]
        if other:
            raise UserError(
                "the folder holds the checkpoint of another run",
                f"{folder}: {', '.join(f'{key} {then.get(key)} there, {run[key]} here' for key in other)}",
                "choose an empty folder, delete this one, or go back to the earlier settings",
            )
        own = module.state_dict()
        state: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}}
        moved = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
        slots: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
        for key in file.keys():  # noqa: SIM118
            part, _, name = key.partition(".")
            tensor = file.get_tensor(key)
            if part in state:
                state[part][name] = like(own[name], tensor)
                continue
            k, index, slot = name.split(".")
            weight = moved[int(k)][int(index)]
            if tensor.shape == weight.shape:
                tensor = torch.empty_like(weight, dtype=tensor.dtype).copy_(like(weight, tensor))
            slots[int(k)].setdefault(int(index), {})[slot] = tensor
    module.load_state_dict(state["model"])
    for optimizer, found in zip(optimizers, slots, strict=True):
        optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})
    if header["scaler"]:
        scaler.load_state_dict(header["scaler"])
    return position, state["best"]

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
from weft.files import canonical, read_tensors, sha256, write_tensors
from weft.training.shares import like, whole

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


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers, in full: ``{"<parameter>.<slot>": tensor}``."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{slot}": whole(torch.as_tensor(v)) for index, of in state.items() for slot, v in of.items()}


def save_checkpoint(
    folder: Path,
    state: dict[str, Tensor],
    best: dict[str, Tensor],
    slots: Sequence[dict[str, Tensor]],
    scaler: torch.amp.GradScaler,
    position: Position,
    run: dict[str, str],
) -> None:
    """Write the state of a run in one step: weights, the best ones, and the :func:`moments` of every optimizer."""
    tensors = {f"model.{name}": t for name, t in state.items()}
    tensors |= {f"best.{name}": t for name, t in best.items()}
    for k, found in enumerate(slots):
        tensors |= {f"optimizer.{k}.{name}": t for name, t in found.items()}
    header = {"position": asdict(position), "scaler": scaler.state_dict(), "run": run}
    write_tensors(folder / NAME, tensors, {"weft": json.dumps(header)})


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
    tensors, metadata = read_tensors(folder / NAME)
    try:
        header = json.loads(metadata["weft"])
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
    module.load_state_dict({name: like(own[name], t) for name, t in _part(tensors, "model.").items()})
    for k, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, f"optimizer.{k}.").items():
            index, slot = name.split(".", 1)
            state.setdefault(int(index), {})[slot] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for parameter, slots in optimizer.state.items():
            for name in [name for name, t in slots.items() if t.shape == parameter.shape]:
                full = like(parameter, slots[name])
                slots[name] = torch.empty_like(parameter, dtype=full.dtype).copy_(full)
    if header["scaler"]:
        scaler.load_state_dict(header["scaler"])
    return position, _part(tensors, "best.")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

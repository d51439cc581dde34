"""What a run says while it works: a progress bar, one JSON line per epoch, TensorBoard where it is wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from weft.errors import UserError
from weft.files import plain, write_bytes
from weft.progress import progress_bar


class RunLog:
    """Progress and figures of one run.

    Args:
        folder: where ``log.jsonl`` goes; None keeps nothing.
        steps: all steps of the run.
        progress: show a bar with the time left, or print a line now and then.
        log_to: ``"tensorboard"`` or None.
    """

    def __init__(self, folder: Path | None, steps: int, *, progress: bool, log_to: str | None = None) -> None:
        self._path = None if folder is None else folder / "log.jsonl"
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._board = None if log_to is None else _tensorboard(folder)
        self._bar = progress_bar(progress)
        self._task = self._bar.add_task("training", total=steps)

    def __enter__(self) -> RunLog:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if self._board is not None:
            self._board.close()

    def resume(self, epochs: list[dict[str, float]]) -> None:
        """Start the log again at the epochs a checkpoint knows."""
        if self._path is not None:
            write_bytes(self._path, "".join(json.dumps(plain(epoch)) + "\n" for epoch in epochs).encode())

    def step(self, done: int) -> None:
        """``done`` steps of the whole run are done."""
        self._bar.update(self._task, completed=done)

    def epoch(self, figures: dict[str, float]) -> None:
        """An epoch has ended."""
        score = f"  dev score {figures['dev_score']:.4f}" if "dev_score" in figures else ""
        self._bar.update(self._task, description=f"epoch {int(figures['epoch']) + 1}{score}")
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(plain(figures)) + "\n")
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, int(figures["epoch"]))


def _tensorboard(folder: Path | None) -> Any:
    if folder is None:
        raise UserError("log_to='tensorboard' needs a folder", "folder=None", "give the run a folder")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("TensorBoard is not installed", str(error), "pip install 'weft[log]'") from None
    return SummaryWriter(str(folder / "tensorboard"))

"""Verbs that there were: each says the command that does it now, and ends with status 2."""

from __future__ import annotations

import typer

from weft.errors import UserError

NOW = {
    "saliency": "weft fit FOLDER --system rgbd-saliency --option backbone=..., then weft predict, evaluate, compare",
    "reid": "weft fit SOURCE --system cross-spectral-reid --option encoder=..., then weft evaluate",
    "zeroshot": "weft evaluate MODEL SOURCE --protocol zero-shot --option 'prompt=[name, photo]'",
    "probe": "weft evaluate MODEL SOURCE --protocol probe --option head=linear",
    "pairs": "weft evaluate MODEL SOURCE --protocol pairs --option encoder=hf:NAME",
    "alignment": "weft evaluate MODEL STORE --protocol araf-stages --figures FOLDER",
    "generate": 'weft fit SOURCE --system text-to-image, then weft predict MODEL --row "text: ...", weft evaluate',
}


def add_to(app: typer.Typer) -> None:
    for name, command in NOW.items():
        app.command(name, hidden=True, context_settings={"ignore_unknown_options": True})(_moved(name, command))


def _moved(name: str, command: str):  # type: ignore[no-untyped-def]
    def verb(words: list[str] | None = typer.Argument(None)) -> None:
        """Example: see the new command."""
        raise UserError(f"weft {name} was removed", f"weft {name} {' '.join(words or [])}".strip(), command)

    return verb

"""A configuration as a YAML with comments that say what was guessed, why, and what may be changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from weft.data.kinds import kind_named
from weft.data.table_config import ModalityConfig, SplitsConfig, TableConfig
from weft.data.words import to_words

if TYPE_CHECKING:
    from weft.data.guess import Proposal

ASKED = "as asked for"
"""The reason of a role that was no guess."""


def to_commented_yaml(config: TableConfig, folder: str | Path | None = None, proposal: Proposal | None = None) -> str:
    """The configuration as YAML with comments that say what may be changed; :func:`load_config` reads it back.

    Args:
        config: what the columns are.
        folder: where the YAML will lie, as the table's path is written relative to it. None: the working folder.
        proposal: its reasons become comments.
    """
    table = os.path.relpath(config.table, folder or Path.cwd())
    said = [] if proposal is None else [*proposal.warnings, *proposal.unread]
    lines = [
        "# Written by `weft init`. Check the guesses, then run: weft compare <this file>",
        *(f"# Warning: {_comment(warning)}" for warning in said),
        f"table: {to_words(table)}  # CSV, Parquet or JSONL; relative to this file; paths in its cells: to the table",
    ]
    notes = {
        "id": "column of unique row ids; null: rows are numbered",
        "split": "column with train, dev, test (val, validation and the like are understood); null: see splits",
        "group": "rows of one group (patient, speaker, source image) never cross a split; null: rows are independent",
        "time": "column of dates, for splits by method temporal; null: rows have no order",
        "target": "column to predict, or a list of columns (the first is the default); null for retrieval",
        "task": "classification, regression, multilabel, retrieval, ... (weft list --kind task)",
    }
    reasons = {} if proposal is None else proposal.reasons
    for key, note in notes.items():
        why = "" if key not in reasons else f"{'' if reasons[key] == ASKED else 'guessed: '}{reasons[key]}. "
        lines.append(f"{key}: {to_words(getattr(config, key))}  # {_comment(why)}{note}")
    if config.labels is not None:
        lines.append(f"labels: {to_words(config.labels)}  # {reasons.get('labels', 'in the order of the outputs')}")
    if config.classes:
        lines.append(f"classes: {to_words(config.classes)}  # rows of other classes are left out")
    if proposal is not None and proposal.left_out:
        lines += ["", "# Left out:"]
        lines += [f"#   {to_words(column)}: {_comment(why)}" for column, why in proposal.left_out.items()]
    lines += ["", "modalities:  # the order here is the order everywhere"]
    for name, modality in config.modalities.items():
        lines += _modality_lines(name, modality)
    lines += ["", *_split_lines(config.splits)]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    """Text on one line, whatever a cell held."""
    return "".join(c if c.isprintable() else " " for c in text)


def _modality_lines(name: str, modality: ModalityConfig) -> list[str]:
    kind = kind_named(modality.kind)
    lines = [f"  {to_words(name)}:", f"    kind: {to_words(modality.kind)}"]
    if modality.column is not None:
        lines.append(f"    column: {to_words(modality.column)}")
    else:
        lines += ["    columns:", *(f"      - {to_words(column)}" for column in modality.columns or ())]
    if modality.types:
        lines.append("    types:  # how cells are read: number, category, date, ...")
        lines += [f"      {to_words(column)}: {to_words(type_)}" for column, type_ in modality.types.items()]
    note = "built in, needs no weights" + (f". {kind.better_for}, instead:" if kind.better else "")
    lines.append(f"    encoder: {to_words(modality.encoder or kind.encoder)}  # {note}")
    lines += [f"    # encoder: {model}" for model in kind.better]
    if modality.options:
        lines.append(f"    options: {to_words(modality.options)}")
    return lines


def _split_lines(splits: SplitsConfig | None) -> list[str]:
    if splits is None:
        return []
    return [
        "splits:",
        f"  method: {to_words(splits.method)}  # given (the split column), grouped, stratified, random or temporal",
        f"  fractions: {to_words(list(splits.fractions))}  # train, dev, test",
        f"  seed: {splits.seed}",
    ]

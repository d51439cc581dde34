"""Compare every way to use some features, and say in one sentence what helps."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from weft.compare.config import CompareConfig
from weft.compare.contributions import Contributions
from weft.compare.evidence import Row
from weft.compare.kept import Kept
from weft.compare.prepare import prepare
from weft.compare.schedule import Clock
from weft.compare.verdict import Verdict
from weft.files import to_json
from weft.store import Features
from weft.tasks.judge import Judge

if TYPE_CHECKING:
    from weft.tasks.base import Task

COLUMNS = [
    *("method", "role", "test", "low", "high", "tied", "gain", "p_holm", "dev", "seeds"),
    *("parameters", "flops", "train_seconds", "latency", "status", "error"),
]


@dataclass(frozen=True, repr=False)
class Comparison:
    """What a comparison found.

    Attributes:
        folder: where jobs, winner and reports are.
        primary, higher_is_better: the metric everything is judged by.
        modalities: their names.
        counts: rows of train and dev in the first fold, of test over all folds, and folds.
        rows: the table, best on test first.
        verdict: who is best, and the sentence.
        notes: what a reader should know beside the sentence.
        contributions: of each modality; None where they were not run.
        left_out: ``{operator: why}`` that does not suit these features.
        not_run: jobs the budget did not reach.
        config: settings, as JSON.
        task: of the first fold; of systems, what judges them.
        kept: the model in ``folder/winner``, with its outputs on the test rows; None if nothing finished.
        shown: ``{method: (S, N, K)}`` test outputs of the methods to show side by side, all seeds, first fold.
        shown_target, shown_ids: the target of these rows, and their ids.
    """

    folder: Path
    primary: str
    higher_is_better: bool
    modalities: tuple[str, ...]
    counts: dict[str, int]
    rows: list[Row]
    verdict: Verdict
    notes: list[str]
    contributions: Contributions | None
    left_out: dict[str, str]
    not_run: list[str]
    config: dict[str, Any]
    task: Judge = field(repr=False)
    kept: Kept | None = field(repr=False, default=None)
    shown: dict[str, np.ndarray] = field(repr=False, default_factory=dict)
    shown_target: np.ndarray | None = field(repr=False, default=None)
    shown_ids: list[str] = field(repr=False, default_factory=list)

    @property
    def sentence(self) -> str:
        """The verdict in plain words."""
        return self.verdict.sentence

    @property
    def winner_outputs(self) -> np.ndarray | None:
        """Outputs ``(n, K)`` of the kept model on its test rows, for figures."""
        return None if self.kept is None else self.kept.outputs

    @property
    def winner_target(self) -> np.ndarray | None:
        """``(n,)`` or ``(n, K)`` target of these rows."""
        return None if self.kept is None else self.kept.target

    @property
    def best(self) -> Path | None:
        """Folder of the model that is kept, for :func:`weft.load_model`; None if nothing finished."""
        return None if self.kept is None else self.folder / "winner"

    def table(self) -> list[dict[str, Any]]:
        """The table, one dictionary per method."""
        return [row.to_dict() for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """JSON values of everything but arrays."""
        return {
            "sentence": self.sentence,
            "verdict": self.verdict.to_dict(),
            "notes": self.notes,
            "primary": self.primary,
            "higher_is_better": self.higher_is_better,
            "modalities": list(self.modalities),
            "counts": self.counts,
            "table": self.table(),
            "contributions": None if self.contributions is None else self.contributions.to_dict(),
            "left_out": self.left_out,
            "not_run": self.not_run,
            "winner": None if self.best is None else self.best.name,
            "kept": None if self.kept is None else self.kept.to_dict(),
            "config": self.config,
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as indented JSON; figures that are not defined are null."""
        return to_json(self.to_dict())

    @property
    def patterns(self) -> list[str]:
        """What was hidden to see what it is worth: modalities, "a+b" where several."""
        return list(dict.fromkeys(pattern for row in self.rows for pattern in row.missing))

    def to_csv(self) -> str:
        """The table as CSV: the main columns, every other metric on test, the primary one with modalities hidden."""
        others = sorted({key for row in self.rows for key in row.metrics} - {self.primary})
        patterns = self.patterns
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*COLUMNS, *others, *(f"without {pattern}" for pattern in patterns)])
        for row in self.rows:
            cells = [getattr(row, column) for column in COLUMNS] + [row.metrics.get(key) for key in others]
            cells += [(row.missing.get(pattern) or {}).get("hidden") for pattern in patterns]
            writer.writerow(["" if cell is None else cell for cell in cells])
        return out.getvalue()

    def predictions_csv(self) -> str:
        """The methods to show, a line per test row: id, target, and every seed's prediction (``method#seed``)."""
        columns = {
            f"{name}#{seed}": cast("Task", self.task).decide(outputs)["prediction"]
            for name, seeds in self.shown.items()
            for seed, outputs in enumerate(seeds)
        }
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["id", "target", *columns])
        target = [] if self.shown_target is None else self.shown_target.tolist()
        writer.writerows(zip(self.shown_ids, target, *(c.tolist() for c in columns.values()), strict=True))
        return out.getvalue()

    def __repr__(self) -> str:
        return f"Comparison: {self.sentence}"

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        return self.to_markdown()

    def to_markdown(self) -> str:
        """Sentence, notes and table as Markdown."""
        interval = "95 % CI"
        head = ["method", "role", self.primary, interval, "gain", "p (Holm)", "seeds", "parameters", "s/trial"]
        lines = [
            f"**{_plain(self.sentence)}**",
            "",
            *(f"- {_plain(note)}" for note in self.notes),
            "",
            *_table_lines(head, self._cells()),
            "",
            "= : not told apart from the best by paired tests (Holm, 5 %).",
        ]
        return "\n".join(lines) + "\n"

    def _cells(self) -> Iterator[list[str]]:
        for row in self.rows:
            if row.test is None:
                why = (row.error or row.status).splitlines()[0]
                yield [row.method, row.role, why, "", "", "", "", "", ""]
                continue
            gain = "" if row.gain is None else f"{row.gain:+.3f}"
            p = "" if row.p_holm is None else f"{row.p_holm:.2g}"
            seconds = "" if row.train_seconds is None else f"{row.train_seconds:.2g}"
            size = "" if row.parameters is None else f"{row.parameters:,}"
            middle = [f"{row.test:.3f}", row.interval, gain, p, str(row.seeds), size]
            yield [row.method + " =" * row.tied, row.role, *middle, seconds]


def compare(
    features: Features,
    config: CompareConfig | None = None,
    folder: Path | str = "compare",
    progress: bool = True,
    started: float | None = None,
) -> Comparison:
    """Train and test every method on the same rows, and say what helps.

    Args:
        features: a store, or features in memory.
        config: settings.
        folder: jobs, the winner and reports go here; a killed comparison goes on from here with the same figures.
        progress: show a progress bar, or a line now and then where output is no terminal.
        started: when the budget began, on ``time.monotonic()``; now, if not given.

    Raises:
        UserError: an unknown operator, method or target, a target that cannot be learned (one class, missing values), a
            split without rows, a row without any modality, or retrieval features.
    """
    from weft.compare.rounds import Rounds

    config = config or CompareConfig()
    clock = Clock(config.budget, started)
    return Rounds(prepare(features, config, Path(folder)), clock, progress).run()


def _table_lines(head: list[str], cells: Iterator[list[str]]) -> list[str]:
    rule = ["---"] * 2 + ["---:"] * (len(head) - 2)
    lines = ([_plain(cell) for cell in line] for line in cells)
    return [f"| {' | '.join(line)} |" for line in (head, rule, *lines)]


def _plain(cell: str) -> str:
    """A cell as Markdown shows it, whatever is in it."""
    return re.sub(r"([\\`*_<>|$~]|\](?=\())", r"\\\1", " ".join(cell.split()))

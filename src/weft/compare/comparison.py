"""Compare every way to use some features, and say in one sentence what helps."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from weft.compare import contributions as shares
from weft.compare.config import CompareConfig
from weft.compare.contributions import Contributions
from weft.compare.evidence import Evidence, Row
from weft.compare.jobs import Job, Setup, finished, job_path, outputs_of, train_network
from weft.compare.methods import Method, plan_methods
from weft.compare.schedule import Clock, run_jobs, threads
from weft.compare.verdict import Verdict, decide, notes
from weft.data import Split, make_folds, make_splits
from weft.errors import UserError, did_you_mean, some
from weft.files import to_json, write_json
from weft.store import Features
from weft.tasks.base import Task, create_task, guess_task
from weft.training.rows import refuse_empty_rows
from weft.training.seen import Seen

COLUMNS = [
    *("method", "role", "test", "low", "high", "tied", "gain", "p_holm", "dev", "seeds"),
    *("parameters", "flops", "train_seconds", "latency", "status", "error"),
]
KEPT = "compare.json"


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        folder: where jobs, winner and reports are.
        primary, higher_is_better: the metric everything is judged by.
        modalities: their names.
        counts: rows of train, dev and test (of the first fold), and folds.
        rows: the table, best on test first.
        verdict: who is best, and the sentence.
        notes: what a reader should know beside the sentence.
        contributions: of each modality; None where they were not run.
        left_out: ``{operator: why}`` that does not suit these features.
        not_run: jobs the budget did not reach.
        config: settings, as JSON.
        task: of the first fold; ``winner_outputs`` and ``winner_target`` are the winner's test rows, for figures.
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
    task: Task = field(repr=False)
    winner_outputs: np.ndarray | None = field(repr=False, default=None)
    winner_target: np.ndarray | None = field(repr=False, default=None)
    shown: dict[str, np.ndarray] = field(repr=False, default_factory=dict)
    shown_target: np.ndarray | None = field(repr=False, default=None)
    shown_ids: list[str] = field(repr=False, default_factory=list)

    @property
    def sentence(self) -> str:
        """The verdict in plain words."""
        return self.verdict.sentence

    @property
    def best(self) -> Path | None:
        """Folder of the winner, for ``FusedModel.from_pretrained``; None if no network finished."""
        return None if self.verdict.winner is None else self.folder / "winner"

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
            "config": self.config,
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as indented JSON; figures that are not defined are null."""
        return to_json(self.to_dict())

    def to_csv(self) -> str:
        """The table as CSV: the main columns, then every other metric on test."""
        others = sorted({key for row in self.rows for key in row.metrics} - {self.primary})
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*COLUMNS, *others])
        for row in self.rows:
            cells = [getattr(row, column) for column in COLUMNS] + [row.metrics.get(key) for key in others]
            writer.writerow(["" if cell is None else cell for cell in cells])
        return out.getvalue()

    def predictions_csv(self) -> str:
        """The methods to show, a line per test row: id, target, and every seed's prediction (``method#seed``)."""
        columns = {
            f"{name}#{seed}": self.task.decide(outputs)["prediction"]
            for name, seeds in self.shown.items()
            for seed, outputs in enumerate(seeds)
        }
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["id", "target", *columns])
        target = [] if self.shown_target is None else self.shown_target.tolist()
        writer.writerows(zip(self.shown_ids, target, *(c.tolist() for c in columns.values()), strict=True))
        return out.getvalue()

    def to_markdown(self) -> str:
        """Sentence, notes and table as Markdown."""
        interval = "95 % CI"
        head = ["method", "role", self.primary, interval, "gain", "p (Holm)", "seeds", "parameters", "s/trial"]
        lines = [
            f"**{self.sentence}**",
            "",
            *(f"- {note}" for note in self.notes),
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
                yield [row.method, row.role, why.replace("|", "\\|"), "", "", "", "", "", ""]
                continue
            gain = "" if row.gain is None else f"{row.gain:+.3f}"
            p = "" if row.p_holm is None else f"{row.p_holm:.2g}"
            size = "" if row.parameters is None else f"{row.parameters:,}"
            middle = [f"{row.test:.3f}", f"{row.low:.3f} to {row.high:.3f}", gain, p, str(row.seeds), size]
            yield [row.method + " =" * row.tied, row.role, *middle, f"{row.train_seconds:.2g}"]


def compare(
    features: Features, config: CompareConfig | None = None, folder: Path | str = "compare", progress: bool = True
) -> Comparison:
    """Train and test every method on the same rows, and say what helps.

    Args:
        features: a store, or features in memory.
        config: settings.
        folder: jobs, the winner and reports go here; a killed comparison goes on from here with the same figures.
        progress: show a progress bar.

    Raises:
        UserError: an unknown operator or target, a target that cannot be learned (one class, missing values), a split
            without rows, a row without any modality, or retrieval features.
    """
    config, folder = config or CompareConfig(), Path(folder)
    setup = prepare(features, config, folder)
    methods, left_out = plan_methods(features, config)
    unknown = [name for name in config.show if name not in {method.name for method in methods}]
    if unknown:
        remedy = did_you_mean(unknown[0], [method.name for method in methods], "methods")
        raise UserError("a method to show is not compared", unknown[0], remedy)
    plan = {method.name: list(_jobs_of(method, setup)) for method in methods}
    order = sorted((job for jobs in plan.values() for job in jobs), key=lambda job: job.seed)
    clock = Clock(config.budget)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with threads(config.threads), Progress(*columns, disable=not progress) as bar:
        not_run = run_jobs(setup, order, clock, bar, "comparing")
        evidence = Evidence(setup, methods, plan)
        verdict = decide(evidence)
        found = None
        if verdict.fusion is not None and len(features.dims) > 1:
            found, missed = _contributions(setup, evidence, verdict.fusion, clock, bar)
            not_run += missed
        outputs, target = _keep_winner(setup, evidence, verdict)
    shown = [name for name in config.show if name in evidence.outputs]
    return Comparison(
        folder=folder,
        primary=evidence.primary,
        higher_is_better=evidence.task.higher_is_better,
        modalities=tuple(features.dims),
        counts={**{part: len(r) for part, r in setup.splits[0]._asdict().items()}, "folds": len(setup.splits)},
        rows=evidence.table(verdict.single),
        verdict=verdict,
        notes=notes(evidence, verdict) + _unfinished(not_run, config),
        contributions=found,
        left_out=left_out,
        not_run=not_run,
        config=config.model_dump(mode="json"),
        task=evidence.task,
        winner_outputs=outputs,
        winner_target=target,
        shown={name: np.stack([seed[0] for seed in evidence.outputs[name]]) for name in shown},
        shown_target=setup.target[setup.splits[0].test],
        shown_ids=[features.ids[row] for row in setup.splits[0].test],
    )


def prepare(features: Features, config: CompareConfig, folder: Path) -> Setup:
    """Check the features and the target, and fix splits and tasks, before anything is trained."""
    if features.task == "retrieval":
        raise UserError(
            "a comparison judges predictions of a target",
            "features for retrieval",
            "train aligners with `weft fit` and compare their recall, or give a table with a target",
        )
    if not features.targets:
        raise UserError("a comparison needs a target", "no target column", "name one in the table's configuration")
    column = config.target or next(iter(features.targets))
    if column not in features.targets:
        raise UserError(
            "there is no such target column", repr(column), did_you_mean(column, features.targets, "target columns")
        )
    target = features.targets[column]
    name = features.task if column == next(iter(features.targets)) else guess_task(target)
    if config.folds is None:
        splits = [make_splits(features, fractions=config.fractions, seed=config.split_seed)]
    else:
        splits = make_folds(features, config.folds, config.split_seed)
    tasks = [_fit_task(name, features, target, split) for split in splits]
    identity = {"rows": _digest(features, target), "column": column, "task": tasks[0].config()["name"]}
    identity["splits"] = [hashlib.sha256(rows.tobytes()).hexdigest()[:16] for split in splits for rows in split]
    return Setup(features, target, column, splits, tasks, config, folder, identity)


def _fit_task(name: str, features: Features, target: np.ndarray, split: Split) -> Task:
    for part, rows in split._asdict().items():
        if not len(rows):
            raise UserError(
                f"the {part} part of the split has no rows",
                ", ".join(f"{n}: {len(r)}" for n, r in split._asdict().items()),
                "a comparison trains on train, chooses on dev and tests on test: give each of them rows",
            )
        refuse_empty_rows(features, rows)
    task = create_task(name, target[split.train])
    for rows in (split.dev, split.test):
        task.encode(target[rows])
    return task


def _digest(features: Features, target: np.ndarray) -> str:
    """A hash of ids, target, groups, widths and presence, and of the values of some rows."""
    digest = hashlib.sha256(json.dumps([features.ids, features.dims]).encode())
    digest.update(json.dumps(target.tolist(), default=str).encode())
    if features.group is not None:
        digest.update(json.dumps(features.group.tolist(), default=str).encode())
    digest.update(features.presence.tobytes())
    some_rows = np.unique(np.linspace(0, len(features) - 1, num=64).astype(np.int64))
    for values in features.pooled(some_rows).values():
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _jobs_of(method: Method, setup: Setup) -> Iterator[Job]:
    """Seeds x folds of a method; the tuning is done at the first seed."""
    for seed in range(setup.config.seeds_of(method.reads_tokens) if method.random else 1):
        for fold in range(len(setup.splits)):
            yield Job(method, seed, fold)


def _contributions(
    setup: Setup, evidence: Evidence, fusion: str, clock: Clock, bar: Progress
) -> tuple[Contributions | None, list[str]]:
    model, jobs = shares.subset_jobs(setup, evidence, fusion)
    missed = run_jobs(setup, list(jobs.values()), clock, bar, "contributions")
    if missed:
        return None, missed
    results = {part: result for part, job in jobs.items() if (result := finished(setup, job)) is not None}
    return shares.measure(setup, evidence, model, results), []


def _keep_winner(setup: Setup, evidence: Evidence, verdict: Verdict) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Put the winner's model into ``folder/winner``; its test outputs and target.

    The model is that of the seed and fold that is best on dev, trained once more with the same settings and seed.
    """
    if verdict.winner is None:
        return None, None
    job = evidence.best_job(verdict.winner)
    kept, key = setup.folder / "winner", job_path(setup, job).stem
    target = setup.target[setup.splits[job.fold].test]
    outputs = outputs_of(setup, job)["test"]
    mark = kept / KEPT
    result = finished(setup, job)
    settings = {} if result is None else result["settings"]
    if not mark.exists() or json.loads(mark.read_text(encoding="utf-8")).get("job") != key:
        model, _ = train_network(setup, job, settings)
        model.seen = Seen.of(setup.features, setup.splits[job.fold])
        shutil.rmtree(kept, ignore_errors=True)
        model.save_pretrained(kept)
    write_json(mark, {"job": key, "method": verdict.winner, "settings": settings, "sentence": verdict.sentence})
    return outputs, target


def _unfinished(not_run: list[str], config: CompareConfig) -> list[str]:
    if not not_run:
        return []
    return [f"The budget of {config.budget:g} s ended before {len(not_run)} jobs: {some(not_run, 8)}."]


def _table_lines(head: list[str], cells: Iterator[list[str]]) -> list[str]:
    rule = ["---"] * 2 + ["---:"] * (len(head) - 2)
    return [f"| {' | '.join(line)} |" for line in (head, rule, *cells)]

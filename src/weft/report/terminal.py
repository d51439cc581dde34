"""A comparison in the terminal: the sentence, the table, the notes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from weft.compare import Comparison
from weft.compare.evidence import Degraded, Row
from weft.compare.verdict import GOOD
from weft.errors import some
from weft.report.figures import main_rows

SPARED = ("parameters", "role", "p (Holm)")
"""Columns that a narrow terminal does without, the first first."""
STYLES = {
    "fusion": "",
    "classical": "",
    "single": "cyan",
    "ensemble": "",
    "ensemble of singles": "",
    "system": "",
    "chance": "dim",
}


def render_terminal(comparison: Comparison, console: Console | None = None) -> None:
    """Print the verdict and the table.

    Args:
        comparison: what to show.
        console: where; standard output by default.
    """
    console = console or Console()
    helps = comparison.verdict.outcome in GOOD
    console.print(Panel(escape(comparison.sentence), title="verdict", border_style="green" if helps else "yellow"))
    main = main_rows(comparison) or comparison.rows
    tables = (_table(comparison, main, SPARED[:count]) for count in range(len(SPARED) + 1))
    table = next(tables)
    while console.measure(table).minimum > console.width and (narrower := next(tables, None)) is not None:
        table = narrower
    console.print(table)
    hidden = [row for row in comparison.rows if row.test is not None and row not in main]
    if hidden:
        console.print(escape(f"- {len(hidden)} more methods are in the report: {some([r.method for r in hidden], 4)}"))
    waiting = [row.method for row in comparison.rows if row.status == "not run" and row not in main]
    if waiting:
        console.print(escape(f"- {len(waiting)} not run: {some(waiting, 6)}"))
    for row in comparison.rows:
        if row.error:
            console.print(f"[red]{escape(row.method)}[/red]: {escape(row.error)}")
    for note in comparison.notes:
        console.print(f"- {escape(note)}")
    if comparison.config.get("missing"):
        console.print(_missing(comparison, main))
    shares = comparison.contributions
    if shares is not None:
        worth = ", ".join(f"{name} {value:+.3f}" for name, value in shares.shapley.items())
        console.print(escape(f"- Shapley values in {comparison.primary} ({shares.model}): {worth}."))


def _table(comparison: Comparison, rows: Sequence[Row], without: Collection[str]) -> Table:
    title = f"{comparison.counts['test']} test rows, best first; = not told apart from the best"
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    names = ("method", "role", comparison.primary, "95 % CI", "gain", "p (Holm)", "parameters")
    shown = [place for place, name in enumerate(names) if name not in without]
    for place in shown:
        if place == 0:
            table.add_column(names[place], overflow="fold", min_width=24)
        else:
            table.add_column(names[place], justify="left" if place == 1 else "right", no_wrap=True)
    for row in rows:
        style = STYLES[row.role] if row.test is not None else "red"
        cells = _cells(row)
        best = row.method == comparison.verdict.winner
        table.add_row(*(cells[place] for place in shown if place < len(cells)), style="bold green" if best else style)
    return table


def _missing(comparison: Comparison, rows: list[Row]) -> Table:
    """The primary metric over all patterns of missing modalities; the report has each of them."""
    title = f"{comparison.primary} with modalities hidden, over {len(comparison.patterns)} patterns"
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    table.add_column("method", overflow="fold", min_width=14)
    for name in ("nothing hidden", "mean", "worst"):
        table.add_column(name, justify="right")
    table.add_column("worst without", overflow="fold")
    for row in rows:
        found = Degraded.of(row.method, row.missing, 1.0 if comparison.higher_is_better else -1.0)
        if found is not None:
            figures = (f"{value:.3f}" for value in (found.full, found.hidden, found.worst))
            table.add_row(escape(row.method), *figures, escape(found.pattern))
    return table


def _cells(row: Row) -> list[str]:
    if row.test is None:
        return [escape(row.method), row.role, row.status]
    return [
        escape(row.method),
        row.role,
        f"{'= ' if row.tied else ''}{row.test:.3f}",
        row.interval,
        "" if row.gain is None else f"{row.gain:+.3f}",
        "" if row.p_holm is None else f"{row.p_holm:.2g}",
        "" if row.parameters is None else f"{row.parameters:,}",
    ]

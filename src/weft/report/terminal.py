"""A comparison in the terminal: the sentence, the table, the notes."""

from __future__ import annotations

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
    title = f"{comparison.counts['test']} test rows, best first; = not told apart from the best"
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold", min_width=14)
    table.add_column("role", no_wrap=True)
    for name in (comparison.primary, "95 % CI", "gain", "p (Holm)", "parameters"):
        table.add_column(name, justify="right", no_wrap=True)
    main = main_rows(comparison) or comparison.rows
    for row in main:
        kept = row.method == comparison.verdict.winner
        table.add_row(*_cells(row), style="bold green" if kept else STYLES[row.role] if row.test is not None else "red")
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

"""A comparison in the terminal: the sentence, the table, the notes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
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
NAMES = 24
"""Characters of a method's name that are shown in one line at least."""
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
    console.print(_table(comparison, main, console))
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


def _table(comparison: Comparison, rows: Sequence[Row], console: Console) -> Table:
    """As many columns as are legible at the console's width; names of methods are folded."""
    names = ["method", "role", comparison.primary, "95 % CI", "gain", "p (Holm)", "parameters"]
    lines = [dict(zip(names, _cells(row), strict=False)) for row in rows]
    widths = {name: max(cell_len(line.get(name, "")) for line in [{name: name}, *lines]) for name in names}
    widths["method"] = min(widths["method"], NAMES)
    for spared in SPARED:
        if sum(widths.values()) + 2 * len(widths) > console.width:
            del widths[spared]
    title = f"{comparison.counts['test']} test rows, best first; = not told apart from the best"
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in widths:
        if name == "method":
            table.add_column(name, overflow="fold", min_width=min(14, console.width // 3))
        else:
            table.add_column(name, justify="left" if name == "role" else "right", no_wrap=True)
    for row, line in zip(rows, lines, strict=True):
        best = row.method == comparison.verdict.winner
        style = "bold green" if best else STYLES[row.role] if row.test is not None else "red"
        table.add_row(*(line.get(name, "") for name in widths), style=style)
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

"""A comparison as one HTML file that needs nothing else: styles and figures are inside.

What a person reads first comes first: the sentence, the model to use and how sure that is, the figure, the methods that
matter. Everything else unfolds on demand. The main table has four narrow columns, so it fits a telephone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from weft.compare import Comparison
from weft.compare.evidence import Degraded, Row
from weft.compare.verdict import GOOD
from weft.report.figures import Picture, main_rows

DPI = 150
"""Resolution of the figures."""
STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5b6570; --page: #f6f7f9; --card: #ffffff; --line: #dde1e6;
  --good: #00734f; --plain: #9a5a00; --mark: #eaf6f1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --page: #14171b; --card: #1d2126;
  --line: #333a42; --good: #4fc79b; --plain: #e5a94b; --mark: #1c322a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.1rem; color: var(--soft); font-weight: 600; margin: 0 0 .75rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .75rem; }
.verdict, .facts, .card, details { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.verdict { border-left: .4rem solid var(--plain); padding: 1rem 1.2rem; font-size: 1.15rem; }
.verdict.helps { border-left-color: var(--good); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); overflow: hidden;
  margin: 1rem 0 0; }
.facts div { padding: .7rem 1rem; box-shadow: 0 0 0 .5px var(--line); }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-weight: 600; }
.small { color: var(--soft); font-size: .88rem; font-weight: 400; }
p.small { margin: .7rem 0 0; }
ul.notes { padding-left: 1.2rem; }
.first { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem;
  align-items: start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child, td.why { text-align: left; }
td:not(:first-child) { white-space: nowrap; }
td .small { display: block; }
td.why { white-space: pre-wrap !important; }
.scroll th, .scroll td { white-space: nowrap; }
td.why { white-space: pre-wrap; color: var(--plain); }
tr:last-child td { border-bottom: 0; }
tr.kept td { background: var(--mark); font-weight: 600; }
tr.chance td { color: var(--soft); }
section { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: 0; max-width: 100%; background: #ffffff; border: 1px solid var(--line); border-radius: .5rem;
  padding: .8rem; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #5b6570; font-size: .9rem; margin-top: .6rem; max-width: 34rem; }
figcaption b { color: #1c2127; }
details { padding: .6rem 1rem; margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
details > :not(summary) { margin-top: .8rem; }
pre { overflow-x: auto; font-size: .85rem; white-space: pre-wrap; }
@media (max-width: 30rem) { td:not(:first-child) .small { white-space: normal; }
  th, td { padding: .4rem .35rem; } main { padding: 1rem .6rem 3rem; } }
"""


def to_html(comparison: Comparison, pictures: Sequence[Picture]) -> str:
    """The whole report as one document, figures inside it."""
    verdict = comparison.verdict
    good = verdict.outcome in GOOD
    done = [row for row in comparison.rows if row.test is not None]
    main = main_rows(comparison)
    others = [row for row in done if row not in main]
    failed = [row for row in comparison.rows if row.status == "failed"]
    waiting = [row for row in comparison.rows if row.status == "not run"]
    first, rest = list(pictures[:1]), list(pictures[1:])
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>weft: {escape(verdict.outcome)}</title><style>{STYLE}</style></head><body><main>",
        "<h1>weft compare</h1>",
        f'<div class="verdict{" helps" if good else ""}">{escape(comparison.sentence)}</div>',
        _facts(comparison),
        "<h2>The methods that matter, best on test first</h2>" if main else "",
        f'<div class="first"><div>{_main_table(comparison, main)}{_legend(comparison) if main else ""}</div>'
        f"{''.join(map(_figure, first))}</div>",
        _details(f"{len(others)} more methods", _main_table(comparison, others) if others else ""),
        _details(f"{len(failed)} failed", _whys(failed), "open" if failed and not done else ""),
        _details(f"{len(waiting)} not run", _list(row.method for row in waiting)),
        "<h2>What else to know</h2>" if comparison.notes else "",
        _list(comparison.notes),
        "<h2>Details</h2>",
        _details(f"{len(rest)} more figures", f"<section>{''.join(map(_figure, rest))}</section>" if rest else ""),
        _details("Costs: parameters, FLOPs, seconds", _costs(done)),
        _metrics(done),
        _missing(comparison, done),
        _details("Operators that do not suit these features", _pairs(comparison.left_out)),
        _details("Jobs the budget did not reach", _list(comparison.not_run)),
        _details("Settings", f"<pre>{escape(json.dumps(comparison.config, indent=2, default=str))}</pre>"),
        "</main></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _facts(comparison: Comparison) -> str:
    """What to use, how good and how sure, and what was tested on, as a row of cards."""
    verdict, counts = comparison.verdict, comparison.counts
    folds = f" in {counts['folds']} folds" if counts["folds"] > 1 else ""
    cards = []
    kept = None if verdict.winner is None else verdict.said.get(verdict.winner)
    if kept is not None:
        without = f" without {', '.join(verdict.leave_out)}" if verdict.leave_out else ""
        cards.append(("Use", f"{kept.name}{without}", "kept in winner/"))
        sure = "" if kept.low is None else f"95 % interval {kept.low:.3f} to {kept.high:.3f}"
        cards.append((f"{comparison.primary} on test", f"{kept.value:.3f}", sure))
    if verdict.gain is not None and verdict.smallest is not None:
        cards.append(("Seen in 80 of 100 such tests", f"a gain of {verdict.smallest:.3f}", "or more"))
    direction = "higher" if comparison.higher_is_better else "lower"
    cards.append(("Judged by", comparison.primary, f"{direction} is better; {verdict.reason or 'as asked'}"))
    rows = f"{counts['train']:,} train, {counts['dev']:,} dev, {counts['test']:,} test"
    cards.append(("Rows", rows, f"{len(comparison.modalities)} modalities: {', '.join(comparison.modalities)}{folds}"))
    inner = "".join(
        f'<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd><span class="small">{escape(c)}</span></div>'
        for a, b, c in cards
    )
    return f'<dl class="facts">{inner}</dl>'


def _main_table(comparison: Comparison, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in ("method", comparison.primary, "gain, p"))
    lines = [_line(row, row.method == comparison.verdict.winner) for row in rows]
    return f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _line(row: Row, kept: bool) -> str:
    seeds = f", {row.seeds} seeds" if row.seeds > 1 else ""
    gain = "" if row.gain is None else f"{row.gain:+.3f}"
    p = "" if row.p_holm is None else f", p\N{NO-BREAK SPACE}{row.p_holm:.2g}"
    span = "" if row.gain is None else f"{row.gain_low:+.3f} to {row.gain_high:+.3f}{p}"
    cells = [
        _cell(row.method, f"{row.role}{seeds}"),
        _cell(f"{'= ' if row.tied else ''}{row.test:.3f}", row.interval),
        _cell(gain, span),
    ]
    return f'<tr class="{"kept" if kept else escape(row.role)}">{"".join(cells)}</tr>'


def _cell(text: str, small: str) -> str:
    below = f'<span class="small">{escape(small)}</span>' if small else ""
    return f"<td>{escape(text)}{below}</td>"


def _legend(comparison: Comparison) -> str:
    other = comparison.verdict.against
    against = "" if other is None else f" Gain and p: against {other}, by a paired test, corrected for all (Holm)."
    text = f"Small: 95 % intervals over rows and training runs.{against} Highlighted: the model that is kept. "
    return f'<p class="small">{escape(text)}=: not told apart from the best on test (Holm, 5 %).</p>'


def _whys(rows: Sequence[Row]) -> str:
    lines = "".join(
        f'<tr><td>{escape(row.method)}</td><td class="why">{escape(row.error or row.status)}</td></tr>' for row in rows
    )
    return f"<table><tbody>{lines}</tbody></table>" if rows else ""


def _costs(rows: Sequence[Row]) -> str:
    """What every method takes."""
    head = ("method", "dev", "parameters", "FLOPs", "s/trial", "ms/row")
    lines = [
        (
            row.method,
            _number(row.dev, ".3f"),
            _number(row.parameters, ","),
            _number(row.flops, ","),
            _number(row.train_seconds, ".2g"),
            _number(None if row.latency is None else 1000 * row.latency, ".2g"),
        )
        for row in rows
    ]
    return _grid(head, lines) if rows else ""


def _grid(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A wide table that scrolls; its cells are data, never markup."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(picture: Picture) -> str:
    content = picture.path.read_bytes()
    width = int.from_bytes(content[16:20], "big") * 96 // DPI  # the PNG header says how wide it was drawn
    data = base64.b64encode(content).decode()
    title = escape(picture.title)
    return (
        f'<figure><img alt="{title}" width="{width}" src="data:image/png;base64,{data}">'
        f"<figcaption><b>{title}.</b> {escape(picture.caption)}</figcaption></figure>"
    )


def _metrics(done: Sequence[Row]) -> str:
    """Every metric of every method on test."""
    names = list(done[0].metrics) if done else []
    lines = [(row.method, *(_number(row.metrics.get(name), ".4g") for name in names)) for row in done]
    return _details("All metrics on test", _grid(("method", *names), lines) if done else "")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _missing(comparison: Comparison, done: Sequence[Row]) -> str:
    """The primary metric of every method with modalities hidden, the best on average first."""
    patterns, sign = comparison.patterns, 1.0 if comparison.higher_is_better else -1.0
    known = [(row, Degraded.of(row.method, row.missing, sign)) for row in done if row.missing]
    if not known:
        return ""
    known.sort(key=lambda pair: np.inf if pair[1] is None else -sign * pair[1].hidden)
    head = ("method", "nothing hidden", "mean", "worst", *(f"without {pattern}" for pattern in patterns))
    lines = []
    for row, all_of_it in known:
        means = (None,) * 3 if all_of_it is None else (all_of_it.full, all_of_it.hidden, all_of_it.worst)
        cells = [*means, *((row.missing.get(pattern) or {}).get("hidden") for pattern in patterns)]
        lines.append((row.method, *(_number(cell, ".3f") for cell in cells)))
    why = (
        f"{comparison.primary} on the test rows that have what is hidden and keep something else; nothing is trained "
        "again. Mean and worst are over the patterns."
    )
    return _details(
        "Missing modalities: each pattern by method", f'{_grid(head, lines)}<p class="small">{escape(why)}</p>'
    )


def _details(title: str, content: str, state: str = "") -> str:
    return f"<details {state}><summary>{escape(title)}</summary>{content}</details>" if content else ""


def _list(items: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<ul class="notes">{lines}</ul>' if lines else ""


def _pairs(items: dict[str, str]) -> str:
    return _list(f"{name}: {why}" for name, why in items.items())

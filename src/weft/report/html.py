"""A comparison as one HTML file that needs nothing else: styles and figures are inside."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from html import escape

from weft.compare import Comparison
from weft.compare.evidence import Row
from weft.report.figures import Picture

DPI = 150
"""Resolution of the figures."""
STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5b6570; --page: #f6f7f9; --card: #ffffff; --line: #dde1e6;
  --good: #00734f; --plain: #9a5a00; --mark: #eaf6f1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --page: #14171b; --card: #1d2126;
  --line: #333a42; --good: #4fc79b; --plain: #e5a94b; --mark: #1c322a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.1rem; color: var(--soft); font-weight: 600; margin: 0 0 .75rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
.verdict { background: var(--card); border: 1px solid var(--line); border-left: .4rem solid var(--plain);
  border-radius: .5rem; padding: 1.1rem 1.3rem; font-size: 1.2rem; }
.verdict.helps { border-left-color: var(--good); }
.facts { color: var(--soft); margin: .75rem 0 0; }
ul.notes { padding-left: 1.2rem; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
th:nth-child(-n+2), td:nth-child(-n+2), td.why { text-align: left; }
td.why { white-space: pre-wrap; color: var(--plain); }
tr:last-child td { border-bottom: 0; }
tr.kept td { background: var(--mark); font-weight: 600; }
tr.chance td { color: var(--soft); }
section { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: 0; max-width: 100%; background: #ffffff; border: 1px solid var(--line); border-radius: .5rem;
  padding: 1rem;
  }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #5b6570; font-size: .9rem; margin-top: .6rem; max-width: 34rem; }
figcaption b { color: #1c2127; }
details { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem 1rem;
  margin: .6rem 0; }
pre { overflow-x: auto; font-size: .85rem; }
"""


def to_html(comparison: Comparison, pictures: Iterable[Picture]) -> str:
    """The whole report as one document, figures inside it."""
    counts, verdict = comparison.counts, comparison.verdict
    folds = f", {counts['folds']} folds (rows of the first)" if counts["folds"] > 1 else ""
    facts = (
        f"{', '.join(comparison.modalities)}. {counts['train']:,} rows to train, {counts['dev']:,} to choose on (dev), "
        f"{counts['test']:,} to test{folds}. Primary metric: {comparison.primary}, "
        f"{'higher' if comparison.higher_is_better else 'lower'} is better."
    )
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>weft: {escape(verdict.outcome)}</title><style>{STYLE}</style></head><body><main>",
        "<h1>weft compare</h1>",
        f'<div class="verdict{" helps" if verdict.outcome == "helps" else ""}">{escape(comparison.sentence)}</div>',
        f'<p class="facts">{escape(facts)}</p>',
        _list(comparison.notes),
        "<h2>All methods, best on test first</h2>",
        _table(comparison),
        '<p class="facts">Gain and p: against the single modality of the verdict; p by a paired '
        "sign-flip test, corrected for all tests of this table (Holm). Intervals: 95 %, over rows and training runs. "
        "Highlighted: the model that is kept. =: not told apart from the best on test by paired tests (Holm, 5 %).</p>",
        "<h2>Figures</h2>",
        f"<section>{''.join(_figure(picture) for picture in pictures)}</section>",
        "<h2>Details</h2>",
        _metrics(comparison),
        _details("Operators that do not suit these features", _pairs(comparison.left_out)),
        _details("Jobs the budget did not reach", _list(comparison.not_run)),
        _details("Settings", f"<pre>{escape(json.dumps(comparison.config, indent=2))}</pre>"),
        "</main></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _table(comparison: Comparison) -> str:
    head = ["method", "role", comparison.primary, "95 % CI", "gain", "95 % CI", "p (Holm)", "dev", "seeds"]
    head += ["weights", "FLOPs", "s/trial", "ms/row"]
    lines = [_line(row, row.method == comparison.verdict.winner, len(head)) for row in comparison.rows]
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _line(row: Row, kept: bool, width: int) -> str:
    first = f"<td>{escape(row.method)}</td><td>{escape(row.role)}</td>"
    if row.test is None:
        return f'<tr>{first}<td class="why" colspan="{width - 2}">{escape(row.error or row.status)}</td></tr>'
    cells = [
        f"{'= ' if row.tied else ''}{row.test:.3f}",
        f"{row.low:.3f} to {row.high:.3f}",
        "" if row.gain is None else f"{row.gain:+.3f}",
        "" if row.gain is None else f"{row.gain_low:+.3f} to {row.gain_high:+.3f}",
        "" if row.p_holm is None else f"{row.p_holm:.2g}",
        f"{row.dev:.3f}",
        str(row.seeds),
        "" if row.parameters is None else f"{row.parameters:,}",
        "" if row.flops is None else f"{row.flops:,}",
        f"{row.train_seconds:.2g}",
        "" if row.latency is None else f"{1000 * row.latency:.2g}",
    ]
    kind = "kept" if kept else row.role
    return f'<tr class="{kind}">{first}{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'


def _figure(picture: Picture) -> str:
    content = picture.path.read_bytes()
    width = int.from_bytes(content[16:20], "big") * 96 // DPI  # the PNG header says how wide it was drawn
    data = base64.b64encode(content).decode()
    title = escape(picture.title)
    return (
        f'<figure><img alt="{title}" width="{width}" src="data:image/png;base64,{data}">'
        f"<figcaption><b>{title}.</b> {escape(picture.caption)}</figcaption></figure>"
    )


def _metrics(comparison: Comparison) -> str:
    """Every metric of every method on test."""
    done = [row for row in comparison.rows if row.test is not None]
    names = list(done[0].metrics) if done else []
    head = "".join(f"<th>{escape(name)}</th>" for name in ("method", "role", *names))
    lines = []
    for row in done:
        cells = [row.metrics.get(name) for name in names]
        figures = "".join(f"<td>{'' if cell is None else f'{cell:.4g}'}</td>" for cell in cells)
        lines.append(f"<tr><td>{escape(row.method)}</td><td>{escape(row.role)}</td>{figures}</tr>")
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    return _details("All metrics on test", table if done else "")


def _details(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>" if content else ""


def _list(items: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<ul class="notes">{lines}</ul>' if lines else ""


def _pairs(items: dict[str, str]) -> str:
    return _list(f"{name}: {why}" for name, why in items.items())

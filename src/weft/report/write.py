"""All report files of a comparison in one call."""

from __future__ import annotations

from pathlib import Path

from weft.compare import Comparison
from weft.files import write_bytes
from weft.report.figures import draw_figures
from weft.report.html import to_html


def write_report(comparison: Comparison, folder: Path | str) -> Path:
    """Write ``report.html``, ``comparison.json``, ``table.csv``, ``table.md``, ``figures/*.png``;
    ``predictions.csv`` of methods to show.

    Args:
        comparison: what to write.
        folder: where; made if it is not there.

    Returns:
        The path of ``report.html``, which needs none of the other files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_figures(comparison, folder / "figures")
    files = {
        "comparison.json": comparison.to_json(),
        "table.csv": comparison.to_csv(),
        "table.md": comparison.to_markdown(),
        "report.html": to_html(comparison, pictures),
    }
    if comparison.shown:
        files["predictions.csv"] = comparison.predictions_csv()
    for name, content in files.items():
        write_bytes(folder / name, content.encode())
    return folder / "report.html"

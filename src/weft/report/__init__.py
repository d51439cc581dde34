"""A comparison as a terminal table, CSV, JSON, Markdown and one self-contained HTML file."""

from weft.report.terminal import render_terminal
from weft.report.write import write_report

__all__ = ["render_terminal", "write_report"]

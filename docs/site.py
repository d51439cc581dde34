"""What mkdocs cannot read from a file: the first page, one page per operator and system, formulas, links to the source.

A hook of ``mkdocs.yml``. Pages are made from the registries when the site is built and are never kept; the table of
operators is that of ``docs/operators.py``. Formulas, written as GitHub reads them, become MathML, so that the site
needs neither a script nor a network to show them.
"""

from __future__ import annotations

import html
import inspect
import posixpath
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+://|#)([^)\s]+)\)")
BLOCK = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$<code>(.*?)</code>\$", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and name them and the results in the navigation."""
    made = generated()
    files.remove(files.get_file_from_path("operators.md"))  # the same on one page, for readers without the site
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    results = sorted(f.src_uri for f in files.documentation_pages() if f.src_uri.startswith("results/"))
    assert config.nav is not None
    config.nav += [
        {"Results": results},
        {"Operators": sorted(path for path in made if path.startswith("operators/"))},
        {"Systems": sorted(path for path in made if path.startswith("systems/"))},
    ]
    return files


def generated() -> dict[str, str]:
    """``{path: Markdown}`` of the pages that are made from the code and the README."""
    from weft.alignment import aligners, objectives, regularisers
    from weft.fusion import fusions
    from weft.training.system import systems

    write: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "operators.py"))
    readme = (ROOT / "README.md").read_text().replace("](docs/results)", "](docs/results/README.md)")
    readme = readme.replace("](docs/operators.md)", "](operators/index.md)")
    pages = {"index.md": "---\nhide: [navigation]\n---\n" + re.sub(r"\]\(docs/", "](", readme)}
    summary = [write["page"]().partition("\n## ")[0].replace("Below the tables: each", "Each name leads to the")]
    for kind, registry in (
        ("fusion", fusions),
        ("aligner", aligners),
        ("objective", objectives),
        ("regulariser", regularisers),
    ):
        for name in (n for n in registry.names() if f"operators/{n}.md" not in pages):
            cls = registry.get(name)
            paper = getattr(cls, "paper", "")
            head = [f"# {name}", "", f"*{kind.capitalize()}.* {paper}", ""]
            pages[f"operators/{name}.md"] = "\n".join([*head, *write["about"](registry, name)])
    tables = [*write["table"]("Fusions: many modalities, one vector", fusions)]
    tables += write["table"]("Aligners: many modalities, one shared space", aligners)
    for title, registry in (("Objectives of aligners", objectives), ("Regularisers of aligners", regularisers)):
        tables += [f"## {title}", "", *(f"- [`{name}`](#{name})" for name in registry.names()), ""]
    short = (
        line.rsplit(" | ", 2)[0] + " |" if line.startswith("| ") else line.removesuffix("---|---|") for line in tables
    )
    summary += re.sub(r"\]\(#([\w-]+)\)", r"](\1.md)", "\n".join(short)).split("\n")
    pages["operators/index.md"] = "\n".join(summary)
    pages["systems/index.md"] = "\n".join(system_table(systems))
    for name in systems.names():
        pages[f"systems/{name}.md"] = "\n".join(system_page(systems, name, write["about"]))
    return pages


def system_table(systems: Any) -> list[str]:
    """What there is, and what each reads and writes."""
    lines = [
        "# Systems",
        "",
        "Published whole networks: `weft fit SOURCE --system NAME`, then `predict` and `evaluate`.",
        "",
    ]
    lines += ["| name | reads | writes | judged by | source |", "|---|---|---|---|---|"]
    for name in systems.names():
        cls = systems.get(name)
        reads = ", ".join(f"{role} ({need.kind})" for role, need in cls.reads.items())
        lines.append(f"| [`{name}`]({name}.md) | {reads} | {cls.writes} | {cls.judge} | {cls.paper} |")
    return lines


def system_page(systems: Any, name: str, about: Any) -> Iterator[str]:
    """A system: its class, its options, and the page that lies in its folder."""
    cls = systems.get(name)
    yield from (f"# {name}", "", f"*System.* {cls.paper}", "", *about(systems, name), "")
    text = inspect.getdoc(cls) or ""
    said, _, args = text.partition("Args:\n")
    yield from (said.strip(), "")
    if args:
        yield from ("## Options", "", *arguments(args), "")
    page = Path(inspect.getfile(cls)).parent / "README.md"
    if page.exists():
        yield from ("", re.sub(r"^#", "##", page.read_text(), flags=re.MULTILINE))


def arguments(text: str) -> Iterator[str]:
    """The ``Args:`` of a docstring as a list."""
    for line in inspect.cleandoc("\n" + text).splitlines():
        named = re.match(r"([\w, ]+): (.*)", line)
        line = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", line).replace("``", "`")
        yield (
            re.sub(r"^([\w, ]+): ", r"- **\1**: ", line) if named and not line.startswith(" ") else f"  {line.strip()}"
        )


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML; the README is the first page; other links that leave the documentation as plain words."""
    text = markdown.replace("](../../README.md", "](../index.md")
    text = BLOCK.sub(lambda found: f'<div class="math">{mathml(found[1].strip(), "block")}</div>\n', text)
    fenced = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if index % 2 else LINK.sub(lambda f: inside(f, page, files), part) for index, part in enumerate(fenced)
    )


def inside(found: re.Match[str], page: Page, files: Files) -> str:
    """A link, where it leads to a page of the site; else its words."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), found[2].partition("#")[0]))
    return found[0] if files.get_file_from_path(target) else found[1]


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas within a line."""
    return INLINE.sub(lambda found: mathml(html.unescape(found[1])), content)


def mathml(formula: str, display: str = "inline") -> str:
    """A formula; several lines by the one environment of that kind that the converter knows.

    The empty group keeps a row that begins with a bracket from being read as an option.
    """
    lines = formula.replace(r"\begin{aligned}", r"\begin{align*}{}").replace(r"\end{aligned}", r"\end{align*}")
    return str(convert(lines.replace(r"\_", "_"), display=display))

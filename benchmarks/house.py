"""Lines per room, what is repeated, what saliency is made of: the tables at the end of ``docs/architecture.md``.

    python benchmarks/house.py [CHECKOUT ...]

A repeat is a window of six lines (blank ones left out, indentation removed) that stands in more than one place of the
Python files. They are counted twice: in all lines, and without imports and signatures, which each file and each method
has to show. Of RGB-D saliency: the files of ``src`` that carry its name, and those of ``weft`` that these import.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

WINDOW = 6


def files_of(root: Path) -> list[Path]:
    """The Python files that are kept."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True)
    return [root / name for name in listed.stdout.splitlines()]


def lines_of(path: Path, *, plain: bool) -> list[str]:
    """Lines with something in them; ``plain``: those of imports and signatures left out."""
    text, shown = path.read_text(), set()
    for node in ast.walk(ast.parse(text)) if plain else ():
        if isinstance(node, ast.Import | ast.ImportFrom):
            shown |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            shown |= set(range(node.lineno, node.body[0].lineno))
    return [line.strip() for k, line in enumerate(text.split("\n"), 1) if line.strip() and k not in shown]


def repeats(files: list[Path], *, plain: bool) -> int:
    """How many different windows stand in more than one place."""
    found: Counter[tuple[str, ...]] = Counter()
    for path in files:
        lines = lines_of(path, plain=plain)
        found.update(tuple(lines[k : k + WINDOW]) for k in range(len(lines) - WINDOW + 1))
    return sum(count > 1 for count in found.values())


def saliency(src: Path, files: list[Path]) -> dict[str, int]:
    """How many files are saliency's alone, in how many rooms, their lines, and how many more they import."""
    own = {path for path in files if "saliency" in str(path.relative_to(src))}
    imported = set()
    for path in own:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("weft"):
                module = src.joinpath(*str(node.module).split("."))
                for place in [module / alias.name for alias in node.names]:
                    places = [place.with_suffix(".py"), place / "__init__.py"]
                    places += [module.with_suffix(".py"), module / "__init__.py"]
                    imported |= set([file for file in places if file.is_file()][:1])
    lines = sum(len(path.read_text().splitlines()) for path in own)
    return {"files": len(own), "folders": len({p.parent for p in own}), "lines": lines, "imports": len(imported - own)}


def measured(root: Path) -> dict[str, object]:
    """The figures of one checkout."""
    files, rooms = files_of(root), Counter[str]()
    for path in files:
        parts = path.relative_to(root).parts
        if parts[0] == "src":
            rooms[parts[2] if len(parts) > 3 else "(files)"] += len(path.read_text().splitlines())
    return {
        "files": len(files),
        "lines of src": dict(sorted(rooms.items())) | {"all": rooms.total()},
        "saliency": saliency(root / "src", [path for path in files if path.is_relative_to(root / "src")]),
        "repeats": repeats(files, plain=False),
        "repeats without imports and signatures": repeats(files, plain=True),
    }


if __name__ == "__main__":
    for checkout in sys.argv[1:] or ["."]:
        print(json.dumps({"checkout": checkout, **measured(Path(checkout).resolve())}, indent=1))

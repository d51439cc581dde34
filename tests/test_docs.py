"""Generated pages say what the code says, and every link of the documentation leads somewhere."""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from weft.alignment import aligners, objectives, regularisers
from weft.cli import app
from weft.fusion import fusions
from weft.training.config import TrainConfig
from weft.training.system import systems

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = [folder.parent / "README.md" for folder in sorted((ROOT / "src/weft/systems").glob("*/__init__.py"))]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *SYSTEMS]


def test_operator_table_is_that_of_the_registry() -> None:
    code = "import runpy; print(runpy.run_path('docs/operators.py')['page'](), end='')"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (ROOT / "docs" / "operators.md").read_text() == result.stdout, "run: python docs/operators.py"


def test_the_page_of_faults_is_that_of_the_script() -> None:
    made = runpy.run_path(str(ROOT / "benchmarks" / "mutants.py"))
    assert (ROOT / "docs" / "mutants.md").read_text() == made["page"](), "run: python benchmarks/mutants.py --page"
    found = json.loads(made["RESULT"].read_text())
    assert {**found, "of": len(made["MUTANTS"]), "survived": []} == found, "run: python benchmarks/mutants.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`(?!\])", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


def test_the_citation_file_has_what_its_schema_requires() -> None:
    """cff 1.2.0: required keys, types; and what the package says of itself."""
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= found.keys()
    known = "cff-version message title authors type version license abstract keywords date-released doi url contact"
    assert found.keys() <= {*known.split(), "repository-code", "identifiers", "references", "preferred-citation"}
    assert re.fullmatch(r"1\.(1\.0|2\.0)", found["cff-version"])
    assert found["type"] in ("software", "dataset")
    entity, person = {"name"}, {"family-names", "given-names"}
    assert found["authors"]
    assert all(isinstance(a, dict) and (entity <= a.keys() or person & a.keys()) for a in found["authors"])
    texts = [found[key] for key in ("message", "title", "abstract", "version") if key in found]
    assert all(isinstance(text, str) and text.strip() for text in texts)
    assert len(found["keywords"]) == len(set(found["keywords"])) > 0
    assert (found["version"], found["license"]) == (project["version"], project["license"])


def test_every_operator_and_system_has_its_page() -> None:
    """Of every registry: name, paper, what its docstring begins with, all options."""
    pages = runpy.run_path(str(ROOT / "docs" / "site.py"))["generated"]()
    for registry in (fusions, aligners, objectives, regularisers, systems):
        place = "systems" if registry is systems else "operators"
        for name in registry.names():
            text, cls = pages[f"{place}/{name}.md"], registry.get(name)
            if not cls.__module__.startswith("weft."):
                continue  # another test's
            assert text.startswith(f"# {name}\n")
            assert getattr(cls, "paper", "") in text
            said = cls if registry is systems else inspect.getmodule(cls)
            first = (inspect.getdoc(said) or "").partition("\n")[0]
            assert first, f"{name}, {cls.__module__}: no docstring"
            first = re.sub(r":\w+:`[^`]*`.*|``.*", "", first)  # up to the first name, which a page may write otherwise
            assert first in text, f"{name}: {first}"
            missing = [option for option in registry.schema(name).model_fields if option not in text]
            assert not missing, f"{name}: {missing}"


@pytest.mark.parametrize("page", SYSTEMS, ids=lambda page: page.parent.name)
def test_commands_of_a_system_are_of_this_command_line(page: Path) -> None:
    """Most need minutes and data: verbs, options and names of systems, fusions, recipes and settings are looked up."""
    code = "\n".join(re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
    lines = [line.removeprefix("$ ") for line in code.replace("\\\n", " ").splitlines() if line.startswith("$ ")]
    assert lines
    for line in lines:
        program, verb, *words = shlex.split(line, comments=True)
        assert program == "weft"
        command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
        given = command.make_context(verb, words).params
        if given.get("system"):
            allowed = systems.schema(given["system"]).model_fields
            stated = [*given.get("option", []), *(v for v in given.get("variant", []) if not v.startswith("system="))]
            assert {word.partition("=")[0] for word in stated} <= allowed.keys(), line
        if given.get("fusion"):
            assert given["fusion"] in {*fusions.names(), *aligners.names()}
        settings = [word.partition("=")[0] for word in given.get("set", [])]
        assert verb == "run" or set(settings) <= TrainConfig.model_fields.keys()


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """A page per operator and system, and no link that leads nowhere."""
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    formula = (tmp_path / "operators" / "mutualformer" / "index.html").read_text()
    assert "<mtr>" in formula
    assert "&amp;</m" not in formula  # lines that were not understood
    assert {path.name for path in (tmp_path / "systems").iterdir()} >= set(systems.names())
    pages = [page.read_text() for page in tmp_path.glob("systems/*/index.html")]
    assert not any("PydanticUndefined" in page for page in pages)  # an option without a default
    assert "#your-own-table" in (tmp_path / "howto" / "tour" / "index.html").read_text()

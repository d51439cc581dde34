"""Every shipped recipe is a list of commands that the command line understands."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from weft.cli import app
from weft.errors import UserError
from weft.recipes.recipe import load_recipe, recipe_names

GIVEN = {"DATA": "data", "IMAGE": "hf:google/mobilenet_v2_1.0_224", "CLASSES": "classes", "CAPTIONS": "captions"}


@pytest.mark.parametrize("name", recipe_names())
def test_every_step_parses(name: str) -> None:
    recipe = load_recipe(name)
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for command in recipe.commands({key: value for key, value in GIVEN.items() if key in recipe.variables}):
        assert not any("$" in part for part in command)
        verbs[command[0]].make_context(command[0], list(command[1:]))
    used = "\n".join(recipe.steps)
    assert all(f"${{{variable}}}" in used for variable in recipe.variables), "a variable that no step uses"


def test_there_is_a_recipe_at_both_sizes_for_every_table_and_figure() -> None:
    names = {name.removeprefix("lightcrl/") for name in recipe_names() if name.startswith("lightcrl/")}
    full = {name for name in names if not name.startswith("small-")}
    assert {f"small-{name}" for name in full} == names - full
    assert full == {
        "cifar10-fine-tuning",
        "convirt",
        "figure-flickr8k",
        "figure-stsb",
        "table-cifar10-zero-shot",
        "table-cifar100-probe",
        "table-mrpc",
        "table-qqp",
        "table-tiny-imagenet",
    }


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'lightcrl/table-mrpc'"):
        load_recipe("lightcrl/table-mrcp")
    recipe = load_recipe("lightcrl/small-table-mrpc")
    with pytest.raises(UserError, match="--set DATA="):
        recipe.commands({})
    with pytest.raises(UserError, match="no such variable"):
        recipe.commands({"DATE": "x"})
    path = tmp_path / "mine.yaml"
    path.write_text("title: t\nsource: s\nsteps: ['list ${X}']\n")
    with pytest.raises(UserError, match="filled in"):
        load_recipe(path).commands({})
    path.write_text("title: t\nstep: []\n")
    with pytest.raises(UserError, match="not a recipe"):
        load_recipe(path)


def test_the_small_generator_runs_whole(tmp_path: Path) -> None:
    sizes = {"ROWS": 60, "SIZE": 16, "BASE": 2, "EPOCHS": 2, "OUT": tmp_path}
    given = [f"--set={name}={value}" for name, value in sizes.items()]
    done = CliRunner().invoke(app, ["run", "text-to-image/small-shapes", *given])
    assert done.exit_code == 0, done.output
    assert "agreement colour" in done.output
    assert (tmp_path / "araf-0/drawn.png").stat().st_size > 10_000


def test_the_small_re_identification_runs_whole(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["run", "cross-spectral-reid/small-spectra", "--set=SHARE=2", "--set=EPOCHS=1", f"--set=OUT={tmp_path}"]
    )
    assert done.exit_code == 0, done.output
    assert done.output.count("CMC-1") == 6, "three networks, CMC-1 and CMC-10"


def test_run_executes_the_steps(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("title: t\nsource: s\nvariables: {KIND: aligner}\nsteps: ['list --kind ${KIND} --json']\n")
    shown = CliRunner().invoke(app, ["run", str(path), "--dry-run"])
    assert shown.exit_code == 0
    assert '"lightcrl"' not in shown.output
    done = CliRunner().invoke(app, ["run", str(path)])
    assert '"lightcrl"' in done.output


def test_the_small_l_verse_runs_whole(tmp_path: Path) -> None:
    sizes = {"ROWS": 60, "EPOCHS": 1, "EPOCHS_CODES": 1, "EPOCHS_BIART": 1, "OUT": tmp_path}
    given = [f"--set={name}={value}" for name, value in sizes.items()]
    done = CliRunner().invoke(app, ["run", "l-verse/small-shapes", *given])
    assert done.exit_code == 0, done.output
    assert "cider" in done.output


def test_the_small_merlot_reserve_runs_whole(tmp_path: Path) -> None:
    """Every step, on few rows: a network is trained and scored, then beside its variants without what they lack."""
    given = ["--set", f"OUT={tmp_path}", "--set", "ROWS=30", "--set", "EPOCHS=1"]
    done = CliRunner().invoke(app, ["run", "merlot-reserve/small-scripts", *given])
    assert done.exit_code == 0, done.output
    assert "accuracy" in done.output
    assert "no script" in done.output

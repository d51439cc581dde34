"""A recipe: one published experiment as the list of ``weft`` commands that repeats it.

A YAML with ``title``, ``source``, ``variables`` (names and default values, or null where the user must say) and
``steps``, each a command line in which ``${NAME}`` stands for a variable. The shipped ones lie in ``weft/recipes``;
those of a system in its folder.
"""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from weft.errors import UserError, did_you_mean, some


class Recipe(BaseModel):
    """One experiment.

    Attributes:
        title: what it repeats.
        source: the paper, its table or figure.
        notes: what differs from the original.
        variables: names and default values; None: the user has to give it.
        steps: command lines without the leading ``weft``.
    """

    model_config = ConfigDict(extra="forbid")

    title: str
    source: str
    notes: str = ""
    variables: dict[str, str | None] = Field(default_factory=dict)
    steps: list[str] = Field(min_length=1)

    def commands(self, given: dict[str, Any]) -> list[list[str]]:
        """The arguments of every step, variables filled in.

        Raises:
            UserError: an unknown variable, one without a value, or one that a step uses and the recipe does not know.
        """
        unknown = [name for name in given if name not in self.variables]
        if unknown:
            raise UserError("the recipe has no such variable", unknown[0], did_you_mean(unknown[0], self.variables))
        values = {**self.variables, **{name: str(value) for name, value in given.items()}}
        missing = [name for name, value in values.items() if value is None]
        if missing:
            raise UserError("the recipe needs a value", some(missing), f"--set {missing[0]}=...")
        try:
            return [[Template(part).substitute(values) for part in shlex.split(step)] for step in self.steps]
        except (KeyError, ValueError) as error:
            raise UserError("a step of the recipe cannot be filled in", str(error), "add it to its variables") from None


def recipe_files() -> dict[str, Path]:
    """The shipped recipes by name: ``family/name``, or ``system/name`` for those in the folder of a system."""
    own, systems = (Path(str(resources.files(package))) for package in ("weft.recipes", "weft.systems"))
    found = {path.relative_to(own).with_suffix("").as_posix(): path for path in own.glob("*/*.yaml")}
    for path in systems.glob("*/recipes/*.yaml"):
        found[f"{path.parents[1].name.replace('_', '-')}/{path.stem}"] = path
    return dict(sorted(found.items()))


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return list(recipe_files())


def load_recipe(name: str | Path) -> Recipe:
    """A shipped recipe by its name, or one's own by the path of its YAML.

    Raises:
        UserError: there is none, or it is not a recipe.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in recipe_names():
            raise UserError("unknown recipe", str(name), did_you_mean(str(name), recipe_names(), "recipes"))
        path = recipe_files()[str(name)]
    if not path.is_file():
        raise UserError("the recipe does not exist", str(path), f"shipped ones: {', '.join(recipe_names())}")
    try:
        return Recipe(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        raise UserError(
            f"{path} is not a recipe", str(error).splitlines()[0], "see weft.recipes.recipe.Recipe"
        ) from None

"""The registry: names, did-you-mean, option schema, third parties."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import weft
from weft.errors import UserError, did_you_mean, some
from weft.fusion import Fusion, create_fusion, fusions, list_fusions
from weft.registry import Registry

DIMS = {"a": 3, "b": 5}


def test_every_operator_is_found_by_its_file_alone() -> None:
    assert "concat" in list_fusions()
    assert list_fusions("con*") == [n for n in list_fusions() if n.startswith("con")]
    assert fusions.name_of(fusions.get("concat")) == "concat"


def test_unknown_name_offers_the_closest() -> None:
    with pytest.raises(UserError, match="did you mean 'concat'"):
        create_fusion("concta", DIMS)


def test_unknown_option_offers_the_closest() -> None:
    with pytest.raises(UserError, match="did you mean 'dropout'"):
        create_fusion("concat", DIMS, dropuot=0.1)


def test_option_of_the_wrong_type_names_value_and_type() -> None:
    with pytest.raises(UserError, match=r"dropout='much'[\s\S]*float"):
        create_fusion("concat", DIMS, dropout="much")


def test_options_are_converted_as_their_annotation_says() -> None:
    assert create_fusion("concat", DIMS, dropout="0.25").dropout.p == 0.25  # type: ignore[union-attr]


def test_two_classes_under_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="two classes register"):
        fusions.register("concat")(type("Other", (Fusion,), {"fuse": lambda self, inputs: None}))


def test_the_name_of_a_class_is_known_without_the_other_classes() -> None:
    """A process of a comparison asks for the name of its task: it imports no published networks for that."""
    registry: Registry[object] = Registry("toy", "weft.there_is_no_such_package")

    @registry.register("one")
    class One:
        pass

    assert registry.name_of(One) == "one"
    with pytest.raises(ModuleNotFoundError):
        registry.name_of(int)


def test_third_parties_come_in_through_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs(Fusion):
        def fuse(self, inputs):  # type: ignore[no-untyped-def]
            raise RuntimeError

    class Point:
        name = "theirs"

        def load(self) -> type:
            return Theirs

    registry: Registry[Fusion] = Registry("fusion", "weft.fusion")
    monkeypatch.setattr("weft.registry.entry_points", lambda group: [Point()] if group == "weft.fusion" else [])
    assert registry.get("theirs") is Theirs


def plugged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str] | None = None) -> Registry[object]:
    """A registry over a package of these files, ``{path without .py: source}``."""
    name = f"plugged_{tmp_path.name}"
    for path, source in {"__init__": HEAD, **(files or {})}.items():
        file = tmp_path / name / f"{path}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source.format(name=name))
    monkeypatch.syspath_prepend(str(tmp_path))
    return importlib.import_module(name).things  # type: ignore[no-any-return]


HEAD = "from weft.registry import Registry\nthings = Registry('thing', '{name}')\n"
THING = "from {name} import things\n@things.register('%s')\nclass Thing: ...\n"


def test_a_package_is_an_entry_as_a_module_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    things = plugged(monkeypatch, tmp_path, {"whole/__init__": THING % "whole", "one": THING % "one"})
    assert things.names() == ["one", "whole"]


def test_after_a_plug_in_that_fails_every_call_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    things = plugged(monkeypatch, tmp_path, {"a": THING % "a", "b": "raise RuntimeError('broken')", "c": THING % "c"})
    for call in (things.names, things.names, lambda: things.get("a"), lambda: things.schema("c")):
        with pytest.raises(RuntimeError, match="broken"):
            call()
    next(tmp_path.glob("plugged*/b.py")).write_text("")
    importlib.invalidate_caches()
    assert things.names() == ["a", "c"]


def test_an_entry_point_that_fails_is_named_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name, value = "theirs", "their.module:Theirs"

        def load(self) -> type:
            raise ImportError("no module named their")

    registry: Registry[Fusion] = Registry("fusion", "weft.fusion")
    monkeypatch.setattr("weft.registry.entry_points", lambda group: [Point()])
    for _ in range(2):
        with pytest.raises(UserError, match=r"plug-in fusion 'theirs'[\s\S]*no module named their"):
            registry.names()


def test_names_are_in_natural_order_and_can_be_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    things = plugged(monkeypatch, tmp_path)
    for name in ("view10", "view2", "view2b", "view", "10", "9", "other"):
        things.register(name)(type(name, (), {}))
    assert things.names() == ["9", "10", "other", "view", "view2", "view2b", "view10"]
    assert things.names("view*", exclude="*2*") == ["view", "view10"]
    assert things.names(exclude=["view*", "9"]) == ["10", "other"]


def test_an_earlier_name_works_and_says_the_new_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    things = plugged(monkeypatch, tmp_path)
    cls = things.register("new", formerly=["old", "older"])(type("New", (), {}))
    for name in ("old", "older"):
        with pytest.warns(FutureWarning, match=f"thing '{name}' is now called 'new'"):
            assert things.get(name) is cls
    assert things.names() == ["new"]
    with pytest.raises(UserError, match="unknown thing"):
        things.get("oldest")


@pytest.mark.parametrize("name", weft.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(weft, name) is not None


def test_error_text_has_three_parts() -> None:
    text = str(UserError("what is wrong", "what was found", "the way out"))
    assert text.splitlines() == ["what is wrong", "  found:  what was found", "  remedy: the way out"]
    assert did_you_mean("zzz", ["b", "a"], "letters") == "known letters: a, b"
    assert some(range(7)) == "0, 1, 2, 3, 4 and 2 more"

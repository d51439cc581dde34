"""The registry: names, did-you-mean, option schema, third parties."""

from __future__ import annotations

import pytest

import weft
from weft.errors import UserError, did_you_mean, some
from weft.fusion import Fusion, create_fusion, fusions, list_fusions

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


def test_third_parties_come_in_through_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs(Fusion):
        def fuse(self, inputs):  # type: ignore[no-untyped-def]
            raise RuntimeError

    class Point:
        name = "theirs"

        def load(self) -> type:
            return Theirs

    from weft.registry import Registry

    registry: Registry[Fusion] = Registry("fusion", "weft.fusion")
    monkeypatch.setattr("weft.registry.entry_points", lambda group: [Point()] if group == "weft.fusion" else [])
    assert registry.get("theirs") is Theirs


@pytest.mark.parametrize("name", weft.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(weft, name) is not None


def test_error_text_has_three_parts() -> None:
    text = str(UserError("what is wrong", "what was found", "the way out"))
    assert text.splitlines() == ["what is wrong", "  found:  what was found", "  remedy: the way out"]
    assert did_you_mean("zzz", ["b", "a"], "letters") == "known letters: a, b"
    assert some(range(7)) == "0, 1, 2, 3, 4 and 2 more"

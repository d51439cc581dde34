"""One way to save and load a model: ``config.json`` (what builds it), ``model.safetensors`` (its weights), and
``seen.safetensors`` (which rows it was trained, chosen and tested on, see :mod:`weft.models.seen`).

A class of models registers its name and says what builds it::

    @models.register("FusedModel")
    class FusedModel(nn.Module, Pretrained):
        format = "FusedModel/1"

        def config(self) -> dict[str, Any]: ...

:func:`load_model` reads a folder whatever class wrote it. A format of a higher version is refused; one of a lower
version is read with :attr:`Pretrained.renames`, ``{old beginning of a weight's name: new one}``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from weft.errors import UserError
from weft.files import read_json, read_tensors, write_json, write_tensors
from weft.models.seen import Seen
from weft.places import here
from weft.registry import Registry

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class Pretrained(ABC):
    """What can be kept in a folder; a mixin of ``nn.Module`` classes, and of others that give ``state_dict``.

    Attributes:
        seen: the rows that training has looked at; None where that is not known.
        folder: where it was read from; None: nowhere.

    Class attributes:
        format: registered name and version, ``"FusedModel/1"``.
        renames: beginnings of weights' names that older versions wrote, and what they are now.
    """

    format: ClassVar[str]
    renames: ClassVar[Mapping[str, str]] = {}
    seen: Seen | None = None
    folder: Path | None = None

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The arguments of :meth:`from_config`, as JSON values."""

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the files into a folder, each in one step."""
        folder = Path(folder)
        write_json(folder / CONFIG, {"format": self.format, **self.config()})
        write_tensors(folder / WEIGHTS, self.state_dict())  # type: ignore[attr-defined]
        if self.seen is not None:
            self.seen.save(folder)

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """The model without its weights; ``folder`` is where further files of it lie."""
        return cls(**config)

    def push_to_hub(self, place: str, *, private: bool = False) -> str:
        """Put the model, with a card written from the evidence beside it, where others load it from.

        Args:
            place: ``"user/name"`` on the Hugging Face hub, or a URL; see :mod:`weft.places`.
            private: whether a repository that is created is private.

        Returns:
            Its address.

        Raises:
            UserError: no right to write there, or it cannot be reached.
        """
        from weft.models.push import push

        return push(self, place, private=private)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Self:
        """The model in a folder, or in its ``best/`` or ``winner/``; evaluation mode.

        Args:
            folder: a path, the name of a repository (``"user/name"``) or a URL, see :mod:`weft.places`.

        Raises:
            UserError: a file is missing or damaged, holds another class of model, or does not fit the other files; or
                the repository or URL cannot be read.
        """
        place, config = _read(here(folder))
        found = config.pop("format")
        if found.partition("/")[0] != cls.format.partition("/")[0]:
            raise UserError(
                f"the folder holds no {cls.format.partition('/')[0]}",
                f"{place / CONFIG}: format {found!r}, not {cls.format!r}",
                "read it with weft.load_model, which knows every class, or with the class its format names",
            )
        if int(found.partition("/")[2]) > int(cls.format.partition("/")[2]):
            raise UserError(
                "a newer version of weft wrote this model", f"{place / CONFIG}: {found!r}", "update weft to read it"
            )
        try:
            model = cls.from_config(config, place)
        except (KeyError, TypeError) as error:
            raise UserError(
                "config.json does not describe a model", f"{place}: {error!r}", "restore it from a copy"
            ) from None
        load_weights(model, place / WEIGHTS, cls.renames)
        model.seen, model.folder = Seen.load(place), place
        return model.eval() if hasattr(model, "eval") else model


models: Registry[Pretrained] = Registry("model", "weft.models", "weft.systems")


def load_model(folder: Path | str) -> Any:
    """The model of a folder, by the class that wrote it.

    Args:
        folder: as for :meth:`Pretrained.from_pretrained`.

    Raises:
        UserError: as :meth:`Pretrained.from_pretrained`; or no class of that name is known.
    """
    place = here(folder)
    return models.get(_read(place)[1]["format"].partition("/")[0]).from_pretrained(place)


def load_weights(model: Any, path: Path, renames: Mapping[str, str] | None = None) -> None:
    """Put the weights of a file into a module of exactly those names and shapes.

    Raises:
        UserError: the file is missing or damaged, or holds other weights.
    """
    tensors = {_renamed(name, renames or {}): tensor for name, tensor in read_tensors(path)[0].items()}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            "the weights do not fit the model that config.json describes",
            f"{path}: {error}",
            "keep config.json and model.safetensors of one model together",
        ) from None


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    for old, new in renames.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _read(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where the model is (the folder, or its ``best/`` or ``winner/``), and its ``config.json``."""
    parts = [folder / part for part in ("", "best", "winner")]
    folder = next((part for part in parts if (part / CONFIG).exists()), folder)
    config = read_json(folder / CONFIG)
    name, slash, version = str(config.get("format") if isinstance(config, dict) else "").partition("/")
    if not (name and slash and version.isdigit()):
        raise UserError(
            "the folder holds no model",
            f"{folder / CONFIG} names no format",
            "give the folder of a model: that of weft fit, or winner/ of weft compare",
        )
    return folder, config

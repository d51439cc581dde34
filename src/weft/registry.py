"""Names to classes. A class registers itself where it is written; its constructor is its option schema.

``Registry.create`` checks options against the keyword-only parameters of the constructor (types, defaults, nothing
unknown) and answers a misspelt name with the closest known ones. Third parties add classes through the entry-point
group named like the registry's package, e.g. ``[project.entry-points."weft.fusion"]``.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import pkgutil
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from weft.errors import UserError, did_you_mean, first_fault

T = TypeVar("T")
Count = Annotated[int, Field(ge=1)]
"""An option that says how many."""
Dropout = Annotated[float, Field(ge=0, le=1)]
"""An option that is the probability of zeroing an entry."""
Seed = Annotated[int, Field(ge=0)]
"""An option that draws depend on."""
LEARNED = "learned"
Learned = Annotated[T, LEARNED]
"""An option that training sets, of the rows it sees, for whoever loads the model; nobody gives it."""


class Registry(Generic[T]):
    """The classes of one kind, by name.

    Args:
        kind: what is registered, for messages ("fusion").
        package: the package whose modules and sub-packages register themselves, and the entry-point group
            ("weft.fusion").
        also: further packages to look in, after the first: the folders of :mod:`weft.systems` bring what they need.
    """

    def __init__(self, kind: str, package: str, *also: str) -> None:
        self.kind, self.package, self.also = kind, package, also
        self._classes: dict[str, type[T]] = {}
        self._renamed: dict[str, str] = {}
        self._discovered = self._discovering = False
        self._lock = threading.RLock()

    def register(self, name: str, *, formerly: Sequence[str] = ()) -> Callable[[type[T]], type[T]]:
        """Class decorator: make the class known as ``name``; earlier names go on working, with a warning.

        Raises:
            UserError: another class has the name.
        """

        def add(cls: type[T]) -> type[T]:
            known = self._classes.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise UserError(
                    f"two classes register as {self.kind} {name!r}",
                    f"{known.__module__}.{known.__qualname__} and {cls.__module__}.{cls.__qualname__}",
                    "give one of them another name",
                )
            self._classes[name] = cls
            self._renamed.update(dict.fromkeys(formerly, name))
            return cls

        return add

    def _discover(self) -> None:
        """Import every module of the package and every plug-in, once. A failure is raised now and by every later call:
        a part of the classes is never taken for all of them."""
        with self._lock:
            if self._discovered or self._discovering:
                return
            self._discovering = True
            try:
                for name in (self.package, *self.also):
                    _import_all(name)
                for point in entry_points(group=self.package):
                    self.register(point.name)(self._load(point))
                self._discovered = True
            finally:
                self._discovering = False

    def _load(self, point: Any) -> type[T]:
        try:
            cls: type[T] = point.load()
        except Exception as error:
            raise UserError(
                f"the plug-in {self.kind} {point.name!r} cannot be loaded",
                f"{point.value}: {type(error).__name__}: {error}",
                "repair the package that brings it, or uninstall it",
            ) from error
        return cls

    def names(self, pattern: str = "*", exclude: str | Sequence[str] = ()) -> list[str]:
        """Registered names in natural order: ``names("*attention*", exclude=["multi*", "cross*"])``.

        Args:
            pattern: shell pattern of the names.
            exclude: shell pattern, or several, of names to leave out.
        """
        self._discover()
        patterns = [exclude] if isinstance(exclude, str) else exclude
        found = fnmatch.filter(self._classes, pattern)
        return sorted((n for n in found if not any(fnmatch.fnmatch(n, p) for p in patterns)), key=natural)

    def get(self, name: str) -> type[T]:
        """The class registered as ``name``; an earlier name of a class warns and gives it.

        The further packages are looked into only for a name that the first does not have: importing them takes seconds.

        Raises:
            UserError: the name is unknown; the message offers the closest ones.
        """
        if self.also and not self._discovered and name not in self._classes:
            with self._lock:
                _import_all(self.package)
        if name not in self._classes or not self.also:
            self._discover()
        if name not in self._classes and name in self._renamed:
            now = self._renamed[name]
            warnings.warn(f"{self.kind} {name!r} is now called {now!r}: use that name", FutureWarning, stacklevel=2)
            return self._classes[now]
        if name not in self._classes:
            raise UserError(
                f"unknown {self.kind} {name!r}",
                f"{len(self._classes)} registered",
                did_you_mean(name, self._classes, f"{self.kind} names"),
            )
        return self._classes[name]

    def name_of(self, cls: type) -> str:
        """The name a class is registered under.

        Raises:
            UserError: the class is not registered.
        """
        if cls not in self._classes.values():  # else it needs no import of the others
            self._discover()
        for name, known in self._classes.items():
            if known is cls:
                return name
        raise UserError(f"{cls.__qualname__} is not a registered {self.kind}", "no such entry", "register it first")

    def describe(self, name: str) -> tuple[str, dict[str, Any]]:
        """The first line of a class's docstring, and its options with their defaults (None where one is required)."""
        fields = self.schema(name).model_fields
        lines = (self.get(name).__doc__ or "").strip().splitlines()
        return (lines or [""])[0], {k: None if f.is_required() else f.default for k, f in fields.items()}

    def schema(self, name: str) -> type[BaseModel]:
        """The options of ``name`` as a pydantic model: the keyword-only parameters of its constructor."""
        return option_schema(self.get(name), name)

    def learned(self, name: str) -> list[str]:
        """The options of ``name`` that are :data:`Learned`."""
        return [option for option, field in self.schema(name).model_fields.items() if LEARNED in field.metadata]

    def create(self, name: str, *args: Any, **options: Any) -> T:
        """Build ``name``; positional arguments pass through, options are validated.

        Raises:
            UserError: unknown name, unknown option, or an option value of the wrong type.
        """
        cls = self.get(name)
        return cls(*args, **check_options(cls, name, options))


def natural(name: str) -> list[tuple[int, str]]:
    """Sorting key under which ``a2`` comes before ``a10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def option_schema(cls: type, name: str) -> type[BaseModel]:
    """A pydantic model of the keyword-only parameters of ``cls.__init__``."""
    hints = get_type_hints(cls.__init__, include_extras=True)  # type: ignore[misc]
    fields: dict[str, Any] = {
        p.name: (hints.get(p.name, Any), ... if p.default is p.empty else p.default)
        for p in inspect.signature(cls).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    return create_model(f"{name} options", __config__=config, **fields)


def check_options(cls: type, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """``options`` with their types checked and converted; only the given ones come back."""
    schema = option_schema(cls, name)
    try:
        checked = schema(**options)
    except ValidationError as error:
        option = str(error.errors()[0]["loc"][0])
        known = schema.model_fields
        remedy = f"it is declared as {_declared(cls, option)}" if option in known else ""
        raise first_fault(error, repr(name), "option", known, remedy) from None
    return {key: getattr(checked, key) for key in options}


def _declared(cls: type, option: str) -> str:
    """An option with its type and default, ``width: int = 128``."""
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    return str(inspect.signature(cls).parameters[option].replace(annotation=hints.get(option, Any)))


def _import_all(package: str) -> None:
    """Import every module of a package."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")

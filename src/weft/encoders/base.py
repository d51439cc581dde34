"""The interface of an encoder: raw values of one modality in, ``(T, D)`` float32 tokens out, frozen.

An encoder sees only values that are present, in batches. What it returns must depend on nothing but the value, the
encoder's :meth:`Encoder.identity` and, where it has a :meth:`Encoder.fit`, its :meth:`Encoder.state`: the store keeps
features under exactly those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from weft.data.kinds import kind_named
from weft.data.kinds import kinds as all_kinds
from weft.data.remote import Remote, local
from weft.errors import UserError
from weft.registry import Registry

V = TypeVar("V")


class BadValue(UserError):
    """A value an encoder cannot read; the caller knows which row it belongs to.

    Args:
        index: position of the value in the batch.
        what, found, remedy: see :class:`~weft.errors.UserError`.
    """

    def __init__(self, index: int, what: str, found: str, remedy: str) -> None:
        super().__init__(what, found, remedy)
        self.index = index


class Encoder(ABC):
    """Base of every encoder.

    Attributes:
        kinds: the ``Modality.kind`` values it reads.
        width: ``D`` of its tokens; known after :meth:`fit` where it depends on the data.
        recipe: what :func:`create_encoder` was called with, JSON; None for an encoder built by hand.

    Class attributes:
        refits: what it learns changes more than the scale of its entries, so every split needs an encoder fitted on
            its own training rows. Scales alone need none: models standardise features on their training rows.

    Example:
        >>> from weft.encoders import create_encoder
        >>> encoder = create_encoder("hashed-text", "text")
        >>> [tokens.shape[1] == encoder.width for tokens in encoder.encode(["a red square", "two blue circles"])]
        [True, True]
        >>> encoder.identity()["name"]
        'hashed-text'
    """

    kinds: ClassVar[tuple[str, ...]]
    refits: ClassVar[bool] = False
    width: int
    recipe: dict[str, Any] | None = None

    def fit(self, values: Sequence[Any]) -> None:  # noqa: B027 - most encoders learn nothing from the data
        """Learn statistics from the present values of the training rows. Default: nothing."""

    @abstractmethod
    def encode(self, values: Sequence[Any]) -> list[np.ndarray]:
        """Encode one batch of present values.

        Returns:
            One ``(T_i, D)`` float32 array per value, ``T_i >= 1``.

        Raises:
            BadValue: a value cannot be read; it carries the position in the batch.
        """

    def prepare(self, value: Any) -> Any:
        """What :meth:`encode` takes instead of a value: its file fetched, read and decoded, all that needs no model.

        It runs in threads, ahead of the encoder. Default: the value, a remote file fetched.

        Raises:
            UserError: the value cannot be read.
        """
        return local(value, "file") if isinstance(value, Remote) else value

    def lengths(self, values: Sequence[Any]) -> np.ndarray:
        """``(n,)`` relative lengths; values of like length share a batch. Default: all equal."""
        return np.zeros(len(values), dtype=np.int64)

    def unknown(self, values: Sequence[Any]) -> dict[int, list[tuple[int, str]]]:
        """Words that :meth:`fit` did not meet: ``{cell of a value: [(place of the value, word)]}``. Default: none."""
        return {}

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that decides the output (name, revision, preprocessing, options), JSON."""

    def state(self) -> dict[str, Any]:
        """What :meth:`fit` learned, JSON."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Put back what :meth:`state` gave."""


encoders: Registry[Encoder] = Registry("encoder", "weft.encoders")


def create_encoder(spec: str, kind: str, **options: Any) -> Encoder:
    """Build an encoder for one kind of modality.

    Args:
        spec: ``"hf:<name or folder>"`` for a transformers model, or a registered name.
        kind: the ``Modality.kind`` it has to read.
        options: keyword arguments of the encoder's constructor.

    Raises:
        UserError: unknown name, unknown option, an encoder that does not read ``kind``, or a model that is not there.
    """
    name, given = spec, dict(options)
    if spec.startswith("hf:"):
        known = kind_named(kind).transformers
        if known is None:
            able = [other for other in all_kinds.names() if all_kinds.get(other).transformers is not None]
            raise UserError(
                f"transformers models are used for {', '.join(able)}",
                f"{spec!r} for a modality of kind {kind!r}",
                f"use the built-in {default_encoder(kind)!r}, or embeddings computed elsewhere (kind 'vector')",
            )
        name, given["model"] = known, spec.removeprefix("hf:")
    cls = encoders.get(name)
    if kind not in cls.kinds:
        able = [known for known in encoders.names() if kind in encoders.get(known).kinds]
        raise UserError(
            f"encoder {name!r} does not read kind {kind!r}",
            f"it reads {', '.join(cls.kinds)}",
            f"for {kind!r}: {', '.join(able)}",
        )
    encoder = encoders.create(name, **given)
    encoder.recipe = {"spec": spec, "kind": kind, "options": options}
    return encoder


def restore_encoder(name: str, spec: Mapping[str, Any], which: str) -> Encoder:
    """The encoder of a modality as it was, with what it had learned.

    Args:
        name: of the modality.
        spec: its ``recipe`` (``spec``, ``kind``, ``options``), ``state`` and ``identity``.
        which: ``"this store was made with"``, for the message.

    Raises:
        UserError: it cannot be made, or is another one by now (a changed model file).
    """
    encoder = create_encoder(spec["spec"], spec["kind"], **spec["options"])
    encoder.load_state(spec["state"])
    if encoder.identity() != spec["identity"]:
        raise UserError(
            f"the encoder of {name!r} is not the one {which}",
            f"{encoder.identity()} instead of {spec['identity']}",
            "bring the old encoder back, or encode and train again in another folder",
        )
    return encoder


def default_encoder(kind: str) -> str:
    """Name of the built-in encoder of a kind; it needs no weights.

    Raises:
        UserError: there is no such kind.
    """
    return kind_named(kind).encoder


def read_each(values: Sequence[Any], read: Callable[[Any], V]) -> list[V]:
    """``read`` applied to every value; a failure becomes a :class:`BadValue` that knows its position."""
    return [read_one(index, value, read) for index, value in enumerate(values)]


def read_one(index: int, value: Any, read: Callable[[Any], V]) -> V:
    """``read`` applied to the value at ``index`` of a batch; a failure becomes a :class:`BadValue`."""
    try:
        return read(value)
    except UserError as error:
        raise BadValue(index, error.what, error.found, error.remedy) from error
    except (OSError, ValueError, TypeError, EOFError, SyntaxError) as error:
        raise BadValue(
            index,
            f"a value of type {type(value).__name__} cannot be read",
            f"{shown(value)}: {type(error).__name__}: {error}",
            "repair or replace it, or leave the cell empty: a missing modality is allowed",
        ) from error


def shown(value: Any) -> str:
    """A value for an error message, cut to one line."""
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {value.dtype}"
    text = str(value).replace("\n", " ")
    return text if len(text) <= 120 else text[:117] + "..."

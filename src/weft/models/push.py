"""Putting a model or a store where others load it from, and loading either."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from weft.errors import UserError
from weft.files import read_json, write_json
from weft.models.card import evidence_of, model_card
from weft.models.pretrained import CONFIG, Pretrained, load_model
from weft.places import here, publish
from weft.store import Store
from weft.store.card import CARD, without_paths
from weft.store.files import MANIFEST


def load(place: str | Path) -> Any:
    """The model or the store of a folder, of a repository of the hub (``"user/name"``) or at a URL.

    Raises:
        UserError: there is neither, it is damaged, or it cannot be reached.
    """
    folder = here(place, "model", "dataset")
    if not folder.is_dir():
        raise UserError("there is neither a model nor a store", f"no folder {folder}", "check the path")
    return Store.open(folder) if (folder / MANIFEST).is_file() else load_model(folder)


def push(what: Pretrained | Store | str | Path, place: str, *, private: bool = False) -> str:
    """Put a model or a store, with its card, on the hub or at a URL.

    A model is loaded and written anew, so what is pushed is known to load, and holds the files of its format alone.
    Where a comparison, a table of aligners or a training lies beside it, that goes along as evidence.

    Args:
        what: a model or a store, or the folder of one; the folder of a comparison means its winner.
        place: ``"user/name"`` or a URL; see :mod:`weft.places`.
        private: whether a repository that is created is private.

    Returns:
        Its address.

    Raises:
        UserError: what cannot be loaded, no right to write there, or it cannot be reached.

    Example:
        >>> import numpy as np, weft
        >>> found = weft.fit({"size": np.arange(60.0), "price": np.arange(60.0) * 2}, target="price", progress=False)
        >>> weft.push(found, "memory://models/prices")
        'memory://models/prices'
        >>> weft.load("memory://models/prices").target
        'price'
    """
    found = load(what) if isinstance(what, str | Path) else what
    if isinstance(found, Store):
        return found.push_to_hub(place, private=private)
    if not isinstance(found, Pretrained):
        raise UserError("this is neither a model nor a store", type(found).__name__, "give a model, or its folder")
    with TemporaryDirectory() as stage:
        folder = Path(stage)
        found.save_pretrained(folder)
        for path in folder.rglob(CONFIG):
            write_json(path, without_paths(read_json(path)))
        evidence = evidence_of(found.folder)
        (folder / CARD).write_text(model_card(found, place, evidence), encoding="utf-8")
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return publish({**evidence.files, **files}, place, "model", private=private)

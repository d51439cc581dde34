"""What others are told of a store (its card), and putting it where they open it from.

Also what the cards of stores and models share: tables, and the licence of an encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.errors import UserError
from weft.files import read_json, write_json
from weft.hub import FILES
from weft.places import publish
from weft.store.files import MANIFEST
from weft.store.refit import FITTED, RAW

if TYPE_CHECKING:
    from weft.store.store import Store

CARD = "README.md"
UNKNOWN = "unknown"
SIZES = (
    (1e3, "n<1K"),
    (1e4, "1K<n<10K"),
    (1e5, "10K<n<100K"),
    (1e6, "100K<n<1M"),
    (1e7, "1M<n<10M"),
    (1e8, "10M<n<100M"),
)


def push_store(store: Store, place: str, *, private: bool = False) -> str:
    """Publish a store with its card; see :meth:`weft.store.Store.push_to_hub`."""
    if set(store.dims) != set(store.manifest["order"]):
        left = ", ".join(sorted(set(store.manifest["order"]) - set(store.dims)))
        raise UserError("a part of a store cannot be pushed", f"without {left}", "encode a store of these modalities")
    folder = store.folder
    found = (path for path in folder.rglob("*") if path.is_file() and FITTED not in path.relative_to(folder).parts)
    names = {path.relative_to(folder).as_posix(): path for path in found}
    files = {name: path for name, path in names.items() if any(fnmatch(name, form) for form in FILES)}
    with TemporaryDirectory() as stage:
        for name, text in ((CARD, store_card(store, place)),):
            files[name] = Path(stage) / name
            files[name].write_text(text, encoding="utf-8")
        files[MANIFEST] = Path(stage) / MANIFEST
        write_json(files[MANIFEST], without_paths(store.manifest))
        return publish(files, place, "dataset", private=private)


def store_card(store: Store, place: str) -> str:
    """The card of a store, Markdown with the hub's metadata before it."""
    from huggingface_hub import DatasetCardData

    title, kinds = title_of(place), {name: e["kind"] for name, e in store.manifest["modalities"].items()}
    size = next((label for most, label in SIZES if len(store) < most), "n>1T")
    tags = ["weft", "multimodal", "embeddings", *dict.fromkeys(kinds.values())]
    meta = DatasetCardData(pretty_name=title, size_categories=[size], tags=tags)
    splits = {} if store.split is None else dict(zip(*np.unique(store.split, return_counts=True), strict=True))
    rows = []
    for k, (name, width) in enumerate(store.dims.items()):
        entry = store.manifest["modalities"][name]
        encoder = encoder_cells({**(entry["recipe"] or {"spec": ""}), "identity": entry["encoder"]})
        rows.append((name, kinds[name], str(width), entry["dtype"], f"{int(store.presence[:, k].sum()):,}", *encoder))
    raw = [name for name in store.dims if (store.folder / store.manifest["modalities"][name]["folder"] / RAW).is_file()]
    parts = [
        f"---\n{meta.to_yaml()}\n---",
        f"# {title}",
        f"Features of {len(store):,} rows for weft, made once by frozen encoders.",
        "## Modalities",
        *table(("modality", "kind", "width", "dtype", "rows that have it", "encoder", "licence"), rows),
        "## Rows",
        bullets(
            [
                f"{len(store):,} rows" + "".join(f", {part}: {count:,}" for part, count in splits.items()),
                f"task: {store.task or 'none'}; targets: {', '.join(store.targets) or 'none'}",
                f"fingerprint: `{store.fingerprint}`: encoders, values, ids, targets and split are what they were",
            ]
        ),
        "## Limits",
        bullets(
            [
                "The ids, targets and split of each row are part of it (`rows.parquet`)."
                + (f" So are the raw values of {', '.join(raw)}, which encoders are fitted on again." if raw else ""),
                "The licence of the data is that of whoever published them; it is not known here.",
                *encoder_limits({n: e["recipe"] or {"spec": ""} for n, e in store.manifest["modalities"].items()}),
            ]
        ),
        "## How to open it",
        f'```python\nimport weft\n\nstore = weft.Store.open("{place}")\nprint(store.dims)\n```',
        f"Or `weft compare {address(place, 'dataset')}`, `weft inspect {address(place, 'dataset')}`.",
    ]
    return "\n\n".join(parts) + "\n"


def address(place: str, kind: str) -> str:
    """A place as a verb takes it whatever lies beside it."""
    prefix = "hub://datasets/" if kind == "dataset" else "hub://"
    return place if "://" in place else f"{prefix}{place}"


def title_of(place: str) -> str:
    """The last part of an address."""
    return place.partition("://")[2].rstrip("/").rpartition("/")[2].partition("@")[0] or place.rpartition("/")[2]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """One block of Markdown; none without rows."""
    lines = [tuple(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    written = [f"| {' | '.join(line)} |" for line in (tuple(head), tuple("---" for _ in head), *lines)]
    return ["\n".join(written)] if lines else []


def bullets(texts: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {text}" for text in texts)


def encoder_cells(spec: Mapping[str, Any]) -> tuple[str, str]:
    """An encoder and its licence."""
    name, identity = str(spec["spec"]), spec.get("identity") or {}
    found = name or str(identity.get("name", UNKNOWN))
    if name.startswith("hf:") and "/" in name and Path(name[3:]).expanduser().is_dir():
        found = f"{Path(name[3:]).name} (a folder)"
    commit = identity.get("commit") or identity.get("revision")
    return f"`{found}`" + (f" at {commit}" if commit else ""), licence(name)


def licence(spec: str) -> str:
    """The licence of an encoder: what its model card or its settings say, ``"unknown"`` where they do not.

    Args:
        spec: ``"hf:name or folder"``, or the registered name of an encoder.
    """
    from huggingface_hub import ModelCard

    if not spec.startswith("hf:"):
        return {"": UNKNOWN, "precomputed": f"{UNKNOWN} (made elsewhere)"}.get(spec, "Apache-2.0 (part of weft)")
    source, found = Path(spec[3:]).expanduser(), None
    with suppress(Exception):  # no card, no network, damaged metadata: whatever it is, it says nothing
        found = ModelCard.load(str(source / CARD) if source.is_dir() else spec[3:]).data.get("license")
    with suppress(UserError):
        found = found or read_json(source / "config.json").get("license")
    return str(found or UNKNOWN)


def encoder_limits(specs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What stands in the way of reading raw rows elsewhere."""
    found = []
    for name, spec in specs.items():
        model = str(spec["spec"]).removeprefix("hf:")
        if spec["spec"].startswith("hf:") and not model.startswith("./") and Path(model).expanduser().is_dir():
            found.append(
                f"The encoder of {name} was a folder ({Path(model).name}), which is not part of this: raw rows can be "
                f"read only where that folder is."
            )
        elif spec["spec"] in ("", "precomputed"):
            found.append(f"{name}: features that were made elsewhere; new rows have to bring theirs.")
    return found


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Settings without where the table was on the machine they come from."""
    table = config.get("table")
    if not isinstance(table, dict) or "table" not in table:
        return config
    return {**config, "table": {**table, "table": Path(table["table"]).name}}

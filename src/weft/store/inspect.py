"""What is in a store: sizes, presence, token lengths, norms, and what can spoil an evaluation.

A row leaks when the same feature bytes, or the same group, appear both in the training split and in another one; where
the rows have no split, in the one that every verb makes by default.
Duplicates and leaks are exact: features are compared by the hash of their bytes. The cost is one pass over the store,
one shard in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import combinations, product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group
from rich.table import Table

from weft.data import make_splits
from weft.errors import UserError
from weft.ops.neighbours import mutual_knn, nearest, overlap
from weft.store.block import map_block
from weft.store.store import Store

FEWEST_NEIGHBOURS, MOST_NEIGHBOURS = 10, 5000
QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}


@dataclass(frozen=True)
class ModalityFacts:
    """One modality of a store.

    Attributes:
        width: ``D``.
        dtype: on disk.
        encoder: identity of the encoder.
        present: rows that have it.
        values: different source values.
        bytes: size of its shards on disk.
        tokens: quantiles of the number of tokens of the present rows.
        norms: mean, std, min and max of the Euclidean norm of a token, over the values.
        not_finite: entries that are NaN or infinite.
        duplicates: present rows whose features equal those of an earlier row.
        leaks: ``{split: rows}`` of the other splits whose features appear in the training split.
    """

    width: int
    dtype: str
    encoder: dict[str, Any]
    present: int
    values: int
    bytes: int
    tokens: dict[str, float]
    norms: dict[str, float]
    not_finite: int
    duplicates: int
    leaks: dict[str, int]


@dataclass(frozen=True)
class StoreReport:
    """What :func:`inspect_store` found.

    Attributes:
        folder, name, task, address: of the store.
        rows: number of rows.
        splits: ``{split: rows}``, empty without a split.
        modalities: facts of each.
        presence: ``[(names that are there, rows)]``, most frequent first.
        duplicates: rows equal to an earlier row in every modality.
        leaks: ``{split: rows}`` outside the training split that equal a training row in every modality.
        leaking_ids: the first of their ids.
        group_leaks: groups that have rows in more than one split.
        neighbours: ``{"a, b": {"overlap", "chance", "k", "rows"}}``: how far two modalities agree on who is near whom
            (:mod:`weft.ops.neighbours`), over training rows, one of a group, at most ``MOST_NEIGHBOURS``.
        layers: ``{"a, b": {"a layer 6, b layer 4": overlap}}`` of the layers that their encoders put side by side
            (``layer=[6, 4, 2]``), the nearest pair first; pairs of modalities without such an encoder are left out.
        bytes: size on disk, all files.
        failures: ``{modality: rows}`` whose cell could not be read, by ``failed.json``.
    """

    folder: str
    name: str
    task: str
    address: str
    rows: int
    splits: dict[str, int]
    modalities: dict[str, ModalityFacts]
    presence: list[tuple[list[str], int]]
    duplicates: int
    leaks: dict[str, int]
    leaking_ids: list[str]
    group_leaks: int
    neighbours: dict[str, dict[str, float]]
    layers: dict[str, dict[str, float]]
    bytes: int
    failures: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return asdict(self)

    def render(self) -> Group:
        """Tables for a terminal: ``rich.print(report.render())``."""
        title = f"{self.name} ({self.task}): {self.rows} rows, {self.bytes / 1e6:.1f} MB"
        made = table(title, "modality", "encoder", "features", "MB")
        seen = table("rows", "modality", "rows", "values", "tokens", "norm", "duplicates", "leaks")
        for name, facts in self.modalities.items():
            encoder = str(facts.encoder.get("model") or facts.encoder["name"])
            made.add_row(name, encoder, f"{facts.width} {facts.dtype}", f"{facts.bytes / 1e6:.1f}")
            tokens, norms = facts.tokens, facts.norms
            seen.add_row(
                name,
                str(facts.present),
                str(facts.values),
                f"{tokens['min']:.0f} / {tokens['median']:.0f} / {tokens['max']:.0f}" if tokens else "-",
                f"{norms['mean']:.3g} ± {norms['std']:.2g}" if norms else "-",
                str(facts.duplicates),
                counts(facts.leaks),
            )
        there = table("which modalities are there", "modalities", "rows")
        for names, rows in self.presence:
            there.add_row(" + ".join(names) or "(none)", str(rows))
        notes = Table.grid(padding=(0, 2))
        notes.add_row("splits", counts(self.splits))
        notes.add_row("rows equal to an earlier one in every modality", str(self.duplicates))
        notes.add_row("rows of other splits that equal a training row", counts(self.leaks))
        notes.add_row("groups in more than one split", str(self.group_leaks))
        for pair, found in self.neighbours.items():
            text = f"{found['overlap']:.3f}, by chance {found['chance']:.3f} (k {found['k']}, {found['rows']} rows)"
            notes.add_row(f"nearest neighbours that {pair} share", text)
        for pair, overlaps in self.layers.items():
            told = "; ".join(f"{layers} {value:.3f}" for layers, value in [*overlaps.items()][:3])
            notes.add_row(f"layers of {pair} that share most, of {len(overlaps)}", told)
        broken = {name: facts.not_finite for name, facts in self.modalities.items() if facts.not_finite}
        notes.add_row("entries that are NaN or infinite", counts(broken))
        notes.add_row("cells that could not be read", counts(self.failures))
        return Group(made, seen, there, notes)


def inspect_store(folder: str | Path) -> StoreReport:
    """Look through a finished store.

    Raises:
        UserError: there is no store, it is not finished, or a shard is damaged (it is named).
    """
    store = Store.open(folder)
    split = store.split if store.split is not None else default_split(store)
    codes: dict[str, np.ndarray] = {}
    facts = {}
    for name in store.dims:
        entry = store.manifest["modalities"][name]
        hashes, norms, not_finite = scan(store.folder, entry)
        pointer = store._columns[name].pointer
        code = np.unique(np.array(hashes, dtype=np.bytes_), return_inverse=True)[1] if hashes else np.zeros(0, np.int64)
        codes[name] = np.append(code, -1)[pointer]
        there = pointer >= 0
        facts[name] = ModalityFacts(
            width=entry["width"],
            dtype=entry["dtype"],
            encoder=entry["encoder"],
            present=int(there.sum()),
            values=entry["count"],
            bytes=sum(path.stat().st_size for path in (store.folder / entry["folder"]).glob("*.safetensors")),
            tokens=quantiles(store.lengths[name][there]),
            norms=moments(norms),
            not_finite=not_finite,
            duplicates=repeats(codes[name][there]),
            leaks=leaks(codes[name], there, split)[0],
        )
    whole = np.unique(np.stack(list(codes.values()), axis=1), axis=0, return_inverse=True)[1].ravel()
    any_there = np.asarray(store.presence.any(axis=1))
    neighbours, layers = shared_neighbours(store)
    leaking, leaking_rows = leaks(whole, any_there, split)
    return StoreReport(
        folder=str(store.folder),
        name=store.manifest["name"],
        task=store.task,
        address=store.manifest["address"],
        rows=len(store),
        splits={} if store.split is None else dict(Counter(store.split.tolist())),
        modalities=facts,
        presence=presence_table(store.presence, list(store.dims)),
        duplicates=repeats(whole[any_there]),
        leaks=leaking,
        leaking_ids=[store.ids[row] for row in leaking_rows[:20]],
        group_leaks=group_leaks(store.group, split),
        neighbours=neighbours,
        layers=layers,
        bytes=sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file()),
        failures=dict(Counter(failure.modality for failure in store.failures)),
    )


def shared_neighbours(store: Store) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Mutual nearest neighbours of every pair of modalities that some ten training rows have; and of their layers."""
    rows = np.arange(len(store)) if store.split is None else np.flatnonzero(store.split == "train")
    if store.group is not None:
        rows = rows[np.sort(np.unique(store.group[rows], return_index=True)[1])]
    found, layers = {}, {}
    for (i, a), (j, b) in combinations(enumerate(store.dims), 2):
        both = rows[store.presence[rows, i] & store.presence[rows, j]]
        if len(both) > MOST_NEIGHBOURS:
            both = np.sort(np.random.default_rng(0).choice(both, MOST_NEIGHBOURS, replace=False))
        if len(both) >= FEWEST_NEIGHBOURS:
            pooled = {n: torch.from_numpy(v) for n, v in store.subset([a, b]).pooled(both).items()}
            k = ceil(2 * len(both) ** (1 / 3))
            shared = {"overlap": mutual_knn(pooled[a], pooled[b], k), "chance": k / (len(both) - 1)}
            found[f"{a}, {b}"] = {**shared, "k": k, "rows": len(both)}
            first, second = ({p: nearest(v, k) for p, v in by_layer(store, n, pooled[n]).items()} for n in (a, b))
            each = {f"{p}, {q}": overlap(first[p], second[q]) for p, q in product(first, second)}
            if len(each) > 1:
                layers[f"{a}, {b}"] = dict(sorted(each.items(), key=lambda item: -item[1]))
    return found, layers


def by_layer(store: Store, name: str, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
    """Features ``(n, D)`` of a modality by the layers of its encoder, where that put several side by side."""
    layers = store.manifest["modalities"][name]["encoder"].get("layer")
    if not isinstance(layers, list):
        return {name: vectors}
    parts = vectors.chunk(len(layers), dim=1)
    return {f"{name} layer {layer}": part for layer, part in zip(layers, parts, strict=True)}


def default_split(store: Store) -> np.ndarray | None:
    """``(N,)`` the parts that training and comparison make by default; None where none can be made."""
    try:
        parts = make_splits(store)
    except UserError:
        return None
    names = np.full(len(store), "train", dtype="<U5")
    names[parts.dev], names[parts.test] = "dev", "test"
    return names


def scan(folder: Path, entry: dict[str, Any]) -> tuple[list[bytes], np.ndarray, int]:
    """One pass over the values of a modality: hash of each, norm of every token ``(sum T,)``, entries not finite."""
    hashes: list[bytes] = []
    norms: list[np.ndarray] = []
    not_finite = 0
    whole, all_lengths = map_block(folder / entry["folder"], entry)
    for first in range(0, len(all_lengths), entry["shard_rows"]):
        lengths = all_lengths[first : first + entry["shard_rows"]]
        before = int(all_lengths[:first].sum())
        block = whole[before : before + int(lengths.sum())]
        raw = block.contiguous().view(torch.uint8).numpy()
        ends = np.cumsum(lengths)
        hashes += [
            hashlib.blake2b(raw[a:b].tobytes(), digest_size=16).digest()
            for a, b in zip(ends - lengths, ends, strict=True)
        ]
        values = block.float()
        not_finite += int((~values.isfinite()).sum())
        norms.append(values.norm(dim=1).numpy())
    return hashes, np.concatenate(norms) if norms else np.zeros(0), not_finite


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Named quantiles of values ``(n,)``; empty for nothing."""
    return {name: float(np.quantile(values, q)) for name, q in QUANTILES.items()} if len(values) else {}


def moments(values: np.ndarray) -> dict[str, float]:
    """Mean, std, min and max of the finite ones of values ``(n,)``; empty for nothing."""
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def repeats(codes: np.ndarray) -> int:
    """How many entries of codes ``(n,)`` equal an earlier one."""
    return len(codes) - len(np.unique(codes))


def leaks(codes: np.ndarray, there: np.ndarray, split: np.ndarray | None) -> tuple[dict[str, int], np.ndarray]:
    """Rows outside the training split whose code ``(N,)`` a training row has too: counts by split, and the rows."""
    if split is None:
        return {}, np.zeros(0, dtype=np.int64)
    train = split == "train"
    rows = np.flatnonzero(there & ~train & np.isin(codes, codes[there & train]))
    return dict(Counter(split[rows].tolist())), rows


def group_leaks(group: np.ndarray | None, split: np.ndarray | None) -> int:
    """Groups ``(N,)`` with rows in more than one split ``(N,)``."""
    if group is None or split is None:
        return 0
    pairs = set(zip(group.tolist(), split.tolist(), strict=True))
    return sum(count > 1 for count in Counter(name for name, _ in pairs).values())


def presence_table(presence: np.ndarray, names: list[str]) -> list[tuple[list[str], int]]:
    """Which modalities occur together in ``(N, M)`` presence, and in how many rows, most frequent first."""
    patterns = Counter(map(tuple, presence.tolist()))
    return [
        ([n for n, there in zip(names, pattern, strict=True) if there], rows)
        for pattern, rows in patterns.most_common()
    ]


def table(title: str, *columns: str) -> Table:
    """An empty table."""
    return Table(*columns, title=title, title_justify="left")


def counts(by_name: dict[str, int]) -> str:
    """``train 800, test 100``, or ``none``."""
    return ", ".join(f"{name} {rows}" for name, rows in by_name.items()) or "none"

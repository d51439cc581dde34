"""What ``weft search`` does with an aligner: a gallery to search in, and the figures of a search over all rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from weft.data import Dataset
from weft.errors import UserError
from weft.files import canonical, sha256
from weft.models.asked import hubs_of, rows_of, values_of, vectors_of
from weft.retrieval.hub import HubCorrection, candidates_of
from weft.retrieval.pool import mix_pool
from weft.retrieval.repeated import captions_found, images_above, repeated_curve, unique_curve
from weft.retrieval.search import FILE, ExactIndex, FaissIndex, model_fingerprint
from weft.tasks import plots
from weft.tasks.retrieval import RetrievalTask


def gallery(
    aligner: Any,
    folder: Path,
    rows: Any,
    names: list[str],
    by: str,
    chosen: Any,
    split: str,
    index: Path | None,
    hubs: str,
    factory: str | None,
    show: bool,
    say: Callable[[str], None],
) -> Any:
    """The index of the different values of the modalities ``names`` in the chosen rows: opened where it is there, else
    built and kept. Several are one pool, in which a row is called MODALITY/ID.

    Without ``index``, rows that have to be encoded are kept in the model's folder under a name made of their content.
    """
    candidates = corrections_of(hubs)
    if candidates and len(names) > 1:
        raise UserError("hubs are lowered in one modality", ", ".join(names), "leave out --hubs, or search one")
    if candidates and candidates[0].gated:
        remedy = "measure with it (without --query), or take softmax"
        raise UserError("a gate looks at the query, an index has one number per item", f"--hubs {hubs}", remedy)
    items, contents = {}, []
    for name in names:
        value, content = values_of(rows, name)
        there = chosen[value[chosen] >= 0]
        items[name] = there[np.sort(np.unique(value[there], return_index=True)[1])]
        contents.append(content)
        if len(there) < len(chosen):
            say(f"{len(chosen) - len(there)} of {len(chosen)} rows have no {name}: they are not searched")
    ids = [rows.ids[i] if len(names) == 1 else f"{name}/{rows.ids[i]}" for name in names for i in items[name]]
    source = rows.name if isinstance(rows, Dataset) else rows.manifest["name"]
    about = {"source": source, "modality": ", ".join(names), "split": split}
    about |= {"rows": sha256(canonical([ids, contents]))[:16]} | ({"hubs": f"{hubs} by {by}"} if candidates else {})
    about |= {"factory": factory} if factory else {}
    kind: Any = FaissIndex if factory else ExactIndex
    fingerprint = model_fingerprint(aligner)
    kept = index
    if index is None and isinstance(rows, Dataset):
        kept = folder / "indexes" / sha256(canonical([about, kind.kind, fingerprint]))[:16]
    if kept is not None and (kept / FILE).is_file():
        return kind.load(kept, fingerprint, {"hubs": None, **about})
    parts = {name: vectors_of(aligner, rows, name, items[name], progress=show) for name in names}
    vectors, bias = parts[names[0]], None
    if candidates:
        found = hubs_of(aligner, rows, [(by, names[0])], candidates, progress=show)
        bias = found.corrections[f"{by}->{names[0]}"].bias(vectors, found.bank[by])
    elif len(names) > 1:
        bank_rows = np.concatenate([rows_of(rows, part, aligner) for part in ("train", "dev")])
        bank = vectors_of(aligner, rows, by, bank_rows[values_of(rows, by)[0][bank_rows] >= 0], progress=show)
        vectors, bias, _ = mix_pool(parts, bank)
    options = {"factory": factory} if factory else {}
    built = kind(vectors, ids, fingerprint=fingerprint, about=about, bias=bias, **options)
    if kept is not None:
        try:
            built.save(kept)
        except OSError:
            if index is not None:
                raise
    return built


def corrections_of(hubs: str) -> list[HubCorrection]:
    """What ``--hubs`` says: ``[RULE:]SHARE``, the rule ``nnn``, ``softmax`` or ``gated``, or ``[RULE:]dev``: all that
    dev may choose from. None for a share of 0.

    Raises:
        UserError: it says none of these.
    """
    name, _, share = hubs.rpartition(":")
    rule: Any = "softmax" if name == "gated" else name or "nnn"
    if share == "dev":
        return candidates_of(rule, name == "gated")
    try:
        alpha = float(share)
    except ValueError:
        alpha = -1.0
    if not 0 <= alpha < float("inf"):
        remedy = "0.5 is usual; softmax:1 is the inverted softmax"
        raise UserError("--hubs is a share, 0 or more, or dev", hubs, remedy)
    found = HubCorrection(alpha, rule, gated=name == "gated")
    return [found] if alpha else []


def measure(
    aligner: Any, rows: Any, find: str, by: str, chosen: Any, show: bool, figures: Path | None, hubs: str = "0"
) -> dict[str, dict[str, float]]:
    """Recalls in both directions, also with hubs lowered where that is asked; LightCRL's curve in both readings, where
    every image has as many captions."""
    groups = chosen if rows.group is None else rows.group[chosen]
    order = np.argsort(groups, kind="stable")
    chosen, groups = chosen[order], groups[order]
    presence = {name: values_of(rows, name)[0][chosen] >= 0 for name in (find, by)}
    vectors = {}
    for name, there in presence.items():
        found = vectors_of(aligner, rows, name, chosen[there], progress=show)
        vectors[name] = np.zeros((len(chosen), found.shape[1]), found.dtype)
        vectors[name][there] = found
    _, first, counts = np.unique(groups, return_index=True, return_counts=True)
    complete = all(there.all() for there in presence.values())
    repeated = len(first) < len(groups) and all(
        np.array_equal(vectors[find][start : start + n], np.repeat(vectors[find][start : start + 1], n, axis=0))
        for start, n in zip(first, counts, strict=True)
    )
    task = RetrievalTask(((find, by),), unique=(find,) if repeated else ())
    result = {"retrieval": task.metrics(vectors, groups, presence)}
    if candidates := corrections_of(hubs):
        lowered = hubs_of(aligner, rows, [(by, find), (find, by)], candidates, asked_rows=chosen, progress=show)
        by_how_much = ", ".join(f"{name} {c}" for name, c in lowered.corrections.items())
        result[f"retrieval, hubs lowered: {by_how_much}"] = task.metrics(vectors, groups, presence, hubs=lowered)
    if complete and repeated and len(set(counts.tolist())) == 1:
        images, texts, n = vectors[find][first], vectors[by], int(counts[0])
        above = images_above(images, texts)
        ks = [k for k in (1, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10000) if k <= len(texts)]
        curves = {
            "corrected, unique images": lambda ks: unique_curve(above, ks),
            "corrected, repeated rows": lambda ks: repeated_curve(above, ks, n),
            "as published (last batch of 100)": lambda ks: repeated_curve(above, ks, n, last_batch=100),
        }
        for name, curve in curves.items():
            found = {f"k={k}": float(v) for k, v in zip(ks, curve(ks), strict=True)}
            result[f"{by} -> {find} curve, {name}"] = found
        if figures is not None:
            every = np.unique(np.geomspace(1, len(texts), 400).astype(int))
            lines = {name: (every, curve(every)) for name, curve in curves.items()}
            title = f"{by} to {find}: {len(texts)} texts, {len(images)} items"
            plots.curves(lines, "retrieval-curve", figures, xlabel="k", ylabel="answered within k", title=title)
        result[f"{find} -> {by}, at least j of {n} in the top {n}"] = {
            f"j={j + 1}": float(v) for j, v in enumerate(captions_found(images, texts))
        }
    return result

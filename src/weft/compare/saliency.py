"""Saliency methods side by side: every method at every seed in every fold, judged on maps of rows it never trained on.

A job is one method at one seed in one fold. It writes the maps of the fold's test rows,
``maps/<method>-<seed>/<id>.png`` (8 bits), then ``jobs/<method>-<seed>-<fold>.json`` in one step, so a killed
comparison goes on with the job it was at; methods and seeds may be added later. Seeds run one after the other, so a
comparison that is stopped has whole ones. All judgement reads the maps alone: over all folds, every test row has one
per method and seed.

S, F, E and MAE are those of :mod:`weft.tasks.saliency`, per seed over all test rows. The first method is compared with
each other one on S and on MAE, row by row: each row's value is averaged over the seeds, and the mean difference has the
sign-flip p-value, adjusted by Holm's method over the comparisons, and the bootstrap interval of
:mod:`weft.compare.statistics`; rows of one scene stay together in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from weft.compare.statistics import bootstrap_means, holm, interval, mean_of_seeds, sign_flip_test
from weft.data.files import read_grey
from weft.data.rgbd_saliency import RgbdSaliency
from weft.data.splits import Split
from weft.errors import UserError
from weft.files import read_json, write_json
from weft.tasks.saliency import score_map, summarise
from weft.training.checkpoint import fingerprint
from weft.training.config import TrainConfig
from weft.training.goal import ids_of
from weft.training.saliency import FeatureMaps, SaliencyModel, fit_saliency


@dataclass(frozen=True)
class SaliencyComparison:
    """What was found.

    Attributes:
        metrics: per method and metric, the value of every seed.
        gains: per method but the first: ``S`` and ``MAE``, each ``{"gain", "low", "high", "p", "p_holm"}``; the gain is
            that of the first method, positive where it is better.
        jobs: per method, mean training seconds and trained weights.
        rows: test rows in order.
    """

    metrics: dict[str, dict[str, list[float]]]
    gains: dict[str, dict[str, dict[str, float]]]
    jobs: dict[str, dict[str, float]]
    rows: list[str]


def map_path(folder: Path, method: str, seed: int, row: str) -> Path:
    """Where the map of a row lies."""
    return folder / "maps" / f"{method}-{seed}" / f"{row}.png"


def compare_saliency(
    data: RgbdSaliency,
    splits: Sequence[Split],
    methods: Mapping[str, Mapping[str, Any]],
    seeds: int,
    config: TrainConfig,
    folder: Path,
    *,
    model: Mapping[str, Any],
    fit: Mapping[str, Any],
    progress: bool = True,
) -> SaliencyComparison:
    """Train what has not been trained, then judge.

    Args:
        data: photos, depth and masks; ``group`` holds the scenes.
        splits: one per fold; every test row is in one of them.
        methods: per name the options of :class:`~weft.training.saliency.SaliencyModel` that make it; the first is
            compared with the others.
        seeds: trainings of every method in every fold.
        config: of the trainings; its seed is added to.
        folder: see above.
        model, fit: what all methods share: options of the model, and of :func:`~weft.training.saliency.fit_saliency`.
        progress: show a bar over the jobs.

    Raises:
        UserError: the folder holds another comparison, or what training refuses.
    """
    jobs = [(f, method, seed) for seed in range(seeds) for f in range(len(splits)) for method in methods]
    shared: list[FeatureMaps] = []
    done: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for fold, method, seed in track(jobs, "jobs", disable=not progress):
        split, options = splits[fold], {**model, **methods[method]}
        settings = config.model_copy(update={"seed": config.seed + seed})
        parts = [*ids_of(data, (split.train, split.dev)), *ids_of(data, (split.test, split.test))]
        identity = fingerprint([options, dict(fit), settings.model_dump(), data.near, parts])
        path = folder / "jobs" / f"{method}-{seed}-{fold}.json"
        if not path.exists():
            found = _job(data, split, options, settings, folder, method, seed, dict(fit), shared)
            write_json(path, {"identity": identity, **found})
        if read_json(path)["identity"] != identity:
            raise UserError(
                "the folder holds a comparison with other settings or other rows",
                str(path),
                "choose another folder, or delete this one",
            )
        done[method].append(read_json(path))
    rows = np.sort(np.concatenate([split.test for split in splits]))
    return _judge(data, rows, list(methods), seeds, folder, done)


def _job(
    data: RgbdSaliency,
    split: Split,
    options: dict[str, Any],
    settings: TrainConfig,
    folder: Path,
    method: str,
    seed: int,
    fit: dict[str, Any],
    shared: list[FeatureMaps],
) -> dict[str, Any]:
    net = SaliencyModel(**options, seed=settings.seed)
    if options.get("freeze"):
        if not shared:
            both = {key: value for key, value in options.items() if key != "fusion"}
            shared.append(FeatureMaps(SaliencyModel(**both), data, settings.cache_mb))
        fit["maps"] = shared[0]
    history = fit_saliency(net, data, split, settings, progress=False, **fit)
    for row, values in net.predict(data, split.test):
        path = map_path(folder, method, seed, data.ids[row])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(values * 255).astype(np.uint8)).save(path)
    weights = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return {"best": history.best, "seconds": history.seconds, "weights": weights}


def _judge(
    data: RgbdSaliency,
    rows: np.ndarray,
    methods: list[str],
    seeds: int,
    folder: Path,
    done: dict[str, list[dict[str, Any]]],
) -> SaliencyComparison:
    metrics, per_row = {}, {}
    masks = {int(row): data.mask(int(row)) for row in rows}
    for method in methods:
        found = []
        for seed in range(seeds):
            paths = {row: map_path(folder, method, seed, data.ids[row]) for row in masks}
            found.append(
                [score_map(read_grey(paths[row], "map").astype(np.uint8), mask) for row, mask in masks.items()]
            )
        summaries = [summarise(scores) for scores in found]
        metrics[method] = {name: [summary[name] for summary in summaries] for name in summaries[0]}
        per_row[method] = {
            "S": np.array([[score.s for score in scores] for scores in found]),
            "MAE": -np.array([[score.mae for score in scores] for scores in found]),
        }
    group = None if data.group is None else data.group[rows]
    gains: dict[str, dict[str, dict[str, float]]] = {method: {} for method in methods[1:]}
    for name in ("S", "MAE") if len(methods) > 1 else ():
        tests = [_gain(per_row[methods[0]][name], per_row[method][name], group) for method in methods[1:]]
        for method, test, p in zip(methods[1:], tests, holm(np.array([t["p"] for t in tests])), strict=True):
            gains[method][name] = {**test, "p_holm": float(p)}
    cost = {
        method: {key: float(np.mean([job[key] for job in found])) for key in ("seconds", "weights")}
        for method, found in done.items()
    }
    return SaliencyComparison(metrics, gains, cost, [data.ids[row] for row in masks])


def _gain(ours: np.ndarray, theirs: np.ndarray, group: np.ndarray | None) -> dict[str, float]:
    """Of scores ``(S, N)``, higher is better."""
    difference = ours.mean(axis=0) - theirs.mean(axis=0)
    draws = [mean_of_seeds(means, seed=k) for k, means in enumerate(bootstrap_means([ours, theirs], group))]
    low, high = interval(draws[0] - draws[1])
    return {"gain": float(difference.mean()), "low": low, "high": high, "p": sign_flip_test(difference, group)}

r"""Aligners side by side: each at several seeds on the same split, chosen on dev rows alone, judged on test rows.

For every direction of retrieval a query's score is the number of cuts (1, 5, 10) within which a right answer stands;
its share in the sum of recalls, times the number of groups, summed over a group's queries, is the group's score: the
mean over the groups is the sum of recalls exactly. Intervals and paired tests
(:mod:`weft.compare.statistics`) are over groups: five captions of a photo are one observation.

* Closed forms have no seed and run once.
* ``hubs``: with the correction of :mod:`weft.retrieval.hub`, its weight chosen on dev with a bank of training rows, the
  bank of the test made of training and dev rows.
* The ensemble is the greedy choice among all models of the table, by four folds of the training groups, each embedded
  by models that were trained without it; the members of the ensemble are those trained on all. It says that it is one.
* Permutation test, are these modalities aligned at all: ``whitened`` with a fixed setting is solved again on training
  rows whose groups are given the other modality of another group (of the covariances only the one across changes); the
  p-value is the share of such solutions that do as well on the test rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from weft.alignment import aligners, create_objective
from weft.alignment.closed_form import ClosedForm
from weft.compare.statistics import LEVEL, bootstrap_means, holm, interval, mean_of_seeds, sign_flip_test
from weft.data import Split, make_splits
from weft.errors import UserError, did_you_mean
from weft.files import canonical, read_json, sha256, write_json
from weft.models import AlignedModel
from weft.models.aligned import retrieval_task
from weft.models.aligned_ensemble import AlignedEnsemble, choose_weights, joined
from weft.models.pretrained import load_model
from weft.models.raw import encoder_specs, table_of
from weft.models.rows import select
from weft.models.seen import Seen
from weft.ops.correlation import Moments, Spectra
from weft.progress import progress_bar
from weft.registry import check_options
from weft.retrieval.hub import HubCorrection, Hubs, choose_correction
from weft.retrieval.metrics import Positives
from weft.tasks.retrieval import RetrievalTask
from weft.training import TrainConfig, fit_aligner

if TYPE_CHECKING:
    from weft.store import Features

DEFAULT = ("procrustes", "cca", "ridge", "whitened", "two-tower")
PERMUTATIONS = 99
FOLDS = 4
"""Of the training groups, by which the ensemble is chosen."""
TEST_WIDTH = 64
"""Columns of the solution in the permutation test."""

EXAMPLE = "NAME={aligner: whitened, width: 64}"


@dataclass(frozen=True)
class AlignConfig:
    """What is compared.

    Args:
        aligners: registered names.
        seeds: trainings of each that has a seed.
        dim: width of the shared space, at most; closed forms take the narrowest modality where that is less.
        train: settings of :class:`~weft.training.config.TrainConfig`.
        permutations: of the test of alignment; 0: none.
        curve: numbers of training groups for a learning curve, drawn by the seed, each aligner at every seed.
        variants: further rows of the table, ``{name: {"aligner": registered name, its options}}``; beside the options
            may stand ``train``, settings that differ from those above, and ``objective``, a registered one.
    """

    aligners: tuple[str, ...] = DEFAULT
    seeds: int = 3
    dim: int = 256
    train: Mapping[str, Any] | None = None
    permutations: int = PERMUTATIONS
    curve: tuple[int, ...] = ()
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows of the table."""
        return (*self.aligners, *self.variants)

    def of(self, name: str) -> Entry:
        """What a row is made of."""
        given = dict(self.variants.get(name, {"aligner": name}))
        train = {**(self.train or {}), **given.pop("train", {})}
        return Entry(given.pop("aligner"), train, given.pop("objective", None), given)


class Entry(NamedTuple):
    """A row of the table: an aligner with its options, the settings of its training and its objective."""

    aligner: str
    train: dict[str, Any]
    objective: str | None
    options: dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Embeddings of one part of the rows, with what measures them."""

    task: RetrievalTask
    groups: np.ndarray
    presence: dict[str, np.ndarray]

    def scores(self, z: Mapping[str, np.ndarray], hubs: Hubs | None = None) -> np.ndarray:
        """Score of each group ``(G,)``; the mean is the sum of recalls, of 2 x 3 a pair of modalities.

        Args:
            z: unit vectors.
            hubs: a correction.
        """
        count = int(self.groups.max()) + 1
        total = np.zeros(count)
        for _, asked, found in self.task.rankings(z, self.groups, self.presence, hubs=hubs):
            np.add.at(total, self.groups[asked], found.hits.sum(axis=1) * count / len(asked))
        return total

    def correction(
        self,
        z: Mapping[str, np.ndarray],
        bank: Mapping[str, np.ndarray],
        candidates: Sequence[HubCorrection] | None = None,
    ) -> dict[str, HubCorrection]:
        """``{direction: correction}`` of vectors ``{name: (n, D)}``, by a bank of such, chosen on these rows."""
        return {
            f"{a}->{b}": choose_correction(
                z[a][asked],
                z[b][items],
                Positives.from_groups(self.groups[asked], self.groups[items]),
                bank[a],
                candidates,
            )
            for a, b, asked, items in self.task.directions(self.groups, self.presence)
        }


def part_of(features: Features, rows: np.ndarray) -> Part:
    """How rows ``(n,)`` are measured: their task, groups and presence."""
    return Part(*retrieval_task(features, rows))


@dataclass(frozen=True)
class Result:
    """One row of the table; recalls are of the sum, in percent.

    ``parameters`` and ``seconds`` (of CPU) are those of a training; of an ensemble, of all its members together.
    """

    aligner: str
    seeds: int
    dev: float
    test: float
    low: float
    high: float
    hubs: float
    parameters: int
    seconds: float
    members: dict[str, float] | None = None
    p_value: float | None = None


def compare_aligners(
    features: Features, config: AlignConfig, folder: Path | str, *, split: Split | None = None, progress: bool = True
) -> dict[str, Any]:
    """Train or solve each aligner at each seed (what is in the folder already is not done again), and compare.

    Args:
        features: of two modalities or more.
        config: what is compared.
        folder: jobs and models are kept here; the best on dev, ensembles included, is copied to ``winner/``.
        split: rows; None: as :func:`~weft.data.make_splits` says.
        progress: show a bar.

    Returns:
        ``{"table": rows, best first on dev; "aligned": p-value; "sentence": str; "winner": str; "curve": sums of
        recalls by aligner and number of training groups, where that is asked}``.

    Raises:
        UserError: an unknown aligner, or no test rows.
    """
    refuse_unknown(config)
    split, folder = split or make_splits(features), Path(folder)
    if not len(split.test):
        raise UserError("a comparison is judged on test rows", "there are none", "give a split with test rows")
    most = len(_groups(features, split.train))
    if config.curve and not 1 < min(config.curve) <= max(config.curve) <= most:
        raise UserError("a learning curve has numbers of training groups", f"{config.curve}", f"choose 2 to {most}")
    dev, test = (part_of(features, rows) for rows in (split.dev, split.test))
    jobs = [(n, s) for n in config.rows for s in range(1 if _solved(n, features, config) else config.seeds)]
    found: dict[str, list[tuple[AlignedModel, float]]] = {}
    with progress_bar(progress) as bar:
        task = bar.add_task("aligners", total=len(jobs))
        for name, seed in jobs:
            bar.update(task, description=f"{name}, seed {seed}")
            found.setdefault(name, []).append(_job(features, split, config, folder, name, seed))
            bar.advance(task)
    groups_scores: dict[str, np.ndarray] = {}
    table, labels = [], []
    z_train: list[dict[str, np.ndarray]] = []
    z_dev: list[dict[str, np.ndarray]] = []
    z_test: list[dict[str, np.ndarray]] = []
    for name, models in found.items():
        z = [[m.embed(features, rows) for m, _ in models] for rows in (split.train, split.dev, split.test)]
        for k, part in enumerate((z_train, z_dev, z_test)):
            part += z[k]
        labels += [f"{name}, seed {s}" for s in range(len(models))]
        groups_scores[name] = np.stack([test.scores(v) for v in z[2]])
        hubs = [_with_hubs(dev, test, *vectors) for vectors in zip(*z, strict=True)]
        seconds = float(np.mean([s for _, s in models]))
        size = _parameters(models[0][0])
        table.append(_row(name, [dev.scores(v) for v in z[1]], groups_scores[name], hubs, size, seconds))
    every, took = zip(*(job for models in found.values() for job in models), strict=True)
    counts = _ensemble(features, split, config, folder, [(n, s) for n in found for s in range(len(found[n]))])
    winner: AlignedModel = every[int(np.argmax([dev.scores(v).mean() for v in z_dev]))]
    if (counts > 0).sum() > 1:
        vectors = [joined(side, counts) for side in (z_train, z_dev, z_test)]
        name = f"ensemble of {int((counts > 0).sum())}"
        groups_scores[name] = test.scores(vectors[2])[None]
        parts, seconds = [m for m, c in zip(every, counts, strict=True) if c], float(np.dot(counts > 0, took))
        size, hubs = sum(map(_parameters, parts)), [_with_hubs(dev, test, *vectors)]
        row = _row(name, [dev.scores(vectors[1])], groups_scores[name], hubs, size, seconds)
        members = {label: float(c) for label, c in zip(labels, counts / counts.sum(), strict=True) if c}
        table.append(replace(row, members=members))
        winner = AlignedEnsemble(parts, counts[counts > 0].tolist())
    table.sort(key=lambda row: -row.dev)
    table = _tested(table, groups_scores)
    winner.seen = Seen.of(features, split, features.fingerprint)
    winner.save_pretrained(folder / "winner")
    p = alignment_test(features, split, test, config) if config.permutations and len(features.dims) == 2 else None
    result = {
        "table": [asdict(row) for row in table],
        "aligned": p,
        "sentence": _sentence(table, p),
        "winner": str(folder / "winner"),
    }
    if config.curve:
        result["curve"] = learning_curve(features, split, test, config, folder, progress=progress)
    write_json(folder / "aligners.json", result)
    return result


def refuse_unknown(config: AlignConfig) -> None:
    """Refuse rows of the table that are no aligner, before anything is trained.

    Raises:
        UserError: which, and what is known.
    """
    for name, variant in config.variants.items():
        if not isinstance(variant, Mapping):
            raise UserError("a variant is an aligner and its options", f"{name}={variant}", EXAMPLE)
        if name in aligners.names():
            raise UserError("a variant has a name of its own", name, f"for example {name}-2")
        if "aligner" not in variant:
            raise UserError("a variant names its aligner", f"{name}: {dict(variant)}", EXAMPLE)
    for name in config.rows:
        row = config.of(name)
        if row.aligner not in aligners.names():
            raise UserError("unknown aligner", row.aligner, did_you_mean(row.aligner, aligners.names(), "aligners"))
        check_options(aligners.get(row.aligner), row.aligner, row.options)
        TrainConfig.of(row.train)
        create_objective(row.objective or aligners.get(row.aligner).objective)


def _ensemble(
    features: Features, split: Split, config: AlignConfig, folder: Path, jobs: Sequence[tuple[str, int]]
) -> np.ndarray:
    """Weights of all models in the ensemble ``(jobs,)``, by what each does for folds of training rows held out."""
    if len(jobs) < 2:
        return np.ones(len(jobs))
    folds = []
    for part, held in fold_splits(features, split):
        models = [_job(features, part, config, folder, n, s, width=len(part.train) - 1)[0] for n, s in jobs]
        folds.append((part_of(features, held), [model.embed(features, held) for model in models]))
    if not folds:
        return np.zeros(len(jobs))
    return choose_weights(len(jobs), lambda w: sum(float(p.scores(joined(z, w)).mean()) for p, z in folds))


def fold_splits(features: Features, split: Split, folds: int = FOLDS) -> list[tuple[Split, np.ndarray]]:
    """Splits without a fold of the training groups, and the rows ``(n,)`` of it; none with fewer than two groups a
    fold.
    """
    group = np.arange(len(features)) if features.group is None else np.asarray(features.group)
    code = np.unique(group[split.train], return_inverse=True)[1]
    count = int(code.max()) + 1
    if count < 2 * folds:
        return []
    fold = np.random.default_rng(0).permutation(count)[code] % folds
    return [(split._replace(train=split.train[fold != k]), split.train[fold == k]) for k in range(folds)]


def learning_curve(
    features: Features, split: Split, test: Part, config: AlignConfig, folder: Path, *, progress: bool = True
) -> list[dict[str, Any]]:
    """Sum of recalls on test, in percent, of each aligner by the number of training groups; mean and spread of seeds.

    A seed draws the groups and the weights, so closed forms vary too, except with all groups.
    """
    group = np.arange(len(features)) if features.group is None else np.asarray(features.group)
    found: list[dict[str, Any]] = []
    with progress_bar(progress) as bar:
        task = bar.add_task("learning curve", total=len(config.curve) * len(config.rows) * config.seeds)
        for count, name in product(config.curve, config.rows):
            sums = []
            for seed in range(config.seeds):
                part = fewer_groups(split, group, count, seed)
                model, _ = _job(features, part, config, folder, name, seed, width=count - 1)
                sums.append(100 * float(test.scores(model.embed(features, split.test)).mean()))
                bar.advance(task)
            spread = float(np.std(sums, ddof=1)) if len(sums) > 1 else 0.0
            found.append({"aligner": name, "groups": count, "test": float(np.mean(sums)), "sd": spread})
    return found


def fewer_groups(split: Split, group: np.ndarray, count: int, seed: int) -> Split:
    """The split with the rows of ``count`` training groups alone, drawn by the seed."""
    kept = np.random.default_rng(seed).choice(np.unique(group[split.train]), count, replace=False)
    return split._replace(train=split.train[np.isin(group[split.train], kept)])


def _groups(features: Features, rows: np.ndarray) -> np.ndarray:
    return np.unique(rows if features.group is None else np.asarray(features.group)[rows])


def alignment_test(features: Features, split: Split, test: Part, config: AlignConfig) -> float:
    """p-value that the modalities have nothing to do with each other, see the module docstring."""
    pooled = features.pooled(split.train)
    dims = {n: v.shape[1] for n, v in pooled.items()}
    complete = features.presence[split.train].all(axis=1)
    rows = [torch.from_numpy(np.asarray(v[complete])).double() for v in pooled.values()]
    held = [torch.from_numpy(np.nan_to_num(np.asarray(v))).double() for v in features.pooled(split.test).values()]
    asked = [v - known.mean(dim=0) for v, known in zip(held, rows, strict=True)]
    rows = [v - v.mean(dim=0) for v in rows]
    spectra = Spectra.of(Moments.of(torch.cat(rows, dim=1)).covariance, list(dims.values()))
    first, second = (v @ base for v, base in zip(rows, spectra.bases, strict=True))
    group = np.arange(len(features)) if features.group is None else features.group
    code = np.unique(group[split.train][complete], return_inverse=True)[1]
    order = np.argsort(code, kind="stable")
    sizes = np.bincount(code)
    starts = np.cumsum(sizes) - sizes
    place = np.empty_like(code)
    place[order] = np.arange(len(code)) - np.repeat(starts, sizes)
    rng, beaten, observed = np.random.default_rng(0), 0, 0.0
    width = min(TEST_WIDTH, config.dim, *dims.values(), len(code) - 1)
    for draw in range(config.permutations + 1):
        other = np.arange(len(sizes)) if draw == 0 else rng.permutation(len(sizes))
        partner = order[starts[other[code]] + place % sizes[other[code]]]
        crossed = spectra._replace(cross=first.T @ second[partner] / (len(code) - 1))
        left, c, right = crossed.solve((0.25, 0.25), 1.0)
        sides = zip(dims, asked, (left, right), strict=True)
        z = {n: F.normalize(v @ (m[:, :width] * c[:width].sqrt()), dim=1).numpy() for n, v, m in sides}
        score = float(test.scores(z).mean())
        observed, beaten = (score, 0) if draw == 0 else (observed, beaten + (score >= observed - 1e-9))
    return (1 + beaten) / (1 + config.permutations)


def _solved(name: str, features: Features, config: AlignConfig) -> bool:
    """Whether an aligner has nothing to train."""
    row = config.of(name)
    dim = _dim(name, features, config)
    model = AlignedModel.build(dims=features.dims, aligner=row.aligner, dim=dim, aligner_options=row.options)
    return not any(p.requires_grad for p in model.parameters())


def _dim(name: str, features: Features, config: AlignConfig, width: int | None = None) -> int:
    solved = issubclass(aligners.get(config.of(name).aligner), ClosedForm)
    return min(config.dim, width or config.dim, *features.dims.values()) if solved else config.dim


def _job(
    features: Features, split: Split, config: AlignConfig, folder: Path, name: str, seed: int, width: int | None = None
) -> tuple[AlignedModel, float]:
    """The trained model of one job, and the seconds of CPU that it took; read where it is there.

    ``width``: the most that a closed form may have, where there are few rows.
    """
    row, dim = config.of(name), _dim(name, features, config, width)
    if width is not None and row.options.get("width"):  # of all rows; a fold may not have as many
        row.options["width"] = min(row.options["width"], dim)
    train = {**row.train, "seed": seed}
    what = [row.aligner, seed, dim, train, features.fingerprint, [r.tolist() for r in split]]
    what += [row.options, row.objective] if row.options or row.objective else []
    place = folder / "jobs" / sha256(canonical(what))[:24]
    if (place / "job.json").is_file():
        return load_model(place), float(read_json(place / "job.json")["seconds"])
    started = time.process_time()
    model = AlignedModel.build(
        dims=features.dims,
        aligner=row.aligner,
        dim=dim,
        aligner_options=row.options,
        seed=seed,
        encoders=encoder_specs(features, list(features.dims)),
        table=table_of(features),
    )
    objective = create_objective(row.objective or model.aligner.objective)
    fit_aligner(model, objective, select(features, model.names), split, train, progress=False)
    seconds = time.process_time() - started
    model.eval().save_pretrained(place)
    write_json(place / "job.json", {"aligner": name, "seed": seed, "seconds": seconds})
    return model, seconds


def _with_hubs(
    dev: Part, test: Part, train: dict[str, np.ndarray], on_dev: dict[str, np.ndarray], on_test: dict[str, np.ndarray]
) -> float:
    """Sum of recalls on test with the correction that dev chose."""
    bank = {n: v[np.abs(v).sum(axis=1) > 0] for n, v in train.items()}
    chosen = dev.correction(on_dev, bank)
    whole = {n: np.concatenate([bank[n], v[np.abs(v).sum(axis=1) > 0]]) for n, v in on_dev.items()}
    return float(test.scores(on_test, Hubs(whole, chosen)).mean())


def _row(
    name: str,
    dev: Sequence[np.ndarray],
    test: np.ndarray,
    hubs: Sequence[float],
    parameters: int,
    seconds: float,
) -> Result:
    low, high = interval(mean_of_seeds(bootstrap_means([test])[0], seed=0))
    return Result(
        aligner=name,
        seeds=len(test),
        dev=100 * float(np.mean([d.mean() for d in dev])),
        test=100 * float(test.mean()),
        low=100 * low,
        high=100 * high,
        hubs=100 * float(np.mean(hubs)),
        parameters=parameters,
        seconds=seconds,
    )


def _parameters(model: AlignedModel) -> int:
    return sum(p.numel() for p in model.aligner.parameters())


def _tested(table: list[Result], scores: Mapping[str, np.ndarray]) -> list[Result]:
    """Every row against the first, paired over groups, by Holm's correction."""
    best = scores[table[0].aligner].mean(axis=0)
    p = holm(np.array([sign_flip_test(best - scores[row.aligner].mean(axis=0)) for row in table[1:]]))
    return [table[0], *(replace(row, p_value=float(v)) for row, v in zip(table[1:], p, strict=True))]


def _sentence(table: list[Result], p: float | None) -> str:
    best = table[0]
    told = [row for row in table[1:] if row.p_value is not None and row.p_value < LEVEL]
    ahead = [row.aligner for row in told if row.test > best.test]
    level = [row.aligner for row in table[1:] if row not in told]
    beaten = ", better than every other one shown" if told and not (ahead or level) else ""
    beaten += f"; shown to be better on test: {', '.join(ahead)}" if ahead else ""
    beaten += f"; not shown to be worse: {', '.join(level)}" if level else ""
    shown = "aligned" if p is not None and p < LEVEL else "not shown to be aligned"
    aligned = "" if p is None else f" The modalities are {shown} (p = {p:.2g})."
    return (
        f"{best.aligner} is best on dev; on test its recalls sum to {best.test:.0f} "
        f"({best.low:.0f} to {best.high:.0f}), {best.hubs:.0f} with hub correction{beaten}.{aligned}"
    )


def shown(table: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The table of a comparison of aligners, for people."""
    return [
        {
            "aligner": row["aligner"],
            "dev": f"{row['dev']:.0f}",
            "test": f"{row['test']:.0f} ({row['low']:.0f} to {row['high']:.0f})",
            "with hub bias": f"{row['hubs']:.0f}",
            "p": "" if row["p_value"] is None else f"{row['p_value']:.2g}",
            "parameters": f"{row['parameters']:,}",
            "CPU s": f"{row['seconds']:.1f}",
        }
        for row in table
    ]


def shown_curve(curve: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The learning curve, for people."""
    return [
        {"groups": row["groups"], "aligner": row["aligner"], "test": f"{row['test']:.0f} ± {row['sd']:.0f}"}
        for row in curve
    ]

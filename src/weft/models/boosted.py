r"""Gradient-boosted trees on pooled features, by LightGBM where it is installed, else by scikit-learn.

.. math:: o = o_0 + \sum_{t=1}^{T} \eta\, f_t(x), \qquad x\ (P,) \text{ pooled features, NaN where a modality is absent}

one tree per output and round; the number of rounds is the one that is best on the dev rows. Wide embeddings are better
reduced first (``components``, :mod:`weft.models.pooled`) or sampled (``columns``, the share that a tree sees): trees
split one column at a time, and their time grows with the columns.

A folder keeps the trees as LightGBM's text (``trees.txt``) or as arrays (``trees.safetensors``); nothing is pickled.
Ke et al., LightGBM: A Highly Efficient Gradient Boosting Decision Tree, NeurIPS 2017.

Cost: ``O(N P)`` per tree and level.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack

import numpy as np
import torch
from torch import Tensor

from weft.errors import UserError
from weft.files import read_tensors, write_bytes, write_tensors
from weft.models.linear import MANY_CLASSES, checked_rows, classes_of, from_margins
from weft.models.pooled import PooledInputs
from weft.models.predictor import About, OnPooled
from weft.models.pretrained import models
from weft.tasks.base import Task
from weft.tokens import Tokens

if TYPE_CHECKING:
    from weft.store import Features

ROUNDS, PATIENCE = 300, 30
"""Trees at most, and rounds without a better loss on dev before it ends."""
SAMPLE_BYTES, SAMPLED, SAMPLED_BYTES = 1 << 29, 200_000, 16
"""What LightGBM may sample for its bins at once; the rows that it samples, and what it takes for a value of each."""
LIBRARIES = ("lightgbm", "scikit-learn")
MARK = "\n=== next output ===\n"


class Trees(Protocol):
    """Fitted trees of every output."""

    def raw(self, x: np.ndarray) -> np.ndarray:
        """Margins ``(n, K)`` of rows ``(n, P)``; ``(n, 1)`` for two classes."""

    def save(self, folder: Path) -> None:
        """Write their file."""


@models.register("BoostedModel")
class BoostedModel(OnPooled):
    """Boosted trees over pooled features.

    Args:
        task: the fitted task.
        inputs: arguments of :class:`~weft.models.pooled.PooledInputs`, or one that is fitted.
        trees: fitted trees.
        target, encoders, table: see :class:`~weft.models.predictor.Predictor`.
    """

    format = "BoostedModel/1"

    def __init__(
        self, task: Task | dict[str, Any], inputs: PooledInputs | dict[str, Any], trees: Trees, **about: Unpack[About]
    ) -> None:
        super().__init__(task, inputs, about)
        self.trees = trees

    @torch.no_grad()
    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        """Outputs ``(B, K)`` of the task from ``{name: Tokens}``; without gradient."""
        return torch.from_numpy(self._outputs(self.inputs(inputs).double().cpu().numpy()))

    def outputs(self, features: Features, rows: np.ndarray | None = None, *, batch_size: int = 512) -> np.ndarray:
        rows, features = checked_rows(self, features, rows)
        return np.concatenate([self._outputs(x.double().numpy()) for x in self.inputs.parts(features, rows)])

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        found: np.ndarray = from_margins(self.task, _both(self.task, self.trees.raw(x))).float().numpy()
        return found

    def config(self) -> dict[str, Any]:
        return {**super().config(), "library": "lightgbm" if isinstance(self.trees, LightGBMTrees) else "scikit-learn"}

    def save_pretrained(self, folder: Path | str) -> None:
        """The trees first, then the files of every model."""
        self.trees.save(Path(folder))
        super().save_pretrained(folder)

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """The model with the trees of a folder."""
        kind = LightGBMTrees if config.pop("library") == "lightgbm" else ArrayTrees
        return cls(trees=kind.load(folder), **config)


class LightGBMTrees:
    """LightGBM's boosters, one for all classes, or one per label or value."""

    def __init__(self, texts: list[str]) -> None:
        lightgbm = require_lightgbm()
        self.texts = texts
        self._boosters = [lightgbm.Booster(model_str=text) for text in texts]

    def raw(self, x: np.ndarray) -> np.ndarray:
        """Margins ``(n, K)``."""
        parts = [np.asarray(b.predict(x, raw_score=True, num_threads=1)).reshape(len(x), -1) for b in self._boosters]
        return np.concatenate(parts, axis=1)

    def save(self, folder: Path) -> None:
        """``trees.txt``."""
        write_bytes(folder / "trees.txt", MARK.join(self.texts).encode())

    @classmethod
    def load(cls, folder: Path) -> LightGBMTrees:
        """What :meth:`save` wrote."""
        path = folder / "trees.txt"
        if not path.is_file():
            raise UserError("a model folder lacks a file", str(path), "train the model again")
        return cls(path.read_text(encoding="utf-8").split(MARK))


class ArrayTrees:
    """Trees as arrays, those of scikit-learn's histogram gradient boosting.

    Args:
        arrays: ``nodes`` (n, 5) int32: feature, left, right, missing goes left, is leaf; ``split`` and ``value`` (n,);
            ``start`` (T,): first node of each tree; ``output`` (T,): what it adds to; ``base`` (K,).
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    def raw(self, x: np.ndarray) -> np.ndarray:
        """Margins ``(n, K)``."""
        return self.staged(x)[-1]

    def staged(self, x: np.ndarray) -> list[np.ndarray]:
        """Margins after every round."""
        a, every = self.arrays, np.arange(len(x))
        margins, found = np.tile(a["base"], (len(x), 1)), []
        for tree, (start, output) in enumerate(zip(a["start"], a["output"], strict=True)):
            at = np.full(len(x), start)
            while not (leaf := a["nodes"][at, 4] == 1).all():
                feature, left, right, missing, _ = a["nodes"][at].T
                cell = x[every, feature]
                goes_left = np.where(np.isnan(cell), missing == 1, cell <= a["split"][at])
                at = np.where(leaf, at, start + np.where(goes_left, left, right))
            margins[:, output] += a["value"][at]
            if tree + 1 == len(a["start"]) or a["output"][tree + 1] <= output:
                found.append(margins.copy())
        return found or [margins]

    def first(self, rounds: int) -> ArrayTrees:
        """The first rounds alone."""
        trees = rounds * len(np.unique(self.arrays["output"]))
        return ArrayTrees(
            {**self.arrays, "start": self.arrays["start"][:trees], "output": self.arrays["output"][:trees]}
        )

    def save(self, folder: Path) -> None:
        """``trees.safetensors``."""
        write_tensors(folder / "trees.safetensors", {k: torch.from_numpy(v.copy()) for k, v in self.arrays.items()})

    @classmethod
    def load(cls, folder: Path) -> ArrayTrees:
        """What :meth:`save` wrote."""
        return cls({name: tensor.numpy() for name, tensor in read_tensors(folder / "trees.safetensors")[0].items()})


def default_library() -> str:
    """LightGBM where it is installed."""
    return "lightgbm" if find_spec("lightgbm") else "scikit-learn"


def require_lightgbm() -> Any:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise UserError("LightGBM is not installed", str(error), "pip install 'weft[boost]'") from None
    return lightgbm


class Boosting(Protocol):
    """Rows to grow trees from, binned once for any number of settings."""

    def grow(
        self, *, leaves: int, rate: float, columns: float, share: float, rounds: int, deadline: float | None
    ) -> tuple[Trees, int]:
        """Fit trees, and how many rounds they have.

        Args:
            leaves, rate, columns: of every tree; the share of columns is drawn anew for each.
            share: of rows that each tree sees, drawn anew, by LightGBM; scikit-learn's see all.
            rounds: at most; as many as are best on the dev rows.
            deadline: of ``time.monotonic()``: no round starts after it.
        """


Rows = tuple[np.ndarray, np.ndarray]
Blocks = tuple[Iterable[np.ndarray], np.ndarray]
"""As rows, the features ``(n, P)`` some columns at a time."""
Weights = np.ndarray | None


def boosting(
    task: Task,
    train: Blocks,
    dev: Rows | None,
    *,
    library: str = "lightgbm",
    seed: int = 0,
    threads: int = 1,
) -> Boosting:
    """What trees are grown from; LightGBM keeps a byte per value, not the features. Rows weigh what the task says.

    Args:
        task: the fitted task.
        train: features ``(n, P)``, some columns at a time, and the raw target of the training rows.
        dev: features and raw target, for the number of rounds; None: all of them.
        library: "lightgbm" or "scikit-learn".
        seed: of the draws.
        threads: of the library.

    Raises:
        UserError: another library, or one that is not installed.
    """
    if library not in LIBRARIES:
        raise UserError("trees are grown by lightgbm or scikit-learn", repr(library), f"choose one of {LIBRARIES}")
    kind = _LightGBM if library == "lightgbm" else _Scikit
    return kind(task, train, dev, seed, threads)


class _LightGBM:
    def __init__(self, task: Task, train: Blocks, dev: Rows | None, seed: int, threads: int) -> None:
        self.lightgbm = require_lightgbm()
        several = task.estimator == "classifier" and classes_of(task) > 2
        objective = "regression" if task.estimator == "regressor" else "multiclass" if several else "binary"
        self.settings = {
            "verbosity": -1,
            "bagging_freq": 1,
            "min_data_in_leaf": int(np.clip(len(train[1]) // 30, 2, 20)),
            "num_threads": threads,
            "seed": seed,
            "deterministic": True,
            "force_col_wise": True,
            "feature_pre_filter": False,
            "objective": objective,
            **({"num_class": classes_of(task)} if several else {}),
        }
        self.y = _columns(task.response(train[1]))
        self.held = None if dev is None else _columns(task.response(dev[1]))
        self.weights = _weights(task.row_weights(train[1]), len(self.y))
        self.train = self._binned(train[0])
        self.dev = None if dev is None or self.held is None else self._data(dev[0], self.held[0], reference=self.train)

    def _binned(self, blocks: Iterable[np.ndarray]) -> Any:
        """The training rows as LightGBM keeps them, some columns at a time where what it samples of them is large."""
        step = max(1, SAMPLE_BYTES // (SAMPLED_BYTES * min(len(self.y[0]), SAMPLED)))
        found, done = None, 0
        for block in blocks:
            for start in range(0, block.shape[1], step):
                part = np.ascontiguousarray(block[:, start : start + step])
                names = [f"Column_{done + k}" for k in range(part.shape[1])]  # as if there were no parts
                data, done = self._data(part, self.y[0], feature_name=names), done + part.shape[1]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that the features themselves are gone, which is the purpose
                    found = data if found is None else found.add_features_from(data)
            del block  # before the next is made
        return found

    def _data(self, x: np.ndarray, y: np.ndarray, **options: Any) -> Any:
        return self.lightgbm.Dataset(x, y, params=self.settings, **options).construct()

    def grow(
        self, *, leaves: int, rate: float, columns: float, share: float, rounds: int, deadline: float | None
    ) -> tuple[Trees, int]:
        tree = {"num_leaves": leaves, "learning_rate": rate, "feature_fraction": columns, "bagging_fraction": share}
        settings = {**self.settings, **tree}
        texts, most = [], 0
        for place, (column, weight) in enumerate(zip(self.y, self.weights, strict=True)):
            self.train.set_label(column).set_field("weight", weight)  # None: as if there were none
            callbacks: list[Any] = [_until(self.lightgbm, deadline)]
            if self.dev is not None and self.held is not None:
                self.dev.set_label(self.held[place])
                callbacks.append(self.lightgbm.early_stopping(PATIENCE, verbose=False))
            valid = None if self.dev is None else [self.dev]
            booster = self.lightgbm.train(settings, self.train, rounds, valid_sets=valid, callbacks=callbacks)
            best = booster.best_iteration if booster.best_iteration > 0 else booster.current_iteration()
            texts.append(booster.model_to_string(num_iteration=best))
            most = max(most, best)
        return LightGBMTrees(texts), most


def _until(lightgbm: Any, deadline: float | None) -> Any:
    def stop(env: Any) -> None:
        if deadline is not None and time.monotonic() > deadline:
            raise lightgbm.callback.EarlyStopException(env.iteration, env.evaluation_result_list or [])

    return stop


class _Scikit:
    def __init__(self, task: Task, train: Blocks, dev: Rows | None, seed: int, threads: int) -> None:
        self.task, self.dev, self.seed, self.threads = task, dev, seed, threads
        blocks = list(train[0])
        self.x = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
        self.y = _columns(task.response(train[1]))
        self.weights = _weights(task.row_weights(train[1]), len(self.y))

    def grow(
        self, *, leaves: int, rate: float, columns: float, share: float, rounds: int, deadline: float | None
    ) -> tuple[Trees, int]:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        task = self.task
        kind = HistGradientBoostingRegressor if task.estimator == "regressor" else HistGradientBoostingClassifier
        parts = []
        for column, weight in zip(self.y, self.weights, strict=True):
            model = kind(
                max_leaf_nodes=leaves,
                learning_rate=rate,
                max_features=columns,
                min_samples_leaf=int(np.clip(len(self.x) // 30, 2, 20)),
                early_stopping=False,
                random_state=self.seed,
                warm_start=True,
                max_iter=1,
            )
            with threadpool_limits(limits=self.threads):
                for most in range(10, rounds + 1, 10):
                    with warnings.catch_warnings():
                        warnings.filterwarnings("ignore", MANY_CLASSES)
                        model.set_params(max_iter=most).fit(self.x, column, sample_weight=weight)
                    if deadline is not None and time.monotonic() > deadline:
                        break
            parts.append(_arrays(model))
        trees = parts[0] if len(parts) == 1 else _side_by_side(parts)
        count = len(trees.arrays["start"]) // len(np.unique(trees.arrays["output"]))
        if self.dev is None:
            return trees, count
        encoded = task.encode(self.dev[1])
        losses = []
        for margins in trees.staged(self.dev[0]):
            outputs = from_margins(task, _both(task, margins)).float()
            losses.append(float(task.loss(outputs, encoded).mean()))
        best = int(np.argmin(losses)) + 1
        return trees.first(best), best


def _arrays(model: Any) -> ArrayTrees:
    """A fitted histogram gradient boosting of scikit-learn as arrays; classes that it never saw stay at -20."""
    nodes, split, value, start, output = [], [], [], [], []
    classes = getattr(model, "classes_", None)
    place = (
        np.arange(len(model._predictors[0]))
        if classes is None or len(model._predictors[0]) == 1
        else classes.astype(np.int64)
    )
    count = 0
    for trees in model._predictors:
        for k, tree in enumerate(trees):
            n = tree.nodes
            fields = ("feature_idx", "left", "right", "missing_go_to_left", "is_leaf")
            nodes.append(np.stack([n[field].astype(np.int32) for field in fields], axis=1))
            split.append(n["num_threshold"].astype(np.float64))
            value.append(n["value"].astype(np.float64))
            start.append(count)
            output.append(place[k])
            count += len(n)
    base = np.full(int(max(place)) + 1, -20.0)
    base[place] = np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1)
    return ArrayTrees(
        {
            "nodes": np.concatenate(nodes),
            "split": np.concatenate(split),
            "value": np.concatenate(value),
            "start": np.array(start, dtype=np.int64),
            "output": np.array(output, dtype=np.int64),
            "base": base,
        }
    )


def _side_by_side(parts: list[ArrayTrees]) -> ArrayTrees:
    """Trees of single outputs as those of all, round by round; each has as many rounds as the shortest."""
    rounds = min(len(part.arrays["start"]) for part in parts)
    offsets = np.cumsum([0, *(len(part.arrays["nodes"]) for part in parts[:-1])])
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in ("nodes", "split", "value")}
    starts = np.stack([p.arrays["start"][:rounds] + o for p, o in zip(parts, offsets, strict=True)], axis=1)
    return ArrayTrees(
        {
            **arrays,
            "start": starts.reshape(-1),
            "output": np.tile(np.arange(len(parts)), rounds),
            "base": np.concatenate([part.arrays["base"] for part in parts]),
        }
    )


def _both(task: Task, margins: np.ndarray) -> Tensor:
    """Margins ``(n, K)``; that of two classes ``(n, 1)`` as one of each."""
    if task.estimator == "classifier" and margins.shape[1] == 1:
        margins = np.concatenate([-margins / 2, margins / 2], axis=1)
    return torch.from_numpy(margins)


def _columns(y: np.ndarray) -> list[np.ndarray]:
    """One column per model: all classes in one, or one per label or value."""
    return [y] if y.ndim == 1 else [np.ascontiguousarray(column) for column in y.T]


def _weights(weights: Weights, columns: int) -> list[Weights]:
    """The weights of the rows for each column."""
    if weights is None or weights.ndim == 1:
        return [weights] * columns
    return [np.ascontiguousarray(column) for column in weights.T]

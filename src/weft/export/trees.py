r"""Boosted trees as tensors, so that any runtime that gathers and compares can run them.

All trees of a row walk one level at a time, a leaf standing still:

.. math:: n_{t} \leftarrow \text{left}(n_t) \text{ if } x_{f(n_t)} \le s(n_t) \text{ else } \text{right}(n_t)

with NaN going where the node says. A row ends in one leaf per tree, whose values are added to the tree's output. The
cost is ``B x trees x depth`` gathers, without branches: ``torch.export`` and ONNX know the operations.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.models.boosted import ArrayTrees, BoostedModel, LightGBMTrees
from weft.models.linear import from_margins
from weft.tokens import Tokens

CATEGORICAL, DEFAULT_LEFT = 1, 2
"""Bits of LightGBM's ``decision_type``; the two above them say what counts as missing: 0 nothing, 2 NaN."""


class TreeTensors(nn.Module):
    """Margins ``(B, K)`` float64 from features ``(B, P)``, NaN where a modality is absent.

    Args:
        trees: as a model keeps them.
    """

    def __init__(self, trees: ArrayTrees) -> None:
        super().__init__()
        a = trees.arrays
        feature, left, right, missing, leaf = a["nodes"].T.astype(np.int64)
        start = at = owner = a["start"].astype(np.int64)
        here, self.depth = np.arange(len(leaf)), 0
        lower, upper = here.copy(), here.copy()  # the children of a node are counted from its tree's first
        while (inner := leaf[at] == 0).any():
            at, owner = at[inner], owner[inner]
            lower[at], upper[at] = owner + left[at], owner + right[at]
            at, owner = np.concatenate([lower[at], upper[at]]), np.tile(owner, 2)
            self.depth += 1
        tables = {
            "feature": np.where(leaf == 1, 0, feature),
            "left": lower,
            "right": upper,
            "missing": missing == 1,
            "split": a["split"],
            "value": a["value"],
            "start": start,
            "output": np.eye(len(a["base"]))[a["output"]],
            "base": a["base"],
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(table)))

    def forward(self, x: Tensor) -> Tensor:
        x = x.double()
        gone = torch.isnan(x)
        at = self.get_buffer("start").unsqueeze(0).expand(x.shape[0], -1)
        for _ in range(self.depth):
            feature = self.get_buffer("feature")[at]
            below = torch.gather(x, 1, feature) <= self.get_buffer("split")[at]
            goes_left = below | (torch.gather(gone, 1, feature) & self.get_buffer("missing")[at])
            at = torch.where(goes_left, self.get_buffer("left")[at], self.get_buffer("right")[at])
        return self.get_buffer("value")[at] @ self.get_buffer("output") + self.get_buffer("base")


class TreeModel(nn.Module):
    """A boosted model as tensors: ``{name: Tokens}`` to outputs ``(B, K)``."""

    def __init__(self, model: BoostedModel) -> None:
        super().__init__()
        trees = model.trees
        self.inputs, self.task = model.inputs, model.task
        self.trees = TreeTensors(from_lightgbm(trees) if isinstance(trees, LightGBMTrees) else trees)  # type: ignore[arg-type]

    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        margins = self.trees(self.inputs(inputs))
        if self.task.estimator == "classifier" and margins.shape[1] == 1:
            margins = torch.cat([-margins / 2, margins / 2], dim=1)
        return from_margins(self.task, margins).float()


def from_lightgbm(trees: LightGBMTrees) -> ArrayTrees:
    """The arrays of LightGBM's text, as scikit-learn's are kept.

    Raises:
        UserError: a split that weft does not grow (categories, zero as missing).
    """
    nodes, split, value, start, output = [], [], [], [], []
    count = outputs = 0
    for text in trees.texts:
        per_round = int(re.search(r"^num_tree_per_iteration=(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
        for number, block in enumerate(re.split(r"^Tree=\d+\n", text.partition("\nend of trees")[0], flags=re.M)[1:]):
            fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            tree, cut, leaf = _tree(fields)
            start.append(count)
            output.append(outputs + number % per_round)
            nodes.append(tree)
            split.append(cut)
            value.append(leaf)
            count += len(tree)
        outputs += per_round
    parts = [np.concatenate(part) for part in (nodes, split, value)]
    arrays = dict(zip(("nodes", "split", "value"), parts, strict=True))
    return ArrayTrees({**arrays, "start": np.array(start), "output": np.array(output), "base": np.zeros(outputs)})


def _tree(fields: dict[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes ``(n, 5)``, splits and values of one tree: its inner nodes, then its leaves."""

    def numbers(name: str, kind: type = np.int64) -> np.ndarray:
        return np.array(fields[name].split(), dtype=kind) if fields.get(name) else np.zeros(0, kind)

    leaves = numbers("leaf_value", np.float64)
    inner, kinds = len(leaves) - 1, numbers("decision_type")
    nan_matters = kinds >> 2 == 2
    if (kinds & CATEGORICAL).any() or ((kinds >> 2) == 1).any() or fields.get("is_linear", "0") != "0":
        raise UserError("a tree of LightGBM has splits that weft does not grow", f"{kinds}", "train the model again")
    cut = numbers("threshold", np.float64)
    # where NaN is nothing special LightGBM reads it as zero
    missing = np.where(nan_matters, (kinds & DEFAULT_LEFT) > 0, cut >= 0)
    nodes = np.zeros((inner + len(leaves), 5), dtype=np.int64)
    for column, name in ((1, "left_child"), (2, "right_child")):
        child = numbers(name)
        nodes[:inner, column] = np.where(child >= 0, child, inner + ~child)
    nodes[:inner, 0], nodes[:inner, 3], nodes[inner:, 4] = numbers("split_feature"), missing, 1
    return nodes, np.append(cut, np.zeros(len(leaves))), np.append(np.zeros(inner), leaves)

"""Probes: how well classes can be read off frozen features, and what training the aligner itself adds.

``official``
    LightCRL's head-only protocol, which its authors call linear classification (CIFAR-100, hidden width 128) and
    fine-tuning (Tiny ImageNet, 256): two affine layers without a nonlinearity, ``x -> W2 (W1 x + b1) + b2``, which is a
    linear map of rank at most the hidden width. The encoder gets no gradient in either.
``linear``
    One affine layer.
Both: cross-entropy, SGD, lr 1e-3, momentum 0.9, no decay, no schedule, batches of 64 reshuffled every epoch, accuracy
after 20, 40, 60, 80 and 100 epochs. ``N`` rows of width ``D``: ``O(N D hidden)`` an epoch, on features made once.

``fine_tune`` is the real thing. On features, the aligner's projection, context and shared encoder are trained with the
head, on the cached tokens of the frozen backbone. On raw rows (:class:`~weft.training.towers.RawRows`, with a
:class:`~weft.training.towers.TowerModel`) the backbone is trained too, and nothing is cached: as many backward passes
through it as images and epochs.

Source: Faye, Azzag, Lebbah, Bouchaffra, "Lightweight Cross-Modal Representation Learning", ESANN 2024, arXiv
2403.04650; linear probes as in Alain and Bengio, arXiv 1610.01644.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import UserError, some
from weft.models.aligned import AlignedModel
from weft.progress import progress_bar
from weft.store import Features
from weft.tokens import Tokens

EPOCHS = (20, 40, 60, 80, 100)
KS = (1, 2, 3, 4, 5)
Curve = dict[int, dict[str, float]]
"""``{epoch: {"top-1": share, ...}}``."""


def make_head(kind: Literal["official", "linear"], width: int, classes: int, hidden: int = 128) -> nn.Sequential:
    """The head of a probe, ``(B, width) -> (B, classes)``; ``hidden`` is that of ``official``."""
    if kind == "linear":
        return nn.Sequential(nn.Linear(width, classes))
    return nn.Sequential(nn.Linear(width, hidden), nn.Linear(hidden, classes))


def make_sgd(module: nn.Module, lr: float = 1e-3, momentum: float = 0.9) -> torch.optim.SGD:
    """The optimiser of both protocols."""
    return torch.optim.SGD(module.parameters(), lr=lr, momentum=momentum)


def step(head: nn.Module, optimiser: torch.optim.Optimizer, x: Any, y: Tensor) -> float:
    """One step of cross-entropy on the inputs of ``head`` and class codes ``y`` ``(B,)``; the loss before it."""
    logits = head(x)
    loss = F.cross_entropy(logits, y.to(logits.device))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def top_k(logits: Tensor, y: Tensor, ks: Sequence[int] = KS) -> dict[str, float]:
    """``{"top-k": share of rows}`` whose class is among the ``k`` highest logits ``(B, C)``, for ``k <= C``."""
    ks = [k for k in ks if k <= logits.shape[1]]
    found = logits.topk(max(ks), dim=1).indices == y.unsqueeze(1)
    return {f"top-{k}": float(found[:, :k].any(dim=1).double().mean()) for k in ks}


def fit_probe(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    head: Literal["official", "linear"] = "official",
    hidden: int = 128,
    epochs: Sequence[int] = EPOCHS,
    lr: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
) -> Curve:
    """Train a head on fixed features and measure it at the given epochs.

    Args:
        train, test: features ``(N, D)`` and class codes ``(N,)``.
        head, hidden: see :func:`make_head`.
        epochs: when to measure; the last one ends training.

    Raises:
        UserError: codes are no ``0 .. C-1``, or a test class was never seen.
    """
    classes = check_codes(train[1], test[1])
    x, y = torch.from_numpy(train[0]), torch.from_numpy(train[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_head(head, x.shape[1], classes, hidden)
    optimiser, shuffle = make_sgd(network, lr), np.random.default_rng(seed)
    curve: Curve = {}
    for epoch in range(1, max(epochs) + 1):
        for rows in _batches(len(x), batch_size, shuffle):
            step(network, optimiser, x[rows], y[rows])
        if epoch in epochs:
            with torch.no_grad():
                curve[epoch] = top_k(network(torch.from_numpy(test[0])), torch.from_numpy(test[1]))
    return curve


def sklearn_probe(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Test accuracy of scikit-learn's logistic regression on standardised features ``(n, D)``: what a linear map can
    reach.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    check_codes(train[1], test[1])
    return float(make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(*train).score(*test))


class FineTuned(nn.Module):
    """An aligner's encoder of one modality (its towers included), and a head on its embedding before normalisation.

    It is where the aligner is, and takes inputs from anywhere.

    Args:
        model: it is copied, and the copy is trained.
        name: the modality.
        classes: width of the head.
    """

    def __init__(self, model: AlignedModel, name: str, classes: int) -> None:
        super().__init__()
        self.model, self.name = copy.deepcopy(model), name
        self.head = nn.Linear(model.aligner.dim, classes).to(next(model.buffers()).device)

    def forward(self, inputs: dict[str, Tokens]) -> Tensor:
        """Logits ``(B, classes)``."""
        return self.head(self.model.output(self.name, inputs[self.name].to(self.head.weight.device)))


def fine_tune(
    model: AlignedModel,
    features: Features,
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    epochs: Sequence[int] = (1, 2, 5, 10),
    lr: float = 1e-3,
    weight_decay: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Curve:
    """Train all weights of the model that lead to a modality's embedding, and a head on it, by AdamW.

    Args:
        model: it is copied, and left as it is. A :class:`~weft.training.towers.TowerModel` has its backbone trained.
        features: tokens of the backbone; of a model with towers, raw rows.
        name: the modality.
        train, test: row numbers ``(N,)`` and class codes ``(N,)``.
        epochs: when to measure; the last one ends training.
        progress: show a progress bar.

    Raises:
        UserError: as for :func:`fit_probe`.
    """
    classes = check_codes(train[1], test[1])
    features, codes = features.subset([name]), torch.from_numpy(train[1])
    curve: Curve = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FineTuned(model, name, classes)
        optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
        shuffle = np.random.default_rng(seed)
        steps = -(-len(codes) // batch_size)
        with progress_bar(progress) as bar:
            task = bar.add_task("fine-tuning", total=max(epochs) * steps)
            for epoch in range(1, max(epochs) + 1):
                network.train()
                for rows in _batches(len(codes), batch_size, shuffle):
                    step(network, optimiser, features.gather(train[0][rows]), codes[rows])
                    bar.advance(task)
                if epoch in epochs:
                    curve[epoch] = _measure(network.eval(), features, *test)
    return curve


def check_codes(train: np.ndarray, test: np.ndarray) -> int:
    """The number of classes of codes ``(N,)``.

    Raises:
        UserError: fewer than two classes, codes that are no ``0 .. C-1``, or a test class without training rows.
    """
    seen = np.unique(train)
    if len(seen) < 2 or seen.tolist() != list(range(len(seen))):
        raise UserError(
            "class codes are 0 .. C-1, C at least 2", some(seen.tolist()), "encode the classes of train rows"
        )
    new = np.setdiff1d(test, seen)
    if len(new):
        raise UserError("a test class has no training rows", f"codes {some(new.tolist())}", "leave these rows out")
    return len(seen)


def _batches(rows: int, size: int, shuffle: np.random.Generator) -> Iterator[np.ndarray]:
    order = shuffle.permutation(rows)
    return (order[start : start + size] for start in range(0, rows, size))


@torch.no_grad()
def _measure(network: FineTuned, features: Features, rows: np.ndarray, codes: np.ndarray) -> dict[str, float]:
    logits = torch.cat([network(features.gather(rows[start : start + 256])) for start in range(0, len(rows), 256)])
    return top_k(logits.cpu(), torch.from_numpy(codes))

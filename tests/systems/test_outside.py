"""The test of the design: a system of one's own, registered from outside, and every verb on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tests.systems.verbs import weft
from weft.data import Dataset
from weft.errors import UserError
from weft.models.pretrained import models
from weft.registry import Learned
from weft.tasks.base import tasks
from weft.tasks.judge import Judge
from weft.training.phase import Average, Optimizer, Phase
from weft.training.system import Need, System, systems


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    tasks.register("toy words")(ToyJudge)
    systems.register("toy-captioner")(ToyCaptioner)
    yield
    for registry in (tasks, systems, models):
        for name in ("toy words", "toy-captioner"):
            registry._classes.pop(name, None)


class ToyJudge(Judge):
    """Share of texts that are right."""

    primary = "right"

    def metrics(self, outputs: Sequence[str], target: Sequence[str]) -> dict[str, float]:
        return {"right": float(self.scores(outputs, target).mean())}

    def scores(self, outputs: Sequence[str], target: Sequence[str]) -> np.ndarray:
        return np.array([float(one == other) for one, other in zip(outputs, target, strict=True)])


class ToyCaptioner(System):
    """Says the colour of a photo; two phases that share one optimizer, an average, a learned vocabulary.

    Args:
        width: of the hidden layer.
        words: learned.
    """

    reads = {"photo": Need("image"), "caption": Need("text", target=True)}
    writes = "text"
    judge = "toy words"
    trained_with = {"epochs": 12, "batch_size": 4, "lr": 0.02}
    variants = {"wide": {"width": 16}, "narrow": {"width": 1}}

    def __init__(self, *, width: int = 8, words: Learned[tuple[str, ...]] = ()) -> None:
        super().__init__()
        self.width, self.words = width, words
        self.network = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, len(words)))
        self.mean = Average(self.network, 0.5)

    @classmethod
    def fitted(cls, data: Dataset, rows: np.ndarray, **options: Any) -> ToyCaptioner:
        values = data.modalities[cls.columns(data)["caption"]].values
        return cls(words=tuple(sorted({values[row] for row in rows})), **options)

    def batch(self, data: Dataset, rows: np.ndarray, rng: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
        captions = data.modalities[self.columns(data)["caption"]].values
        return self._photos(data, rows), torch.tensor([self.words.index(captions[row]) for row in rows])

    def phases(self) -> list[Phase]:
        every = Optimizer(list(self.network.parameters()))
        return [Phase("first", self.loss, every, stop=0.5), Phase("second", self.loss, every)]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1], reduction="none")

    def predict(self, data: Dataset, rows: np.ndarray) -> list[str]:
        return [self.words[k] for k in self.mean(self._photos(data, rows)).argmax(dim=1).tolist()]

    def _photos(self, data: Dataset, rows: np.ndarray) -> Tensor:
        files = [data.modalities[self.columns(data, target=False)["photo"]].values[row] for row in rows]
        return torch.stack([torch.from_numpy(np.asarray(Image.open(f)).mean(axis=(0, 1))).float() / 255 for f in files])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng, lines = np.random.default_rng(0), ["id,photo,caption"]
    for row in range(40):
        colour = row % 3
        pixels = rng.integers(0, 60, (4, 4, 3)) + 180 * np.eye(3, dtype=int)[colour]
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"p{row}.png")
        lines.append(f"r{row},p{row}.png,{('it is red', 'it is green', 'it is blue')[colour]}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "table.yaml").write_text(
        "table: table.csv\nid: id\ntask: retrieval\n"
        "modalities:\n  photo: {kind: image, columns: [photo]}\n  caption: {kind: text, columns: [caption]}\n"
    )
    return tmp_path / "table.yaml"


def test_every_verb_serves_it(table: Path, tmp_path: Path) -> None:
    listed = weft("list", "toy-*", "--kind", "system")
    assert [row["name"] for row in listed] == ["toy-captioner"]
    assert (listed[0]["writes"], listed[0]["reads"]) == ("text", {"photo": "image", "caption": "text"})
    assert "toy words" in [row["name"] for row in weft("list", "--kind", "task")]
    model = tmp_path / "model"
    fitted = weft("fit", table, "--system", "toy-captioner", "--option", "width=12", "-o", model)
    assert fitted["rows"]["train"] == 28
    log = (model / "log.jsonl").read_text().splitlines()
    assert '"first"' in log[0]
    assert '"first"' not in log[-1]
    assert weft("evaluate", model, table)["right"] == 1.0
    said = weft("predict", model, table, "--split", "test")
    assert set(said["prediction"]) <= {"it is red", "it is green", "it is blue"}
    by_hand = weft("predict", model, "--row", f"photo: {tmp_path / 'p1.png'}")
    assert by_hand == {"id": ["row0"], "prediction": ["it is green"]}
    found = weft("compare", table, "--system", "toy-captioner", "--seeds", 2, "-o", tmp_path / "compare")
    assert list(found["metrics"]) == ["wide", "narrow"]
    assert found["gains"]["narrow"]["right"]["gain"] <= 0
    assert found["sentence"] in (tmp_path / "compare/report.html").read_text()
    assert weft("evaluate", tmp_path / "compare/winner", table)["rows"] == 6


def test_mistakes_are_named(table: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    with pytest.raises(UserError, match="did you mean 'toy-captioner'"):
        weft("fit", table, "--system", "toy-captoner")
    with pytest.raises(UserError, match="did you mean 'width'"):
        weft("fit", table, "--system", "toy-captioner", "--option", "widht=3")
    with pytest.raises(UserError, match="--option width=3"):
        weft("fit", table, "--system", "toy-captioner", "--set", "width=3")
    with pytest.raises(UserError, match="reads a column 'photo'"):
        weft("fit", "xor", "--system", "toy-captioner")
    weft("fit", table, "--system", "toy-captioner", "--set", "epochs=2", "-o", model)
    with pytest.raises(UserError, match="predict needs rows"):
        weft("predict", model)
    with pytest.raises(UserError, match="no such column"):
        weft("predict", model, "--row", "image: x.png")
    with pytest.raises(UserError, match="another run"):
        weft("fit", table, "--system", "toy-captioner", "--set", "epochs=2", "--option", "width=3", "-o", model)
    with pytest.raises(UserError, match="--system rgbd-saliency"):
        weft("saliency", "fit", "x")

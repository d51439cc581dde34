"""Cross-diffusion added to trained cross-attention: does it help a host that was trained without it?
The tables are in ``docs/results/post_optimisation.md``.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/post_diffusion.py [--seeds 5]

Two data sets whose modalities are token sequences, two hosts: weft's cross-attention fusion, and a plain model of two
``nn.MultiheadAttention`` (each side attends to the other). Every host is trained once per seed. Then, without any
training, its copy with ``with_cross_diffusion`` answers the test rows at several weights of the diffusion, in both
orientations. Then host and copies are trained on alike for some epochs at a tenth of the learning rate; only the copies
have the diffusion. Answers are kept under runs/post_diffusion, so a killed run goes on; the tables go to
docs/results/post_optimisation.md between its markers.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import write_result
from real_comparisons import RESULTS, ROOT, variables
from torch import nn

from weft.compare.statistics import bootstrap_means, holm, interval, mean_of_seeds, sign_flip_test
from weft.data import Split, load_dataset, make_splits
from weft.encoders import create_encoder, default_encoder
from weft.fusion import fusions
from weft.fusion.base import Fusion
from weft.fusion.post_diffusion import RefinedMultiheadAttention, with_cross_diffusion
from weft.models import FusedModel
from weft.store import Store, encode
from weft.tasks.base import create_task
from weft.tokens import Fused, Tokens, mean_pool, present
from weft.training import fit

RUNS = ROOT / "runs" / "post_diffusion"
PAGE = RESULTS / "post_optimisation.md"
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
ORIENTATIONS = ("code", "rdp")
TUNED = 0.25  # weight of the diffusion while training on
TRAIN = {"epochs": 60, "batch_size": 64, "lr": 1e-3, "patience": 10}
FURTHER = {"epochs": 10, "batch_size": 64, "lr": 1e-4, "patience": 0}
SETS = {
    "digits_av": ("spoken and written digits", {}, {}),
    "vqa": (
        "five-answer VQA",
        {"answers": ["2", "3", "table", "chair", "window"]},
        {"image": "hf:$WEFT_MODELS/mobilenet_v2_1.0_224", "text": "hf:$MINILM"},
    ),
}


@fusions.register("multihead-pair")
class MultiheadPair(Fusion):
    """Two modalities, each attending to the other through torch's ``nn.MultiheadAttention``; the mean of both."""

    arity = (2, 2)
    wants = "tokens"
    absent = "refuse"

    def __init__(self, dims: dict[str, int], dim: int = 128, *, heads: int = 4) -> None:
        super().__init__(dims, dim)
        self.project = nn.ModuleList(nn.Linear(d, dim) for d in self.dims.values())
        self.before, self.after = (nn.ModuleList(nn.LayerNorm(dim) for _ in dims) for _ in range(2))
        self.attention = nn.ModuleList(nn.MultiheadAttention(dim, heads, batch_first=True) for _ in dims)

    def fuse(self, inputs: dict[str, Tokens]) -> Fused:
        tokens, masks = [t.values for t in inputs.values()], [t.mask for t in inputs.values()]
        x = [norm(project(v)) for norm, project, v in zip(self.before, self.project, tokens, strict=True)]
        streams = []
        for i, j in ((0, 1), (1, 0)):
            attention: Any = self.attention[i]
            more = {"query_padding_mask": ~masks[i]} if isinstance(attention, RefinedMultiheadAttention) else {}
            message = attention(x[i], x[j], x[j], key_padding_mask=~masks[j], **more)[0]
            values = self.after[i](x[i] + message)
            streams.append(Tokens(torch.where(masks[i].unsqueeze(-1), values, 0.0), masks[i]))
        there = torch.stack([present(stream) for stream in streams], dim=1)[..., None]
        pooled = torch.stack([mean_pool(stream) for stream in streams], dim=1)
        return Fused((pooled * there).sum(dim=1) / there.sum(dim=1).clamp(min=1), None, {}, None)


HOSTS = {"cross-attention": "weft's cross-attention", "multihead-pair": "nn.MultiheadAttention"}


def features_of(name: str) -> Store:
    """The encoded set."""
    _, options, encoders = SETS[name]
    root = Path(variables()["WEFT_DATA"])
    data = load_dataset(name, root if name == "digits_av" else root / name, **options)
    made = {}
    for modality, column in data.modalities.items():
        source = encoders.get(modality, default_encoder(column.kind))
        for key, value in variables().items():
            source = source.replace(f"${key}", value)
        made[modality] = create_encoder(source, column.kind)
    return encode(data, made, RUNS / name / "store", progress=False)


def answers(model: FusedModel, features: Store, split: Split) -> dict[str, list[list[float]]]:
    """Per part, of every row: whether the answer is right, and its log loss."""
    found = {}
    for part, rows in (("dev", split.dev), ("test", split.test)):
        outputs, target = model.outputs(features, rows, batch_size=128), model.target_of(features)[rows]
        loss = model.task.loss(torch.from_numpy(outputs), model.task.encode(target))
        found[part] = np.stack([model.task.scores(outputs, target), loss.numpy()]).round(6).tolist()
    return found


def job(name: str, host: str, seed: int) -> dict[str, Any]:
    """Train one host, refine it, train on; or read what that gave."""
    path = RUNS / name / f"{host}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    started, features = time.process_time(), features_of(name)
    split = make_splits(features)
    task = create_task(features.task, next(iter(features.targets.values()))[split.train])
    model = FusedModel.build(dims=features.dims, task=task, fusion=host, dim=128, seed=seed)
    history = fit(model, features, split, {**TRAIN, "seed": seed}, progress=False)
    result: dict[str, Any] = {"epochs": len(history.epochs), "answers": {"host": answers(model, features, split)}}
    for orientation in ORIENTATIONS:
        for alpha in ALPHAS:
            refined = with_cross_diffusion(model, alpha, orientation)
            result["answers"][f"{orientation} {alpha}"] = answers(refined, features, split)
    for arm in ("host", *ORIENTATIONS):
        further = with_cross_diffusion(model, 0.0 if arm == "host" else TUNED, "code" if arm == "host" else arm)
        fit(further, features, split, {**FURTHER, "seed": seed}, progress=False)
        result["answers"][f"trained on, {arm}"] = answers(further, features, split)
    result["spread"] = spread_of(model, features, split.test[:64])
    result["cpu_s"] = time.process_time() - started
    path.write_text(json.dumps(result))
    print(f"{name} {host} seed {seed}: {result['epochs']} epochs, {result['cpu_s']:.0f} CPU s", flush=True)
    return result


@torch.no_grad()
def spread_of(model: FusedModel, features: Store, rows: np.ndarray) -> dict[str, float]:
    """How far the diffusion moves the fused vector, relative to how far two rows lie apart."""
    batch = model.standardise(features.gather(rows))
    assert model.fusion is not None
    host = model.fusion.eval()(batch).vector
    scale = (host - host.mean(dim=0)).norm(dim=1).mean()
    moved = {o: with_cross_diffusion(model, 1.0, o).eval() for o in ORIENTATIONS}
    return {o: float((m.fusion(batch).vector - host).norm(dim=1).mean() / scale) for o, m in moved.items() if m.fusion}


def difference(gap: np.ndarray, group: np.ndarray | None) -> dict[str, float]:
    """Of gains ``(S, N)`` of a variant over its own host: mean, 95 % interval, sign-flip p-value."""
    low, high = interval(mean_of_seeds(bootstrap_means([gap], group)[0], seed=0))
    return {"gain": float(gap.mean()), "low": low, "high": high, "p": sign_flip_test(gap.mean(axis=0), group)}


def judge(name: str, host: str, seeds: int) -> list[dict[str, Any]]:
    """One row per variant; p-values adjusted over the variants of a host."""
    found = [job(name, host, seed)["answers"] for seed in range(seeds)]
    features = Store.open(RUNS / name / "store")
    rows = make_splits(features).test
    group = None if features.group is None else features.group[rows]
    table = []
    for variant in found[0]:
        base = "trained on, host" if variant.startswith("trained on") else "host"
        right, loss = (np.array([answer[variant]["test"][k] for answer in found]) for k in (0, 1))
        dev = np.mean([answer[variant]["dev"][0] for answer in found])
        row = {"variant": variant, "accuracy": right.mean(axis=1).tolist(), "log_loss": loss.mean(axis=1).tolist()}
        table.append({**row, "dev_accuracy": float(dev), "same": all(a[variant] == a[base] for a in found)})
        if not table[-1]["same"]:
            before = np.array([answer[base]["test"][0] for answer in found])
            table[-1] |= difference(right - before, group)
    tested = [row for row in table if "p" in row]
    for row, p in zip(tested, holm(np.array([row["p"] for row in tested])), strict=True):
        row["p_holm"] = float(p)
    return table


def lines(title: str, table: list[dict[str, Any]]) -> list[str]:
    """One table of the page."""
    text = [
        f"**{title}**",
        "",
        "| variant | accuracy | lowest to highest seed | gain (95 % CI) | p (Holm) | log loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in table:
        a = row["accuracy"]
        gain = f"{row['gain']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})" if "gain" in row else ""
        gain = "the same answers" if row["same"] and row["variant"].endswith(" 0.0") else gain
        p = f"{row['p_holm']:.4f}" if "p_holm" in row else ""
        loss = f"{np.mean(row['log_loss']):.3f}"
        name = row["variant"].replace("code ", "S = A^T, alpha ").replace("rdp ", "S = A, alpha ")
        name = name.replace(", code", f", S = A^T, alpha {TUNED}").replace(", rdp", f", S = A, alpha {TUNED}")
        name = name.replace("alpha 0.0", "alpha 0").replace("alpha 1.0", "alpha 1")
        text.append(f"| {name} | {np.mean(a):.3f} | {min(a):.3f} to {max(a):.3f} | {gain} | {p} | {loss} |")
    return [*text, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="*", default=["digits_av"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"train": TRAIN, "further": FURTHER, "seeds": arguments.seeds, "sets": {}}
    text: list[str] = []
    for name in arguments.sets:
        for host, label in HOSTS.items():
            jobs = [job(name, host, seed) for seed in range(arguments.seeds)]
            table = judge(name, host, arguments.seeds)
            moved = {o: [j["spread"][o] for j in jobs] for o in ORIENTATIONS}
            figures["sets"].setdefault(name, {})[host] = {"variants": table, "moved": moved}
            text += lines(f"{label}, {SETS[name][0]}", table)
    write_result("post_diffusion", figures)
    if PAGE.exists():
        head, _, rest = PAGE.read_text().partition("<!-- tables -->\n")
        tail = rest.partition("<!-- end -->")[2]
        PAGE.write_text(f"{head}<!-- tables -->\n\n" + "\n".join(text) + f"\n<!-- end -->{tail}")
    print("\n".join(text))


if __name__ == "__main__":
    main()

"""Five-answer VQA: METER's two attentions, UNITER, the best fusion of ``weft compare`` and the question alone, in one
comparison with one verdict; and the same networks pre-trained on captions first.

    python benchmarks/vqa_meter_uniter.py FOLDER OUT IMAGE_MODEL TEXT_MODEL [SEEDS] [EPOCHS] [FIRST]

FOLDER holds ``vqa``, ``coco`` and ``flickr8k``. Rows, seeds and settings are the same for all, nothing is tuned.
*Words*: networks over the words of the training questions and the frozen cells of the image model. *Frozen text*:
fusions over the same cells and the frozen tokens of the text model. Pre-training: once, on all training captions of
both sets. SEEDS ``pairs`` does that, and has photos and captions of Flickr8k's test part found among each other;
``matching`` asks whether fusions of frozen tokens learn which photo is the text's own; more seeds go on from fewer.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import fill_page, set_threads, write_result

from weft.compare.systems import compare_systems
from weft.data import Dataset, Modality, Split, load_dataset, make_splits
from weft.files import write_json
from weft.models import load_model
from weft.report.figures import draw_figures
from weft.training.config import TrainConfig
from weft.training.system_task import fit_system, make_system

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "meter_uniter.md"
FIGURES = PAGE.parent / "figures"
SHARED: dict[str, Any] = {"dim": 64, "dropout": 0.2, "pixels": 160}
NET = {"heads": 4, "length": 40, "cut": True}
METER = {**NET, "text": {"layers": 1}, "head_rate": 1.0, "cross_rate": 1.0}
PRETRAINING: dict[str, tuple[str, dict[str, Any]]] = {
    "MLM + ITM, METER": ("meter-pairs", {**METER, "fusion": "co", "layers": 1, "objectives": ("mlm", "itm")}),
    "MLM + ITM, UNITER": ("uniter-pairs", {**NET, "layers": 3, "objectives": {"mlm": 1, "itm": 1}, "wra": 0.0}),
    "MLM + ITM + WRA, UNITER": ("uniter-pairs", {**NET, "layers": 3, "objectives": {"mlm": 1, "itm": 1}, "wra": 0.1}),
}


def captions(folder: Path) -> Dataset:
    """The captions of COCO and Flickr8k under one another; COCO's test part is left out of training too."""
    parts = [load_dataset(name, root=folder / name) for name in ("coco", "flickr8k")]
    columns = {
        name: Modality(kind, [v for part in parts for v in part.modalities[name].values])
        for name, kind in (("image", "image"), ("text", "text"))
    }
    ids = [f"{part.name}/{row}" for part in parts for row in part.ids]
    group = np.concatenate([np.char.add(f"{part.name}/", part.group.astype(str)) for part in parts])
    split = np.concatenate([part.split for part in parts])
    return Dataset("captions", ids, columns, {}, split, group, "retrieval")


def pretrained(folder: Path, out: Path, image: str, epochs: int) -> dict[str, Path]:
    """The models of ``PRETRAINING``, each trained once."""
    data, made = captions(folder), {}
    split = make_splits(data)
    for name, (system, options) in PRETRAINING.items():
        made[name] = out / name
        if not (made[name] / "best").is_dir():
            started = time.process_time()
            model = make_system(system, data, split.train, image=image, **SHARED, **options)
            settings = {"epochs": epochs, "batch_size": 64, "lr": 1e-3, "warmup": 0.1, "patience": 0, "monitor": "loss"}
            history = fit_system(model, data, split, settings, made[name], progress=False)
            losses = {k: round(v, 3) for k, v in history.best.items() if "loss" in k}
            print(name, len(split.train), "captions", losses, f"{time.process_time() - started:.0f} CPU s", flush=True)
    return made


def searched(folder: Path, made: dict[str, Path]) -> None:
    """How well the pre-trained networks tell and find what belongs together, and where words move to."""
    data = load_dataset("flickr8k", root=folder / "flickr8k")
    rows, found = make_splits(data).test, {}
    for name, place in made.items():
        model, started = load_model(place), time.process_time()
        found[name] = model.evaluate(data, rows, batch_size=128)
        print(
            name,
            {k: round(v, 3) for k, v in found[name].items()},
            f"{time.process_time() - started:.0f} CPU s",
            flush=True,
        )
        if "WRA" in name:
            files = model.draw(data, rows[:1], FIGURES)
            print(*files)
    ways = ("image->text", "text->image")
    lines = [
        "| | its own photo of two | photo to text R@1 / 5 / 10 | text to photo R@1 / 5 / 10 |",
        "|---|---|---|---|",
    ]
    for name, values in found.items():
        cells = [" / ".join(f"{values[f'{way} R@{k}']:.3f}" for k in (1, 5, 10)) for way in ways]
        lines.append(f"| {name} | {values['choice accuracy']:.3f} | {cells[0]} | {cells[1]} |")
    fill_page(PAGE, lines, "retrieval")
    write_result("flickr8k_pairs", {"figures": found})


def matching(folder: Path, image: str, text: str, captions_of: int = 2000, judged: int = 300) -> None:
    """Whether a caption and a photo belong together, each with its own photo and with another: fixed pairs, no words to
    be learned. On ``captions_of`` training captions, judged on dev ones.
    """
    data = captions(folder)
    split, rng = make_splits(data), np.random.default_rng(0)
    train, dev = np.sort(rng.permutation(split.train)[:captions_of]), split.dev[:judged]
    rows = np.concatenate([train, dev])
    other = np.concatenate([train[rng.permutation(len(train))], dev[rng.permutation(len(dev))]])
    image_of, text_of = (data.modalities[name].values for name in ("image", "text"))
    columns = {
        "image": Modality("image", [image_of[row] for row in (*rows, *other)]),
        "text": Modality("text", [text_of[row] for row in (*rows, *rows)]),
    }
    label = np.repeat(["own", "other"], len(rows))
    ids = [f"{kind}/{row}" for kind in ("own", "other") for row in rows]
    pairs = Dataset("matching", ids, columns, {"label": label}, None, None, "classification")
    place = np.arange(len(rows))
    taught, asked = (np.concatenate([part, part + len(rows)]) for part in (place[: len(train)], place[len(train) :]))
    cut = Split(taught, asked, asked)
    lines = ["| frozen text and cells, joined by | right on dev, best of four epochs |", "|---|---|"]
    for fusion, options in (("co-attention", {"dropout": 0.1}), ("mlb", {})):
        chosen = {**SHARED, "image": image, "text": text, "fusion": fusion, "fusion_options": options}
        model = make_system("frozen-fusion", pairs, taught, **chosen)
        settings = {"epochs": 4, "batch_size": 32, "lr": 1e-3, "warmup": 0.1, "patience": 0}
        history = fit_system(model, pairs, cut, settings, progress=False)
        lines.append(f"| {fusion} | {max(epoch['dev_score'] for epoch in history.epochs):.3f} |")
    fill_page(PAGE, lines, "matching")
    print("\n".join(lines))


def variants(image: str, text: str, begin: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """All that is compared; the first is what the others are tested against."""
    meter, uniter = (
        {"image": image, "loss": "task", **METER},
        {"system": "uniter", "image": image, "loss": "task", **NET},
    )
    meter = {"system": "meter", **meter}
    fused = {"image": image, "text": text}
    found = {
        "question alone, frozen text": {**fused, "only": "text"},
        "question alone, words": {**meter, "fusion": "text", "layers": 2},
        "METER co-attention, words": {**meter, "fusion": "co", "layers": 1},
        "METER merged attention, words": {**meter, "fusion": "merged", "layers": 2},
        "UNITER, words": {**uniter, "layers": 3, "head_rate": 1.0},
        "cross-attention, frozen text": {**fused, "fusion": "cross-attention"},
        "co-attention, frozen text": {**fused, "fusion": "co-attention", "fusion_options": {"dropout": 0.2}},
        "merged attention, frozen text": {**fused, "fusion": "merged-attention", "fusion_options": {"dropout": 0.2}},
    }
    for name, folder in begin.items():
        base = found["METER co-attention, words" if "METER" in name else "UNITER, words"]
        found[f"{name.split(', ')[1]}, after {name.split(', ')[0]}"] = {**base, "begin": str(folder)}
    return found


def main(folder: str, out: str, image: str, text: str, seeds: str = "5", epochs: str = "20", first: str = "10") -> None:
    set_threads(1)
    if seeds == "matching":
        matching(Path(folder), f"hf:{image}", f"hf:{text}")
        return
    begin = pretrained(Path(folder), Path(out), f"hf:{image}", int(first))
    if seeds == "pairs":
        searched(Path(folder), begin)
        return
    data = load_dataset("vqa", root=Path(folder) / "vqa")
    config = TrainConfig(epochs=int(epochs), batch_size=32, lr=1e-3, warmup=0.1, patience=3, weight_decay=0.05)
    chosen = variants(f"hf:{image}", f"hf:{text}", begin)
    started = time.process_time()
    found = compare_systems(
        "frozen-fusion", data, [make_splits(data)], chosen, options=SHARED, seeds=int(seeds), config=config,
        folder=Path(out) / "compare", progress=False,
    )  # fmt: skip
    write_json(Path(out) / "comparison.json", found.to_dict())
    drawn = next(picture for picture in draw_figures(found, Path(out)) if picture.path.stem.startswith("methods"))
    shutil.copy(drawn.path, FIGURES / "meter_uniter.png")
    lines = [
        "| | accuracy | balanced accuracy | log loss | gain over the first (95 % CI) | p (Holm) |",
        "|---|---|---|---|---|---|",
    ]
    for name, metrics in found.metrics.items():
        cells = [np.array(metrics[key]) for key in ("accuracy", "balanced_accuracy", "log_loss")]
        gain = found.gains.get(name, {}).get(found.primary)
        tested = (
            "| | |"
            if gain is None
            else f"| {gain['gain']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}) | {gain['p_holm']:.2g} |"
        )
        lines.append(f"| {name} | " + " | ".join(f"{c.mean():.3f} +- {c.std():.3f}" for c in cells) + f" {tested}")
    lines += [
        "",
        f"**{found.sentence}**",
        "",
        f"{seeds} seeds, at most {epochs} epochs; pre-training {first} epochs, one seed.",
    ]
    fill_page(PAGE, lines)
    write_result("vqa_meter_uniter", {"metrics": found.metrics, "gains": found.gains, "sentence": found.sentence})
    print("\n".join(lines), f"\n{time.process_time() - started:.0f} CPU s")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""CoCoOp beside CoOp and zero-shot: classes that prompts were learned on, and new ones; ``docs/results/cocoop.md``.

    python benchmarks/cocoop_shapes.py [--seeds 3]

A CLIP of two small transformers is trained here on drawn shapes, solid on white, with captions of which some leave out
the colour or the shape. Prompts are then learned on 16 pictures each of half of the 24 classes, drawn in another way:
on coloured grounds under noise. The new classes are the other half.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from harness import fill_page, set_threads, write_result
from PIL import Image, ImageDraw
from torch.nn import functional as F

from weft.data import Dataset, Modality, Split
from weft.systems.cocoop import harmonic_mean
from weft.training.system_task import fit_system, make_system

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "cocoop.md"
COLOURS = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 70, 220), "yellow": (225, 205, 50),
    "purple": (150, 60, 180), "black": (25, 25, 25),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross")
CLASSES = [f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES)]
SIDE = 32
METHODS: dict[str, dict[str, Any]] = {
    "CoOp": {"conditional": False},
    "CoCoOp": {"conditional": True},
}


def drawn(name: str, rng: np.random.Generator, shifted: bool) -> np.ndarray:
    """A picture of a class, ``(SIDE, SIDE, 3)`` uint8."""
    colour, shape = name.split()
    ground = tuple(int(v) for v in rng.integers(140, 230, 3)) if shifted else (255, 255, 255)
    image = Image.new("RGB", (SIDE, SIDE), ground)
    draw, radius = ImageDraw.Draw(image), int(rng.integers(6, 11))
    x, y = (int(v) for v in rng.integers(radius + 1, SIDE - radius - 1, 2))
    style: dict[str, Any] = {"fill": COLOURS[colour]}
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, **style)
    elif shape == "square":
        draw.rectangle(box, **style)
    elif shape == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], **style)
    else:
        width = 5
        draw.line((x, y - radius, x, y + radius), fill=COLOURS[colour], width=width)
        draw.line((x - radius, y, x + radius, y), fill=COLOURS[colour], width=width)
    noise = rng.normal(0, 20 if shifted else 8, (SIDE, SIDE, 3))
    return (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)


def caption(name: str, rng: np.random.Generator) -> str:
    """What is said of a picture; three in ten leave something out."""
    colour, shape = name.split()
    told = rng.random()
    what = f"{colour} thing" if told < 0.15 else shape if told < 0.3 else name
    return str(rng.choice(["a photo of a {}.", "a {}.", "there is a {}."])).format(what)


def train_clip(folder: Path, seed: int, rows: int = 4000, steps: int = 900) -> None:
    """A CLIP on solid shapes, as a transformers folder."""
    rng = np.random.default_rng(seed)
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    both = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        text_config={**both, "num_hidden_layers": 3, "vocab_size": len(tokens), "max_position_embeddings": 48, **ends},
        vision_config={**both, "num_hidden_layers": 3, "image_size": SIDE, "patch_size": 4}, projection_dim=64,
    )  # fmt: skip
    size = {"height": SIDE, "width": SIDE}
    processor = transformers.CLIPImageProcessorPil(size=size, crop_size=size)
    names = rng.choice(CLASSES, rows)
    pixels = processor([drawn(n, rng, False) for n in names], return_tensors="pt")["pixel_values"]
    torch.manual_seed(seed)
    model = transformers.CLIPModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    for _ in range(steps):
        chosen = rng.choice(rows, 96, replace=False)
        text = tokenizer([caption(names[i], rng) for i in chosen], padding=True, return_tensors="pt")
        out = model(**text, pixel_values=pixels[torch.from_numpy(chosen)])
        target = torch.arange(len(chosen))
        loss = (F.cross_entropy(out.logits_per_text, target) + F.cross_entropy(out.logits_per_image, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"clip {seed}: loss {float(loss.detach()):.3f}, chance {np.log(96):.3f}", flush=True)
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)


def rows_of(names: list[str], each: int, seed: int) -> Dataset:
    """Shapes of some classes on coloured grounds."""
    rng = np.random.default_rng([seed, each, len(names[0])])
    labels = np.repeat(names, each)
    pictures = [drawn(str(name), rng, True) for name in labels]
    ids = [f"{i}" for i in range(len(labels))]
    return Dataset(
        "grounds", ids, {"image": Modality("image", pictures)}, {"class": labels}, None, None, "classification"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    set_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            train_clip(Path(folder), seed)
            order = np.random.default_rng(seed).permutation(CLASSES).tolist()
            base, new = sorted(order[:12]), sorted(order[12:])
            few, dev = rows_of(base, 20, seed), np.arange(12 * 20) % 20 >= 16
            split = Split(np.flatnonzero(~dev), np.flatnonzero(dev), np.arange(0))
            tests = [rows_of(part, 40, 100 + seed) for part in (base, new)]
            for name, options in {"zero-shot": {"conditional": False}, **METHODS}.items():
                model = make_system("cocoop", few, split.train, clip=folder, **options)
                if name != "zero-shot":
                    settings = {"epochs": 10, "batch_size": 4, "lr": 2e-3, "seed": seed}
                    fit_system(model, few, split, settings, progress=False)
                scores = [model.evaluate(test, np.arange(len(test)))["accuracy"] for test in tests]
                row = {"base": scores[0], "new": scores[1], "harmonic mean": harmonic_mean(*scores)}
                found.setdefault(name, []).append(row)
                print(seed, name, {key: round(value, 3) for key, value in row.items()}, flush=True)
    lines = ["| | base | new | harmonic mean |", "|---|---|---|---|"]
    for name, runs in found.items():
        cells = [np.array([run[key] for run in runs]) for key in ("base", "new", "harmonic mean")]
        lines.append(f"| {name} | " + " | ".join(f"{c.mean():.3f} +- {c.std():.3f}" for c in cells) + " |")
    lines += ["", f"{seeds} seeds of CLIP, classes and shots; 480 test pictures of each half."]
    fill_page(PAGE, lines)
    write_result("cocoop_shapes", {"runs": found})


if __name__ == "__main__":
    main()

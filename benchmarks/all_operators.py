"""The page of the comparison of every fusion on four real sets, from its result folders.

Run the comparison first (one command; it resumes), then this::

    weft run fusion/all-operators --set DATA=... --set OUT=runs/all-operators
    python benchmarks/all_operators.py runs/all-operators

Writes ``docs/results/all_operators.md``, one figure per set, and the HTML reports into ``docs/results/all_operators/``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "all_operators.md"
SETS = {
    "mosi": "MOSI",
    "handwritten": "Handwritten",
    "digits_av": "spoken + written digits",
    "vqa": "five-answer VQA",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="the OUT of the recipe")
    parser.add_argument("--cost", default="", help="a sentence on what the whole command cost")
    arguments = parser.parse_args()
    runs: Path = arguments.runs
    found = {name: json.loads((runs / name / "comparison.json").read_text()) for name in SETS if done(runs / name)}
    reports = PAGE.with_suffix("")
    reports.mkdir(exist_ok=True)
    for name in found:
        shutil.copy(runs / name / "report.html", reports / f"{name}.html")
        shutil.copy(next((runs / name / "figures").glob("methods*.png")), reports / f"{name}.png")
    lines = page(found, {name: seconds(runs / name) for name in found}, arguments.cost)
    PAGE.write_text("\n".join(lines) + "\n")
    print(f"wrote {PAGE}: {', '.join(found)}")


def done(folder: Path) -> bool:
    """Whether a set's comparison is there."""
    return (folder / "comparison.json").exists()


def seconds(folder: Path) -> float:
    """Wall seconds of all jobs, one after the other."""
    return float(sum(json.loads(path.read_text())["seconds"] for path in (folder / "jobs").glob("*.json")))


def page(found: dict[str, dict[str, Any]], spent: dict[str, float], cost: str) -> list[str]:
    """The page, line by line."""
    config = next(iter(found.values()))["config"]
    lines = [
        "# Every fusion on four real sets",
        "",
        "```console",
        "$ weft run fusion/all-operators --set DATA=$WEFT_DATA --set IMAGE=$WEFT_MODELS/mobilenet_v2_1.0_224 "
        "--set TEXT=$MINILM",
        "```",
        "",
        f"{config['seeds']} seeds ({config['sequence_seeds']} of operators on token sequences), {config['trials']} "
        f"settings tried on dev for every method, at most {config['train']['epochs']} epochs, width {config['dim']}, "
        "published or default options. Accuracy on test, mean and standard deviation over seeds; **bold**: best of the "
        f"set; `=`: not told apart from the best by paired tests over the test rows (Holm, 5 %). {cost}".rstrip(),
        "",
        *matrix(found),
        "",
        *(line for name in found for line in one_set(name, found[name], spent[name])),
    ]
    return lines


def matrix(found: dict[str, dict[str, Any]]) -> list[str]:
    """Methods by sets, best mean rank among the fusions first."""
    rows = {name: {row["method"]: row for row in each["table"]} for name, each in found.items()}
    names = [
        row["method"] for each in found.values() for row in each["table"] if row["role"] in ("fusion", "classical")
    ]
    names = list(dict.fromkeys(names))
    ranks = {name: [rank(each, name) for each in rows.values()] for name in names}
    mean_rank = {name: float(np.mean([r for r in ranks[name] if r is not None] or [np.inf])) for name in names}
    lines = [
        f"| method | {' | '.join(SETS[name] for name in found)} | sets | mean rank |",
        "| --- |" + " ---: |" * (len(found) + 2),
    ]
    for name in sorted(names, key=mean_rank.__getitem__):
        count = sum(r is not None for r in ranks[name])
        cells = [cell(each, name) for each in rows.values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {count} | {mean_rank[name]:.1f} |" if count else "")
    best = [
        max((r for r in each.values() if r["role"] == "single" and r["test"] is not None), key=score)
        for each in rows.values()
    ]
    lines.append(f"| best single modality | {' | '.join(figure(row) for row in best)} | | |")
    chance = [figure(each["chance"]) for each in rows.values()]
    lines.append(f"| chance | {' | '.join(chance)} | | |")
    return [line for line in lines if line]


def score(row: dict[str, Any]) -> float:
    return -np.inf if row["test"] is None else float(row["test"])


def rank(rows: dict[str, Any], name: str) -> int | None:
    """Place among fusions and classical baselines of a set, 1 the best."""
    if name not in rows or rows[name]["test"] is None:
        return None
    rivals = [row for row in rows.values() if row["role"] in ("fusion", "classical") and row["test"] is not None]
    return 1 + sum(row["test"] > rows[name]["test"] for row in rivals)


def cell(rows: dict[str, Any], name: str) -> str:
    if name not in rows or rows[name]["test"] is None:
        return ""
    text = figure(rows[name])
    return f"**{text}**" if score(rows[name]) == max(map(score, rows.values())) else text


def figure(row: dict[str, Any]) -> str:
    spread = f" ± {np.std(row['spread'], ddof=1):.3f}" if len(row["spread"]) > 1 else ""
    return f"{'= ' if row['tied'] else ''}{row['test']:.3f}{spread}"


def one_set(name: str, comparison: dict[str, Any], spent: float) -> list[str]:
    """Sentence, notes, what was left out, figure."""
    counts = comparison["counts"]
    failed = {row["method"]: row["error"].splitlines()[0] for row in comparison["table"] if row["status"] == "failed"}
    out = {**comparison["left_out"], **failed}
    return [
        f"## {SETS[name]}",
        "",
        f"{counts['train']} rows to train, {counts['dev']} dev, {counts['test']} test; modalities: "
        f"{', '.join(comparison['modalities'])}. Jobs of {spent / 60:.0f} minutes in all. "
        f"[Report](all_operators/{name}.html).",
        "",
        f"**{comparison['sentence']}**",
        "",
        *(f"- {note}" for note in comparison["notes"] if not note.startswith("Failed: ")),
        *(f"- Not run, {who}: {why}." for who, why in out.items()),
        "",
        f"![accuracy of every method](all_operators/{name}.png)",
        "",
    ]


if __name__ == "__main__":
    main()

"""Run what `weft export` wrote, with onnxruntime and NumPy alone: neither weft nor torch is needed.

python examples/onnx_runtime.py shop/model.onnx

The file beside it ending in .json says what the inputs are and what has to be done to a value first; the one ending in
.npz holds rows to try, with the answers of the model that was exported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(path: Path) -> None:
    """Answer the rows that came with the model, and say how far from the model's own answers that is."""
    about = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with np.load(f"{path}.npz") as rows:
        feed = {item.name: rows[item.name] for item in session.get_inputs()}
        expected = {name: rows[f"{name} (expected)"] for name in about["outputs"]}
    for item in about["inputs"]:
        print(f"{item['name']}: {item['dtype']} {item['shape']}, modality {item['modality']!r}")
    answers = dict(zip(about["outputs"], session.run(about["outputs"], feed), strict=True))
    print("largest difference:", max(float(np.abs(answers[name] - expected[name]).max()) for name in answers))
    if "probability" in answers:
        for row in answers["probability"]:
            print({name: round(float(p), 3) for name, p in zip(about["classes"], row, strict=True)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))

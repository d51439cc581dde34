"""AutoGluon's side of ``tables.py``, run by the Python of its own environment: FOLDER SECONDS.

    python -m venv autogluon-env
    autogluon-env/bin/pip install 'autogluon.tabular[lightgbm,catboost,xgboost]'

Reads ``table.csv`` and ``about.json`` of the folder, fits on the rows that are not test rows, best quality, in this
many seconds, and writes ``autogluon.json``: predictions of the test rows, seconds, what the best model is. Texts are
left to its n-grams. Its trial run that looks for over-fitted stacks is off, so all the time goes into the models; its
neural networks are another extra, not installed. Where no model ends in time it answers like chance.
"""

import json
import os
import sys
import time
from pathlib import Path

import pandas as pd
from autogluon.tabular import TabularPredictor

folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
about = json.loads((folder / "about.json").read_text())
texts, target = about["texts"], about["target"]
labels = {target: str} if about["task"] == "classification" else {}
frame = pd.read_csv(folder / "table.csv", dtype={**labels, **dict.fromkeys([*texts, *about["categories"]], str)})
for name in texts:
    frame[name] = frame[name].fillna("")
for name in about["dates"]:
    frame[name] = pd.to_datetime(frame[name], errors="coerce")
test = frame["split"] == "test"
frame = frame.drop(columns=["split", *(["group"] if "group" in frame else [])])
started = time.monotonic()
predictor = TabularPredictor(
    label=target,
    problem_type="regression" if about["task"] == "regression" else None,
    eval_metric="accuracy" if about["task"] == "classification" else "root_mean_squared_error",
    path=str(folder / "autogluon"),
    verbosity=1,
)
predictor.fit(
    frame[~test],
    presets="best_quality",
    time_limit=seconds,
    dynamic_stacking=False,
    excluded_model_types=["NN_TORCH", "FASTAI"],
    raise_on_no_models_fitted=False,
    num_cpus=len(os.sched_getaffinity(0)),
)
models = predictor.model_names()
if models:
    found = predictor.predict(frame[test].drop(columns=[target])).tolist()
else:  # none ended in time
    known = frame.loc[~test, target]
    found = [known.mean() if about["task"] == "regression" else known.mode()[0]] * int(test.sum())
took = time.monotonic() - started
kept = {"best": predictor.model_best if models else None, "models": models}
(folder / "autogluon.json").write_text(json.dumps({"predictions": found, "seconds": took, **kept}))

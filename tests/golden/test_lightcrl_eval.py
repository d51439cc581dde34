"""LightCRL's evaluations against values recorded from the original code; the json says which one a case is about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.golden.cases import Case, golden, load
from weft.data.caption_pairs import captions_of, positive_pairs
from weft.retrieval.repeated import captions_found, images_above, repeated_curve, unique_curve
from weft.systems.lightcrl.probing import make_head, make_sgd, step, top_k
from weft.tasks.pairs import pair_metrics, pair_scores
from weft.tasks.similarity import TOLERANCES, score_classes, tolerance_curves
from weft.tasks.zero_shot import class_vectors, prompts, top_hits
from weft.training.schedules.lightcrl import FACTOR, judge_lightcrl

EXACT = {"rtol": 0, "atol": 1e-10}


def unit(rows: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(rows.double(), dim=1).numpy()


def coco_pairs(case: Case) -> None:
    listing = case.config["annotation_json"]
    for key, most in (("pairs_max5", 5), ("pairs_default_max3", 3)):
        found = [[f"train2014/{file}", text] for file, texts in captions_of(listing, most) for text in texts]
        assert found == case.config[key]
    captions = [texts for _, texts in captions_of(listing, None)]
    calls = []

    def embed(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        return np.array([case.config["sentence_vectors"][text] for text in texts])

    pairs = list(positive_pairs(captions, embed, case.config["threshold"]))
    assert [[captions[p.image][p.first], captions[p.image][p.second]] for p in pairs] == case.config["positive_pairs"]
    assert [len(texts) for texts in calls] == [case.config["distinct_captions"]]


def pair_threshold(case: Case) -> None:
    t = {name: value.numpy() for name, value in case.tensors.items()}
    row = pair_metrics(t["scores"], t["labels"], case.config["threshold"])
    for k, name in enumerate(("dissimilar", "similar")):
        for metric in ("precision", "recall", "F1"):
            np.testing.assert_allclose(row[f"{name} {metric}"], t[metric.lower()][k], **EXACT)
    np.testing.assert_allclose(row["accuracy"], case.config["accuracy"], **EXACT)
    np.testing.assert_allclose(row["AUC"], case.config["auc_pos1"], **EXACT)
    np.testing.assert_allclose(1 - row["AUC"], case.config["auc_pos0"], **EXACT)


def pair_cosines(case: Case) -> None:
    scores = pair_scores(case.tensors["emb_1"].numpy(), case.tensors["emb_2"].numpy())
    np.testing.assert_allclose(scores, case.tensors["scores"], **EXACT)


def stsb_tolerance(case: Case) -> None:
    gold = case.tensors["gold"].numpy()
    scores = pair_scores(case.tensors["emb_1"].numpy(), case.tensors["emb_2"].numpy())
    np.testing.assert_array_equal(score_classes(gold), case.tensors["klass"])
    np.testing.assert_allclose(TOLERANCES, case.tensors["errors"], **EXACT)
    np.testing.assert_allclose(tolerance_curves(scores, gold), case.tensors["curves"], **EXACT)


def zero_shot(case: Case) -> None:
    names = [prompt.removeprefix("a photo of a ") for prompt in case.config["prompts"]]
    assert prompts(names, "photo") == [case.config["prompts"]]
    classes = class_vectors(case.tensors["text"].numpy()[None])
    hits = top_hits(unit(case.tensors["image"]), classes, case.tensors["labels"].numpy())
    assert hits == case.tensors["correct"].tolist()


def retrieval(case: Case) -> None:
    images, texts = unit(case.tensors["image_unique"]), unit(case.tensors["text"])
    above = images_above(images, texts)
    repeats = len(texts) // len(images)
    np.testing.assert_array_equal(above, case.tensors["rank_unique"])
    np.testing.assert_array_equal(repeats * above, case.tensors["rank_with_duplicates"])
    ks, rows = case.tensors["ks"].numpy(), case.config["last_batch_rows"]
    batch = next(size for size in (100, 64, 32) if len(texts) % size == rows)
    published = repeated_curve(above, ks, repeats, last_batch=batch)
    np.testing.assert_allclose(published, case.tensors["official_text_to_image"], **EXACT)
    for k, value in case.config["corrected_unique_recall"].items():
        np.testing.assert_allclose(unique_curve(above, [int(k)])[0], value, rtol=0, atol=1e-6)
    for k, value in case.config["corrected_with_duplicates_mean"].items():
        np.testing.assert_allclose(repeated_curve(above, [int(k)], repeats)[0], value, rtol=0, atol=1e-6)
    corrected = captions_found(images, texts)
    for j, value in case.config["corrected_image_to_text_at_least_j_of_5"].items():
        np.testing.assert_allclose(corrected[int(j) - 1], value, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        captions_found(images, texts, last_batch=batch), case.tensors["official_image_to_text"], **EXACT
    )


def probe(case: Case) -> None:
    first, second = case.tensors["sd0.0.weight"], case.tensors["sd0.1.weight"]
    assert case.config["backbone_grad_is_none"], "the recorded protocol trains the head alone"
    head = make_head("official", first.shape[1], len(second), len(first)).double()
    head.load_state_dict({name: case.tensors[f"sd0.{name}"] for name in head.state_dict()})
    optimiser = make_sgd(head, case.config["lr"], case.config["momentum"])
    losses = [step(head, optimiser, x, y) for x, y in zip(case.tensors["x"], case.tensors["y"], strict=True)]
    np.testing.assert_allclose(losses, case.tensors["losses"], **EXACT)
    for name, value in head.state_dict().items():
        torch.testing.assert_close(value, case.tensors[f"sd3.{name}"], **EXACT)
    found = top_k(head(case.tensors["x"].flatten(0, 1)), case.tensors["y"].flatten())
    expected = {f"top-{key.split('_')[1]}": value for key, value in case.config["accuracy"].items()}
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[k] for k in expected], list(expected.values()), **EXACT)


def schedule(case: Case) -> None:
    losses = case.tensors["val"].tolist()
    rates, saved, epoch, reductions = [], [], 0, 0
    for epoch in range(1, 101):
        rates.append(1e-3 * FACTOR**reductions)
        verdict = judge_lightcrl(losses[:epoch])
        if verdict.best == epoch - 1:
            saved.append(epoch)
        reductions = verdict.reductions
        if verdict.stop:
            break
    assert epoch == case.config["epochs_run"]
    np.testing.assert_allclose(rates, case.config["lr_of_main_group"], **EXACT)
    assert saved == case.config["best_saved_after_epoch"]


CHECKS = {
    "coco_pairs": coco_pairs,
    "pair_threshold": pair_threshold,
    "pair_scores": pair_cosines,
    "stsb_tolerance": stsb_tolerance,
    "zero_shot": zero_shot,
    "retrieval": retrieval,
    "probe_cifar100": probe,
    "probe_tinyimagenet": probe,
    "schedule": schedule,
}


@golden("lightcrl_eval_*")
def test_evaluation_equals_the_original(path: Path) -> None:
    case = load(path)
    assert case.config["module"] in CHECKS, f"no check for {case.config['module']!r}: {path}"
    CHECKS[case.config["module"]](case)

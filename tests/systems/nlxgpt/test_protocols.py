"""NLX-GPT: explanations without the picture, and whether they explain."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
import transformers

from tests.systems.nlxgpt.sheets import COLOURS
from weft.data import Dataset, Modality
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.models import load_model
from weft.systems.nlxgpt.answer_reader import AnswerReader
from weft.systems.nlxgpt.protocols import ExplainPredict, RetrievalAttack
from weft.systems.nlxgpt.sequence import spoken


def test_protocols(trained):
    data, _, _, folder = trained
    net = load_model(folder)
    looked = RetrievalAttack(queries=4).run(net, data, "test", None, progress=False).values
    net.blind = True
    blind = RetrievalAttack(queries=4).run(net, data, "test", None, progress=False).values
    assert blind["pictures RA@15"] == pytest.approx(1, abs=1e-6)
    assert looked["pictures RA@15"] < 0.99
    net.blind = False
    found = ExplainPredict().run(net, data, "test", None, progress=False).values
    assert 0 <= found["generated explanations"] <= 1
    assert found["true explanations"] > 0.4


def test_the_attack_goes_both_ways(trained, monkeypatch):
    """Pictures that are like a row's under its question, and questions like its own of its picture; each of them once.

    By loops, row by row; 14 of 24 pictures differ, and 6 questions. Without questions there is one way.
    """
    data, _, _, folder = trained
    net, part = load_model(folder), np.arange(24)
    pictures = [data.modalities["image"].values[i % 14] for i in part]
    asked = [
        ("Is it red?", "is it red", "Is it blue?", "What colour?", "What is it?", "Is it?", "Red?")[i % 7] for i in part
    ]
    columns = {"image": Modality("image", pictures), "question": Modality("text", asked)}
    rows = Dataset("both ways", [f"b{i}" for i in part], columns, {}, None, None, "explanations")
    encoder = create_encoder("hashed-text", "text")

    def answers(data: Dataset, rows: np.ndarray, questions: list[int]) -> list[str]:
        return [f"yes because {asked[q]} of {'pqrstuvwxyzabcd'[r]}x" for r, q in zip(rows, questions, strict=True)]

    monkeypatch.setattr(net, "answers", answers)  # what is said tells picture and question

    def unit(tokens: list[np.ndarray]) -> np.ndarray:
        means = np.stack([t.mean(axis=0) for t in tokens])
        means = means - means.mean(axis=0)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    plain = [q.lower().strip("?") for q in asked]
    near = {"pictures": (unit(net.features(rows, part)), [i % 14 for i in part])}
    near["questions"] = unit(encoder.encode(plain)), plain
    expected = {"pictures RA@5": [], "pictures RA@10": [], "questions RA@5": []}
    for row in range(2):
        for name, scores in expected.items():
            (vectors, known), count = near[name.split()[0]], int(name.split("@")[1])
            first = [i for i in part if known[i] not in known[:i]]
            likest = sorted(first, key=lambda i, v=vectors, row=row: -round(float(v[row] @ v[i]), 6))[:count]
            assert known[likest[0]] == known[row], "its own is the first"
            texts = []
            for other in likest:
                shown, put = (other, row) if "pictures" in name else (row, other)
                texts += net.answers(rows, np.array([shown]), questions=[put])
            said = [t.mean(axis=0) for t in encoder.encode([spoken(text)[1] or "." for text in texts])]
            cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(said, 2)]
            scores.append(np.mean([max(0, cosine) for cosine in cosines]))
    assert all(0 < score < 0.99 for scores in expected.values() for score in scores)
    report = RetrievalAttack(queries=2).run(net, rows, "all", None, progress=False)
    assert report.values == pytest.approx({name: np.mean(scores) for name, scores in expected.items()}, abs=1e-5)
    assert [row["different"] for row in report.table] == [14, 6]
    silent = Dataset(
        "acts",
        rows.ids,
        {"image": columns["image"], "question": Modality("text", [None] * 24)},
        {},
        None,
        None,
        "explanations",
    )
    report = RetrievalAttack(queries=2).run(net, silent, "all", None, progress=False)
    assert set(report.values) == {"pictures RA@5", "pictures RA@10"}
    assert [row["different"] for row in report.table] == [14, 0]
    few = Dataset(
        "few", rows.ids, {**columns, "image": Modality("image", [pictures[0]] * 24)}, {}, None, None, "explanations"
    )
    with pytest.raises(UserError, match="a picture needs neighbours"):
        RetrievalAttack().run(net, few, "all", None, progress=False)


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory):
    """A tiny one over the words of the sheets, as a transformers folder."""
    folder = tmp_path_factory.mktemp("distilbert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "colour", "it", *COLOURS, "the", "sheet"]
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=len(words),
        dim=32,
        n_layers=1,
        n_heads=2,
        hidden_dim=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    transformers.DistilBertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return folder, words


def test_the_fine_tuned_reader_is_as_specified(distilbert):
    """Tokens and losses by hand, logits by transformers' own classifier."""
    folder, words = distilbert
    texts = {
        "question": ["What colour is it?", "Is it red?", None],
        "explanation": ["The sheet is red.", "It is green\nit is blue", "it is blue"],
        "answer": ["red\nred\nred\nred\nred\nblue", "no\nNo.\n?\nyes\nyes\nyes", "blue"],
    }
    columns = {name: Modality("text", cells) for name, cells in texts.items()}
    data = Dataset("said", ["a", "b", "c"], columns, {}, None, None, "explanations")
    rows = np.arange(3)
    torch.manual_seed(0)
    reader = AnswerReader.fitted(data, rows, text=f"hf:{folder}", asked=4, longest=8).eval()
    assert reader.answers == ["blue", "no", "red", "yes"]
    raw, target = reader.batch(data, rows)
    expected = ["[CLS] what colour is [SEP] the sheet is", "[CLS] is it red [SEP] it is green", "[CLS] it is blue"]
    read = [[words[i] for i in ids[mask]] for ids, mask in zip(raw.values, raw.mask, strict=True)]
    assert [" ".join(ids) for ids in read] == expected
    scores = [[0.3, 0, 1, 0], [0, 0.6, 0, 0.9], [1, 0, 0, 0]]
    torch.testing.assert_close(target, torch.tensor(scores))
    other = transformers.DistilBertForSequenceClassification.from_pretrained(folder, num_labels=4).eval()
    other.pre_classifier.load_state_dict(reader.head[0].state_dict())
    other.classifier.load_state_dict(reader.head[3].state_dict())
    assert reader.head[2].p == other.config.seq_classif_dropout
    with torch.no_grad():
        logits = other(input_ids=raw.values, attention_mask=raw.mask.long()).logits
        torch.testing.assert_close(reader(raw), logits)
        loss = reader.loss((raw, target))
    for row, wanted in enumerate(scores):
        p = logits[row].double().sigmoid().tolist()
        by_hand = -sum(w * math.log(q) + (1 - w) * math.log(1 - q) for w, q in zip(wanted, p, strict=True))
        assert float(loss[row]) == pytest.approx(by_hand, rel=1e-5)
    drawn = {tuple(reader.inputs(data, rows[1:2], np.random.default_rng(i)).values[0].tolist()) for i in range(9)}
    assert len(drawn) == 2, "one of a row's explanations"
    single = replace(data, modalities={**columns, "answer": Modality("text", ["red", "no", "blue"])})
    chosen = AnswerReader.fitted(single, rows[:2], text=f"hf:{folder}", asked=4, longest=8).eval()
    batch = chosen.batch(single, rows[:2])
    wanted = torch.nn.functional.cross_entropy(chosen(batch[0]), torch.tensor([1, 0]), reduction="none")
    torch.testing.assert_close(chosen.loss(batch), wanted)
    assert AnswerReader.fitted(single, rows[2:], text=f"hf:{folder}").soft, "without a question: as for ACT-X"


def test_explain_predict_fine_tunes(trained, distilbert, monkeypatch):
    """Answers are learned by heart from explanations, and explanations that are not true mislead; the encoder moves."""
    data, _, _, folder = trained
    net, text, kept = load_model(folder), f"hf:{distilbert[0]}", []
    training = {"epochs": 15, "lr": 3e-3}
    fitted = AnswerReader.fitted
    monkeypatch.setattr(AnswerReader, "fitted", lambda *a, **k: kept.append(fitted(*a, **k)) or kept[-1])
    before = create_encoder(text, "text").model.state_dict()
    judge = ExplainPredict(reader=text, training=training)
    found = judge.run(net, data, "test", None, progress=False).values
    assert found["true explanations"] > 0.9
    assert found["generated explanations"] > 0.8
    after = kept[0].tower.network.state_dict()
    moved = [name for name, weights in before.items() if not torch.equal(weights, after[name])]
    assert len(moved) == len(before), "all of it is fine-tuned"
    monkeypatch.setattr(net, "predictions", lambda data, rows: iter(["yes because the sheet is red"] * len(rows)))
    again = judge.run(net, data, "test", None, progress=False).values
    assert again["true explanations"] == found["true explanations"]
    assert again["generated explanations"] < 0.6
    with pytest.raises(UserError, match="towers that train are transformers models"):
        ExplainPredict(reader="tfidf").run(net, data, "test", None, progress=False)

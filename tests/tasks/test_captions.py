"""BLEU, ROUGE-L and CIDEr-D against figures of the COCO caption evaluation (pycocoevalcap 1.2, recorded once)."""

import numpy as np
import pytest

from weft.errors import UserError
from weft.tasks.captions import CaptionJudge, caption_scores, cider, rouge_l, words

REFERENCES = [
    ["a man sits on a red chair", "the man is sitting on a chair", "there is a man"],
    ["two dogs run over green grass", "dogs run"],
    ["it is a hot dog with many toppings"],
    ["the sky is blue and the sea is calm", "a calm blue sea"],
]
SAID = [
    "a man is sitting on the red chair", "two dogs run in a field of grass", "there are many toppings on a hot dog",
    "calm sea",
]  # fmt: skip


def test_figures_of_the_published_evaluation():
    found = caption_scores(SAID, REFERENCES)
    recorded = [0.7307692307411242, 0.5763400317000008, 0.4194836318613611, 0.26485821621557865]
    assert [found[f"bleu_{n}"] for n in range(1, 5)] == pytest.approx(recorded, abs=1e-8)
    assert found["rouge_l"] == pytest.approx(0.5969867665061963, abs=1e-12)
    assert found["cider"] == pytest.approx(2.3389727803955984, abs=1e-12)
    said, wanted = [words(t) for t in SAID], [[words(t) for t in refs] for refs in REFERENCES]
    rows = [0.6747787610619468, 0.7093023255813954, 0.375, 0.6288659793814433]
    np.testing.assert_allclose(rouge_l(said, wanted), rows, rtol=0, atol=1e-12)
    rows = [2.8833410248508433, 2.05926953714682, 3.0943893411936725, 1.3188912183910582]
    np.testing.assert_allclose(cider(said, wanted), rows, rtol=0, atol=1e-12)


def test_the_judge_reads_a_reference_per_line():
    judge, cells = CaptionJudge(), ["\n".join(refs) for refs in REFERENCES]
    assert judge.metrics(SAID, cells) == caption_scores(SAID, REFERENCES)
    assert judge.scores(SAID, cells).mean() == pytest.approx(judge.metrics(SAID, cells)["cider"])


def test_nothing_said_and_nothing_to_compare():
    assert caption_scores(["", "x"], [["a b"], ["c"]])["bleu_1"] == 0
    assert np.isnan(caption_scores([], [])["cider"])
    with pytest.raises(UserError, match="rows 1"):
        caption_scores(["a", "b"], [["a"], []])

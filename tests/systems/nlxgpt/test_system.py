"""NLX-GPT: a made world, captions first, a real GPT-2 folder, the published readers, the verbs, bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from PIL import Image

from tests.systems.nlxgpt.sheets import QUICK, sheets
from tests.systems.tiny import write_bert
from tests.systems.verbs import weft
from weft.data import Dataset, Modality, load_dataset
from weft.errors import UserError
from weft.models import load_model
from weft.models.seen import Seen
from weft.systems.nlxgpt.metrics import ExplanationJudge, Said
from weft.systems.nlxgpt.network import Decoder, Marks, generate
from weft.systems.nlxgpt.protocols import ExplainPredict
from weft.systems.nlxgpt.sequence import SPECIAL, majority, plain_answer, spoken
from weft.systems.nlxgpt.system import SMALL
from weft.tokens import Tokens
from weft.training.system_task import fit_system, make_system


def test_it_looks_and_the_folder_says_the_same(trained):
    """Colours cannot be known without the picture; with it, more than half of the explanations are right."""
    data, split, net, folder = trained
    said = list(net.predictions(data, split.test))
    why = [spoken(text)[1] for text in said]
    assert np.mean([w == data.modalities["explanation"].values[r] for w, r in zip(why, split.test, strict=True)]) > 0.8
    assert list(load_model(folder).predictions(data, split.test)) == said
    alone = [next(net.predictions(data, np.array([row]))) for row in split.test[:4]]
    assert alone == said[:4], "what a row is told does not depend on the others"


def test_captions_come_first(trained, tmp_path):
    """Words that the captions had not get rows of their own; the others keep theirs."""
    data, split, _, _ = trained
    columns = {"image": data.modalities["image"], "caption": data.modalities["explanation"]}
    pairs = Dataset("pairs", data.ids, columns, {}, None, None, "captions")
    first = make_system("nlx-gpt-captions", pairs, split.train, longest=16, steps=10)
    fit_system(first, pairs, split, {**QUICK, "epochs": 2}, tmp_path, progress=False)
    assert set(first.evaluate(pairs, split.test)) >= {"bleu_4", "cider"}
    net = make_system("nlx-gpt", data, split.train, start=str(tmp_path))
    old, new = (m.build.tokenizer.get_vocab() for m in (first, net))
    assert "Ġyes" in new
    assert "Ġyes" not in old
    for word in ("Ġsheet", *SPECIAL):
        weights = [m.network.transformer.wte.weight[v[word]] for m, v in ((first, old), (net, new))]
        torch.testing.assert_close(*weights)
    assert net.longest == 16


def test_concepts_come_before_the_question(trained, tmp_path):
    """The likeliest names of the picture, without segments; the model's folder needs no other."""
    data, split, _, _ = trained
    names = ["red_sheet", "green_sheet", "blue_sheet", "dark"]
    marks = np.array([[why.endswith(n.split("_")[0]) for n in names[:3]] + [i % 5 == 0] for i, why in enumerate(
        data.modalities["explanation"].values
    )])  # fmt: skip
    pictures = Dataset(
        "seen", data.ids, {"image": data.modalities["image"]}, {"concept": marks.astype(float)}, None, None,
        "multilabel", labels={"concept": tuple(names)},
    )  # fmt: skip
    tagger = make_system("nlx-gpt-concepts", pictures, split.train)
    fit_system(tagger, pictures, split, {"epochs": 15, "batch_size": 12, "lr": 5e-3}, tmp_path / "c", progress=False)
    assert tagger.evaluate(pictures, split.test)["average_precision"] > 0.6
    told = tagger.told(data, split.test)
    why = [data.modalities["explanation"].values[row].split()[-1] for row in split.test]
    assert np.mean([text.split()[0] == colour for text, colour in zip(told, why, strict=True)]) > 0.8
    options = {"longest": 16, "steps": 10, "concepts": str(tmp_path / "c")}
    net = make_system("nlx-gpt", data, split.train, **options)
    row = net.row(data, int(split.test[0]), None)
    seen = net.build.concepts(net.told(data, int(split.test[0])))
    assert row.ids[: len(seen)] == seen
    assert set(row.labels[: len(seen)]) == {-100}
    assert net.build.text(seen).split()[:2] == told[0].split()[:2]
    assert net.marks.because is None
    fit_system(net, data, split, QUICK, tmp_path / "m", progress=False)
    before = {name: p.clone() for name, p in net.tagger.state_dict().items()}
    assert all(torch.equal(p, before[name]) for name, p in tagger.state_dict().items()), "concepts are frozen"
    said = list(net.predictions(data, split.test))
    assert np.mean([spoken(text)[1].endswith(colour) for text, colour in zip(said, why, strict=True)]) > 0.8
    for file in (tmp_path / "c").rglob("*.safetensors"):
        file.unlink()
    assert list(load_model(tmp_path / "m").predictions(data, split.test)) == said
    with pytest.raises(UserError, match="told by a model of them"):
        make_system("nlx-gpt", data, split.train, concepts=str(tmp_path / "m"))
    columns = {"image": data.modalities["image"], "caption": data.modalities["explanation"]}
    captions = Dataset("captions", data.ids, columns, {}, None, None, "captions")
    with pytest.raises(UserError, match="come before a question"):
        make_system("nlx-gpt-captions", captions, split.train, concepts=str(tmp_path / "m"))


def test_the_loss_is_that_of_all_logits():
    """Computed at labels alone, it is the cross-entropy of the whole; a row without labels has none."""
    torch.manual_seed(0)
    net = Decoder({**SMALL, "vocab_size": 9, "n_positions": 8}, 8).double().eval()
    ids, image = torch.randint(0, 9, (3, 6)), Tokens(torch.randn(3, 2, 8).double(), torch.ones(3, 2, dtype=torch.bool))
    labels = ids.where(torch.rand(3, 6) < 0.6, -100)
    labels[2] = -100
    logits = net(ids, None, image).logits
    whole = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    found = net.loss(ids, None, image, labels)
    torch.testing.assert_close(found.mean(), whole)
    assert found[2] == 0
    assert net(ids, None, image, last=True).logits.shape == (3, 1, 9)
    torch.testing.assert_close(net(ids, None, image, last=True).logits[:, 0], logits[:, -1])


def test_tokens_are_drawn_as_often_as_they_are_likely():
    """Of many equal rows at a temperature; the likeliest alone of a small share; the same draws without a cache."""
    torch.manual_seed(0)
    net = Decoder({**SMALL, "vocab_size": 6, "n_positions": 8}, 8).eval()
    torch.nn.init.normal_(net.transformer.wte.weight, std=0.1)
    rows = 1000
    image = Tokens(torch.randn(1, 2, 8).expand(rows, -1, -1), torch.ones(rows, 2, dtype=torch.bool))
    prompts, marks = [([1, 2], [3, 3])] * rows, Marks({0}, 5, 3, 4)
    with torch.no_grad():
        one = Tokens(image.values[:1], image.mask[:1])
        logits = net(torch.tensor([[1, 2]]), torch.tensor([[3, 3]]), one).logits[0, -1]
    likely = (logits / 2).softmax(0)
    drawn = [text[0] if text else 0 for text in generate(net, prompts, image, marks, steps=1, temperature=2)]
    share = torch.bincount(torch.tensor(drawn), minlength=6) / rows
    torch.testing.assert_close(share, likely, rtol=0, atol=0.06)
    assert (share - logits.softmax(0)).abs().max() > 0.1, "the temperature counts"
    few = Tokens(image.values[:20], image.mask[:20])
    greedy = generate(net, prompts[:20], few, marks, steps=5)
    assert generate(net, prompts[:20], few, marks, steps=5, temperature=2, top_p=1e-6) == greedy
    again = []
    for cache in (True, False):
        torch.manual_seed(3)
        again.append(generate(net, prompts[:20], few, marks, steps=5, temperature=2, cache=cache))
    assert again[0] == again[1] != greedy


def test_a_gpt2_of_transformers(trained, tmp_path):
    """Its weights are there, its tokenizer gets the marks, and the folder can do without it."""
    data, split, _, _ = trained
    words = sorted({w for text in data.modalities["explanation"].values for w in text.split()})
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
    trainer.initial_alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(["the answer is yes because " + " ".join(words)] * 3, trainer)
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>").save_pretrained(tmp_path)
    config = transformers.GPT2Config(
        vocab_size=core.get_vocab_size(), n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    gpt = transformers.GPT2LMHeadModel(config)
    gpt.save_pretrained(tmp_path)
    net = make_system("nlx-gpt", data, split.train, decoder=str(tmp_path))
    own = net.network.transformer
    torch.testing.assert_close(own.wte.weight[: config.vocab_size], gpt.transformer.wte.weight)
    torch.testing.assert_close(own.h[0].attn.c_attn.weight, gpt.transformer.h[0].attn.c_attn.weight)
    assert len(own.wte.weight) == config.vocab_size + len(SPECIAL)
    net.save_pretrained(tmp_path / "model")
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).unlink()
    again = load_model(tmp_path / "model")
    assert list(again.predictions(data, split.test[:2])) == list(net.predictions(data, split.test[:2]))
    with pytest.raises(UserError, match="cannot be loaded"):
        make_system("nlx-gpt", data, split.train, decoder=str(tmp_path))


def test_places_tell_tokens_apart():
    """Without them the order of the image tokens is nothing to the decoder; with them it is, and more tokens go."""
    torch.manual_seed(0)
    values = torch.randn(1, 6, 8)
    ids = torch.tensor([[1, 2]])
    for places, same in ((0, True), (4, False)):
        net = Decoder({**SMALL, "vocab_size": 9, "n_positions": 4}, 8, places=places).eval()
        here, there = (
            net(ids, None, Tokens(v, torch.ones(1, 6, dtype=torch.bool))).logits for v in (values, values.flip(1))
        )
        assert torch.allclose(here, there, atol=1e-6) == same


def test_of_a_clip_it_sees_the_patches_after_the_last_norm(tmp_path):
    """As published, and as the vectors of its image encoder are made: without the class token, which comes off last."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes, image_size=16, patch_size=8)).eval()
    for p in clip.parameters():
        torch.nn.init.normal_(p, std=0.3)
    clip.save_pretrained(tmp_path)
    square = {"height": 16, "width": 16}
    processor = transformers.CLIPImageProcessorPil(size=square, crop_size=square)
    processor.save_pretrained(tmp_path)
    data = sheets(6)
    pixels = processor(data.modalities["image"].values, return_tensors="pt")["pixel_values"]
    norm = next(part for name, part in clip.named_modules() if name.endswith("post_layernorm"))
    with torch.no_grad():
        expected = norm(clip(pixels).last_hidden_state[:, 1:])
    assert expected.shape == (6, 4, 16)
    net = make_system("nlx-gpt", data, np.arange(6), vision=f"hf:{tmp_path}", longest=16, steps=2)
    np.testing.assert_allclose(np.stack(net.features(data, np.arange(6))), expected, atol=1e-5)
    net.save_pretrained(tmp_path / "model")
    again = load_model(tmp_path / "model")
    np.testing.assert_array_equal(again.features(data, np.arange(2)), net.features(data, np.arange(2)))


def test_published_size():
    """DistilGPT-2 (81,912,576 weights), cross-attention and four tokens, over CLIP ViT-B/16: 96 + 86 million."""
    with torch.device("meta"):
        net = Decoder({"n_layer": 6, "vocab_size": 50257 + len(SPECIAL)}, 768)
        vision = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(patch_size=16))
        ids, patches, mask = torch.zeros(2, 40, dtype=torch.long), torch.zeros(2, 196, 768), torch.ones(2, 1, 40, 40)
    linear = 768 * 768 + 768
    crossed = 6 * (4 * linear + 2 * 768)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (net, vision)]
    assert sizes == [81_912_576 + crossed + len(SPECIAL) * 768, 85_799_424]
    assert round(sum(sizes) / 1e6) == 182
    logits = net(ids, ids, Tokens(patches, torch.ones(2, 196, dtype=torch.bool)), attention_mask=mask.bool()).logits
    assert logits.shape == (2, 40, 50257 + len(SPECIAL))


def test_the_published_layouts(tmp_path, data_root):
    """The real VQA-X files with drawn photos under their names, and one item of each of the other two."""
    source = data_root / "vqax" / "nle_data" / "VQA-X"
    photos = tmp_path / "images" / "train2014"
    photos.mkdir(parents=True)
    (tmp_path / "nle_data").mkdir()
    (tmp_path / "nle_data" / "VQA-X").symlink_to(source)
    items = json.loads((source / "vqaX_train.json").read_text())
    for item in list(items.values())[:5]:
        Image.new("RGB", (32, 32)).save(photos / item["image_name"])
    data = load_dataset("vqa-x", root=tmp_path)
    key = next(iter(items))
    row = data.ids.index(key)
    assert data.modalities["question"].values[row] == items[key]["question"]
    assert data.modalities["explanation"].values[row].splitlines() == items[key]["explanation"]
    assert "without their photo" in data.notes[0]
    one = {"image_name": "a.png", "explanation": "why"}
    Image.new("RGB", (32, 32)).save(photos / "a.png")
    for name, prefix, item in (
        ("ACT-X", "actX", {**one, "answers": "reading, sitting", "explanation": ["why", "so"]}),
        ("eSNLI-VE", "esnlive", {**one, "answers": "neutral", "hypothesis": "A dog."}),
    ):
        (tmp_path / "nle_data" / name).mkdir()
        for part in ("train", "val", "test"):
            (tmp_path / "nle_data" / name / f"{prefix}_{part}.json").write_text(json.dumps({part: item}))
    acts = load_dataset("act-x", root=tmp_path)
    assert acts.modalities["answer"].values[0] == "reading"
    assert acts.modalities["question"].values[0] is None
    assert load_dataset("e-snli-ve", root=tmp_path).modalities["question"].values[0] == "A dog."
    with pytest.raises(UserError, match="no photo of any item"):
        load_dataset("vqa-x", root=tmp_path, images="nowhere")


def test_the_judge_by_hand():
    said = ["yes because it is red", "no because it is blue", "2 it is two"]
    target = Said(["yes\nyes\nno", "yes\nyes\nno", "two"], ["It is red.", "it is green", "it is two"])
    found = ExplanationJudge().metrics(said, target)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["accuracy any"] == pytest.approx(2 / 3)
    assert found["filtered bleu_3"] == pytest.approx(1)
    assert found["bleu_1"] < 1
    assert np.isnan(ExplanationJudge().metrics(["no"], Said(["yes"], ["x"]))["filtered cider"])


def test_answers_are_compared_as_vqa_does():
    """Expected by hand, by the rules of the VQA evaluation; what is no answer does not count as one."""
    for text, plain in {
        "Dont know": "don't know", "the men's room": "men's room", "its": "its", "wed": "wed",
        "couldnt've": "couldn't've", "couldn'tve": "couldn't've", "yall'd've": "y'all'd've", "twas": "'twas",
        "None": "0", "Ten.": "10", "2.5": "2.5", "1,000": "1000", "10:30": "10:30", "red,blue": "red blue",
        "yes, it is!": "yes it is", "black/white": "black white", "The": "", "?": "",
    }.items():  # fmt: skip
        assert plain_answer(text) == plain_answer(plain) == plain, text
    assert majority("?\nthe\n?\nred") == "red"
    found = ExplanationJudge().metrics(["the because it is red"], Said(["?\nno\nno"], ["it is red"]))
    assert found["accuracy any"] == 0


def test_verbs(tmp_path):
    data = sheets(40)
    table = ["image,question,answer,explanation"]
    for i, picture in enumerate(data.modalities["image"].values):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        cells = [data.modalities[name].values[i] for name in ("question", "answer", "explanation")]
        table.append(",".join([f"{i}.png", *cells]))
    (tmp_path / "rows.csv").write_text("\n".join(table))
    (tmp_path / "data.yaml").write_text(
        "table: rows.csv\ntask: retrieval\nmodalities:\n  image: {kind: image, column: image}\n"
        + "".join(f"  {name}: {{kind: text, column: {name}}}\n" for name in ("question", "answer", "explanation"))
    )
    options = ["--option", "longest=24", "--option", "steps=8", "--set", "epochs=1", "--set", "lr=0.004"]
    weft("fit", tmp_path / "data.yaml", "--system", "nlx-gpt", *options, "--out", tmp_path / "model")
    found = weft("evaluate", tmp_path / "model", tmp_path / "data.yaml")
    assert "accuracy" in json.dumps(found)
    said = weft("predict", tmp_path / "model", tmp_path / "data.yaml", "--split", "all")
    assert len(said["prediction"]) == len(said["id"]) == 40
    options = ["--option", f"reader=hf:{write_bert(tmp_path / 'bert')}", "--option", "training={epochs: 1}"]
    found = weft("evaluate", tmp_path / "model", tmp_path / "data.yaml", "--protocol", "explain-predict", *options)
    assert {"true explanations", "generated explanations"} <= set(found)


def test_drawn_questions_are_answered_by_the_picture():
    """Every explanation holds in the data it was drawn from, and half of the yes-or-no questions are a yes."""
    data, shapes = load_dataset("shape-questions", rows=300), load_dataset("shapes", rows=300, size=32, complete=True)
    columns = [data.modalities[name].values for name in ("question", "answer", "explanation")]
    kinds = {"yes": 0, "no": 0}
    for i, (question, answer, why) in enumerate(zip(*columns, strict=True)):
        told = {name: shapes.targets[name][i] for name in ("shape", "colour", "position")}
        assert all(value in why for value in told.values())
        if question.startswith("Is"):
            kinds[answer] += 1
            assert (told["colour"] in question) == (answer == "yes")
        else:
            assert answer == told["position" if question.startswith("Where") else "colour"]
    assert 0.4 < kinds["yes"] / sum(kinds.values()) < 0.6


def test_bad_input(trained, tmp_path):
    data, split, _, folder = trained
    row = int(split.train[0])
    for role in ("answer", "explanation", "image"):
        values = list(data.modalities[role].values)
        values[row] = None
        bad = replace(data, modalities={**data.modalities, role: replace(data.modalities[role], values=values)})
        net = make_system("nlx-gpt", bad, split.train)
        with pytest.raises(UserError, match=rf"reads '{role}' of every row[\s\S]*'{data.ids[row]}'"):
            fit_system(net, bad, split, QUICK, progress=False)
    for role, said in (("answer", "?\nthe"), ("explanation", " . ")):
        values = list(data.modalities[role].values)
        values[row] = said
        bad = replace(data, modalities={**data.modalities, role: replace(data.modalities[role], values=values)})
        net = make_system("nlx-gpt", bad, split.train)
        for ask in (
            lambda net=net, bad=bad: fit_system(net, bad, split, QUICK, progress=False),
            lambda net=net, bad=bad: net.evaluate(bad, split.train),
            lambda net=net, bad=bad: ExplainPredict().run(net, bad, "all", None, progress=False),
        ):
            net.seen = Seen.of(bad, split)
            with pytest.raises(UserError, match=rf"'{role}' says something in every row[\s\S]*'{data.ids[row]}'"):
                ask()
        assert len(list(net.predictions(bad, split.train[:2]))) == 2, "to predict, no answer is needed"
    with pytest.raises(UserError, match="does not fit the positions"):
        make_system("nlx-gpt", data, split.train, start=str(folder), longest=400)
    make_system("dvsm", views(), np.arange(8)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="continues from another"):
        make_system("nlx-gpt", data, split.train, start=str(tmp_path))
    long = replace(data, modalities={
        **data.modalities, "question": Modality("text", ["red " * 300] * len(data)),
    })  # fmt: skip
    assert len(load_model(folder).prompt(long, 0)[0]) <= 16


def views() -> Dataset:
    columns = {name: Modality("vector", list(np.eye(8, dtype=np.float32))) for name in ("a", "b")}
    labels = np.array(["x", "y"] * 4)
    return Dataset("views", [str(i) for i in range(8)], columns, {"c": labels}, None, None, "classification")

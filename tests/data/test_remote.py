"""Files behind addresses, from a small server of this machine that fails as servers do."""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile
from typer.testing import CliRunner

from weft.cli import app
from weft.data import Dataset, Modality, guess_table, load_config, read_table, remote
from weft.data.files import read_audio, read_image
from weft.data.remote import Remote, is_address, local
from weft.encoders import create_encoder
from weft.errors import UserError
from weft.store import Store, encode


def picture(shade: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(sink, "png")
    return sink.getvalue()


class Server(ThreadingHTTPServer):
    """Counts what is asked for; a path says how it is answered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: Counter[str] = Counter()
        self.now, self.most, self.guard = 0, 0, threading.Lock()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Answer(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None: ...

    def do_GET(self) -> None:
        path, server = urlsplit(self.path).path, self.server
        with server.guard:
            server.asked[path] += 1
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            self.answer(path, server.asked[path])
        finally:
            with server.guard:
                server.now -= 1

    def answer(self, path: str, times: int) -> None:
        kind, _, name = path.strip("/").partition("/")
        number = int("".join(c for c in name if c.isdigit()) or 0)
        if kind == "flaky" and times < 3:
            return self.say(503, b"", {"Retry-After": "0"} if times == 1 else {})
        if kind == "cut" and times < 2:
            return self.say(200, picture(number)[:30], {"Content-Length": str(len(picture(number)))})
        if kind == "drop" and times < 2:
            return self.connection.close()
        if kind in ("gone", "secret"):
            return self.say(404 if kind == "gone" else 403, b"")
        if kind == "down":
            return self.say(500, b"")
        if kind == "page":
            return self.say(200, b"<html>not here</html>")
        if kind == "large":
            return self.say(200, b"0" * 3_000_000, {} if number else {"Content-Length": "3000000"})
        if kind == "hang":
            time.sleep(1.0)
        if kind == "slow":
            time.sleep(0.05)
        if kind == "moved":
            return self.say(302, b"", {"Location": f"/ok/{name}" if number else "file:///etc/hostname"})
        if kind == "sound":
            sink = io.BytesIO()
            wavfile.write(sink, 8000, np.full(800, number, np.int16))
            return self.say(200, sink.getvalue(), {"Content-Type": "audio/x-wav"})
        return self.say(200, picture(number), {"Content-Type": "image/png"})

    def say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def shade(value: str) -> int:
    return int(np.asarray(read_image(Remote(value)))[0, 0, 0])


@pytest.mark.parametrize("kind", ["ok", "flaky", "cut", "drop", "moved"])
def test_what_passes_is_tried_again_and_kept(server: Server, kind: str) -> None:
    address = f"{server.root}/{kind}/7.png?size=big#top"
    assert shade(address) == 7
    asked = server.asked.copy()
    assert asked[f"/{kind}/7.png"] == {"ok": 1, "flaky": 3, "cut": 2, "drop": 2, "moved": 1}[kind]
    assert shade(address) == 7
    assert server.asked == asked


@pytest.mark.parametrize(
    ("path", "why", "tries"),
    [
        ("/gone/1.png", "HTTP 404", 1),
        ("/secret/1.png", "HTTP 403", 1),
        ("/down/1.png", "HTTP 500 Internal Server Error, 5 tries", 5),
        ("/moved/x.png", "HTTP 302 .*file:///etc/hostname", 1),
        ("/large/0.png", "3.0 MB, at most 2", 1),
        ("/large/1.png", "more than 2 MB", 1),
        ("/hang/1.png", "timed out, 5 tries", 5),
    ],
)
def test_what_does_not_come_is_said(
    server: Server, monkeypatch: pytest.MonkeyPatch, path: str, why: str, tries: int
) -> None:
    monkeypatch.setenv("WEFT_FETCH_MB", "2")
    monkeypatch.setenv("WEFT_FETCH_SECONDS", "0.1")
    with pytest.raises(UserError, match=rf"(?s)row 'a': the file cannot be fetched.*{path}: .*{why}"):
        read_image(Remote(server.root + path), "row 'a'")
    assert server.asked[path] == tries
    assert not list(remote.cache().rglob("*.png"))


def test_no_server_and_no_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_FETCH_TRIES", "2")
    with pytest.raises(UserError, match=r"refused.*2 tries"):
        read_image(Remote("http://127.0.0.1:9/a.png"))
    with pytest.raises(UserError, match="cannot be fetched"):
        read_image(Remote("http://[::1/a.png"))
    monkeypatch.setenv("WEFT_FETCH_TRIES", "none")
    with pytest.raises(UserError, match="WEFT_FETCH_TRIES=none"):
        read_image(Remote(f"{server.root}/ok/1.png"))
    assert is_address(" HTTPS://a.b/c ")
    assert not is_address("http://a b")
    assert not is_address("photos/http.png")


def test_a_page_instead_of_a_picture_is_not_kept(server: Server) -> None:
    address = f"{server.root}/page/1.png"
    for times in (1, 2):
        with pytest.raises(UserError, match=r"(?s)image file cannot be read.*/page/1\.png"):
            read_image(Remote(address))
        assert server.asked["/page/1.png"] == times


def test_sound_without_an_ending_goes_by_its_type(server: Server) -> None:
    samples, rate = read_audio(Remote(f"{server.root}/sound/16384"))
    assert rate == 8000
    np.testing.assert_allclose(samples, 0.5)
    assert local(Remote(f"{server.root}/sound/16384"), "sound").suffix == ".wav"


def rows_of(server: Server, kinds: list[str]) -> Dataset:
    values = [Remote(f"{server.root}/{kind}/{row}.png") for row, kind in enumerate(kinds)]
    modalities = {"photo": Modality("image", values), "text": Modality("text", [f"row {i}" for i in range(len(kinds))])}
    return Dataset("d", [f"r{i}" for i in range(len(kinds))], modalities, {}, None, None, "retrieval")


def made() -> dict[str, Any]:
    return {"photo": create_encoder("image-patches", "image"), "text": create_encoder("hashed-text", "text")}


def test_a_store_of_remote_pictures(server: Server, tmp_path: Path) -> None:
    """Several are fetched at a time; what fails is left out; what is there is not asked for again."""
    data = rows_of(server, ["slow", "flaky", "gone", "cut", "slow", "page"] * 4)
    store = encode(data, made(), tmp_path / "s", shard_rows=8, batch_size=4, on_error="skip", progress=False)
    assert {f.row for f in store.failures} == {f"r{i}" for i in range(24) if i % 6 in (2, 5)}
    assert {f.value for f in store.failures if f.row == "r2"} == {f"{server.root}/gone/2.png"}
    assert 2 <= server.most <= remote.AT_ONCE
    for row in (0, 1, 3, 22):
        expected = made()["photo"].encode([Image.new("RGB", (40, 30), (row, 0, 0))])[0]
        np.testing.assert_allclose(store.gather(np.array([row]))["photo"].values[0], expected, atol=1e-3)
    before = server.asked.copy()
    again = encode(data, made(), tmp_path / "s", shard_rows=8, batch_size=4, on_error="skip", progress=False)
    assert again.fingerprint == store.fingerprint
    assert {path.split("/")[1] for path in server.asked - before} == {"gone", "page"}


def test_a_run_that_stops_goes_on_without_asking_again(server: Server, tmp_path: Path) -> None:
    data = rows_of(server, ["ok"] * 10 + ["gone"] + ["ok"] * 5)
    with pytest.raises(UserError, match=r"(?s)'photo', row 'r10'.*HTTP 404.*--on-error skip"):
        encode(data, made(), tmp_path / "s", shard_rows=4, batch_size=4, progress=False)
    asked = server.asked.copy()
    assert len(asked) >= 10
    store = encode(data, made(), tmp_path / "s", shard_rows=4, batch_size=4, progress=False, on_error="skip")
    assert store.report.modalities["photo"].reused >= 8
    fresh = {path for path, times in (server.asked - asked).items()}
    assert not fresh & set(asked) - {"/gone/10.png"}


def test_a_table_of_addresses(server: Server, tmp_path: Path) -> None:
    lines, kinds = ["id,image_url,words,label"], ["gone" if i == 7 else "ok" for i in range(24)]
    lines += [f"r{i},{server.root}/{k}/{i}.png,some words of {i},{'ab'[i % 2]}" for i, k in enumerate(kinds)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    config = guess_table(tmp_path / "t.csv")
    assert {m.kind: m.column for m in config.modalities.values()}["image"] == "image_url"
    runner = CliRunner()
    assert runner.invoke(app, ["init", str(tmp_path / "t.csv"), "-o", str(tmp_path / "t.yaml")]).exit_code == 0
    assert not server.asked
    data = read_table(config.table, load_config(tmp_path / "t.yaml"))
    assert isinstance(data.modalities["image_url"].values[0], Remote)
    command = ["encode", str(tmp_path / "t.yaml"), "-o", str(tmp_path / "s"), "--on-error", "skip", "--json"]
    done = runner.invoke(app, command)
    assert done.exit_code == 0, done.output
    assert [failure["row"] for failure in json.loads(done.stdout)["failed"]] == ["r7"]
    assert Store.open(tmp_path / "s").presence.sum() == 47


def test_texts_in_files(server: Server, tmp_path: Path) -> None:
    """A column of names of text files, here or elsewhere, is what they say; one name among words is a word."""
    (tmp_path / "a.txt").write_text("the first", encoding="utf-8")
    (tmp_path / "b.md").write_bytes("\ufeffthe second".encode())
    (tmp_path / "empty.txt").write_text(" ")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")

    def read(cells: list[str | None], **options: Any) -> Dataset:
        rows = [{"id": i, "note": cell, "n": 1.5, "label": "ab"[i % 2]} for i, cell in enumerate(cells)]
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / "t.yaml").write_text(
            "table: t.jsonl\nid: id\ntarget: label\ntask: classification\nmodalities:\n"
            "  note: {kind: text, column: note}\n  n: {kind: tabular, columns: [n]}\n"
        )
        config = load_config(tmp_path / "t.yaml")
        return read_table(config.table, config, **options)

    address = f"{server.root}/page/1.txt"
    data = read(["a.txt", " b.md ", None, "empty.txt", address, "a.txt"])
    texts = ["the first", "the second", None, None, "<html>not here</html>", "the first"]
    assert data.modalities["note"].values == texts
    assert read(["a.txt", "see b.md", None, "c", "d"]).modalities["note"].values[0] == "a.txt"
    with pytest.raises(UserError, match=r"(?s)row '1': the text file is missing.*c\.txt"):
        read(["a.txt", "c.txt", "a.txt"])
    data = read(["a.txt", "c.txt", "bad.txt", f"{server.root}/gone/1.txt"], on_error="skip")
    assert [failure.row for failure in data.failures] == ["1", "2", "3"]
    assert "HTTP 404" in data.failures[2].why
    (tmp_path / "t.csv").write_text("note,label\n" + "a.txt,x\nb.md,y\n" * 10)
    assert guess_table(tmp_path / "t.csv").modalities["note"].kind == "text"

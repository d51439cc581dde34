"""A server that speaks the part of the Hugging Face hub's API that pushing and fetching folders use.

Repositories are kept in memory, one commit after another; tensors go the way of large files (LFS), the rest is part of
the commit. A token is ``token-of-USER``; it may write what is USER's and read what is USER's or public. ::

    with Hub() as hub:
        os.environ |= hub.environment("me")

or ``python -m tests.hub COMMAND``: the command with such an environment.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

LARGE = (".safetensors", ".parquet", ".png")


@dataclass
class Repo:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return next(reversed(self.commits), "")


class Hub:
    """The server, at :attr:`url`; :attr:`repos` by ``models/user/name``, :attr:`asked` all requests."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.refuse_commits = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self, name: str) -> dict[str, bytes]:
        """The newest files of ``models/user/name``."""
        repo = self.repos[name]
        return repo.commits[repo.head]

    def environment(self, user: str | None, cache: str) -> dict[str, str]:
        """What a program needs to use it: as a user, or as a stranger; what it fetches is kept in ``cache``."""
        token = {} if user is None else {"HF_TOKEN": f"token-of-{user}"}
        off = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return {"HF_ENDPOINT": self.url, "HF_HOME": cache, **off, **token}


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")

    @property
    def user(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer token-of-") or None

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)

    def refuse(self, status: int, code: str) -> None:
        self.answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def may(self, name: str, write: bool) -> bool:
        """Whether the user may; if not, the answer says so: what may not be read is not there."""
        repo, owner = self.hub.repos.get(name), name.split("/")[1]
        if repo is None or (repo.private and self.user != owner):
            self.refuse(404 if self.user else 401, "RepoNotFound")
        elif write and self.user != owner:
            self.refuse(403 if self.user else 401, "Forbidden")
        else:
            return True
        return False

    def do_PUT(self) -> None:
        content = self.body()
        assert hashlib.sha256(content).hexdigest() == self.path.removeprefix("/large/")
        self.hub.large[self.path.removeprefix("/large/")] = content
        self.answer({})

    def do_POST(self) -> None:
        content = self.body()
        if self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self.create(json.loads(content))
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.path):
            if self.may(f"{found[1] or 'models/'}{found[2]}", write=True):
                self.answer({"objects": [self.large(item) for item in json.loads(content)["objects"]]})
        elif found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/(preupload|commit)/(.+)", self.path):
            if self.may(f"{found[1]}/{found[2]}", write=True):
                self.preupload(content) if found[3] == "preupload" else self.commit(f"{found[1]}/{found[2]}", content)
        else:
            self.refuse(404, "EntryNotFound")

    def create(self, asked: dict[str, Any]) -> None:
        user = asked.get("organization") or self.user
        name = f"{asked.get('type', 'model')}s/{user}/{asked['name']}"
        if self.user is None or self.user != user:
            self.refuse(403 if self.user else 401, "Forbidden")
        elif name in self.hub.repos:
            self.answer({"url": f"{self.hub.url}/{name}", "error": "You already created this repo"}, 409)
        else:
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.hub.repos[name] = Repo(private, {"0" * 40: {".gitattributes": b""}})
            self.answer({"url": f"{self.hub.url}/{name.removeprefix('models/')}"})

    def large(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["oid"] in self.hub.large:
            return item
        return {**item, "actions": {"upload": {"href": f"{self.hub.url}/large/{item['oid']}"}}}

    def preupload(self, content: bytes) -> None:
        files = json.loads(content)["files"]
        modes = [(f["path"], "lfs" if f["path"].endswith(LARGE) else "regular") for f in files]
        self.answer({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes]})

    def commit(self, name: str, content: bytes) -> None:
        if self.hub.refuse_commits:
            self.refuse(403, "Forbidden")
            return
        repo = self.hub.repos[name]
        files = dict(repo.commits[repo.head])
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        made = hashlib.sha1(content + repo.head.encode()).hexdigest()
        repo.commits[made] = files
        url = f"{self.hub.url}/{name.removeprefix('models/')}/commit/{made}"
        self.answer({"commitUrl": url, "commitOid": made})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            name, what, revision = f"{found[1]}/{found[2]}", found[3], found[4] or "main"
            if self.may(name, write=False) and (files := self.at(name, revision)) is not None:
                listed = [self.entry(path, content) for path, content in sorted(files.items())]
                repo = self.hub.repos[name]
                about = {"id": found[2], "sha": self.sha(repo, revision), "private": repo.private}
                self.answer(
                    listed
                    if what == "tree"
                    else {**about, "siblings": [{"rfilename": e["path"]} for e in listed], "tags": [], "downloads": 0}
                )
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name = f"{found[1] or 'models/'}{found[2]}"
            if self.may(name, write=False) and (files := self.at(name, found[3])) is not None:
                if found[4] not in files:
                    self.refuse(404, "EntryNotFound")
                    return
                entry = self.entry(found[4], files[found[4]])
                etag = entry.get("lfs", entry)["oid"]
                self.answer(files[found[4]], X_Repo_Commit=self.sha(self.hub.repos[name], found[3]), ETag=f'"{etag}"')
        else:
            self.refuse(404, "EntryNotFound")

    def at(self, name: str, revision: str) -> dict[str, bytes] | None:
        found = self.hub.repos[name].commits.get(self.sha(self.hub.repos[name], revision))
        if found is None:
            self.refuse(404, "RevisionNotFound")
        return found

    def sha(self, repo: Repo, revision: str) -> str:
        return repo.head if revision == "main" else revision

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
        found["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if path.endswith(LARGE):
            found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return found


if __name__ == "__main__":
    with Hub() as hub, tempfile.TemporaryDirectory() as cache:
        sys.exit(subprocess.run(sys.argv[1:], env={**os.environ, **hub.environment("me", cache)}).returncode)

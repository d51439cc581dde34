"""Repositories of the Hugging Face hub, through ``huggingface_hub``: fetched into its cache, pushed as one commit.

Tokens come from where ``huggingface_hub`` looks for them: ``HF_TOKEN``, or what ``hf auth login`` kept. ``HF_ENDPOINT``
names another server. What travels are files of the names that weft's folders have (:data:`FILES`); nothing else of a
repository is downloaded, so no pickle is ever read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from weft.errors import UserError

Kind = Literal["model", "dataset"]
FILES = ("*.json", "*.safetensors", "*.parquet", "*.txt", "*.model", "*.jinja", "*.md", "figures/*.png")
"""What a folder of a model or a store may hold: settings, tensors, rows, vocabularies, its card."""
NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
ADDRESS = re.compile(rf"(?:hub|hf)://(?:(?P<kind>model|dataset)s/)?(?P<name>{NAME})(?:@(?P<revision>[\w./-]+))?/?")


@dataclass(frozen=True)
class Repo:
    """A repository.

    Attributes:
        name: ``"user/name"``.
        kind: ``"model"`` or ``"dataset"``; None: not said.
        revision: branch, tag or commit; None: the newest.
    """

    name: str
    kind: Kind | None = None
    revision: str | None = None

    @classmethod
    def of(cls, place: str) -> Self | None:
        """The repository of ``hub://[datasets/]user/name[@revision]`` or plain ``user/name``; None: of no such form."""
        found = ADDRESS.fullmatch(place) or ADDRESS.fullmatch(f"hub://{place}")
        if found is None or (found["name"].startswith(("models/", "datasets/")) and "://" not in place):
            return None
        return cls(found["name"], found["kind"], found["revision"])  # type: ignore[arg-type]

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hub://{'datasets/' if self.kind == 'dataset' else ''}{self.name}{revision}"


def fetch(repo: Repo, kinds: Sequence[Kind]) -> Path:
    """The folder of a repository in the cache of ``huggingface_hub``, up to date where the hub can be asked.

    Args:
        repo: which.
        kinds: what it may be, the likeliest first; a kind in its address counts more.

    Raises:
        UserError: it is not there or not for this user, or the hub cannot be reached and the cache lacks it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    first, *rest = (repo.kind,) if repo.kind else kinds
    asked: dict[str, Any] = {"revision": repo.revision, "allow_patterns": list(FILES), "library_name": "weft"}
    with _said(repo, "read"):
        try:
            return Path(snapshot_download(repo.name, repo_type=first, **asked))
        except RepositoryNotFoundError as error:
            if isinstance(error, GatedRepoError) or not rest:
                raise
            with suppress(RepositoryNotFoundError):
                return Path(snapshot_download(repo.name, repo_type=rest[0], **asked))
            raise


def commit(repo: Repo, files: Mapping[str, Path], message: str, *, private: bool = False) -> str:
    """Make a repository hold exactly these files, in one commit; it is created where it is not there yet.

    Args:
        repo: which; its kind has to be known.
        files: ``{path in the repository: file here}``.
        message: of the commit.
        private: of a repository that is created.

    Returns:
        Its address in a browser.

    Raises:
        UserError: no right to write there, or the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, kind = HfApi(library_name="weft"), repo.kind or "model"
    with _said(repo, "write"):
        url = api.create_repo(repo.name, repo_type=kind, private=private or None, exist_ok=True)
        old = api.list_repo_files(repo.name, repo_type=kind)
        steps: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
        steps += [CommitOperationDelete(name) for name in old if name not in files and name != ".gitattributes"]
        api.create_commit(repo.name, steps, commit_message=message, repo_type=kind, revision=repo.revision)
    return str(url)


@contextmanager
def _said(repo: Repo, right: Literal["read", "write"]) -> Iterator[None]:
    """What the hub says, as a UserError."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    unreachable: tuple[type[Exception], ...] = (hub.LocalEntryNotFoundError, ConnectionError, *_transport())
    login = f"set HF_TOKEN to a token with the right to {right} it (or: hf auth login)"
    try:
        yield
    except hub.GatedRepoError as error:
        raise UserError(
            "the repository is gated", f"{repo}: {_line(error)}", f"ask for access there; {login}"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise UserError("the repository has no such revision", str(repo), "name a branch, a tag or a commit") from error
    except hub.HfHubHTTPError as error:
        status = error.response.status_code
        if right == "read" and status in (401, 404):
            found = f"{repo} at {constants.ENDPOINT}, or it is private and no token of yours may read it"
            raise UserError(
                "there is no such repository", found, f"check the name; if it is private, {login}"
            ) from error
        if status in (401, 403):
            raise UserError(f"no right to {right} this repository", f"{repo}: {_line(error)}", login) from error
        raise UserError("the hub refused", f"{repo}: {_line(error)}", "try again later, or correct the name") from error
    except hub.HFValidationError as error:
        raise UserError("this is not a name of a repository", f"{repo}: {_line(error)}", "name it user/name") from error
    except unreachable as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _line(error.__cause__ or error)
        kept = "; what was fetched once is read without a network" if right == "read" else ""
        raise UserError(
            "the hub cannot be reached", f"{repo} at {constants.ENDPOINT}: {why}", f"connect and try again{kept}"
        ) from error


def _transport() -> tuple[type[Exception], ...]:
    """The errors of a network, of the client that huggingface_hub uses in this version."""
    import importlib

    found: list[type[Exception]] = []
    for name in ("httpx2", "httpx", "requests"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        found.append(module.ConnectionError if name == "requests" else module.TransportError)
    return tuple(found)


def _line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

"""Where a model, a store or a result lies: a folder here, a repository of the hub, or a URL that fsspec reads.

One rule, for every verb and every function that takes a place as text; a :class:`~pathlib.Path` is a folder here:

* what is there as a folder or a file is that one;
* ``hub://user/name``, ``hf://user/name``, or plainly ``user/name``: a repository, see :mod:`weft.hub`;
* ``s3://...``, ``gs://...``, ``memory://...``, any other ``scheme://``: fsspec reads and writes it, where the package
  for the scheme is installed.

:func:`here` makes any of these a folder of this machine, which is read as every other is. :func:`publish` writes a
finished folder, :func:`results` what a verb writes. A bucket renames nothing, so the files by which folders are known
(:data:`MARKS`) are taken away first and put back last: whoever reads in between finds no model, and never half of one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from weft.errors import UserError
from weft.files import canonical, lock, replacing, sha256
from weft.hub import FILES, Kind, Repo, commit, fetch

OWN = ".weft"
"""Says that all files at a URL are those of a folder that weft published, and may be replaced."""
WORK = ("jobs", "again", "last", "indexes")
"""Folders of what is needed only to go on where a run stopped: they are neither put at a URL nor fetched."""
MARKS = ("config.json", "manifest.json", "comparison.json")


def cache() -> Path:
    """Where copies of what lies at URLs are kept: ``$WEFT_CACHE``, else ``weft`` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("WEFT_CACHE") or Path(home) / "weft")


def elsewhere(place: str | Path) -> bool:
    """Whether a place is not on this machine: a URL, or the name of a repository that is no path here."""
    return isinstance(place, str) and ("://" in place or (Repo.of(place) is not None and not Path(place).exists()))


def here(place: str | Path, *kinds: Kind) -> Path:
    """A place as a folder of this machine: itself, or a copy, which is made once for each version.

    Args:
        place: path, name of a repository or URL.
        kinds: what a repository may be, the likeliest first; a model by default.

    Raises:
        UserError: there is nothing, it may not be read, or it cannot be reached.
    """
    if not elsewhere(place):
        return Path(place)
    repo = Repo.of(str(place))
    if repo is None and str(place).startswith("hub://"):
        raise UserError("this is not a name of a repository", str(place), "write hub://[datasets/]user/name[@revision]")
    if repo is None:
        return _fetch(str(place))
    try:
        return fetch(repo, kinds or ("model",))
    except UserError as error:
        if "://" in str(place):
            raise
        remedy = f"check the path; if the hub is meant: {error.remedy}"
        raise UserError(f"no such folder here, and {error.what}", f"{place}; {error.found}", remedy) from error


def publish(files: Mapping[str, Path], place: str, kind: Kind, *, private: bool = False) -> str:
    """Write a folder to a repository, or to a URL.

    Args:
        files: ``{path in it: file here}``; what an older version has besides is taken away.
        place: ``user/name``, ``hub://user/name`` or a URL.
        kind: of a repository.
        private: whether a repository that is created is private.

    Returns:
        Where it is, for a browser or a reader.

    Raises:
        UserError: the place holds something else, may not be written, or cannot be reached.
    """
    repo = Repo.of(place)
    if repo is not None:
        if repo.kind not in (None, kind):
            raise UserError(f"this is a {kind}", f"{place} is for a {repo.kind}", f"leave {repo.kind}s/ out")
        return commit(Repo(repo.name, kind, repo.revision), files, f"weft {kind}", private=private)
    if "://" not in place:
        raise UserError("this is not a place elsewhere", place, "give user/name, or a URL such as s3://bucket/folder")
    _claim(place)
    _replace(files, place)
    return place


@contextmanager
def results(url: str, *, folder: bool) -> Iterator[Path]:
    """A place of this machine to write results to; what is there at the end is put at the URL, if all went well.
    ``file://`` names the place itself.

    It is the same place for the same URL, so that what was killed goes on where it stopped.

    Args:
        url: where to.
        folder: whether the result is a folder, or one file with what lies beside it under its name (``FILE.json``).

    Raises:
        UserError: the URL holds something else, or cannot be written; the message says where the results are.
    """
    if Repo.of(url) is not None:
        raise UserError(
            "results are written here or to a URL", url, "write them here, then: weft push FOLDER user/name"
        )
    if _is_local(url):
        yield Path(_system(url)[1])
        return
    if folder:
        _claim(url)
    made = cache() / "results" / sha256(url.encode())[:16]
    made.mkdir(parents=True, exist_ok=True)
    place = made / (url.rstrip("/").rpartition("/")[2] or "result")
    yield place
    try:
        if place.is_dir():
            _claim(url)
            found = {path.relative_to(place).as_posix(): path for path in place.rglob("*") if path.is_file()}
            _replace({name: path for name, path in found.items() if _is_result(name)}, url)
        else:
            with _said(url):
                system, root = _system(url)
                for path in made.glob(f"{place.name}*"):
                    system.put_file(str(path), root + path.name.removeprefix(place.name))
    except UserError as error:
        raise UserError(error.what, error.found, f"{error.remedy}; the results are in {place}") from error


def _claim(url: str) -> None:
    """Make a URL that of a folder that weft publishes, and may replace."""
    with _said(url), NamedTemporaryFile() as empty:
        system, root = _system(url)
        system.invalidate_cache()
        old = set(system.find(root))
        if old and f"{root}/{OWN}" not in old:
            found = f"{url} holds {len(old)} files"
            raise UserError("only what weft published is replaced", found, "give the URL of a new or empty folder")
        system.put_file(empty.name, f"{root}/{OWN}")


def _replace(files: Mapping[str, Path], url: str) -> None:
    """Put these files, and no others, at a URL; those by which folders are known go first and come last."""
    with _said(url):
        system, root = _system(url)
        system.invalidate_cache()
        old = set(system.find(root))
        for path in old:
            if path.rpartition("/")[2] in MARKS:
                system.rm_file(path)
        for name in sorted(files, key=lambda name: (name.rpartition("/")[2] in MARKS, -name.count("/"), name)):
            system.put_file(str(files[name]), f"{root}/{name}")
        gone = old - {f"{root}/{name}" for name in (*files, OWN)}
        for path in gone:
            if path.rpartition("/")[2] not in MARKS:
                system.rm_file(path)


def _fetch(url: str) -> Path:
    """A copy of the folder at a URL, under a name that changes with any of its files."""
    with _said(url):
        system, root = _system(url)
        if _is_local(url):
            return Path(root)
        listed = _listed(system, root)
        if not listed:
            raise FileNotFoundError(f"no file of a model or a store under {url}")
        place = cache() / sha256(url.encode())[:16]
        folder = place / sha256(canonical(sorted(listed.items())))[:16]
        with lock(place / ".lock"):
            if folder.is_dir():
                return folder
            with replacing(folder) as fresh:
                for name in listed:
                    (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                system.get([f"{root}/{name}" for name in listed], [str(fresh / name) for name in listed])
                if _listed(system, root) != listed:
                    raise OSError("it was replaced while it was read; try again")
        return folder


def _listed(system: Any, root: str) -> dict[str, str]:
    """``{path below root: what changes with its content}`` of the files that weft reads."""
    system.invalidate_cache()
    names = [path.removeprefix(root).lstrip("/") for path in system.find(root)]
    known = [name for name in names if any(fnmatch(name, form) for form in FILES) and _is_result(name)]
    return {name: system.ukey(f"{root}/{name}") for name in known}


def _is_result(name: str) -> bool:
    parts = Path(name).parts
    return parts[0] not in WORK and ".." not in parts and not parts[-1].startswith(".")


def _system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it."""
    import fsspec

    system, root = fsspec.core.url_to_fs(url, **({"auto_mkdir": True} if _is_local(url) else {}))
    return system, str(root).rstrip("/")


def _is_local(url: str) -> bool:
    return url.startswith(("file:", "local:"))


@contextmanager
def _said(url: str) -> Iterator[None]:
    """What a file system says, whichever it is, as a UserError."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError("there is nothing at this URL", f"{url}: {error}", "check the address") from error
    except ImportError as error:
        remedy = "install the package it names (s3: pip install 'weft[s3]', gs: 'weft[gs]')"
        raise UserError("this kind of URL needs a package that is not installed", f"{url}: {error}", remedy) from error
    except Exception as error:  # every system raises errors of its own: no rights, no network, no such scheme
        remedy = "check the address, the network and the rights to it"
        raise UserError("the URL cannot be used", f"{url}: {type(error).__name__}: {error}", remedy) from error

"""Files behind ``http(s)://`` addresses in cells: fetched once, kept, tried again where it may help.

A file lies in the cache under the hash of its address and is never fetched again, so a run that is resumed, and every
other verb, finds it there; one that turns out to be damaged is taken out. An address stands for its content: a store
knows a remote value by its address, so what changes behind it is seen only in an empty cache and another store.

Four numbers can be set in the environment: ``WEFT_CACHE`` (the folder, default ``~/.cache/weft``),
``WEFT_FETCH_SECONDS`` (without a byte until a try counts as failed, default 20), ``WEFT_FETCH_TRIES`` (default 5) and
``WEFT_FETCH_MB`` (larger files are refused, default 100). Between tries the pause doubles from half a second, or is
what the server asks for, at most a minute. Tried again is what may pass: no connection, a broken one, and the statuses
408, 425, 429, 500, 502, 503 and 504; 404 is final.
"""

from __future__ import annotations

import hashlib
import http.client
import mimetypes
import os
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from weft.errors import UserError
from weft.files import write_bytes

SCHEMES = ("http://", "https://")
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
BROKEN = (URLError, http.client.HTTPException, ConnectionError, TimeoutError)
PAUSE, LONGEST_PAUSE = 0.5, 60.0
PATIENCE = 30
"""A try takes at most so many times the seconds without a byte."""
CHUNK = 1 << 16
AT_ONCE = 16
"""Files that are fetched at a time."""
KEPT_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"


class Remote(str):
    """The address of a file: what a cell that begins with ``http://`` or ``https://`` becomes."""

    __slots__ = ()


def is_address(cell: object) -> bool:
    """Whether a cell is the address of a file elsewhere."""
    return isinstance(cell, str) and cell.strip().lower().startswith(SCHEMES) and len(cell.split()) == 1


def local(value: str | Path, where: str) -> Path:
    """The file of a path, or of an address: from the cache, or fetched now.

    Args:
        value: a path, or a :class:`Remote`.
        where: what messages call the sample.

    Raises:
        UserError: it cannot be fetched.
    """
    if not isinstance(value, Remote):
        return Path(value)
    name = hashlib.sha256(value.encode()).hexdigest()
    folder = cache() / "files" / name[:2]
    found = next(folder.glob(f"{name}*"), None)
    if found is not None:
        return found
    tries, reason = int(_setting("WEFT_FETCH_TRIES", 5)), ""
    for number in range(1, tries + 1):
        try:
            content, suffix = _fetch(value)
        except _Final as error:
            reason = f"{error}"
            break
        except (*BROKEN, OSError) as error:
            reason = f"{_why(error)}, {number} tries"
            if number < tries:
                time.sleep(_pause(error, number))
        else:
            path = folder / f"{name}{suffix}"
            write_bytes(path, content, lasting=False)
            return path
    remedy = "correct the address, try again later, or empty the cell so that the modality counts as absent there"
    raise UserError(f"{where}: the file cannot be fetched", f"{value}: {reason}", remedy)


def cache() -> Path:
    """The folder of what was fetched."""
    return Path(os.environ.get("WEFT_CACHE") or Path.home() / ".cache" / "weft").expanduser()


class _Final(Exception):
    """What another try does not help."""


class _SameSchemes(HTTPRedirectHandler):
    """Redirects, but not to other kinds of addresses."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if not newurl.lower().startswith(SCHEMES):
            raise _Final(f"it is redirected to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(address: str) -> tuple[bytes, str]:
    """The content of a file and its ending."""
    seconds = _setting("WEFT_FETCH_SECONDS", 20)
    most = int(_setting("WEFT_FETCH_MB", 100) * 1e6)
    start, parts, size = time.monotonic(), [], 0
    try:
        request = Request(quote(address, safe=KEPT_CHARACTERS), headers={"User-Agent": "weft"})
        with build_opener(_SameSchemes).open(request, timeout=seconds) as answer:
            said = int(answer.headers.get("Content-Length") or 0)
            if said > most:
                raise _Final(f"{said / 1e6:.1f} MB, at most {most / 1e6:g} (WEFT_FETCH_MB)")
            while chunk := answer.read(CHUNK):
                parts.append(chunk)
                size += len(chunk)
                if size > most:
                    raise _Final(f"more than {most / 1e6:g} MB (WEFT_FETCH_MB)")
                if time.monotonic() - start > PATIENCE * seconds:
                    raise TimeoutError(f"not whole after {PATIENCE * seconds:g} s")
            type_ = answer.headers.get_content_type()
    except HTTPError as error:
        if error.code in PASSING:
            raise
        raise _Final(f"HTTP {error.code} {error.reason}") from error
    except (ValueError, UnicodeError) as error:
        raise _Final(f"no address: {error}") from error
    if size < said:
        raise ConnectionError(f"{size} of {said} bytes came")
    ending = Path(urlsplit(address).path).suffix.lower()
    return b"".join(parts), ending if 1 < len(ending) < 8 else mimetypes.guess_extension(type_) or ""


def _pause(error: Exception, number: int) -> float:
    """Seconds until the next try."""
    asked = error.headers.get("Retry-After", "") if isinstance(error, HTTPError) and error.headers else ""
    return min(LONGEST_PAUSE, float(asked) if asked.isdigit() else PAUSE * 2 ** (number - 1))


def _why(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(error.reason if isinstance(error, URLError) else error) or type(error).__name__


def _setting(name: str, default: float) -> float:
    """A positive number of the environment."""
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else float(default)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise UserError("a setting of the environment is a positive number", f"{name}={text}", f"for example {default}")
    return value

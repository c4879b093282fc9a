"""Downloading a file: resumed after a break, checked against its name, whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from detectron2.version import __version__

__all__ = ["DownloadError", "download", "hash_in_name"]

logger = logging.getLogger(__name__)

_ATTEMPTS = 4
_TIMEOUT_SECONDS = 30
_CHUNK = 1 << 20
_PASSING_ERRORS = (408, 429, 500, 502, 503, 504)


class DownloadError(OSError):
    """A file cannot be fetched, or what arrived is not what its name promises."""


class _WrongContentError(Exception):
    """What arrived is complete and wrong; asking again would give the same."""


def hash_in_name(filename: str) -> str:
    """First hexadecimal digits of the file's hash, as the model zoo writes them into names.

    ``model_final_a54504.pkl`` gives ``a54504``; a name without such an end gives "".
    """
    match = re.search(r"_([0-9a-f]{6,64})\.[a-z]+$", filename)
    return match.group(1) if match else ""


def download(url: str, target: str, expected_hash: str = "") -> None:
    """Fetch `url` into the file `target`, which appears only when it is complete.

    An interrupted download leaves ``target + ".part"`` and goes on from there the next time, if
    the server can tell that the file is still the same.

    Args:
        expected_hash: first digits of the SHA-256 or MD5 of the content; "" skips the check.

    Raises:
        DownloadError: the server cannot be reached or has no such file, or the content does not
            have this hash.
    """
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    part = Path(f"{target}.part")
    for attempt in range(_ATTEMPTS):
        try:
            server_hash = _fetch(url, part)
            _check(part, expected_hash, server_hash)
        except _WrongContentError as error:
            _forget(part)
            raise DownloadError(_explain(url, target, str(error))) from error
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # nothing follows what is there already: begin again
                _forget(part)
            elif error.code not in _PASSING_ERRORS or attempt == _ATTEMPTS - 1:
                reason = f"the server answers {error.code} {error.reason}"
                raise DownloadError(_explain(url, target, reason)) from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == _ATTEMPTS - 1:
                raise DownloadError(_explain(url, target, _reason(error))) from error
        else:
            os.replace(part, target)
            _forget(part)
            return
        time.sleep(0.2 * 2**attempt)


def _explain(url: str, target: str, reason: str) -> str:
    return (
        f"Cannot download {url}: {reason}. Download it by other means and put it at {target!r}, "
        "or, if it is the weights of a model, go on with random ones: --random-weights on the "
        "command line, MODEL.WEIGHTS '' (train.init_checkpoint '') in a config."
    )


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(error).__name__


# --- the transfer ---------------------------------------------------------------------------


def _fetch(url: str, part: Path) -> str:
    """Complete the file `part`. Returns the MD5 that the server knows of it, or ""."""
    offset = part.stat().st_size if part.exists() else 0
    validator = _validator_file(part)
    known = validator.read_text() if validator.exists() else ""
    headers = {"User-Agent": f"detectron2/{__version__}"}
    if offset and known:
        # With If-Range the server sends the rest only of the same file, otherwise all of the new.
        headers |= {"Range": f"bytes={offset}-", "If-Range": known}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        resumed = response.status == 206
        if not resumed:
            offset = 0
            validator.write_text(_validator(response.headers))
        else:
            logger.info("Resuming the download of %s at %d bytes.", url, offset)
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length else None
        with open(part, "ab" if resumed else "wb") as file:
            _copy(response, file, url, offset, total)
        _check_size(part, total)
        return _md5_of_etag(response.headers)


def _check_size(part: Path, total: int | None) -> None:
    size = part.stat().st_size
    if total is not None and size < total:
        raise ConnectionError(f"the connection broke after {size} of {total} bytes")
    if size == 0:
        raise _WrongContentError("the server sends an empty file")


def _copy(response: Any, file: IO[bytes], url: str, done: int, total: int | None) -> None:
    with _progress(url, done, total) as advance:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _progress(url: str, done: int, total: int | None) -> Iterator[Any]:
    """A bar on a terminal, one log line elsewhere."""
    if not sys.stderr.isatty():
        size = f" ({total / 1e6:.1f} MB)" if total else ""
        logger.info("Downloading %s%s ...", url, size)
        yield lambda count: None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(url.rsplit("/", 1)[-1], total=total, completed=done)
        yield lambda count: bar.advance(task, count)


# --- what arrived ---------------------------------------------------------------------------


def _check(part: Path, expected_hash: str, server_hash: str) -> None:
    if not expected_hash:
        return
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with open(part, "rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
    if any(h.hexdigest().startswith(expected_hash) for h in (sha256, md5)):
        return
    if server_hash == md5.hexdigest():
        # The transfer was right, so the digits in the name mean something else.
        logger.warning("The name of %s does not carry the hash of the file.", part.stem)
        return
    raise _WrongContentError(
        f"the file that arrived has the SHA-256 {sha256.hexdigest()[:12]}... and not the hash "
        f"{expected_hash} of its name"
    )


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _validator(headers: Any) -> str:
    """Strong validator of a response: its ETag, else the time of its last change."""
    etag = headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return headers.get("Last-Modified", "")


def _md5_of_etag(headers: Any) -> str:
    """Object stores use the MD5 of a file that was uploaded in one piece as its ETag."""
    etag = headers.get("ETag", "").strip('"')
    return etag if re.fullmatch(r"[0-9a-f]{32}", etag) else ""


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)

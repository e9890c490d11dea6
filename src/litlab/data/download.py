"""Published files, from the first of several addresses that gives them whole."""

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from time import monotonic
from urllib import request
from urllib.error import HTTPError, URLError
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from litlab.errors import UserError

TIMEOUT = 10.0
"""Seconds that an address has to accept a connection, and again for each part of its answer."""
SLOWEST = 10_000
"""Bytes a second that an address has to give, not counting the first TIMEOUT seconds."""


class _MirrorError(Exception):
    """Why an address is given up."""


def download(urls: Sequence[str], md5: str, file: Path) -> None:
    """Put the file with this MD5 sum, in hexadecimal, at `file`; the addresses, http or https, are tried in order.

    Whoever reads `file` meanwhile sees what was there before or all of the new one, however many processes download it.

    Raises:
        UserError: no address gives it; says why for each.
        OSError: it cannot be written.
    """
    aside = file.with_name(f".{file.name}.{uuid4().hex}")  # no other process writes there
    reasons = []
    try:
        for url in urls:
            try:
                _save(url, md5, aside)
            except _MirrorError as error:
                reasons.append(f"  {url}: {error}")
            else:
                aside.replace(file)
                return
    finally:
        aside.unlink(missing_ok=True)
    raise UserError(f"{file} could not be downloaded; try again later, or put it there (md5 {md5}):", *reasons)


def _save(url: str, md5: str, file: Path) -> None:
    with file.open("wb") as stream:
        stream.writelines(_parts(url, md5))
        stream.flush()
        os.fsync(stream.fileno())


def _parts(url: str, md5: str) -> Iterator[bytes]:
    """What `url` answers, as it comes; refused at its end if it is not the file with this MD5 sum."""
    digest, received, begun = hashlib.md5(usedforsecurity=False), 0, monotonic()
    try:
        with _opener().open(url, timeout=TIMEOUT) as answer:
            size, kind = answer.length, answer.headers.get_content_type()
            with _bar() as bar:
                task = bar.add_task(url, total=size)
                while part := answer.read1(2**16):  # waits for no more than the next packet: read() would for them all
                    yield part
                    digest.update(part)
                    received += len(part)
                    bar.update(task, completed=received)
                    if received < SLOWEST * (monotonic() - begun - TIMEOUT):
                        raise _MirrorError(f"slower than {SLOWEST} bytes a second")
    except (OSError, HTTPException, ValueError) as error:
        raise _MirrorError(_reason(error)) from error
    if size is not None and received < size:
        raise _MirrorError(f"cut off after {received} of {size} bytes")
    if digest.hexdigest() != md5:
        raise _MirrorError(f"answers with another file ({kind}, {received} bytes, its MD5 differs)")


def _opener() -> request.OpenerDirector:
    """Opens http and https, also by way of a proxy or a redirect; urllib's own would open local files as well."""
    opener = request.OpenerDirector()
    opener.addheaders = [("User-Agent", "litlab")]  # some servers turn urllib's away
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
        request.HTTPDefaultErrorHandler,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _bar() -> Progress:
    """How much has come, shown for as long as it lasts to whoever sits at a terminal."""
    terminal = sys.stderr.isatty()
    console = Console(stderr=True, quiet=not terminal)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    return Progress(*columns, console=console, transient=True, disable=not terminal)


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        error.close()
        return f"answers {error.code} {error.reason}"
    if isinstance(error, IncompleteRead):
        return "cut off"
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer for {TIMEOUT:g} seconds"
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__

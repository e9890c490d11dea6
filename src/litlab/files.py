"""Files that are whole at every moment, and folders that nobody shares."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from stat import S_ISREG


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A new file to write, which takes the place of `file` once it is on the disk.

    Whoever reads `file` meanwhile, or after a crash, sees the old content or the new one.
    """
    aside = file.with_name(f".{file.name}.new")
    try:
        aside.unlink(missing_ok=True)  # of a process that was killed; or a link that leads elsewhere
        yield aside
        sync(aside)
        aside.replace(file)
        sync(file.parent)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(aside)):
            error.filename = str(file)  # writing and syncing name none
        raise


LARGEST_TEXT = 2**20
"""Bytes that a config or a record may have: hundreds of times what ours have."""


LARGEST_PLAN = 2**24
"""Bytes that a sweep's plan may have, which lists its jobs."""


def read_text(file: Path, most: int = LARGEST_TEXT) -> str:
    """The content of a text that may be anybody's, of at most so many bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a file, too large for what it should be, or not text.
    """
    status = file.stat()
    if not S_ISREG(status.st_mode):  # a pipe, say, from which one would read for ever
        raise ValueError("it is not a file")
    if status.st_size > most:
        raise ValueError(f"it is larger than {most} bytes")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("it is not text") from error


def write_text(file: Path, text: str) -> None:
    """Replace the content of `file` by `text`."""
    with replacing(file) as aside:
        aside.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(files: Iterable[Path]) -> None:
    """Wait until these files, and the lists of the folders that they are in, are on the disk."""
    known = list(files)
    for path in [*known, *{file.parent for file in known}]:
        sync(path)


TIME = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-\d+)?"
"""What the name of a `new_folder` begins with."""


def new_folder(parent: str, name: str | None = None) -> str:
    """Make a folder named by the time in `parent`; of two processes that ask at once, each gets its own.

    Args:
        parent: where it is made.
        name: what its name ends with.
    """
    Path(parent).mkdir(parents=True, exist_ok=True)
    now, end = f"{datetime.now():%Y-%m-%d_%H-%M-%S}", f"_{name}" if name else ""
    attempt = 1
    while True:
        folder = Path(parent, now + ("" if attempt == 1 else f"-{attempt}") + end)
        try:
            folder.mkdir()
        except FileExistsError:
            attempt += 1
        else:
            return str(folder)

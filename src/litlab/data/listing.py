"""The files in a folder that a user has put there."""

import os
from collections.abc import Iterator
from pathlib import Path

from litlab.errors import UserError

LEFT_BY_OTHERS = frozenset(
    {
        "__macosx",
        "__pycache__",
        "@eadir",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "lost+found",
        "system volume information",
        "desktop.ini",
        "thumbs.db",
        "thumbs.db:encryptable",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "icon\r",
    }
)
"""Files and folders that operating systems and file servers leave in any folder, in lower case."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name, such as .DS_Store or __MACOSX, is hidden or was put there by no user."""
    return name.startswith(".") or name.casefold() in LEFT_BY_OTHERS


def visible_files(folder: Path) -> list[Path]:
    """All files in the folder, at any depth, sorted by folder and name; nothing hidden, no folder twice by a link.

    Raises:
        UserError: a folder cannot be read.
    """
    return [Path(place, name) for place, name in sorted(_walk(folder))]


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    """The folder and the name of each visible file."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error

    seen = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        own = {name: os.path.realpath(Path(place, name)) for name in sorted(folders) if not is_hidden(name)}
        folders[:] = [name for name, there in own.items() if there not in seen]
        seen.update(own.values())
        yield from ((place, name) for name in files if not is_hidden(name))

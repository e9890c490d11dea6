"""Files that are whole at every moment, and folders that nobody shares."""

import os
from datetime import datetime
from pathlib import Path


def write_text(file: Path, text: str) -> None:
    """Replace `file` by `text`; whoever reads it meanwhile, or after a crash, sees the old text or the new one."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(file)


def new_folder(parent: str) -> str:
    """Make a folder named by the time in `parent`; of two processes that ask at once, each gets its own."""
    Path(parent).mkdir(parents=True, exist_ok=True)
    now = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    attempt = 1
    while True:
        folder = Path(parent, now if attempt == 1 else f"{now}-{attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            attempt += 1
        else:
            return str(folder)

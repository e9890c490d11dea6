"""Files that are whole at every moment."""

import os
from pathlib import Path


def write_text(file: Path, text: str) -> None:
    """Replace `file` by `text`; whoever reads it meanwhile, or after a crash, sees the old text or the new one."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(file)

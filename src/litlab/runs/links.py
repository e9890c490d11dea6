"""Links in a folder that goes on: what the lab writes there, it writes nowhere else."""

import shutil
from collections.abc import Iterator
from glob import glob
from pathlib import Path

from litlab.errors import UserError
from litlab.files import replacing

FOLDERS = ("checkpoints", "csv", "experiment", "export", "pictures", "projector", "slurm")
"""Folders that the lab writes into, in that of a run or a sweep."""

FILES = (
    "train.log", "*-profile*.txt", "projector_config.pbtxt", "study.journal", ".study.journal.lock",
    "events.out.tfevents.*", "metrics.csv", "csv/metrics.csv", "hparams.yaml",
)  # fmt: skip
"""Files that are appended to, cut, or written as they are; all others are replaced as wholes."""

LARGEST_HOLE = 2**26
"""Bytes; more would not be read into memory without being noticed."""


def refuse_traps(folder: Path, asked: str) -> None:
    """Make sure that the lab can go on in a folder, and writes nothing outside; other programs' files do not matter.

    Raises:
        UserError: a folder that the lab writes into is elsewhere; or a file is none, or a huge one of which nothing is
            on the disk.
    """
    for path in _written(folder):
        require_inside(path if path.is_dir() else path.parent, folder, asked)
        if path.is_symlink() and not path.exists():
            continue  # it will be removed
        if not (path.is_dir() or (path.is_file() and path.name not in FOLDERS)):
            raise UserError(f"{asked}: {path} is not a {'folder' if path.name in FOLDERS else 'file'}")
        status = path.stat()
        if path.is_file() and status.st_size > LARGEST_HOLE and status.st_blocks * 512 < status.st_size // 1000:
            raise UserError(f"{asked}: {path} is mostly a hole")  # no file system packs so well what we write


def require_inside(place: Path, folder: Path, asked: str) -> None:
    """Make sure that what is written into a place stays in the folder.

    Raises:
        UserError: it would not.
    """
    if not place.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{asked}: {place} leads out of the folder, where nothing may be written")


def break_links(folder: Path) -> None:
    """Replace what others may share, by a symbolic or a hard link, with a copy; a link that leads nowhere is removed.

    Raises:
        OSError: the folder cannot be written.
    """
    for path in set(_written(folder)):
        if path.is_dir() or not (path.is_symlink() or path.stat().st_nlink > 1):
            continue
        if path.is_file():
            with replacing(path) as aside:
                shutil.copyfile(path, aside)
        else:
            path.unlink()


def _written(folder: Path) -> Iterator[Path]:
    """What the lab writes into, as far as it is there, in the folder of a run, or of a sweep and its jobs."""
    jobs = [path for path in folder.glob("[0-9]*") if path.name.isdigit() and path.is_dir()]
    yield from jobs
    for place in (folder, *jobs):
        for pattern in (*FOLDERS, *FILES):
            # Path.glob passes over a link that leads nowhere.
            yield from (place / name for name in glob(pattern, root_dir=place))  # noqa: PTH207

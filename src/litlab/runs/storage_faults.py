"""Disks and file systems that fail: told apart from what is wrong with the code or the settings."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from litlab.errors import ProcessLost, Pruned, StorageError, TrainingError, UserError
from litlab.runs.run import resume_command

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

STORAGE_FAULTS = NO_ROOM | {
    errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN, errno.ETIMEDOUT,
    errno.EMFILE, errno.ENFILE,
}  # fmt: skip
"""Error numbers of a disk, a mount or a file server that fails, and of a limit on open files."""


@contextmanager
def storage_may_fail(folder: Path, is_resumable: bool = True) -> Iterator[None]:
    """Tell a disk or a file system that fails from what is wrong with the code or the settings.

    Args:
        folder: the run's.
        is_resumable: whether the run can go on once it has a record, as a training can.

    Raises:
        StorageError: it was the storage; says how to go on.
    """
    try:
        yield
    except (ProcessLost, Pruned, StorageError, TrainingError):
        raise
    except Exception as error:
        fault = storage_fault(error, folder)
        if fault is None:
            raise
        problem, when = storage_problem(error, fault, folder)
        begun = f"what was saved before is whole; {when}, go on with: {resume_command(folder)}"
        can_go_on = is_resumable and (folder / "run.json").exists()
        raise StorageError(problem, begun if can_go_on else f"{when}, begin again") from error


def storage_fault(error: BaseException, folder: Path) -> OSError | None:
    """The failure of storage that led to `error`; None if the code or the settings are at fault.

    Args:
        error: what was raised.
        folder: the run's, in which no file operation fails unless something is wrong with the folder.
    """
    if isinstance(error, OSError) and _is_in(error, folder):
        return error
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and _number(cause) in STORAGE_FAULTS:
            return cause
        cause = cause.__cause__
    return None


def storage_problem(error: BaseException, fault: OSError, folder: Path) -> tuple[str, str]:
    """What failed, in words, and when it is of use to go on.

    Args:
        error: what was raised.
        fault: what `storage_fault` finds in it.
        folder: the run's.
    """
    number = _number(fault)
    reason = os.strerror(number) if number else str(fault)
    if isinstance(error, UserError) and len(error.args) == 1:
        problem = str(error)
    elif _is_in(fault, folder) or (fault.filename is None and number in {*NO_ROOM, errno.EROFS}):
        problem = f"{folder} cannot be written: {reason}"
    elif fault.filename is None:
        problem = f"a file cannot be read or written: {reason}"
    else:
        problem = f"{fault.filename} cannot be {'written' if number in NO_ROOM else 'used'}: {reason}"
    return problem, "once there is room" if number in NO_ROOM else "once that is mended"


def _is_in(error: OSError, folder: Path) -> bool:
    return isinstance(error.filename, str | bytes) and Path(os.fsdecode(error.filename)).is_relative_to(folder)


def _number(error: OSError) -> int | None:
    """The error's number; PyTorch's DataLoader passes errors of its workers on as text."""
    told = re.search(r"\[Errno (\d+)\]", str(error)) if error.errno is None else None
    return int(told[1]) if told else error.errno

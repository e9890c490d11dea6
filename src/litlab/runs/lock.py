"""A lock that says which process writes a run's or a sweep's folder."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

_locks: "WeakSet[FolderLock]" = WeakSet()


class FolderLock:
    """A lock on a folder; the operating system releases it however the process that holds it ends.

    It is exclusive for the process that writes, and shared, for an instant, by those that ask whether one does: the
    former can tell the two apart, so that asking never keeps it from the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / ".lock"
        self._descriptor: int | None = None
        _locks.add(self)

    def acquire(self) -> bool:
        """Take the lock unless another process has it; return whether it was taken.

        Raises:
            OSError: the folder cannot be written.
        """
        if self._descriptor is not None:
            return True
        if self._file.is_symlink():  # which nobody can have locked
            self._file.unlink(missing_ok=True)
        # The file is never written, so that a hard link in its place does no harm.
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            while not _flock(descriptor, fcntl.LOCK_EX):
                if not _flock(descriptor, fcntl.LOCK_SH):
                    os.close(descriptor)
                    return False
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # others only ask: try again
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Release the lock, if this process has it."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # for the processes, too, that were forked meanwhile
            self._forget()

    def is_held(self) -> bool:
        """Whether any process has the lock; nothing is written, and nobody is kept from it."""
        try:
            descriptor = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # without a file there is no lock
            return False
        try:
            return not _flock(descriptor, fcntl.LOCK_SH)
        except OSError:  # the file system knows no locks
            return False
        finally:
            os.close(descriptor)

    def __del__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = None


def _flock(descriptor: int, kind: int) -> bool:
    """Try to get a lock of this kind; return whether it was free."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _forget_all() -> None:
    for lock in list(_locks):
        lock._forget()


# A forked process that outlives this one must not keep the folder locked.
os.register_at_fork(after_in_child=_forget_all)

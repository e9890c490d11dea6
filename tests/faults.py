"""Faults of a file system, injected where a process opens, writes, syncs or renames files of a given name."""

import builtins
import errno
import io
import os
from fnmatch import fnmatch
from pathlib import Path

FAULTS = {
    errno.ENOSPC: "write",
    errno.EDQUOT: "write",
    errno.EIO: "write",
    errno.EROFS: "open",
    errno.EACCES: "open",
    errno.EMFILE: "open",
}
"""Error numbers, and where a file system comes up with them."""


class _Unwritable(io.FileIO):
    """A file that can be opened and not be written."""

    number = 0

    def write(self, _data):
        raise OSError(self.number, os.strerror(self.number))


def failing(name, number, stage, first=1, patch=setattr):
    """What makes each access to such files fail, the first being 1, from a given one on.

    Args:
        name: a pattern of the files' names; what is written aside, to take a file's place, goes by the name of that.
        number: of the error.
        stage: "open", "write", "sync" or "rename".
        first: the access from which on all fail.
        patch: what replaces a function, pytest's `monkeypatch.setattr` in a process that does something else later.
    """
    calls = []

    def is_due(path):
        own = Path(os.fsdecode(path)).name if isinstance(path, str | bytes | os.PathLike) else ""
        is_meant = fnmatch(own, name) or fnmatch(own, f".{name}.new")
        calls.extend([own] if is_meant else [])
        return is_meant and len(calls) >= first

    def fault(path):
        return OSError(number, os.strerror(number), os.fspath(path))

    def opening(original):
        def opened(file, mode="r", *arguments, **options):
            if not set(mode) & set("wax+") or not is_due(file):
                return original(file, mode, *arguments, **options)
            if stage == "open":
                raise fault(file)
            stream = _Unwritable(file, mode.replace("b", ""))
            stream.number = number
            written = io.BufferedWriter(stream)
            return written if "b" in mode else io.TextIOWrapper(written, encoding="utf-8")

        return opened

    def os_opening(original):
        def opened(path, flags, *arguments, **options):
            if flags & (os.O_WRONLY | os.O_RDWR) and is_due(path):
                raise fault(path)
            return original(path, flags, *arguments, **options)

        return opened

    def syncing(original):
        def synced(descriptor):
            if is_due(Path(f"/proc/self/fd/{descriptor}").readlink()):
                raise OSError(number, os.strerror(number))
            original(descriptor)

        return synced

    def renaming(original):
        def renamed(source, target):
            if is_due(target):
                raise OSError(number, os.strerror(number), os.fspath(source), None, os.fspath(target))
            original(source, target)

        return renamed

    opens = [(io, "open", opening), (builtins, "open", opening)]
    calls_of = {
        "open": [*opens, (os, "open", os_opening)],
        "write": opens,
        "sync": [(os, "fsync", syncing)],
        "rename": [(os, "replace", renaming)],
    }

    def prepare():
        for owner, function, wrap in calls_of[stage]:
            patch(owner, function, wrap(getattr(owner, function)))

    return prepare

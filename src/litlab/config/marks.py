"""Marks by which a user's own files are known: an HMAC with a key that only this user has."""

import hashlib
import hmac
import os
import re
import secrets
from functools import cache
from pathlib import Path

from litlab.errors import UserError
from litlab.files import LARGEST_PLAN, read_text
from litlab.messages import shell_quoted

MARK = re.compile(r'^(?:# mark: |  ?"mark": ")([0-9a-f]{64})(?:",)?\n', re.MULTILINE)
"""The line that holds the mark: a comment at the end of YAML, the first key of JSON."""


def marked(text: str) -> str:
    """The text, YAML or a JSON object, with this user's mark in a line of its own; an older mark is replaced.

    Raises:
        UserError: there is no key, and none can be made.
    """
    text = MARK.sub("", text)
    if text.startswith("{\n"):
        return f'{{\n "mark": "{_mark_of(text)}",\n{text[2:]}'
    return f"{text}# mark: {_mark_of(text)}\n"


def unmarked(text: str) -> str:
    """The text without its mark."""
    return MARK.sub("", text)


def is_mine(text: str) -> bool:
    """Whether this user has made the text, and nobody has changed it since.

    Raises:
        UserError: there is no key, and none can be made.
    """
    marks = MARK.findall(text)
    return len(marks) == 1 and hmac.compare_digest(marks[0], _mark_of(unmarked(text)))


def is_marked(file: Path) -> bool:
    """Whether this user has made the file, and nobody has changed it since; False where it cannot be read.

    Raises:
        UserError: there is no key, and none can be made.
    """
    try:
        return is_mine(read_text(file, LARGEST_PLAN))
    except (ValueError, OSError):
        return False


def require_mine(file: Path, asked: str) -> None:
    """Make sure that this user has made a file that decides what is built and run.

    Args:
        file: a run's config.yaml, a sweep's plan.json or an experiment.
        asked: what the user has typed, such as `resume=FOLDER`.

    Raises:
        UserError: somebody else has made it, or changed it since; or it does not exist.
    """
    if not file.is_file():
        raise UserError(f"{asked}: {file.parent} holds no {file.name}")
    if not is_marked(file):
        shown = shell_quoted(str(file if file.parent.name == "experiment" else file.parent))
        raise UserError(
            f"{asked}: {file.name} was made elsewhere (by somebody else, on another machine, by an older version) or "
            f"changed since; `litlab trust {shown}` "
            "shows what it would do, and marks it as yours"
        )


def _mark_of(text: str) -> str:
    return hmac.new(_key(key_file()), text.encode(), hashlib.sha256).hexdigest()


def key_file() -> Path:
    """Where this user's key is: in LITLAB_HOME, or in the folder that XDG gives to the state of programs."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(os.environ.get("LITLAB_HOME") or f"{state}/litlab").expanduser() / "key"


@cache
def _key(file: Path) -> bytes:
    try:
        if not file.exists():
            _make_key(file)
        status = file.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise UserError(f"{file}: others can read or change it; remove it, and a new one is made")
        return file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{file}, the key that marks your runs, cannot be used: {error.strerror}; LITLAB_HOME names another folder"
        ) from error


def _make_key(file: Path) -> None:
    """Make a key; of two processes that do so at once, one makes it for both."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".key.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as content:
            content.write(secrets.token_bytes(32))
            content.flush()
            os.fsync(content.fileno())
        try:
            os.link(aside, file)
        except FileExistsError:
            return
    finally:
        aside.unlink()

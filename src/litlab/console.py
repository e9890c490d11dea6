"""What the lab writes to standard output and standard error: lines, documents and the log.

Text may quote any file, so whatever could move a cursor or forge a line is made visible. Nobody needs to read it: a
stream that is closed, full or no longer read ends no command.
"""

import csv
import errno
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, TextIO, cast

from litlab.errors import UserError
from litlab.messages import visible

LAYOUT = "\n\t"
"""Control characters that a text of several lines may have."""


class Channel:
    """A standard stream that takes what it is given, also where the text cannot be encoded or nobody reads it.

    Attributes:
        stream: where it writes.
        failed: why it writes nothing more.
    """

    def __init__(self, stream: TextIO, failed: OSError | None = None) -> None:
        self.stream, self.failed = stream, failed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write, if that is still possible."""
        try:
            return self.stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Hand on what was written, if that is still possible."""
        try:
            self.stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failed = error
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.stream.fileno())  # takes what is left in buffers, and what other code writes
        os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def open_channels() -> None:
    """Make the standard streams Channels, and what Python itself writes there visible; closed ones lead nowhere.

    A closed stream would give its number to the next file, which would then get the output of other code.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: PTH123, SIM115
            os.set_inheritable(stream.fileno(), True)
            closed = OSError(errno.EBADF, "it is closed")
            setattr(sys, name, stream if name == "stdin" else Channel(stream, closed))
    if not isinstance(sys.stdout, Channel):
        sys.stdout = cast(TextIO, Channel(sys.stdout))
    if not isinstance(sys.stderr, Channel):
        sys.stderr = cast(TextIO, Channel(sys.stderr))
    sys.excepthook = lambda *error: print(visible("".join(traceback.format_exception(*error)), LAYOUT), file=sys.stderr)
    warnings.formatwarning = _formatwarning
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # Matplotlib draws a box instead


_pythons = warnings.formatwarning


def _formatwarning(*arguments: Any, **options: Any) -> str:
    return visible(_pythons(*arguments, **options), LAYOUT)


def say(line: str, stream: TextIO | None = None) -> None:
    """Write one line, by default to standard output."""
    print(visible(line), file=stream or sys.stdout, flush=True)


def print_document(text: str) -> None:
    """Print lines that another program may read; where they are for people, nothing in a line moves the cursor."""
    print(text, flush=True)


def require_written() -> None:
    """Make sure that standard output has taken what is a command's result; `head` may end after some lines.

    Raises:
        UserError: it could not be written.
    """
    failed = getattr(sys.stdout, "failed", None)
    if failed is not None and not isinstance(failed, BrokenPipeError):
        raise UserError(f"standard output cannot be written: {failed.strerror}")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV: exactly what they hold for programs and files, visible on a terminal."""
    text = io.StringIO()
    shown = visible if sys.stdout.isatty() else str
    csv.writer(text, lineterminator="\n").writerows(
        ["" if cell is None else shown(str(cell)) for cell in row] for row in rows
    )
    return text.getvalue().removesuffix("\n")


class LogFormatter(logging.Formatter):
    """Formats the log's records; what they quote stays in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text, of which only the message itself and a traceback may have several lines."""
        if isinstance(record.args, tuple):
            record.args = tuple(visible(str(one)) if isinstance(one, str | PurePath) else one for one in record.args)
        return visible(super().format(record), LAYOUT)


class LogFile(logging.FileHandler):
    """Writes a log file; if that fails, one line says so, and what was not written is tried again with the next."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Say why the file cannot be written, once."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.told:
            self.told = True
            say(f"{self.baseFilename} cannot be written: {error.strerror}", sys.stderr)


class StdoutHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stdout` is now: Rich takes its place while a progress bar is drawn, to write above that."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # StreamHandler's own would keep the stream

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The standard output, at this moment."""
        return sys.stdout

"""What goes to standard output: the log's lines, and documents."""

import logging
import os
import sys
from typing import TextIO


class StdoutHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stdout` is now: Rich takes its place while a progress bar is drawn, to write above that."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # StreamHandler's own would keep the stream

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The standard output, at this moment."""
        return sys.stdout


def print_document(text: str) -> None:
    """Print what another program may read, as far as that wants to: `head` ends after some lines."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would fail once more at its end

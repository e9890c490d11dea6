"""Where the log's lines go on the terminal."""

import logging
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

"""A debugger at its prompt has the terminal and Ctrl-C to itself."""

import bdb
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def at_prompt() -> bool:
    """Whether a debugger of Python's, such as pdb, is stepping through this thread."""
    return isinstance(getattr(sys.gettrace(), "__self__", None), bdb.Bdb)


@contextmanager
def announced(begins: Callable[[], None]) -> Iterator[None]:
    """Call `begins` whenever a debugger is about to take over, by `breakpoint()` or its own `set_trace()`."""
    set_trace = bdb.Bdb.set_trace

    def announce(debugger: bdb.Bdb, frame: Any = None, **options: Any) -> None:
        begins()
        if hasattr(debugger, "stdout"):
            debugger.stdout = sys.stdout  # it was made while a progress bar stood in for that
        set_trace(debugger, frame or sys._getframe().f_back, **options)

    bdb.Bdb.set_trace = announce  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        bdb.Bdb.set_trace = set_trace  # type: ignore[method-assign]

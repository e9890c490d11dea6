"""Signals that ask a command to stop: Ctrl-C, a closed terminal, a scheduler's SIGTERM, Slurm's SIGUSR1 before it."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from litlab.distributed import debugger

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal has asked the command to stop. No Exception, so that nothing takes it for an error to deal with."""

    def __init__(self, request: signal.Signals) -> None:
        super().__init__(request.name)

    @property
    def exit_code(self) -> int:
        """What a shell reports of a process that this signal has ended; 143 where a scheduler asked."""
        return {"SIGINT": 130, "SIGHUP": 129}.get(str(self), 143)


class StopRequest:
    """Whether a signal has asked to stop: the first one at once, or where the training next can; a second one kills.

    Attributes:
        noted: the signal that came.
        received: the same, once it counts.
        deferred: whether a signal is only noted for now; whoever sets this looks at `received`.
        shared: whether it counts only once litlab.distributed.group has told the other processes of the training.
    """

    def __init__(self) -> None:
        self.noted: signal.Signals | None = None
        self.received: signal.Signals | None = None
        self.deferred = self.shared = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals that come while this lasts; of use in the main thread only."""
        self.noted = self.received = None
        self.deferred = self.shared = False
        hung_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN  # nohup lets a command outlive its terminal
        numbers = [number for number in SIGNALS if number != signal.SIGHUP or hung_up]
        before: dict[signal.Signals, Any] = {number: signal.signal(number, self._take) for number in numbers}
        try:
            yield
        finally:
            for process in multiprocessing.active_children():
                process.kill()  # Python would ask them by SIGTERM, which those of `starting_processes` do not get
            for number, handler in before.items():
                signal.signal(number, handler)

    def at_once(self) -> None:
        """From here on a signal stops this process at once, one that is only noted so far, too.

        Raises:
            Interrupted: there is one.
        """
        self.deferred = self.shared = False
        self.received = self.received or self.noted
        self.check()

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Finish what must not be left half done before a signal counts."""
        deferred, self.deferred = self.deferred, True
        try:
            yield
        finally:
            self.deferred = deferred
        if not deferred:
            self.check()

    @contextmanager
    def starting_processes(self) -> Iterator[None]:
        """Hold signals back while this lasts; the processes that are started meanwhile never get any.

        One that came in between would leave a process that nobody knows of; and a signal to all processes, such as
        Ctrl-C, would end those that the training still needs.
        """
        ours = [number for number in SIGNALS if signal.getsignal(number) == self._take]
        with self.held_back():
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, ours)  # which a new process inherits
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def check(self) -> None:
        """Stop if a signal has asked for it.

        Raises:
            Interrupted: one has.
        """
        if self.received is not None:
            raise Interrupted(self.received)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and debugger.at_prompt():
            signal.default_int_handler(number, frame)
        if self.noted is not None:
            if number == signal.SIGHUP:
                return  # a shell passes it on to its jobs, and the kernel does once the shell has ended
            os._exit(Interrupted(self.noted).exit_code)  # files are whole at every moment
        self.noted = signal.Signals(number)
        if not self.shared:
            self.received = self.noted
        if not self.deferred:
            self.check()


stop = StopRequest()
"""The process's own: signals know no smaller unit."""

"""Errors of Lightning, of checkpoints and of signals, turned into what the user can act on."""

import logging
import re
import signal
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from litlab.callbacks.checkpoints import Checkpoints
from litlab.config import schema
from litlab.distributed.signals import Interrupted
from litlab.errors import ProcessLost, TrainingError, UserError
from litlab.messages import first_lines
from litlab.project import SOURCE
from litlab.runs.run import Run
from litlab.runs.storage_faults import storage_may_fail

log = logging.getLogger(__name__)


@contextmanager
def damaged_checkpoint_refused(file: Path | None, checkpoints: Checkpoints) -> Iterator[None]:
    """Whatever fails between reading a checkpoint and the first step is the checkpoint's fault."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, MemoryError) as error:
        if file is None or checkpoints.begun:
            raise
        raise UserError(f"{file} is not of this run, or damaged: {first_lines(error)}") from error


@contextmanager
def ending_with_hint(run: Run) -> Iterator[None]:
    """What ends the training early is told with the way to go on."""
    try:
        try:
            with storage_may_fail(run.folder):
                yield
        except SIGTERMException as error:  # Lightning has noticed the signal first
            raise Interrupted(signal.SIGTERM) from error
    except Interrupted as error:
        log.info("stopped by %s; to go on: %s", error, run.resume_command)
        raise
    except ProcessLost as error:
        raise ProcessLost(f"{error}; what was saved is whole, go on with: {run.resume_command}") from error
    except TrainingError as error:
        kept = f"the last good checkpoint is {run.last_checkpoint}" if run.last_checkpoint.exists() else "none was kept"
        hint = "try a lower optimizer.lr, trainer.gradient_clip_val, or trainer.on_nan=skip"
        raise TrainingError(f"{error}; {kept}; {hint}") from error


@contextmanager
def lightning_refusals_explained(callbacks: Mapping[str, Callback] = MappingProxyType({})) -> Iterator[None]:
    """What Lightning itself refuses, not the code that it calls, the user can put right by a setting or in a line.

    Args:
        callbacks: those that the config names, by their keys.
    """
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, AttributeError, ImportError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not Path(frames[-1].filename).is_relative_to(Path(lightning.__file__).parent):
            raise
        reason = str(error).strip().partition("\n")[0]
        selves = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
        if key := next((key for key, callback in callbacks.items() if any(callback is one for one in selves)), None):
            raise UserError(f"{key}: {reason}") from error
        ours = [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib")), SOURCE / "litlab"]
        called = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(part) for part in ours)]
        if called:
            line = f"{called[-1].filename}:{called[-1].lineno}"
            raise UserError(f"Lightning refuses what {line} asks for: {reason}") from error
        raise UserError(f"Lightning refuses these settings: {_by_our_keys(reason)}") from error


def _by_our_keys(text: str) -> str:
    """Lightning's text with its arguments written as our command line takes them."""

    def key(argument: re.Match[str]) -> str:
        if argument[1] not in schema.Trainer.model_fields:
            return argument[0]
        return f"trainer.{argument[1]}{(argument[2] or '').replace('None', 'null')}"

    return re.sub(r"`(\w+)(=\w+)?`", key, text)

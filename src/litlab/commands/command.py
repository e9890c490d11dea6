"""How any command is run: its command line is read, its config checked, and it ends in the way it should."""

import errno
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from litlab.config import schema
from litlab.config.command_line import given, in_order
from litlab.config.components import build
from litlab.config.compose import check, config_text, explain, run_config, without
from litlab.console import open_channels, say
from litlab.distributed import processes
from litlab.distributed.signals import Interrupted, stop
from litlab.errors import ProcessLost, TrainingError, UserError, VerificationError
from litlab.messages import is_text, visible
from litlab.project import CONFIGS
from litlab.runs.links import break_links
from litlab.runs.resume import resumed
from litlab.runs.run import refuse_taken
from litlab.runs.storage_faults import storage_may_fail

SCHEMAS: dict[str, type[schema.Settings]] = {
    "train": schema.TrainCommand,
    "evaluate": schema.Evaluate,
    "reproduce": schema.Reproduce,
    "compare": schema.Compare,
    "predict": schema.Predict,
    "export": schema.Export,
    "trust": schema.Trust,
}

LEAVE_NOTHING = ("compare", "predict", "export", "trust")
"""Commands that have no folder of their own."""

NOT_FOR_US = (errno.ENAMETOOLONG, errno.EACCES)
"""Errors of paths that nobody, or another user, can have meant."""

started = threading.Event()
"""Whether Hydra has done its part: from then on an error is ours to explain."""


def start(name: str, job: Callable[[DictConfig], Any], understood: Callable[[Sequence[str]], list[str]] = list) -> None:
    """Let Hydra parse the command line and run `job`; what the user can put right ends in one line and exit code 2.

    Args:
        name: the command's, and its config's.
        job: what it does with the composed config.
        understood: puts what may be typed into Hydra's words.
    """

    def guarded_job(composed: DictConfig) -> Any:
        started.set()
        with ending(name):
            if name in LEAVE_NOTHING:
                return job(composed)
            with storage_may_fail(Path(HydraConfig.get().runtime.output_dir), is_resumable=name == "train"):
                return job(composed)

    started.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them and leaving
    threading.excepthook = _tell_of_thread
    with ending(name), stop.listening():
        _refuse_undecodable(sys.argv[1:])
        sys.argv[1:] = understood(in_order(sys.argv[1:]))
        processes.forget_others()
        processes.shorten_socket_paths()
        try:
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(guarded_job)()
        except Exception as error:
            if started.is_set() or isinstance(error, UserError | HydraException | OmegaConfBaseException):
                raise
            # Hydra could not make a config or a folder of what was asked; a log file's error is the cause of another.
            failed = error if isinstance(error, OSError) else error.__cause__
            if isinstance(failed, OSError) and failed.filename:
                raise UserError(f"{failed.filename} cannot be used: {failed.strerror}") from error
            raise UserError(explain(error)) from error


def _refuse_undecodable(arguments: Sequence[str]) -> None:
    """Refuse what could not be written into a config or a record: names of files may be any bytes."""
    for text in arguments:
        if not is_text(text):
            hint = "rename it, or set PYTHONUTF8=1 if it is UTF-8"
            raise UserError(f"{text}: cannot be read as {sys.getfilesystemencoding()}; {hint}")


def _tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """A thread that cannot write says so to whoever waits for it; that is enough."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


@contextmanager
def ending(name: str) -> Iterator[None]:
    """End the command as it should end: with a line for each thing that was wrong, and the right exit code."""
    open_channels()
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        _leave(name, str(error) if isinstance(error, UserError) else explain(error), 2)
    except (TrainingError, VerificationError, ProcessLost) as error:
        _leave(name, visible(str(error)), 1)
    except Interrupted as error:
        _leave(name, f"stopped by {error}", error.exit_code)
    except OSError as error:
        if error.errno not in NOT_FOR_US or error.filename is None:
            raise
        _leave(name, visible(f"{os.fsdecode(error.filename)} cannot be used: {error.strerror}"), 2)


def _leave(name: str, message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        say(f"{name}: {line}", sys.stderr)
    sys.exit(code)


class CheckFirst(Callback):
    """Refuses a bad config before Hydra makes a folder; of a multirun, before the first job starts."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of a single run, and that its folder is free."""
        command = kwargs["config_name"]
        with ending(command):
            os.environ.update(config.hydra.job.env_set)  # Hydra itself does so later
            own = without(config, {"hydra"})
            check(own, SCHEMAS[command])
            typed = list(config.hydra.overrides.task)
            if command != "train":
                _refuse_several_processes()
            if of_sweeps := [text for text in typed if re.match(r"sweep[.=]", text)]:
                raise UserError(f"{of_sweeps[0]}: is for a sweep; add -m, or leave it out")
            if command == "train":
                build(check(own, schema.TrainCommand).launcher)  # which may refuse
            if OmegaConf.select(own, "resume.run") is not None:
                run, goes_on = resumed(own, given(typed))
                check(goes_on, schema.Train)
                with storage_may_fail(run.folder):
                    break_links(run.folder)  # before Hydra opens train.log
            elif command not in LEAVE_NOTHING:
                config_text(run_config(config))
                refuse_taken(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Only trainings make a sweep; litlab.sweeps checks their configs."""
        command = kwargs["config_name"]
        with ending(command):
            os.environ.update(config.hydra.job.env_set)
            if command != "train":
                raise UserError("does one thing at a time: leave out -m")
            _refuse_other_sweepers(config)
            _refuse_several_processes()
        started.set()


def _refuse_other_sweepers(config: DictConfig) -> None:
    """Refuse what a config file sets of Hydra's sweepers; the command line was looked at before.

    Raises:
        UserError: the sweep would not be the lab's own, or would not obey it.
    """
    hydras = cast("dict[str, Any]", OmegaConf.to_container(config.hydra, resolve=False))
    expected = {
        "sweeper": {"_target_": "hydra_plugins.litlab_sweeps.StudySweeper"},
        "launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
        "sweep": {"dir": hydras["sweep"]["dir"], "subdir": "${hydra.job.num}"},
    }
    for key, value in expected.items():
        if hydras[key] != value:
            raise UserError(f"hydra.{key}={hydras[key]}: only hydra.sweep.dir is obeyed; leave the rest out")


def _refuse_several_processes() -> None:
    if processes.given().count > 1:
        raise UserError("torchrun and srun can start several processes for one training alone: leave them out")

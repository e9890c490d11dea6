"""The front door: a name leads to its command, a command line to a request, an error to a line and an exit code."""

import errno
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NoReturn, cast

from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from litlab.commands.command import Command, Request
from litlab.commands.resume import run_folder
from litlab.config import hydra_app
from litlab.config.command_line import asked_group, given, in_order
from litlab.config.compose import check, config_text, typed, without_hydra
from litlab.config.explain import explain
from litlab.console import open_channels, print_document, say
from litlab.distributed import processes
from litlab.distributed.signals import Interrupted, stop
from litlab.errors import ProcessLost, TrainingError, UserError, VerificationError
from litlab.messages import is_text, visible
from litlab.project import CONFIGS, groups
from litlab.runs.run import refuse_taken
from litlab.runs.storage_faults import storage_may_fail

BY_LITLAB_ALONE = ("export", "trust", "rename", "report", "schema", "check")
"""Commands without a script of their own: a shell, or the system, has commands of these names."""

COMMANDS = ("train", "evaluate", "reproduce", "compare", "predict", *BY_LITLAB_ALONE)
"""Each is a module of that name in litlab.commands."""

EXPLAINED = (UserError, HydraException, OmegaConfBaseException)
"""Errors that become lines, and exit code 2."""

NOT_FOR_US = (errno.ENAMETOOLONG, errno.EACCES)
"""Errors of paths that nobody, or another user, can have meant."""


def find(name: str) -> Command[Any]:
    """Return the command of that name; its module imports no framework."""
    command: Command[Any] = import_module(f"litlab.commands.{name}").COMMAND
    return command


def help_of(name: str) -> str:
    """Return what `NAME --help` prints."""
    options = {group: sorted(file.stem for file in (CONFIGS / group).glob("*.yaml")) for group in groups()}
    listed = "\n".join(f"{group}: {', '.join(names)}" for group, names in options.items())
    typed = f"litlab {name}" if name in BY_LITLAB_ALONE else name
    shown = f"Show all keys and values:     {typed} --cfg job\n  Hydra's own flags:            {typed} --hydra-help"
    return f"{find(name).help.replace('$GROUPS', listed)}\n  {shown}\n"


# Hydra asks several times, and must get the same answer: hence the cache.
OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True)


def main() -> None:
    """`litlab COMMAND [OVERRIDES]`, or `python -m litlab …`: a command by its name."""
    open_channels()
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        say(f"litlab: usage: python -m litlab {'|'.join(COMMANDS)} [OVERRIDES]", sys.stderr)
        sys.exit(2)
    sys.argv[0] = f"python -m litlab {name}"
    start(name)


def start(name: str) -> None:
    """Let Hydra compose what the command line asks for, and do it; what the user can put right ends in exit code 2."""
    with ending(name), stop.listening():
        command = find(name)
        if command.join and processes.given().rank > 0:
            command.join()
            return
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them and leaving
        threading.excepthook = _tell_of_thread
        _refuse_undecodable(sys.argv[1:])
        if {"--help", "-h"} & set(sys.argv[1:]):
            print_document(_help(name, sys.argv[1:]))
            return
        if name == "train" and any(text.startswith("query=") for text in sys.argv[1:]):
            from litlab.config.group_help import completions

            for key in completions(os.environ.get("COMP_LINE", "")):  # besides those that Hydra finds in the config
                say(key)
        sys.argv[1:] = command.rewrite(in_order(sys.argv[1:]))
        processes.forget_others()
        processes.shorten_socket_paths()
        Prepare.request, Prepare.is_multirun, has_begun = None, False, False

        def job(_: DictConfig) -> None:
            nonlocal has_begun
            has_begun = True
            _run(name, command)

        try:
            hydra_app.run(name, job)
        except Exception as error:
            if has_begun or Prepare.is_multirun or isinstance(error, EXPLAINED):
                raise
            # Hydra could not make a config or a folder of what was asked; a log file's error is the cause of another.
            failed = error if isinstance(error, OSError) else error.__cause__
            if isinstance(failed, OSError) and failed.filename:
                raise UserError(f"{failed.filename} cannot be used: {failed.strerror}") from error
            raise UserError(explain(error)) from error


train, evaluate, reproduce, compare, predict = (
    partial(start, name) for name in COMMANDS if name not in BY_LITLAB_ALONE
)


def _help(name: str, arguments: Sequence[str]) -> str:
    """Return the help of a command, or of one of the groups of `train`."""
    group = asked_group(arguments) if name == "train" else None
    if group is None:
        return help_of(name)
    from litlab.config.group_help import help_of_group

    return help_of_group(group)


def _run(name: str, command: Command[Any]) -> None:
    """Do what Hydra's callback has made of the command line."""
    request = Prepare.request
    assert request is not None  # noqa: S101 (Hydra has called it before)
    with ending(name), ExitStack() as stack:
        if command.leaves_run:
            stack.enter_context(storage_may_fail(request.folder, is_resumable=command.join is not None))
        command.run(request)


class Prepare(Callback):
    """Validates the config before Hydra makes a folder; of a multirun, before the first job starts.

    Attributes:
        request: what the command is to do.
        is_multirun: whether litlab.sweeps is at work, which explains its errors itself.
    """

    request: ClassVar[Request[Any] | None] = None
    is_multirun: ClassVar[bool] = False

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the request of a single run."""
        name = kwargs["config_name"]
        with ending(name):
            os.environ.update(config.hydra.job.env_set)  # Hydra itself does so later
            command, own = find(name), without_hydra(config)
            settings = check(own, command.settings)
            if command.join is None:
                _refuse_several_processes()
            overrides = given(typed(config))
            if of_sweeps := [text for key, text in overrides.items() if key.partition(".")[0] == "sweep"]:
                raise UserError(f"{of_sweeps[0]}: is for a sweep; add -m, or leave it out")
            request = Request(settings, own, lambda: Path(config.hydra.run.dir).absolute(), overrides)
            if command.leaves_run and command.join is None:
                config_text(own)
                refuse_taken(request.folder)
            Prepare.request = command.prepare(request)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Only trainings make a sweep; litlab.sweeps validates their configs."""
        name = kwargs["config_name"]
        with ending(name):
            os.environ.update(config.hydra.job.env_set)
            if name != "train":
                raise UserError("does one thing at a time: leave out -m")
            _refuse_other_sweepers(config)
            _refuse_several_processes()
        Prepare.is_multirun = True


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
    if processes.given().world_size > 1:
        raise UserError("torchrun and srun can start several processes for one training alone: leave them out")


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
    except EXPLAINED as error:
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

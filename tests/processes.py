"""Commands in processes of their own, forked so that torch, which is imported already, need not be again."""

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing import forkserver

import torch
from conftest import ROOT
from lightning.pytorch import Callback

import litlab.distributed.processes
import litlab.training.build
from digits.mnist import MNISTDataModule
from litlab import cli, files

FORK = multiprocessing.get_context("fork")


@dataclass
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str

    def lines(self):
        return self.err.splitlines()


class Process:
    """`COMMAND ARGUMENTS` in a process of its own, whose output goes to files in `folder`."""

    def __init__(self, folder, command, *arguments, prepare=lambda: None):
        number = len(list(folder.glob("*.out")))
        self.out, self.err = folder / f"{number}.out", folder / f"{number}.err"
        self.out.touch()
        self.process = FORK.Process(target=self._run, args=(command, arguments, prepare))
        self.process.start()

    def _run(self, command, arguments, prepare):
        torch.set_num_threads(1)
        forkserver._forkserver._forkserver_pid = None  # one that the tests' process has started is not this one's child
        with self.out.open("w", 1) as out, self.err.open("w", 1) as err:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = out, err
            sys.argv = [f"python -m litlab {command}", *map(str, arguments)]
            try:
                prepare()
                cli.start(command)
            except Exception:
                traceback.print_exc()
                raise

    def send(self, number):
        os.kill(self.process.pid, number)

    def wait_for(self, condition):
        """Wait until the condition holds or the process has ended."""
        until = time.monotonic() + 150
        while not condition() and self.process.is_alive():
            assert time.monotonic() < until, "waited for two minutes and a half"
            time.sleep(0.002)

    def end(self):
        self.process.join(240)
        assert self.process.exitcode is not None, "did not end in four minutes"
        return Ended(self.process.exitcode, self.out.read_text(), self.err.read_text())


def run(folder, command, *arguments, prepare=lambda: None):
    """Run it to its end."""
    return Process(folder, command, *arguments, prepare=prepare).end()


def forking_others():
    """Let the processes that train along be forked, too."""
    litlab.distributed.processes.fork_server = lambda: FORK


def in_doubles():
    """Let all be computed with 16 digits, so that two ways to add up are the same but for the last ones."""
    build, touch = litlab.training.build.build_module, MNISTDataModule.on_after_batch_transfer

    def doubled(*arguments):
        images, labels = touch(*arguments)
        return images.double(), labels

    litlab.training.build.build_module = lambda *args, **kwargs: build(*args, **kwargs).double()
    MNISTDataModule.on_after_batch_transfer = doubled


def all_of(*preparations):
    """What does all that they do."""

    def prepare():
        for preparation in preparations:
            preparation()

    return prepare


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


class At(Callback):
    """Does something when a hook is called for the nth time."""

    def __init__(self, hook, call, action):
        self.left = call
        setattr(self, hook, self._hook)
        self.action = action

    def _hook(self, *_args):
        self.left -= 1
        if self.left == 0:
            self.action()

    # It takes the place of the lab's progress bar, which is called once for the steps of an execution.
    _hook.__module__ = "litlab.callbacks.progress"


def at(hook, call=1, action=kill_itself):
    """What prepares a process for that."""

    def prepare():
        litlab.training.build.progress = lambda: At(hook, call, action)

    return prepare


def while_writing(name, call=1, action=kill_itself):
    """What prepares a process to do something when the nth file of this name is written, but not yet in its place."""
    sync = files.sync
    calls = []

    def interrupted_sync(path):
        calls.append(path.name)
        if calls.count(f".{name}.new") == call and path.name == f".{name}.new":
            action()
        sync(path)

    def prepare():
        files.sync = interrupted_sync

    return prepare


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def script(name):
    """A module of `scripts/`."""
    file = ROOT / "scripts" / f"{name}.py"
    name = file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    with contextlib.suppress(KeyError):
        return sys.modules[name]
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

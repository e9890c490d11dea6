"""`train [OVERRIDES]`: train, then test the best weights."""

import sys
from dataclasses import dataclass
from pathlib import Path

from litlab.commands.command import Command, Request
from litlab.commands.resume import resumed
from litlab.config.command_line import of_train
from litlab.config.command_schema import TrainCommand
from litlab.config.components import build
from litlab.config.compose import check, config_text, run_config
from litlab.config.schema import Train
from litlab.distributed import processes
from litlab.distributed.signals import Interrupted
from litlab.errors import TrainingError, UserError
from litlab.files import write_text
from litlab.job_log import keeping_error
from litlab.runs.last import announce, remember
from litlab.runs.links import break_links
from litlab.runs.run import Run, refuse_taken
from litlab.runs.storage_faults import storage_may_fail
from litlab.sweeps.job import Job
from litlab.sweeps.launchers.base import Launcher
from litlab.sweeps.launchers.basic import Basic
from litlab.sweeps.single_run import run_single

HELP = """\
train: train a network, keep the best weights, test them.

  train                                    train the default network
  train trainer.max_epochs=1 seed=7        any key of the config, by its full name
  train optimizer=sgd optimizer.lr=0.1     another choice of a group, and its keys
  train experiment=tutorial                a recipe: many settings at once
  train -m optimizer.lr=1e-4,1e-3          a sweep: one run for each value
  train -m resume=last                     go on with the sweep that was stopped
  train debug=one_batch                    does everything fit together?
  train resume=last                        go on with the run that was stopped
  train name=wider tags=[ablation]         a name and words to find it by, as in evaluate run=wider
  train --help optimizer                   its keys, with types and what they mean

Groups and their options:
$GROUPS
Complete by tab:              eval "$(train -sc install=bash)"
A run's results are in        logs/train/runs/; its curves: tensorboard --logdir logs
"""


@dataclass(frozen=True)
class TrainRequest(Request[Train]):
    """A training to begin or to resume.

    Attributes:
        launcher: what starts it.
        config_text: what the run's config.yaml is to hold.
        is_resumed: whether the run in the folder goes on.
    """

    launcher: Launcher
    config_text: str
    is_resumed: bool

    @property
    def overrides(self) -> dict[str, str]:
        """What was typed of the run's own settings, by their keys."""
        own = (key for key in self.typed if key.partition(".")[0] not in ("resume", "launcher"))
        return {key: self.typed[key].partition("=")[2] for key in own}


def prepare(request: Request[TrainCommand]) -> TrainRequest:
    """Find out what is to be trained, or which run goes on, and build the launcher.

    Raises:
        UserError: the run may not go on, the folder is taken, or the launcher refuses.
    """
    asked, typed = request.settings, request.typed
    launcher: Launcher = build(asked.launcher)
    if asked.resume.run is None:
        refuse_taken(request.folder)
        own = run_config(request.config)
        text = config_text(own)
        return TrainRequest(asked.of_run(), own, request.choose_folder, typed, launcher, text, is_resumed=False)
    run, own = resumed(request.config, typed)
    settings = check(own, Train)
    announce("resume", asked.resume.run, run.folder)
    with storage_may_fail(run.folder):
        break_links(run.folder)  # before Hydra opens train.log
    return TrainRequest(settings, own, lambda: run.folder, typed, launcher, config_text(own), is_resumed=True)


def run(request: TrainRequest) -> None:
    """Train here, or let the launcher do it."""
    settings, folder = request.settings, request.folder
    if not request.is_resumed:
        refuse_taken(folder)
        write_text(folder / "config.yaml", request.config_text)
        remember(folder, Path(settings.paths.logs))
    changed = request.config_text if request.is_resumed else None
    if not isinstance(request.launcher, Basic):
        run_single(Job(folder, 0, request.overrides, changed=changed), request.launcher)
        return
    if settings.trainer.devices not in (1, -1, "auto"):
        processes.fork_server()  # imports torch, too, while this process does
    from litlab.training.train import train

    with keeping_error():
        if request.is_resumed:
            train(settings, Run.reopen(folder, request.overrides, changed))
        else:
            train(settings, Run.create(folder, settings.seed, request.overrides))


def join() -> None:
    """Train along with the process that torchrun or srun has started as the first, whose command line counts."""
    from litlab.distributed.group import run_given_worker
    from litlab.training.train import run_worker

    try:
        run_given_worker(run_worker)
    except (UserError, TrainingError):  # of which the first tells
        sys.exit(1)
    except Interrupted as error:
        sys.exit(error.exit_code)


COMMAND = Command(TrainCommand, HELP, run, rewrite=of_train, prepare=prepare, join=join, leaves_run=True)

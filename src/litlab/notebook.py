"""Training from Python, and what it has trained: `from litlab import train, load_run`."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from litlab.distributed.signals import stop
from litlab.errors import UserError
from litlab.files import new_folder
from litlab.runs.run import Run
from litlab.runs.storage_faults import storage_may_fail

FOR_THE_COMMAND = ("resume", "sweep", "launcher", "hydra")
"""Keys of what a call cannot do."""


def load_run(folder: str | Path) -> Run:
    """The run in a folder: `record` is what run.json says, `model` the network; neither takes Hydra or lightning.

    Raises:
        UserError: there is no run, or its record is damaged.
    """
    path = Path(folder).expanduser()
    if path.is_file():
        raise UserError(f"{path} is a file: give the run's folder")
    return Run.open(path)


def train(*overrides: str) -> Run:
    """Train as `train OVERRIDES` does on the command line, and return the run: `record` holds the metrics.

    Args:
        overrides: such as "optimizer.lr=0.01", "experiment=speedrun".

    Raises:
        UserError: one line for each override that is wrong; nothing was started.
        TrainingError: the loss became infinite or not a number.
        Interrupted: a signal asked to stop; the run can be resumed.
    """
    from litlab.config import command_schema, schema
    from litlab.config.command_line import given, of_train
    from litlab.config.compose import check, compose, run_config, write_config

    arguments = of_train(overrides)
    if unknown := [text for text in arguments if text.startswith("-")]:
        raise UserError(f"{unknown[0]}: an experiment's file of your own is for the command `train` alone")
    composed = compose("train", arguments)
    check(composed, command_schema.TrainCommand)
    texts = given(overrides)
    if text := next((text for key, text in texts.items() if key.partition(".")[0] in FOR_THE_COMMAND), None):
        raise UserError(f"{text}: is for the command `train` alone; leave it out")
    own = run_config(composed)
    config = check(own, schema.Train)
    from litlab.training.train import train as train_run

    folder = Path(new_folder(f"{config.paths.logs}/train/runs", config.name))
    write_config(folder, own)
    changes = {key: text.partition("=")[2] for key, text in texts.items()}
    in_main_thread = threading.current_thread() is threading.main_thread()
    with _logging_into(folder), stop.listening() if in_main_thread else nullcontext(), storage_may_fail(folder):
        return train_run(config, Run.create(folder, config.seed, changes))


@contextmanager
def _logging_into(folder: Path) -> Iterator[None]:
    """Tell on standard output how the run goes, and in its train.log, for as long as it lasts."""
    from litlab.job_log import log_into

    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    log_into(folder)
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.level, root.handlers[:] = level, handlers

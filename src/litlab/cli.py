"""The front door: one small function a command. A command imports torch only once its config is valid."""

import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from litlab import schema
from litlab.config import check, explain, load
from litlab.errors import TrainingError, UserError
from litlab.interruption import Interrupted, stop
from litlab.project import CONFIGS
from litlab.resume import resumed_config, run_to_resume
from litlab.runs.files import write_text
from litlab.runs.run import Run, newest_run, refuse_taken

SCHEMAS: dict[str, type[schema.Settings]] = {
    "train": schema.Train,
    "evaluate": schema.Evaluate,
    "reproduce": schema.Reproduce,
}


def train() -> None:
    """`train [OVERRIDES]`: train, then test the best weights."""
    # The key is a group of two, and for the usual one there is a short name.
    sys.argv = [re.sub(r"^resume=", "resume.run=", argument) for argument in sys.argv]
    _run("train", _train)


def evaluate() -> None:
    """`evaluate run=FOLDER`: test the weights that a run left behind."""
    _run("evaluate", _evaluate)


def reproduce() -> None:
    """`reproduce run=FOLDER`: run a run's config again, and say whether the results are the same."""
    _run("reproduce", _reproduce)


def main() -> None:
    """`python -m litlab COMMAND [OVERRIDES]`: a command by its name."""
    commands = {"train": train, "evaluate": evaluate, "reproduce": reproduce}
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in commands:
        print(f"litlab: usage: python -m litlab {'|'.join(commands)} [OVERRIDES]", file=sys.stderr)
        sys.exit(2)
    sys.argv[0] = f"python -m litlab {name}"
    commands[name]()


def _train(composed: DictConfig) -> float | None:
    config = check(composed, schema.Train)
    if config.resume.run is None:
        folder, changed = _job_folder(composed), None
    else:
        run, own = _resumed(composed, HydraConfig.get().overrides.task)
        config, folder, changed = check(own, schema.Train), run.folder, OmegaConf.to_yaml(own)
    from litlab.train import train as train_function

    return train_function(config, folder, resuming=changed is not None, changed=changed).objective


def _resumed(composed: DictConfig, overrides: Sequence[str]) -> tuple[Run, DictConfig]:
    """The run that goes on, and its config."""
    run = run_to_resume(composed.resume.run, Path(composed.paths.logs))
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    given = {override.key_or_group: str(override.input_line) for override in parsed}
    return run, resumed_config(run, composed, given)


def _evaluate(composed: DictConfig) -> None:
    config = check(composed, schema.Evaluate)
    path = _path(config.run, config.paths)
    run = Run.open(path)
    checkpoint = path.absolute() if path.suffix == ".ckpt" else run.best_checkpoint()
    trained = load(run.folder / "config.yaml", schema.Train)
    folder = _job_folder(composed)
    from litlab.evaluate import evaluate as evaluate_function

    accelerator = config.accelerator or trained.trainer.accelerator
    evaluate_function(trained, checkpoint, accelerator, run.record.precision, folder)


def _reproduce(composed: DictConfig) -> None:
    config = check(composed, schema.Reproduce)
    run = Run.open(_path(config.run, config.paths))
    trained = load(run.folder / "config.yaml", schema.Train)
    if run.record.status != "done":
        raise UserError(f"run={config.run}: nothing to compare with, the run's status is {run.record.status}")
    folder = _job_folder(composed)
    shutil.copyfile(run.folder / "config.yaml", folder / "config.yaml")  # it is a training, which can be resumed
    from litlab.reproduce import reproduce as reproduce_function

    if not reproduce_function(run, trained, folder):
        sys.exit(1)


def _path(run: str | int, paths: schema.Paths) -> Path:
    """Where the run is that was asked for."""
    return newest_run(Path(paths.logs)) if run == "last" else Path(str(run)).expanduser()


def _job_folder(composed: DictConfig) -> Path:
    """The folder that Hydra made for this job, now with the composed config in it."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    refuse_taken(folder)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(composed))
    return folder


class CheckFirst(Callback):
    """Refuses a bad config before Hydra makes a folder; of a multirun, before the first job starts."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of a single run, and that its folder is free."""
        command = kwargs["config_name"]
        with _ending(command):
            own = _without_hydra(config)
            check(own, SCHEMAS[command])
            if OmegaConf.select(own, "resume.run") is not None:
                check(_resumed(own, config.hydra.overrides.task)[1], schema.Train)
            else:
                refuse_taken(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compose and check the config of every job; sweepers but Hydra's own choose theirs as they go."""
        command = kwargs["config_name"]
        if not str(config.hydra.sweeper["_target_"]).endswith(".BasicSweeper"):
            return
        with _ending(command):
            overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
            for job in BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]:
                composed = hydra.compose(command, list(job))
                check(composed, SCHEMAS[command])
                if OmegaConf.select(composed, "resume.run") is not None:
                    raise UserError("resume goes on with one run: leave out -m, or resume")


def _without_hydra(config: DictConfig) -> DictConfig:
    copy = config.copy()
    with open_dict(copy):
        del copy["hydra"]
    return copy


def _run(name: str, job: Callable[[DictConfig], Any]) -> None:
    """Let Hydra parse the command line and run `job`; what the user can put right ends in one line and exit code 2."""
    started = False

    def guarded_job(composed: DictConfig) -> Any:
        nonlocal started
        started = True
        in_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
        # Of a multirun's jobs the others go on if the training of one goes wrong; Hydra raises that at the end.
        with _ending(name, but=TrainingError if in_multirun else ()):
            return job(composed)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them and leaving
    threading.excepthook = _tell_of_thread
    with _ending(name), stop.listening():
        try:
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(guarded_job)()
        except Exception as error:
            if started or isinstance(error, UserError | HydraException | OmegaConfBaseException):
                raise
            # Hydra could not make a config or a folder of what was asked; a log file's error is the cause of another.
            failed = error if isinstance(error, OSError) else error.__cause__
            if isinstance(failed, OSError) and failed.filename:
                raise UserError(f"{failed.filename} cannot be used: {failed.strerror}") from error
            raise UserError(explain(error)) from error


def _tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """A thread that cannot write says so to whoever waits for it; that is enough."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


@contextmanager
def _ending(name: str, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """End the command as it should end: with a line for each thing that was wrong, and the right exit code."""
    try:
        yield
    except but:
        raise
    except (UserError, HydraException, OmegaConfBaseException) as error:
        _leave(name, str(error) if isinstance(error, UserError) else explain(error), 2)
    except TrainingError as error:
        _leave(name, str(error), 1)
    except Interrupted as error:
        _leave(name, f"stopped by {error}", error.exit_code)


def _leave(name: str, message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        print(f"{name}: {line}", file=sys.stderr)
    sys.exit(code)

"""The front door: one small function a command. A command imports torch only once its config is valid."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from litlab import schema
from litlab.config import check, explain, load
from litlab.errors import UserError
from litlab.project import CONFIGS
from litlab.runs.run import Run, newest_run, refuse_taken

SCHEMAS: dict[str, type[schema.Settings]] = {"train": schema.Train, "evaluate": schema.Evaluate}


def train() -> None:
    """`train [OVERRIDES]`: train, then test the best weights."""
    _run("train", _train)


def evaluate() -> None:
    """`evaluate run=FOLDER`: test the weights that a run left behind."""
    _run("evaluate", _evaluate)


def main() -> None:
    """`python -m litlab COMMAND [OVERRIDES]`: a command by its name."""
    commands = {"train": train, "evaluate": evaluate}
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in commands:
        print(f"litlab: usage: python -m litlab {'|'.join(commands)} [OVERRIDES]", file=sys.stderr)
        sys.exit(2)
    sys.argv[0] = f"python -m litlab {name}"
    commands[name]()


def _train(composed: DictConfig) -> float | None:
    config = check(composed, schema.Train)
    folder = _job_folder(composed)
    from litlab.train import train as train_function

    return train_function(config, folder).objective


def _evaluate(composed: DictConfig) -> None:
    config = check(composed, schema.Evaluate)
    path = newest_run(Path(config.paths.logs)) if config.run == "last" else Path(str(config.run)).expanduser()
    run = Run.open(path)
    checkpoint = path.absolute() if path.suffix == ".ckpt" else run.best_checkpoint()
    trained = load(run.folder / "config.yaml", schema.Train)
    folder = _job_folder(composed)
    from litlab.evaluate import evaluate as evaluate_function

    evaluate_function(trained, checkpoint, config.accelerator or trained.trainer.accelerator, folder)


def _job_folder(composed: DictConfig) -> Path:
    """The folder that Hydra made for this job, now with the composed config in it."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    refuse_taken(folder)
    OmegaConf.save(composed, folder / "config.yaml")
    return folder


class CheckFirst(Callback):
    """Refuses a bad config before Hydra makes a folder; of a multirun, before the first job starts."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config of a single run, and that its folder is free."""
        command = kwargs["config_name"]
        with _refusing(command):
            check(_without_hydra(config), SCHEMAS[command])
            refuse_taken(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compose and check the config of every job; sweepers but Hydra's own choose theirs as they go."""
        command = kwargs["config_name"]
        if not str(config.hydra.sweeper["_target_"]).endswith(".BasicSweeper"):
            return
        with _refusing(command):
            overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
            for job in BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]:
                check(hydra.compose(command, list(job)), SCHEMAS[command])


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
        with _refusing(name):
            return job(composed)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them and leaving
    with _refusing(name):
        try:
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(guarded_job)()
        except (ValueError, OSError, YAMLError) as error:
            if started:
                raise
            raise UserError(explain(error)) from error  # Hydra could not make a config or a folder of what was asked


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """End the command with exit code 2 and a line for each thing that the user can put right."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        message = str(error) if isinstance(error, UserError) else explain(error)
        for line in message.splitlines():
            print(f"{name}: {line}", file=sys.stderr)
        sys.exit(2)

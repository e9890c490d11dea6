"""Training: from a config to a run."""

import logging
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler

from litlab import schema
from litlab.callbacks.epoch_lines import EpochLines
from litlab.callbacks.record import RecordRun
from litlab.callbacks.throughput import Throughput
from litlab.components import build
from litlab.errors import UserError
from litlab.runs.checkpoint import load_weights
from litlab.runs.run import CheckpointName, Run

log = logging.getLogger(__name__)

PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}

# Which devices there are and what each default means; set here because Lightning sets its own level when imported.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
# Lightning 2.6 asks torch in a way that torch 2.14 calls old; a user can do nothing about it.
warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
# An empty list is how a data module says that nothing is held out; where that matters, RecordRun says so.
warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")


@dataclass(frozen=True)
class Result:
    """What a training leads to."""

    run: Run
    objective: float | None
    """Best value of the monitored metric; None where there is none."""


def train(config: schema.Train, folder: Path) -> Result:
    """Train as `config` says, test the best weights, and leave everything in `folder`, which exists.

    Raises:
        UserError: the config asks for what cannot be had, such as a GPU or a metric that nothing logs.
    """
    run = Run.create(folder, config.seed)
    with run.tracked():
        seed_everything(config.seed, workers=True, verbose=False)  # before anything is built
        data: LightningDataModule = build(config.data)
        module = build_module(config)
        throughput = Throughput()
        record = RecordRun(run, config.checkpoint, throughput)
        checkpoints = _checkpoints(config.checkpoint, folder)
        trainer = make_trainer(
            config.trainer,
            callbacks=[*map(build, config.callbacks.values()), throughput, record, progress(), *checkpoints.values()],
            logger=[build(node, save_dir=folder) for node in config.logger.values()],
            folder=folder,
        )
        run.record.device = describe(trainer.strategy.root_device)
        run.save()
        log.info("training on %s", run.record.device)
        with _misconfiguration_is_the_users():
            trainer.fit(module, datamodule=data)
        run.record.checkpoints = {
            name: f"checkpoints/{name}.ckpt" for name, callback in checkpoints.items() if callback.best_model_path
        }
        if config.test:
            load_weights(module, run.best_checkpoint())
            test(trainer, module, data)
        log.info("results: %s\ncurves:  tensorboard --logdir %s", folder, folder)
    best = run.record.metrics.best
    return Result(run, objective=best.get(config.checkpoint.monitor) if config.checkpoint.monitor else None)


def build_module(config: schema.Train) -> LightningModule:
    """The LightningModule with its network, optimizer and schedule, its weights drawn anew."""
    scheduler = partial(build, config.scheduler) if config.scheduler else None
    module: LightningModule = build(config.model, optimizer=partial(build, config.optimizer), scheduler=scheduler)
    return module


def make_trainer(config: schema.Trainer, callbacks: list[Callback], logger: list[Logger], folder: Path) -> Trainer:
    """Lightning's Trainer; it draws and prints nothing of its own but a progress bar among the `callbacks`."""
    settings = config.model_dump()
    if config.profiler:
        settings["profiler"] = PROFILERS[config.profiler](dirpath=folder, filename="profile")
    with _misconfiguration_is_the_users():
        return Trainer(
            **settings,
            callbacks=callbacks,
            logger=logger,
            default_root_dir=folder,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        )


def test(trainer: Trainer, module: LightningModule, data: LightningDataModule) -> None:
    """Test the module's weights as they are, and print the result."""
    trainer.test(module, datamodule=data, verbose=False)
    for name, value in trainer.callback_metrics.items():
        log.info("%s %.4f", name, value.item())


def progress() -> Callback:
    """A progress bar on a terminal, elsewhere a line an epoch."""
    return RichProgressBar(leave=True) if sys.stdout.isatty() else EpochLines()


def describe(device: torch.device) -> str:
    """The device in words that tell machines apart."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"


def _checkpoints(config: schema.Checkpoint, folder: Path) -> dict[CheckpointName, ModelCheckpoint]:
    """Lightning's callbacks that keep the last weights and, where a metric is monitored, the best ones."""
    keep = partial(ModelCheckpoint, dirpath=folder / "checkpoints", enable_version_counter=False)
    checkpoints: dict[CheckpointName, ModelCheckpoint] = {"last": keep(filename="last", save_on_train_epoch_end=True)}
    if config.monitor:
        # When a validation ends, and only then, is there a metric to compare.
        checkpoints["best"] = keep(
            filename="best", monitor=config.monitor, mode=config.mode, save_on_train_epoch_end=False
        )
    return checkpoints


@contextmanager
def _misconfiguration_is_the_users() -> Iterator[None]:
    try:
        yield
    except MisconfigurationException as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"Lightning refuses these settings of trainer: {reason}") from error

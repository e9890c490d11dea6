"""Training: from a config to a run."""

import logging
import platform
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler

from litlab import schema
from litlab.callbacks.epoch_lines import EpochLines
from litlab.callbacks.record import RecordRun, numbers
from litlab.callbacks.throughput import Throughput
from litlab.components import build
from litlab.engine.hardware import best_precision, use_all_cores
from litlab.engine.metrics import StepMetrics
from litlab.engine.steps import execute_steps
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


def train(config: schema.Train, folder: Path) -> Run:
    """Train as `config` says, test the best weights, and leave everything in `folder`, which exists.

    Raises:
        UserError: the config asks for what cannot be had, such as a GPU or a metric that nothing logs.
    """
    run = Run.create(folder, config.seed)
    with run.tracked():
        use_all_cores()
        seed_everything(config.seed, workers=True, verbose=False)  # before anything is built
        data: LightningDataModule = build(config.data)
        module = build_module(config)
        throughput = Throughput()
        keep = checkpoints(config.checkpoint, folder)
        own = [throughput, RecordRun(run, keep.get("best"), throughput), progress(), *keep.values()]
        metrics = StepMetrics()  # the first, so that the others find what it gathers
        trainer = make_trainer(
            config.trainer,
            callbacks=[metrics, *map(build, config.callbacks.values()), *own],
            logger=[build(node, save_dir=folder) for node in config.logger.values()],
            folder=folder,
        )
        execute_steps(trainer, config.trainer.steps_per_execution, metrics)
        run.record.device = describe(trainer)
        run.save()
        log.info("training on %s", run.record.device)
        with _refusals_are_the_users():
            trainer.fit(module, datamodule=data)
        if config.test:
            load_weights(module, run.best_checkpoint())
            run.record.metrics.test = test(trainer, module, data)
        log.info("results: %s\ncurves:  tensorboard --logdir %s", folder, folder)
    return run


def build_module(config: schema.Train) -> LightningModule:
    """The LightningModule with its network, optimizer, schedule and augmentation, its weights drawn anew."""
    parts: dict[str, Any] = {"optimizer": partial(build, config.optimizer)}
    if config.scheduler:
        parts["scheduler"] = partial(build, config.scheduler)
    if config.augment:
        parts["augment"] = build(config.augment)
    module: LightningModule = build(config.model, **parts)
    return module


def make_trainer(config: schema.Trainer, callbacks: list[Callback], logger: list[Logger], folder: Path) -> Trainer:
    """Lightning's Trainer; it draws and prints nothing of its own but a progress bar among the `callbacks`."""
    settings = config.model_dump(exclude={"steps_per_execution"})
    if config.precision == "auto":
        settings["precision"] = best_precision(config.accelerator)
    if config.profiler:
        settings["profiler"] = PROFILERS[config.profiler](dirpath=folder, filename="profile")
    with _refusals_are_the_users():
        return Trainer(
            **settings,
            callbacks=callbacks,
            logger=logger,
            default_root_dir=folder,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        )


def test(trainer: Trainer, module: LightningModule, data: LightningDataModule) -> dict[str, float]:
    """Test the module's weights as they are; the metrics, which are also printed."""
    trainer.test(module, datamodule=data, verbose=False)
    metrics = numbers(trainer)
    for name, value in metrics.items():
        log.info("%s %.4f", name, value)
    return metrics


def progress() -> Callback:
    """A progress bar on a terminal, elsewhere a line an epoch."""
    return RichProgressBar(leave=True) if sys.stdout.isatty() else EpochLines()


def describe(trainer: Trainer) -> str:
    """The device and its number format in words that tell machines apart."""
    device = trainer.strategy.root_device
    is_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    return f"{device} ({name}, {trainer.precision})"


def checkpoints(config: schema.Checkpoint, folder: Path) -> dict[CheckpointName, ModelCheckpoint]:
    """Lightning's callbacks that keep the last weights and, where a metric is monitored, the best ones."""
    keep = partial(ModelCheckpoint, dirpath=folder / "checkpoints", enable_version_counter=False)
    kept: dict[CheckpointName, ModelCheckpoint] = {"last": keep(filename="last", save_on_train_epoch_end=True)}
    if config.monitor is not None:
        # When a validation ends, and only then, is there a metric to compare.
        kept["best"] = keep(filename="best", save_on_train_epoch_end=False, monitor=config.monitor, mode=config.mode)
    return kept


@contextmanager
def _refusals_are_the_users() -> Iterator[None]:
    """What Lightning itself refuses, not the code that it calls, the user can put right by a setting."""
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not raised_in.is_relative_to(Path(lightning.__file__).parent):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"Lightning refuses these settings: {reason}") from error

"""From settings to Lightning's objects: the module and the Trainer with its callbacks and loggers."""

import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, Timer
from lightning.pytorch.loggers import Logger
from torch import nn

from litlab.callbacks.checkpoints import Checkpoints
from litlab.callbacks.class_accuracy import ClassAccuracy
from litlab.callbacks.first_batch import FirstBatch
from litlab.callbacks.guard import guarded
from litlab.callbacks.overview import Overview
from litlab.callbacks.progress import progress
from litlab.callbacks.record import RecordRun
from litlab.callbacks.required import RequiredMetrics
from litlab.callbacks.shared_metrics import SharedMetrics
from litlab.callbacks.throughput import Throughput
from litlab.callbacks.trackers import guarded_tracker, is_tracker
from litlab.config import schema
from litlab.config.components import build, import_target, parameters, takes, without_downloads
from litlab.data.augment import on_each_image
from litlab.distributed.group import broadcast_from_rank_zero, is_rank_zero
from litlab.distributed.hardware import best_precision
from litlab.engine.metrics import StepMetrics
from litlab.engine.schedule import ScheduleFactory
from litlab.engine.steps import execute_steps
from litlab.errors import UserError
from litlab.messages import first_lines
from litlab.runs.run import Run
from litlab.training.errors import damaged_checkpoint_refused, lightning_refusals_explained
from litlab.training.initialize import initialize
from litlab.training.optimizer import OptimizerFactory
from litlab.training.trainer import make_trainer, note_device

log = logging.getLogger(__name__)


def with_trainers_shortcuts(settings: schema.Train) -> schema.Train:
    """Spell out what the Trainer's `fast_dev_run`, `overfit_batches` and `logger` mean for the other settings."""
    others, changes = settings.trainer.others, dict[str, Any]()
    if others.get("logger") is False:
        changes = {"logger": {}}
    if (overfitted := others.get("overfit_batches")) and "shuffle" in settings.data:
        limits = {"limit_train_batches": overfitted, "limit_val_batches": overfitted, "overfit_batches": 0.0}
        changes |= {
            "trainer": settings.trainer.model_copy(update=limits),
            "data": settings.data | {"shuffle": False},  # the same batches in each epoch
        }
    if batches := int(others.get("fast_dev_run", 0)):
        limited = ("max_steps", "limit_train_batches", "limit_val_batches", "limit_test_batches")
        once = {"max_epochs": 1, "num_sanity_val_steps": 0, "val_check_interval": 1.0, "check_val_every_n_epoch": 1}
        trainer = settings.trainer.model_copy(update=dict.fromkeys(limited, batches) | once)
        changes = {"logger": {}, "views": {}, "trainer": trainer}
        log.info("trainer.fast_dev_run: %d batches of training, validation and test; no loggers, no views", batches)
    return settings.model_copy(update=changes)


# Which devices there are and what each default means; set here because Lightning sets its own level when imported.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
# Lightning 2.6 asks torch in a way that torch 2.14 calls old; a user can do nothing about it.
warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
# An empty list is how a data module says that nothing is held out; where that matters, RecordRun says so.
warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
# Whether Slurm starts the processes is the command line's choice, and `litlab.distributed.processes` knows.
warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used")


@dataclass(frozen=True)
class Training:
    """What a training consists of.

    Attributes:
        named_callbacks: those that the settings name, by their keys.
        finders: those of them that look for a learning rate before the training.
    """

    data: LightningDataModule
    module: LightningModule
    trainer: Trainer
    checkpoints: Checkpoints
    overview: Overview
    named_callbacks: dict[str, Callback]
    finders: dict[str, LearningRateFinder]

    @contextmanager
    def errors_explained(self, checkpoint: Path | None) -> Iterator[None]:
        """Turn what Lightning refuses, and what a checkpoint breaks, into errors that the user can act on."""
        with (
            lightning_refusals_explained(self.named_callbacks),
            damaged_checkpoint_refused(checkpoint, self.checkpoints),
        ):
            yield


def build_training(settings: schema.Train, run: Run, callbacks: Sequence[Callback] = ()) -> Training:
    """Build the data, the module and the Trainer with all that a run has; `callbacks` come behind all others."""
    told, settings = settings, with_trainers_shortcuts(settings)
    data: LightningDataModule = build(settings.data, key="data", kind=LightningDataModule)
    module = build_module(settings, fetches_weights=not run.is_resumed)
    freezing = initialize(module, settings.init, run)
    _compile(module, settings.trainer.compile)
    metrics = StepMetrics(settings.trainer.on_nan == "skip")  # the first, so that the others find what it gathers
    throughput, checkpoints, overview = Throughput(), Checkpoints(run, settings, metrics), Overview(run)
    named: dict[str, Callback] = {
        f"callbacks.{name}": build(node, key=f"callbacks.{name}", kind=Callback)
        for name, node in settings.callbacks.items()
    }
    finders = _take_finders(named)
    views = {f"views.{name}": build(node, key=f"views.{name}", kind=Callback) for name, node in settings.views.items()}
    named |= {key: guarded(key, view) for key, view in views.items()}
    of_first_process = [RecordRun(run, throughput, metrics, named), overview] if is_rank_zero() else []
    own = [
        FirstBatch(settings.data, settings.model),
        throughput,
        guarded("accuracy of each class", ClassAccuracy(run)),
        SharedMetrics(),
        RequiredMetrics.of_run(settings, named),
        *freezing,
        *of_first_process,
        checkpoints,
    ]
    if is_rank_zero() and settings.trainer.others.get("enable_progress_bar") is not False:
        own.append(progress())
    if settings.trainer.precision == "auto" and run.record.precision is None:
        run.record.precision, reason = broadcast_from_rank_zero(
            lambda: best_precision(settings.trainer.accelerator, module)
        )
        log.info("trainer.precision=auto: %s, as %s", run.record.precision, reason)
    trainer = make_trainer(
        settings.trainer,
        callbacks=[metrics, *named.values(), *own],
        logger=[_logger(name, node, run.folder) for name, node in settings.logger.items()],
        folder=run.folder,
        precision=run.record.precision,
    )
    trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]  # Lightning would put those that save behind them
    if settings.trainer.max_time:
        named["trainer.max_time"] = next(one for one in trainer.callbacks if isinstance(one, Timer))  # type: ignore[attr-defined]
    execute_steps(trainer, settings.trainer.steps_per_execution, metrics, checkpoints)
    note_device(run, trainer)
    run.record.settings = told.model_dump()
    return Training(data, module, trainer, checkpoints, overview, named, finders)


def _logger(name: str, node: Mapping[str, Any], folder: Path) -> Logger:
    """Build a logger; those that take a `save_dir` are given the run's folder."""
    key = f"logger.{name}"
    place = {"save_dir": folder} if "save_dir" in parameters(import_target(str(node["_target_"]), key)) else {}
    logger: Logger = build(node, key=key, kind=Logger, **place)
    return guarded_tracker(name, logger, folder) if is_tracker(logger) and is_rank_zero() else logger


def _compile(module: LightningModule, asked: bool | dict[str, Any]) -> None:
    """Compile the module in place, so that its weights keep their names.

    Raises:
        UserError: there is no compiler, or torch.compile does not take these arguments.
    """
    if asked is False:
        return
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl"))):
        raise UserError("trainer.compile: needs a C++ compiler; install g++, or set trainer.compile=false")
    try:
        module.compile(**(asked if isinstance(asked, dict) else {}))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"trainer.compile={asked}: {first_lines(error)}") from error


def _take_finders(callbacks: dict[str, Callback]) -> dict[str, LearningRateFinder]:
    """Take out the learning-rate finders, which are at work before the training.

    Raises:
        UserError: a tuner would change the run's settings on the way, which its folder cannot hold.
    """
    finders = {key: one for key, one in callbacks.items() if type(one) is LearningRateFinder}
    for key in finders:
        del callbacks[key]
    for key, callback in callbacks.items():
        for kind, setting in ((BatchSizeFinder, "data.batch_size"), (LearningRateFinder, "optimizer.lr")):
            if isinstance(callback, kind):
                found = f"what a {type(callback).__name__} finds would not be in the run's config"
                raise UserError(f"{key}: {found}; try values of {setting} by -m")
    return finders


def build_module(config: schema.Train, fetches_weights: bool = True) -> LightningModule:
    """The LightningModule with its network, its weights drawn anew or, if it `fetches_weights`, pretrained.

    It is given what its constructor takes of `optimizer`, `scheduler` and `augment`.

    Raises:
        UserError: it cannot be built, or does not take what the config has for it.
    """
    target = config.model["_target_"]
    found = import_target(target, "model")
    parts: dict[str, Any] = {}
    if config.optimizer:
        parts["optimizer"] = OptimizerFactory(config.optimizer)
    elif (argument := parameters(found).get("optimizer")) and argument.default is argument.empty:
        raise UserError(f"optimizer=none: {target} takes one; choose it, such as optimizer=adam")
    if config.scheduler:
        parts["scheduler"] = ScheduleFactory(config.scheduler, config.checkpoint)
    if config.augment:
        parts["augment"] = on_each_image(build(config.augment, key="augment", kind=nn.Module))
    for name in [name for name in parts if not takes(found, name)]:
        del parts[name]
        if name != "optimizer":
            raise UserError(f"{name}: {target} takes no argument of that name; leave it out by {name}=none")
        log.warning("optimizer: %s takes none and makes its own; optimizer=none says so", target)
    node = config.model if fetches_weights else without_downloads(config.model)
    module: LightningModule = build(node, key="model", kind=LightningModule, **parts)
    if "optimizer" in parts:
        parts["optimizer"].module = module
    return module

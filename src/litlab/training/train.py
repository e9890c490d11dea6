"""Training: from a config to a run."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.model_helpers import is_overridden

from litlab.callbacks.checkpoints import numbers
from litlab.callbacks.first_batch import telling_of_labels
from litlab.config import schema
from litlab.config.types import SplitName
from litlab.distributed import debugger
from litlab.distributed.group import broadcast_from_rank_zero, is_rank_zero, noticing_loss, process_group
from litlab.distributed.hardware import keep_memory, use_all_cores
from litlab.runs.checkpoint import load_weights, read_resumable
from litlab.runs.record import Record
from litlab.runs.run import Run
from litlab.runs.terminal import ending, opening, tensorboard_command
from litlab.training.build import build_training
from litlab.training.errors import ending_with_hint
from litlab.training.lr_range import suggest_learning_rate
from litlab.training.restore import resume
from litlab.training.trainer import processes_here

log = logging.getLogger(__name__)


def train(settings: schema.Train, run: Run, *, callbacks: Sequence[Callback] = ()) -> Run:
    """Train as the settings say, or go on with a run that was reopened; then test the best weights.

    Args:
        settings: the run's.
        run: the run, whose folder gets all results.
        callbacks: further callbacks, called behind all others; they can be pickled if several processes train.

    Raises:
        UserError: the settings ask for what does not exist here, such as a GPU or a metric that nothing logs; the
            checkpoint does not belong to this run; the folder cannot be written.
        TrainingError: the loss became infinite or NaN.
        Pruned: a callback ended the run because others of its sweep do better.
        Interrupted: a signal asked to stop.
        ProcessLost: another process of this training has ended.
    """
    task = WorkerTask(settings, run.folder, run.record, run.is_resumed, callbacks)
    with run.tracked(), ending_with_hint(run), process_group(processes_here(settings.trainer), task, run_worker):
        _train(settings, run, callbacks)
        log.info("results: %s\ncurves:  %s", run.folder, tensorboard_command(run.folder))
        if run.record.reason:
            log.info("%s", run.record.reason)
    return run


@dataclass(frozen=True)
class WorkerTask:
    """What the process with rank 0 tells the others to do."""

    settings: schema.Train
    folder: Path
    record: Record
    is_resumed: bool
    callbacks: Sequence[Callback]


def run_worker(task: WorkerTask) -> None:
    """Train along with rank 0, which alone writes the results and speaks to the user."""
    logging.disable()
    warnings.simplefilter("ignore")
    _train(task.settings, Run(task.folder, task.record, task.is_resumed), task.callbacks)


def _train(settings: schema.Train, run: Run, callbacks: Sequence[Callback]) -> None:
    """Do what each of the processes does."""
    use_all_cores()
    keep_memory()
    seed_everything(settings.seed, workers=True, verbose=False)  # before anything is built
    training = build_training(settings, run, callbacks)
    trainer, module, data = training.trainer, training.module, training.data
    checkpoint = broadcast_from_rank_zero(lambda: run.last_checkpoint if run.is_resumed and run.has_saved() else None)
    with training.errors_explained(checkpoint):
        if is_rank_zero():
            _open(run, trainer, module, checkpoint)
    for key, finder in training.finders.items() if not run.is_resumed else ():
        suggest_learning_rate(key, finder, settings, module, run)
    untestable = missing(module, data, "test") if settings.test else "test=false"
    if settings.test and untestable:
        log.info("test: %s, so the best weights are not tested", untestable)
    pause = getattr(trainer.progress_bar_callback, "pause", lambda: None)  # of a bar, where there is a terminal
    with training.overview.closing(), debugger.announced(pause):
        with training.errors_explained(checkpoint), noticing_loss(), telling_of_labels():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        if not untestable:
            if not training.checkpoints.saves:
                log.info("test: the last weights, since trainer.enable_checkpointing=false keeps none")
            elif is_rank_zero():  # DDP hands its weights to the others
                load_weights(module, run.best_checkpoint())
            with noticing_loss():
                test(run, trainer, module, data)


def _open(run: Run, trainer: Trainer, module: LightningModule, checkpoint: Path | None) -> None:
    """Write the record of a run that begins, or set one back that goes on; and say where it is."""
    if run.is_resumed:
        resume(run, trainer.loggers, read_resumable(checkpoint, module) if checkpoint else None)
    else:
        run.save()
    log.info(opening(run, sum(weight.numel() for weight in module.parameters() if weight.requires_grad)))


def missing(module: LightningModule, data: LightningDataModule, split: SplitName) -> str | None:
    """Return what the weights cannot be evaluated on this split without, if anything."""
    step = "test_step" if split == "test" else "validation_step"
    parts = ((module, step), (data, f"{split}_dataloader"))
    return next((f"{type(part).__name__} has no {name}" for part, name in parts if not is_overridden(name, part)), None)


def test(run: Run, trainer: Trainer, module: LightningModule, data: LightningDataModule) -> None:
    """Test the module's weights as they are; record and print the metrics."""
    trainer.test(module, datamodule=data, verbose=False)
    run.record.metrics.test = numbers(trainer)
    log.info(ending(run.record.metrics))

"""Testing what a run left behind."""

import logging
import re
from contextlib import nullcontext
from pathlib import Path

from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything

from litlab.callbacks.checkpoints import numbers
from litlab.callbacks.class_accuracy import ClassAccuracy
from litlab.callbacks.first_batch import FirstBatch
from litlab.callbacks.shared_metrics import SharedMetrics
from litlab.config import schema
from litlab.config.types import SplitName
from litlab.distributed.hardware import use_all_cores
from litlab.errors import UserError
from litlab.inference.examples import writing_examples
from litlab.runs.run import Run
from litlab.runs.terminal import ending
from litlab.training.restore import restored
from litlab.training.train import missing, test
from litlab.training.trainer import make_trainer, note_device, settings_elsewhere

log = logging.getLogger(__name__)


def evaluate(
    trained: schema.Train,
    checkpoint: Path,
    accelerator: str,
    precision: str | None,
    folder: Path,
    split: SplitName = "test",
    output: Path | None = None,
) -> Run:
    """Test the weights of `checkpoint`, from a run whose config is `trained`; `folder` gets the record of it.

    Args:
        trained: the config.
        checkpoint: the file.
        accelerator: the kind of device to test on.
        precision: the number format that the run chose by itself, if it did.
        folder: where the record goes.
        split: the part of the data.
        output: CSV file that gets a row for each example.

    Raises:
        UserError: the checkpoint is damaged or of another network, there is no such accelerator, the data or the module
            have nothing for this split, or `output` cannot be written.
    """
    run = Run.create(folder, trained.seed)
    run.record.evaluated, run.record.evaluated_split = str(checkpoint), split
    log.info("testing %s on the %s split", checkpoint, split)
    with run.tracked(), writing_examples(output) if output else nullcontext() as writer:
        use_all_cores()
        seed_everything(trained.seed, workers=True, verbose=False)
        trained = _in_order(trained) if split == "train" else trained
        data, module = restored(trained, checkpoint)
        if lacking := missing(module, data, split):
            raise UserError(f"split={split}: {lacking}")
        settings = settings_elsewhere(trained.trainer, accelerator)
        callbacks = [FirstBatch(trained.data, {}), ClassAccuracy(run), SharedMetrics(), *([writer] if writer else [])]
        trainer = make_trainer(settings, callbacks, [], folder, precision)
        note_device(run, trainer)
        if split == "test":
            test(run, trainer, module, data)
        else:
            _validate(run, trainer, module, data, split)
    return run


def _in_order(trained: schema.Train) -> schema.Train:
    """Return settings by which validation iterates over the whole training split, not shuffled."""
    fixed = {key: False for key in ("shuffle", "drop_last") if key in trained.data}
    if "shuffle" not in fixed:
        told = "split=train: %s takes no shuffle, so the examples come as it hands them out"
        log.info(told, trained.data["_target_"])
    trainer = trained.trainer.model_copy(update={"limit_val_batches": trained.trainer.limit_train_batches})
    return trained.model_copy(update={"data": trained.data | fixed, "trainer": trainer})


def _validate(run: Run, trainer: Trainer, module: LightningModule, data: LightningDataModule, split: SplitName) -> None:
    """Run `validation_step` over a split; what it logs under `val` is recorded under the split's name."""
    if split == "train":  # as the data module's own loader, for which alone Lightning calls its hooks
        data.val_dataloader = data.train_dataloader  # type: ignore[method-assign]
    trainer.validate(module, datamodule=data, verbose=False)
    if not sum(trainer.num_val_batches):
        raise UserError(f"split={split}: {type(data).__name__} has no examples there")
    measured = {re.sub(r"^val(?=[/_])", split, name): value for name, value in numbers(trainer).items()}
    run.record.metrics.test = measured
    log.info(ending(run.record.metrics))

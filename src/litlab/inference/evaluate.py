"""Testing what a run left behind."""

import logging
from pathlib import Path

from lightning.pytorch import seed_everything

from litlab.callbacks.class_accuracy import ClassAccuracy
from litlab.callbacks.first_batch import FirstBatch
from litlab.callbacks.shared_metrics import SharedMetrics
from litlab.config import schema
from litlab.distributed.hardware import use_all_cores
from litlab.runs.run import Run
from litlab.training.restore import restored
from litlab.training.train import test
from litlab.training.trainer import make_trainer, note_device, settings_elsewhere

log = logging.getLogger(__name__)


def evaluate(trained: schema.Train, checkpoint: Path, accelerator: str, precision: str | None, folder: Path) -> Run:
    """Test the weights of `checkpoint`, from a run whose config is `trained`; `folder` gets the record of it.

    Args:
        trained: the config.
        checkpoint: the file.
        accelerator: the kind of device to test on.
        precision: the number format that the run chose by itself, if it did.
        folder: where the record goes.

    Raises:
        UserError: the checkpoint is damaged or of another network, or there is no such accelerator.
    """
    run = Run.create(folder, trained.seed)
    run.record.evaluated = str(checkpoint)
    log.info("testing %s", checkpoint)
    with run.tracked():
        use_all_cores()
        seed_everything(trained.seed, workers=True, verbose=False)
        data, module = restored(trained, checkpoint)
        settings = settings_elsewhere(trained.trainer, accelerator)
        trainer = make_trainer(
            settings, [FirstBatch(trained.data, {}), ClassAccuracy(run), SharedMetrics()], [], folder, precision
        )
        note_device(run, trainer)
        test(run, trainer, module, data)
    return run

"""Testing what a run left behind."""

import logging
from pathlib import Path

from lightning.pytorch import LightningDataModule, seed_everything

from litlab import schema
from litlab.components import build
from litlab.engine.hardware import use_all_cores
from litlab.runs.checkpoint import load_weights
from litlab.runs.run import Run
from litlab.train import build_module, describe, make_trainer, test

log = logging.getLogger(__name__)


def evaluate(trained: schema.Train, checkpoint: Path, accelerator: str, folder: Path) -> Run:
    """Test the weights of `checkpoint`, from a run whose config is `trained`; `folder` gets the record of it.

    Raises:
        UserError: the checkpoint is damaged or of another network, or there is no such accelerator.
    """
    run = Run.create(folder, trained.seed)
    run.record.evaluated = str(checkpoint)
    log.info("testing %s", checkpoint)
    with run.tracked():
        use_all_cores()
        seed_everything(trained.seed, workers=True, verbose=False)
        data: LightningDataModule = build(trained.data)
        module = build_module(trained)
        load_weights(module, checkpoint)
        settings = trained.trainer.model_copy(update={"accelerator": accelerator, "devices": 1})
        trainer = make_trainer(settings, callbacks=[], logger=[], folder=folder)
        run.record.device = describe(trainer)
        run.record.metrics.test = test(trainer, module, data)
    return run

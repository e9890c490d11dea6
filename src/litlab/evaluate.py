"""Testing what a run left behind."""

import logging
from pathlib import Path

from lightning.pytorch import LightningDataModule, seed_everything

from litlab import schema
from litlab.callbacks.record import RecordRun
from litlab.callbacks.throughput import Throughput
from litlab.components import build
from litlab.config import load
from litlab.runs.checkpoint import load_weights
from litlab.runs.run import Run, newest_run
from litlab.train import build_module, describe, make_trainer, test

log = logging.getLogger(__name__)


def evaluate(config: schema.Evaluate, folder: Path) -> Run:
    """Test a run's best weights, or those of the checkpoint that `config.run` names; `folder` gets the record of it.

    Raises:
        UserError: there is no such run, or its config or checkpoint is damaged.
    """
    path = newest_run(Path(config.paths.logs)) if config.run == "last" else Path(config.run)
    evaluated = Run.open(path)
    checkpoint = path.absolute() if path.suffix == ".ckpt" else evaluated.best_checkpoint()
    trained = load(evaluated.folder / "config.yaml", schema.Train)
    run = Run.create(folder, trained.seed)
    run.record.evaluated = str(checkpoint)
    log.info("testing %s", checkpoint)
    with run.tracked():
        seed_everything(trained.seed, workers=True, verbose=False)
        data: LightningDataModule = build(trained.data)
        module = build_module(trained)
        load_weights(module, checkpoint)
        settings = trained.trainer.model_copy(update={"accelerator": config.accelerator, "devices": 1})
        record = RecordRun(run, trained.checkpoint, Throughput())
        trainer = make_trainer(settings, callbacks=[record], logger=[], folder=folder)
        run.record.device = describe(trainer.strategy.root_device)
        test(trainer, module, data)
    return run

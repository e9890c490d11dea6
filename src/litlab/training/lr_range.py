"""A learning-rate range test (Smith, 2017) before a training, which it leaves as it is."""

import logging
from copy import deepcopy

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner.tuning import Tuner
from matplotlib.figure import Figure

from litlab.config import schema
from litlab.config.components import build
from litlab.distributed.group import current_rank
from litlab.engine.random_state import preserved_random_state
from litlab.errors import UserError
from litlab.runs.run import Run
from litlab.training.trainer import make_trainer

log = logging.getLogger(__name__)


def suggest_learning_rate(
    key: str, finder: LearningRateFinder, settings: schema.Train, module: LightningModule, run: Run
) -> None:
    """Train a copy of the module with rising learning rates, print the one to try, and draw the loss over them.

    Args:
        key: where the config has the finder.
        finder: which rates are tried.
        settings: the run's.
        module: with its first weights.
        run: whose folder gets the picture.

    Raises:
        UserError: several processes train together, or Lightning refuses the search.
    """
    if current_rank().world_size > 1:
        raise UserError(f"{key}: tries learning rates in one process; set trainer.devices=1")
    with preserved_random_state():
        data: LightningDataModule = build(settings.data, key="data", kind=LightningDataModule)
        trainer = make_trainer(settings.trainer, [], [], run.folder, run.record.precision)
        found = Tuner(trainer).lr_find(
            deepcopy(module),
            datamodule=data,
            min_lr=finder._min_lr,
            max_lr=finder._max_lr,
            num_training=finder._num_training_steps,
            mode=finder._mode,
            early_stop_threshold=finder._early_stop_threshold,
            update_attr=False,
        )
    rate = found.suggestion() if found else None
    if found is None or rate is None:
        log.warning("%s: too few steps to suggest a learning rate; raise %s.num_training_steps", key, key)
        return
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    found.plot(suggest=True, ax=axes)
    axes.figure.savefig(run.folder / "learning_rate.png", dpi=150)  # type: ignore[union-attr]
    log.info(
        "%s: the loss falls fastest at a learning rate of %.2g: try optimizer.lr=%.2g; this run keeps its own\n"
        "loss over learning rate: %s",
        *(key, rate, rate, run.folder / "learning_rate.png"),
    )

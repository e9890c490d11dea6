"""Going back to what a checkpoint holds: to train on, or to use the weights."""

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.loggers import Logger

from litlab.callbacks.checkpoints import Checkpoints, Rewindable, place_of
from litlab.config import schema
from litlab.config.components import build
from litlab.messages import one_line
from litlab.runs.checkpoint import load_weights, restore_data
from litlab.runs.links import break_links, require_inside
from litlab.runs.run import Run
from litlab.training.build import build_module

log = logging.getLogger(__name__)


def resume(run: Run, loggers: list[Logger], checkpoint: dict[str, Any] | None) -> None:
    """Set the run's record and curves back to where the checkpoint was written; without one, to the beginning."""
    step, positions = 0, None
    if checkpoint is not None:
        step, positions = checkpoint["global_step"], checkpoint["callbacks"][Checkpoints.__qualname__]["loggers"]
    rewindable = [logger for logger in loggers if isinstance(logger, Rewindable)]
    for home in {Path(logger.log_dir) for logger in rewindable}:
        require_inside(home, run.folder, f"resume={run.folder}")
        break_links(home)
    if others := run.other_versions():
        changes = ", ".join(f"{name} {began}, now {now}" for name, (began, now) in others.items())
        log.warning("this run began with other versions: %s; it will not be exact to the bit", one_line(changes))
    run.resume(step)  # before curves are cut: from here on the run is unfinished, even if it is killed at once
    for logger in rewindable:
        place = place_of(logger, run.folder)
        if positions is None or place in positions:
            last_step = logger.rewind(positions[place] if positions else {})
            if last_step is not None:
                hole = f"a hole from step {last_step} to step {step}"
                log.warning("the curves of %s have %s: files are shorter than they were", place, hole)


def restored(config: schema.Train, checkpoint: Path) -> tuple[LightningDataModule, LightningModule]:
    """The data module and the LightningModule of a run with this config, with the weights of a checkpoint of it.

    Classes and split of the data are the run's, if the data module can take them.

    Raises:
        UserError: the checkpoint is damaged or of another network.
    """
    data: LightningDataModule = build(config.data, key="data")
    module = build_module(config, fetches_weights=False)
    load_weights(module, checkpoint)
    restore_data(data, checkpoint)
    return data, module

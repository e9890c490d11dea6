"""Lightning's Trainer, made as the settings say."""

import logging
import platform
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import Strategy

from litlab.config import schema
from litlab.config.components import build
from litlab.distributed.ddp import ExactDDP
from litlab.distributed.group import current_rank, is_rank_zero
from litlab.distributed.hardware import is_cpu
from litlab.engine.stopping import StoppableTrainer
from litlab.errors import UserError
from litlab.runs.run import Run
from litlab.runs.writing import AtomicCheckpointIO
from litlab.training.errors import lightning_refusals_explained

log = logging.getLogger(__name__)


OBEYED_ELSEWHERE = {
    *("callbacks", "default_root_dir", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"),
    *("fast_dev_run", "logger", "num_nodes", "plugins", "strategy"),
}
"""Arguments of Lightning's Trainer that are not handed on as they are."""


PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


def processes_here(config: schema.Trainer) -> int:
    """How many processes train together on this machine, if nobody has started them: one a device."""
    if isinstance(config.devices, list):
        return len(config.devices)
    if isinstance(config.devices, int) and config.devices > 0:
        return config.devices
    return 1 if is_cpu(config.accelerator) else max(1, torch.cuda.device_count())


def make_trainer(
    config: schema.Trainer,
    callbacks: list[Callback],
    logger: list[Logger],
    folder: Path,
    precision: str | None = None,
) -> Trainer:
    """Lightning's Trainer; it draws and prints nothing of its own but a progress bar among the `callbacks`.

    Where the config leaves the choice, `precision` is the number format that the run has chosen.

    Raises:
        UserError: Lightning refuses these settings, or would silently compute in another number format.
    """
    others, rank = config.others, current_rank()
    settings = config.model_dump(exclude={"compile", "on_nan", "steps_per_execution", *OBEYED_ELSEWHERE})
    machines = rank.world_size // rank.local_world_size
    if others.get("num_nodes", machines) != machines:
        raise UserError(f"trainer.num_nodes={others['num_nodes']}: torchrun or srun say how many machines there are")
    if rank.world_size > 1 and not isinstance(config.devices, list):
        settings["devices"] = rank.local_world_size
    if config.precision == "auto":
        settings["precision"] = precision or "32-true"
    if settings["precision"] == "16-mixed" and is_cpu(config.accelerator):  # Lightning would take bf16-mixed
        hint = "set trainer.precision=bf16-mixed, 32-true or auto"
        raise UserError(f"trainer.precision=16-mixed: is for GPUs, and this is a CPU; {hint}")
    if isinstance(config.profiler, dict):
        settings["profiler"] = build(config.profiler, key="trainer.profiler", kind=Profiler)
    elif config.profiler and is_rank_zero():
        settings["profiler"] = PROFILERS[config.profiler](dirpath=folder, filename="profile")
    with lightning_refusals_explained(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="GPU available but not used")  # as trainer=cpu says
        trainer = StoppableTrainer(
            **settings,
            strategy=_strategy(others.get("strategy") or "auto"),
            num_nodes=machines,
            callbacks=callbacks,
            logger=logger,
            plugins=[*_plugins(others.get("plugins")), AtomicCheckpointIO(folder)],
            default_root_dir=folder,
            enable_model_summary=bool(others.get("enable_model_summary")),
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        )
    if rank.world_size > 1:  # Lightning's handler of SIGTERM waits for the other processes, wherever this one is
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _strategy(asked: str | dict[str, Any]) -> str | Strategy:
    """Return the lab's own strategy for several processes, or what was asked for instead."""
    if isinstance(asked, dict):
        strategy: str | Strategy = build(asked, key="trainer.strategy", kind=Strategy)
    elif asked == "auto" or asked.startswith("ddp"):
        return ExactDDP() if current_rank().world_size > 1 else "auto"
    else:
        strategy = asked
    log.info("trainer.strategy: Lightning's own loop and samplers are used; resuming may not be exact to the bit")
    return strategy


def _plugins(asked: Any) -> list[Any]:
    """Return Lightning's plugins that were asked for; one process belongs to no cluster, whatever the environment."""
    nodes = asked if isinstance(asked, list) else [asked] if asked else []
    built = [build(node, key="trainer.plugins") if isinstance(node, dict) else node for node in nodes]
    if writing := [type(plugin).__name__ for plugin in built if isinstance(plugin, CheckpointIO)]:
        raise UserError(f"trainer.plugins: checkpoints are written by the lab alone; leave out {', '.join(writing)}")
    return built if current_rank().world_size > 1 else [*built, LightningEnvironment()]


def settings_elsewhere(config: schema.Trainer, accelerator: str) -> schema.Trainer:
    """A run's settings of the Trainer for one device of another kind; a CPU takes 32 bits for a GPU's 16."""
    changes: dict[str, Any] = {"accelerator": accelerator, "devices": 1, "profiler": None}
    if config.precision == "16-mixed" and is_cpu(accelerator):
        log.info("trainer.precision=16-mixed is for GPUs; on this CPU it is 32-true")
        changes["precision"] = "32-true"
    return config.model_copy(update=changes)


def describe(trainer: Trainer) -> str:
    """The device and its number format in words that tell machines apart."""
    device = trainer.strategy.root_device
    is_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    several = f"{trainer.world_size} processes, each on " if trainer.world_size > 1 else ""
    return f"{several}{device} ({name}, {trainer.precision})"


def note_device(run: Run, trainer: Trainer) -> None:
    """Record what the run is computed on; if that has changed since the run began, say so."""
    device, before = describe(trainer), run.record.device
    if before and device != before:
        log.warning("this run began on %s and goes on on %s: it will not be exact to the bit", before, device)
    run.record.device = device
    run.record.precision = str(trainer.precision)

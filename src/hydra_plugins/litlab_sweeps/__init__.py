"""Where Hydra looks for plugins, and nowhere else; what they do is in litlab.sweeps."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudySweeper(Sweeper):
    """Hands a multirun over to litlab.sweeps, which starts the jobs itself."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the jobs' configs are composed from."""
        self.composed, self.loader = config, hydra_context.config_loader

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs of the command line's overrides."""
        from litlab.sweeps.sweep import sweep  # Hydra imports this file in every run

        sweep(self.composed, self.loader, arguments)

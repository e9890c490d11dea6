"""Plans of sweeps, as `train -m` makes them."""

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import OmegaConf

from litlab.config import command_schema
from litlab.config.command_line import of_train
from litlab.config.compose import check
from litlab.project import CONFIGS
from litlab.sweeps.plan import Plan


def plan_of(*overrides):
    """The plan of `train -m OVERRIDES`."""
    loader = ConfigLoaderImpl(create_config_search_path(str(CONFIGS)))
    overrides = of_train(overrides)
    composed = loader.load_configuration("train", overrides, RunMode.MULTIRUN)
    own = OmegaConf.masked_copy(composed, list(command_schema.SweepCommand.model_fields))
    return Plan.make(check(own, command_schema.SweepCommand), loader, overrides)

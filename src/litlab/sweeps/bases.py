"""What the jobs of a sweep have in common, and what they are compared by."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import OmegaConf

from litlab.config import command_schema, schema
from litlab.config.compose import check, run_config, settled
from litlab.config.types import Settings
from litlab.errors import UserError
from litlab.sweeps.space import Dimension, texts

OBJECTIVES = "'sweep.objectives={train/loss:min}'"
"""How to say what else to go by; in quotes, as the shell knows braces, too."""

Objectives = dict[str, Literal["min", "max"]]


class Base(Settings):
    """What the jobs have in common that choose the same options of groups."""

    choices: dict[str, str]
    """The options, of those groups that the sweep varies."""
    groups: list[str]
    """All groups that it is composed from."""
    config: str
    """The composed config, YAML."""


def compose_bases(
    loader: ConfigLoader, fixed: Sequence[str], varied: Sequence[Override], dimensions: Sequence[Dimension]
) -> Iterator[Base]:
    """A base for each combination of options of the groups that vary."""
    groups = [
        dimension
        for dimension, override in zip(dimensions, varied, strict=True)
        if loader.get_group_options(override.key_or_group)
    ]
    varying = {one.name for one in dimensions if one not in groups}
    for values in product(*(group.choices for group in groups)):
        choices = {group.key: value for group, value in zip(groups, values, strict=True)}
        composed = loader.load_configuration("train", [*fixed, *texts(choices)], RunMode.RUN)
        yield Base(
            choices=choices,
            groups=[str(group) for group in composed.hydra.runtime.choices if not str(group).startswith("hydra/")],
            config=OmegaConf.to_yaml(settled(run_config(composed), varying)),
        )


def objectives_of(sweep: command_schema.Sweep, base: Base) -> Objectives:
    """What the jobs are compared by: what was told, else the metric that they monitor.

    Raises:
        UserError: they monitor none.
    """
    if sweep.objectives:
        return sweep.objectives
    checkpoint = check(OmegaConf.create(base.config).checkpoint, schema.Checkpoint)
    if checkpoint.monitor is None or checkpoint.mode is None:
        hint = f"set checkpoint.monitor, or {OBJECTIVES}"
        raise UserError(f"checkpoint.monitor=null: there is nothing to compare the jobs by; {hint}")
    return {checkpoint.monitor: checkpoint.mode}

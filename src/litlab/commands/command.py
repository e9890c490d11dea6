"""What a command is, and what a command line asks of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig

from litlab.config.types import Settings

SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True)
class Request(Generic[SettingsT]):
    """A command line, composed and validated once.

    Attributes:
        settings: the validated settings.
        config: what they were validated from, without Hydra's part.
        choose_folder: chooses where the command leaves its results, and may make folders for that.
        typed: the overrides, as they were typed, by the keys or groups that they are for.
    """

    settings: SettingsT
    config: DictConfig
    choose_folder: Callable[[], Path]
    typed: Mapping[str, str]

    @cached_property
    def folder(self) -> Path:
        """Where the command leaves its results."""
        return self.choose_folder()


@dataclass(frozen=True)
class Command(Generic[SettingsT]):
    """A command of the lab.

    Attributes:
        settings: what can be set, and to what.
        help: what `--help` prints.
        run: does it.
        rewrite: puts what may be typed into Hydra's words.
        prepare: refuses, before there is a folder, what the settings alone do not show; what `run` is then given.
        join: what the other processes do that torchrun or srun has started; None refuses to be several.
        leaves_run: whether the command leaves a run in a folder of its own.
    """

    settings: type[SettingsT]
    help: str
    run: Callable[[Any], None]
    rewrite: Callable[[Sequence[str]], list[str]] = list
    prepare: Callable[[Any], Request[Any]] = lambda request: request
    join: Callable[[], None] | None = None
    leaves_run: bool = False

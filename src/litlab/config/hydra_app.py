"""Runs a command as a Hydra application."""

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import hydra
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from litlab.project import CONFIGS

OTHERS = ("hydra_help", "cfg", "info", "shell_completion", "experimental_rerun", "config_dir")
"""Options that show something instead, or take configs from elsewhere."""


class _SeveralJobs(Exception):  # noqa: N818 (a config may ask for them, as -m does)
    """Raised where the composed config has hydra.mode=MULTIRUN."""


class _App(Hydra):
    def compose_config(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, *args: Any, **kwargs: Any
    ) -> DictConfig:
        is_single = run_mode == RunMode.RUN
        try:
            config = super().compose_config(config_name, overrides, run_mode, *args, **kwargs)
        except HydraException:  # such as at several values, which only -m may have
            could_vary = any(re.search(r"[,(]", text) for text in overrides)
            if is_single and could_vary and self.get_mode(config_name, overrides) == RunMode.MULTIRUN:
                raise _SeveralJobs from None
            raise
        if is_single and config.hydra.mode == RunMode.MULTIRUN:
            raise _SeveralJobs
        return config


def run(name: str, job: Callable[[DictConfig], None]) -> None:
    """Compose the config of this name with the command line's overrides, and run the job.

    `hydra.main` does the same, but composes the config once more before, only to read `hydra.mode`.
    """
    args = get_args(sys.argv[1:])
    if any(getattr(args, option) for option in OTHERS):
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(job)()
        return
    version.setbase("1.3")
    app = _App.create_main_hydra2(task_name=name, config_search_path=create_config_search_path(str(CONFIGS)))
    try:
        if not args.multirun:
            with suppress(_SeveralJobs):
                app.run(name, job, args.overrides)
                return
        app.multirun(name, job, [*args.overrides, "hydra.mode=MULTIRUN"])
    finally:
        GlobalHydra.instance().clear()

"""The checks of `litlab check` as tests of a project's own."""

import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pytest

from litlab.checks.run import chosen, judge, silenced
from litlab.checks.subject import Subject
from litlab.checks.verdict import Check, Verdict
from litlab.config import schema
from litlab.config.command_line import of_train
from litlab.config.compose import check, compose, run_config


class Config:
    """A config that is checked; it is composed, and trained on, once a check of it runs."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self._overrides = overrides

    @cached_property
    def subject(self) -> Subject:
        """What the checks take."""
        self._folder = tempfile.TemporaryDirectory(prefix="litlab-check-")  # removed when the process ends
        settings = check(run_config(compose("train", of_train(self._overrides))), schema.Train)
        return Subject(settings, Path(self._folder.name))


class CheckOfConfig:
    """A check of a config, which a test calls and asserts the verdict of; `str` gives its name."""

    def __init__(self, check: Check, config: Config) -> None:
        self._check, self._config = check, config

    def __call__(self) -> Verdict:
        """Run the check, and skip the test where there is nothing to check."""
        with silenced():
            verdict = judge(self._check, self._config.subject)
        if verdict.status == "skipped":
            pytest.skip(verdict.found)
        return verdict

    def __str__(self) -> str:
        return self._check.name


def checks(*overrides: str, only: Sequence[str] = ("right", "exact", "safe")) -> list[CheckOfConfig]:
    """The checks of `litlab check OVERRIDES` as what a test calls.

    Args:
        overrides: as of `train`.
        only: checks, or groups of them.

    Raises:
        UserError: there is no such check.
    """
    config = Config(overrides)
    return [CheckOfConfig(one, config) for one in chosen(only)]

"""Checks and their verdicts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

Group = Literal["right", "exact", "fast", "safe"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class Verdict:
    """The result of a check.

    Attributes:
        status: `failed` asks for a change; `noted` may be intended.
        found: a figure, or the cause of a failure.
        advice: what to do; empty if there is nothing to do.
    """

    status: Literal["passed", "noted", "failed", "skipped"]
    found: str
    advice: str = ""


def passed(found: str) -> Verdict:
    """Return the verdict that nothing is wrong."""
    return Verdict("passed", found)


def noted(found: str, advice: str) -> Verdict:
    """Return the verdict that something may be wrong."""
    return Verdict("noted", found, advice)


def failed(found: str, advice: str) -> Verdict:
    """Return the verdict that something is wrong."""
    return Verdict("failed", found, advice)


def skipped(why: str) -> Verdict:
    """Return the verdict that nothing could be checked."""
    return Verdict("skipped", why)


class NotCheckable(Exception):  # noqa: N818 (it ends a check, not the command)
    """Raised where the data or the module lacks what a check needs."""


@dataclass(frozen=True)
class Check:
    """A check that has been registered.

    Attributes:
        question: what the check answers.
        run: takes a litlab.checks.subject.Subject.
    """

    name: str
    group: Group
    question: str
    run: Callable[..., Verdict]


CHECKS: dict[str, Check] = {}
"""All checks by name."""


def check(group: Group, name: str, question: str) -> Callable[[Callable[..., Verdict]], Callable[..., Verdict]]:
    """Register a function as the check of that name."""

    def register(run: Callable[..., Verdict]) -> Callable[..., Verdict]:
        CHECKS[name] = Check(name, group, question, run)
        return run

    return register

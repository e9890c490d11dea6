"""What a check finds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

Group = Literal["right", "exact", "fast", "safe"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class Verdict:
    """What a check has found.

    Attributes:
        status: failed asks for a change; noted is worth a look, and may be meant.
        found: a figure, or the cause as far as it can be told.
        advice: what to do; empty where nothing is.
    """

    status: Literal["passed", "noted", "failed", "skipped"]
    found: str
    advice: str = ""


def passed(found: str) -> Verdict:
    """Nothing is wrong."""
    return Verdict("passed", found)


def noted(found: str, advice: str) -> Verdict:
    """Something to look at."""
    return Verdict("noted", found, advice)


def failed(found: str, advice: str) -> Verdict:
    """Something to change."""
    return Verdict("failed", found, advice)


def skipped(why: str) -> Verdict:
    """It could not be checked."""
    return Verdict("skipped", why)


class NotCheckable(Exception):  # noqa: N818 (it is no error)
    """What is checked lacks what a check needs; the message says what."""


@dataclass(frozen=True)
class Check:
    """A check by its name.

    Attributes:
        question: what it answers.
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

"""Patterns of the names of weights."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from litlab.errors import UserError


def matching(key: str, patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the names that a pattern matches, as a whole or up to a dot: `net` matches `net.conv1.weight`.

    Args:
        key: the setting that holds the patterns.
        patterns: shell patterns, in which `*` matches dots, too.
        names: dotted names.

    Raises:
        UserError: a pattern matches nothing.
    """
    names = list(names)
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            raise UserError(f"{key}: {pattern} matches nothing; {listed(names)}")
    return [name for name in names if any(_matches(name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def listed(names: Iterable[str]) -> str:
    """Return what names there are, as the end of a message."""
    known = list(names)
    return f"there is {', '.join(known[:10])}" + (f" and {len(known) - 10} more" if len(known) > 10 else "")

"""What a user is told: the key, what was given, what is accepted, and the nearest name to a misspelt one."""

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from litlab.project import CONFIGS, groups

LONGEST = 1000
"""Characters of a line that is of use to anybody."""


def no_such_option(file: str, options: Sequence[str] | None) -> str:
    """A choice, named by its file, that is not among the group's options."""
    group, _, given = file.rpartition("/")
    known = options or sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    nearest = difflib.get_close_matches(given, known, n=1)
    hint = _did_you_mean(f"{group}={nearest[0]}" if nearest else None)
    return f"{group}={given}: no such option{hint}; there is {', '.join(known)}"


def unknown_key(key: str, given: str | None, root: Mapping[str, Any]) -> str:
    """A key that the config, whose values are `root`, does not have."""
    parent, _, _ = key.rpartition(".")
    known = [other for other in [*_keys(root), *(group for group in groups() if group not in root)] if other != key]
    if parent not in known:
        parent = ""  # misspelt itself: list what there is at the top
    siblings = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == parent]
    return _no_such_key(key, given, known, f"{parent} has" if parent else "there is", siblings)


def unknown_argument(parent: str, name: str, given: str, target: str, taken: Sequence[str]) -> str:
    """A key of the component at `parent` that the constructor of its class, `target`, does not take."""
    return _no_such_key(f"{parent}.{name}", given, [f"{parent}.{other}" for other in taken], f"{target} takes", taken)


def _no_such_key(key: str, given: str | None, known: Sequence[str], where: str, names: Sequence[str]) -> str:
    assignment = key if given is None else f"{key}={given}"
    return f"{assignment}: no such key{_did_you_mean(_nearest_key(key, known))}; {where} {', '.join(names)}"


def _nearest_key(key: str, known: Sequence[str]) -> str | None:
    """The known key most likely meant: of the same name elsewhere, or spelt alike beside it or anywhere."""
    parent, _, name = key.rpartition(".")
    by_name = {other.rpartition(".")[2]: other for other in known}
    if name in by_name:
        return by_name[name]
    beside = {last: other for last, other in by_name.items() if other.rpartition(".")[0] == parent}
    others = {other: other for other in known if not key.startswith(f"{other}.")}
    for candidates, wanted, likeness in ((beside, name, 0.6), (others, key, 0.8), (by_name, name, 0.75)):
        if close := difflib.get_close_matches(wanted, candidates, n=1, cutoff=likeness):
            return candidates[close[0]]
    return None


def _did_you_mean(nearest: str | None) -> str:
    return f", did you mean {nearest}?" if nearest else ""


def _keys(values: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            if not str(key).startswith("_"):
                yield f"{prefix}{key}"
                yield from _keys(value, f"{prefix}{key}.")


def as_override(value: Any) -> str:
    """`value` as one would write it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def one_line(message: str) -> str:
    """A message that may quote anything: nothing in it breaks the line or moves the cursor, and it has an end."""
    start = message[:LONGEST] + "…" if len(message) > LONGEST else message
    return visible(start)


def visible(text: str, allowed: str = "") -> str:
    """A text in which everything that a terminal would obey instead of showing it is escaped, as Python would write it.

    Args:
        text: anything.
        allowed: such characters that stay.
    """
    return "".join(letter if letter.isprintable() or letter in allowed else ascii(letter)[1:-1] for letter in text)


def shell_quoted(text: str) -> str:
    """`text` as one word of a bash command line, in characters that a terminal shows as they are."""
    if text.isprintable():
        return shlex.quote(text)
    codes = (one if one.isprintable() and one not in "\\'" else _escaped_bytes(one) for one in text)
    return f"$'{''.join(codes)}'"


def _escaped_bytes(text: str) -> str:
    """The bytes of `text` as bash and zsh write them between `$'` and `'`, whatever the locale."""
    return "".join(f"\\x{byte:02x}" for byte in text.encode(errors="surrogateescape"))


def is_text(name: str) -> bool:
    """Whether a name, of a file say, is Unicode: Python stands in surrogates for bytes that it cannot decode."""
    return not re.search("[\ud800-\udfff]", name)


def first_lines(error: Exception) -> str:
    """What an error says at first, in one line."""
    return one_line(": ".join(line.strip() for line in str(error).strip().splitlines()[:2])) or type(error).__name__


def first_problem(error: ValidationError) -> str:
    """What a schema has against a file's content, in one line: the first problem, by its place."""
    detail = error.errors(include_url=False)[0]
    return one_line(f"{'.'.join(map(str, detail['loc'])) or 'the whole'}: {detail['msg']}")

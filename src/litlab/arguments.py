"""What may be typed though Hydra's grammar does not know it, put into its words."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args
from hydra.core.override_parser.types import Quote, QuotedString

EXPERIMENT_FILE = re.compile(r"experiment=(?P<configs>(.*/)?)experiment/(?P<name>[^/]+)\.yaml")


def of_train(arguments: Sequence[str]) -> list[str]:
    """`resume=X` is short for `resume.run=X`; an experiment may be a file in any folder of that name."""
    written_out = [re.sub(r"^resume=", "resume.run=", text) for text in arguments]
    files = [match for match in map(EXPERIMENT_FILE.fullmatch, written_out) if match]
    named = [EXPERIMENT_FILE.sub(r"experiment=\g<name>", text) for text in written_out]
    return [*named, *(f"--config-dir={Path(match['configs'] or '.').expanduser().absolute()}" for match in files)]


def of_compare(arguments: Sequence[str]) -> list[str]:
    """The folders get a key, and conditions quotes."""
    given: list[str] = get_args(arguments).overrides
    folders = [text for text in given if Path(text).exists() or not re.match(r"[+~]*[A-Za-z_][\w./@:]*=", text)]
    kept = [text for text in arguments if text not in folders]
    quoted = [re.sub(r"(?s)^where=(.*)", lambda match: f"where={_quoted(match[1])}", text) for text in kept]
    return [*quoted, f"folders=[{','.join(map(_quoted, folders))}]"] if folders else quoted


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()

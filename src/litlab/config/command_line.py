"""What may be typed though Hydra's grammar does not know it, put into its words."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args, get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString

from litlab.config.marks import require_mine
from litlab.config.schema import Trainer
from litlab.errors import UserError
from litlab.project import CONFIGS

OF_A_SWEEP = re.compile(
    r"hydra\.(sweep\.dir|mode|searchpath|verbose|hydra_logging\..*|job\.name|job\.env_set\..*|help\..*)"
    r"|hydra/(hydra_logging|help)"
)
"""Hydra's settings that count with -m."""

OF_A_NEW_NODE = re.compile(
    r"[\w.]+=\{.*\b_target_\s*:|(scheduler|augment)\.\w|(init\.rename|sweep\.over)=\{|optimizer\.groups\b"
    rf"|trainer\.(?!({'|'.join(Trainer.model_fields)})=)\w+="
)
"""The beginning of what sets a key that the config need not have yet; Hydra would ask for a `+`."""

EXPERIMENT_FILE = re.compile(r"experiment=(?P<configs>(.*/)?)experiment/(?P<name>[^/]+)\.yaml")
ANY_FILE = re.compile(r"experiment=.*\.yaml")


def in_order(arguments: Sequence[str]) -> list[str]:
    """The options, and behind them the settings, among which they may be typed: argparse takes these in one place.

    Raises:
        UserError: an option is not known, lacks its value or takes another config; or a choice among files of
            `configs/` is one elsewhere.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    known, others = parser.parse_known_args(arguments)
    if unknown := [text for text in others if text.startswith("-")]:
        _refuse(f"{unknown[0]}: no such option")
    if known.config_name or known.config_path:
        raise UserError("--config-name, --config-path: a command has its own config; experiment=FILE.yaml changes it")
    settings = [*known.overrides, *others]
    if elsewhere := list(filter(_leaves_configs, settings)):
        raise UserError(f"{elsewhere[0]}: is outside {CONFIGS}; train takes a file of settings as experiment=FILE.yaml")
    return [*(text for text in arguments if text not in settings), *settings]


def asked_group(arguments: Sequence[str]) -> str | None:
    """Return the group of configs that `--help GROUP` asks for; None if something else is asked."""
    names = [text for text in arguments if re.fullmatch(r"[a-z_]+", text)]
    return names[0] if "--help" in arguments and len(names) == 1 and len(arguments) == 2 else None


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; --hydra-help lists the options, --help the settings")


def of_train(arguments: Sequence[str]) -> list[str]:
    """`resume=X` is short for `resume.run=X`; an experiment may be a file in any folder of that name.

    A component, such as `optimizer={_target_: …}` or `scheduler._target_=…`, and arguments of the Trainer need no `+`.

    Raises:
        UserError: a file is in another folder, where Hydra does not look for it, or was made elsewhere; or a setting of
            Hydra's is given that has no effect.
    """
    _refuse_without_effect(arguments)
    understood, options = [], []
    nodes = [text.partition("_target_=")[0] for text in arguments if re.match(r"[\w.]+\._target_=", text)]
    for text in arguments:
        if match := EXPERIMENT_FILE.fullmatch(text):
            folder = Path(match["configs"] or ".").expanduser().absolute()
            if folder.resolve() != CONFIGS.resolve():
                require_mine(folder / "experiment" / f"{match['name']}.yaml", text)
            understood.append(f"experiment={_quoted(match['name'])}")
            options.append(f"--config-dir={folder}")
        elif ANY_FILE.fullmatch(text):
            raise UserError(f"{text}: the file needs to be in a folder named experiment")
        else:
            is_new = OF_A_NEW_NODE.match(text) or text.startswith(tuple(nodes))
            understood.append(re.sub(r"^resume=", "resume.run=", f"++{text}" if is_new else text))
    return [*options, *understood]


def _leaves_configs(text: str) -> bool:
    """Whether a choice among files of `configs/` names one elsewhere, which may be anybody's."""
    if ANY_FILE.fullmatch(text):  # whose mark is looked at
        return False
    key, _, choice = text.lstrip("+").partition("=")
    return (CONFIGS / key.partition("@")[0]).is_dir() and ".." in re.split(r"[^\w.]+", choice)


def _refuse_without_effect(arguments: Sequence[str]) -> None:
    """Refuse settings of Hydra's that it would take without obeying them, since -m makes a study of the lab's own.

    Raises:
        UserError: there is one.
    """
    parsed = get_args(arguments)
    for text in parsed.overrides:
        key = text.lstrip("+~").partition("=")[0].partition("@")[0]
        if not key.startswith(("hydra.", "hydra/")):
            continue
        if re.match(r"hydra[./](sweeper|launcher)\b", key):
            launches = "launcher" in key
            hint = "launchers are not used; launcher=… starts" if launches else "sweepers are not used; sweep=… chooses"
            raise UserError(f"{text}: Hydra's own {hint} the jobs")
        if key == "hydra.sweep.subdir":
            raise UserError(f"{text}: a job's folder is named by its number; leave it out")
        if parsed.multirun and not OF_A_SWEEP.fullmatch(key):
            hint = f"give {text.replace('run.dir', 'sweep.dir', 1)}" if key == "hydra.run.dir" else "leave it out"
            raise UserError(f"{text}: has no effect with -m; {hint}")


def of_check(arguments: Sequence[str]) -> list[str]:
    """Rewrite as for `train`; a list such as `only=A,B` gets brackets."""
    return of_train(_bracketed(arguments, "only"))


def of_compare(arguments: Sequence[str]) -> list[str]:
    """The folders get a key, conditions quotes, and lists such as `metric=A,B` brackets."""
    texts = _bracketed(of_folders(arguments), "metric(?==.*,)|over|columns")
    return [re.sub(r"(?s)^where=(.*)", lambda match: f"where={_quoted(match[1])}", text) for text in texts]


def _bracketed(arguments: Sequence[str], keys: str) -> list[str]:
    """Put brackets around the values of these keys, a regular expression, unless they have some or are null."""
    return [re.sub(rf"(?s)^({keys})=(?!null$)([^\[]+)$", r"\1=[\2]", text) for text in arguments]


def of_folders(arguments: Sequence[str]) -> list[str]:
    """The arguments that are folders or files get a key."""
    given: list[str] = get_args(arguments).overrides
    folders = [text for text in given if Path(text).exists() or not re.match(r"[+~]*[A-Za-z_][\w./@:]*=", text)]
    kept = [text for text in arguments if text not in folders]
    return [*kept, f"folders=[{','.join(map(_quoted, folders))}]"] if folders else kept


def of_predict(arguments: Sequence[str]) -> list[str]:
    """A path may hold any characters, those of Hydra's grammar, too."""
    return [re.sub(r"(?s)^input=(.+)", lambda match: f"input={_quoted(match[1])}", text) for text in arguments]


def given(overrides: Sequence[str]) -> dict[str, str]:
    """What was typed, by the key it is for."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {override.key_or_group: str(override.input_line) for override in parsed}


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()

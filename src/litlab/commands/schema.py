"""`litlab schema`: JSON Schemas by which an editor completes and checks the configs."""

import json
from pathlib import Path
from typing import Any

from litlab.commands import check, compare, evaluate, export, predict, rename, report, reproduce, trust
from litlab.commands.command import Command, Request
from litlab.config.command_schema import TrainCommand
from litlab.config.describe import command_schema, group_schema
from litlab.config.schema import Paths
from litlab.config.types import Settings
from litlab.console import say
from litlab.files import read_text, write_text
from litlab.project import CONFIGS, groups

HELP = """\
schema: write JSON Schemas of all configs, by which an editor completes keys and shows their types and sentences.

  litlab schema             writes configs/.schema/, and the settings by which VS Code's YAML extension finds them
"""

COMMANDS = (check, compare, evaluate, export, predict, rename, report, reproduce, trust)


class SchemaCommand(Settings):
    """Everything that `litlab schema` can be told."""

    paths: Paths
    """Where things are."""


def schemas() -> dict[str, Any]:
    """Return the JSON Schema of each group of configs and of each command's own config, by its name."""
    of_commands = {module.__name__.rpartition(".")[2]: module.COMMAND.settings for module in COMMANDS}
    own = {name: command_schema(settings) for name, settings in {**of_commands, "train": TrainCommand}.items()}
    return {group: group_schema(group) for group in groups()} | own


def run(_: Request[SchemaCommand]) -> None:
    """Write the schemas, and where they belong."""
    made = schemas()
    folder = CONFIGS / ".schema"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    for name, schema in made.items():
        write_text(folder / f"{name}.json", f"{json.dumps(schema, indent=1, sort_keys=True)}\n")
    write_text(settings_file(), settings_text(made))
    say(f"{len(made)} schemas in {folder}; {settings_file()} names them")


def settings_file() -> Path:
    """Return where VS Code keeps a project's settings."""
    file = CONFIGS.parent / ".vscode" / "settings.json"
    file.parent.mkdir(exist_ok=True)
    return file


def settings_text(names: dict[str, Any]) -> str:
    """Return VS Code's settings with the schemas' places; what else stands there stays."""
    file = settings_file()
    settings = json.loads(read_text(file)) if file.exists() else {}
    of_groups = {f"configs/.schema/{group}.json": f"configs/{group}/*.yaml" for group in groups()}
    of_commands = {f"configs/.schema/{name}.json": f"configs/{name}.yaml" for name in names if name not in groups()}
    settings["yaml.schemas"] = dict(sorted({**of_groups, **of_commands}.items()))
    return f"{json.dumps(settings, indent=2)}\n"


COMMAND = Command(SchemaCommand, HELP, run)

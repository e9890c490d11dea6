"""The lab's modules by the names that they had in labs up to 0.1, and what they are called now."""

import re
from collections.abc import Iterable
from pathlib import Path

FORMER = "src/litlab/schema.py"
"""A file of labs up to 0.1, whose modules had the names that RENAMED replaces."""
RENAMED = {
    "arguments": "config.command_line",
    "checking": "config.validate",
    "command": "commands.command",
    "commands.compare": "comparison.compare",
    "commands.evaluate": "inference.evaluate",
    "commands.export": "inference.export",
    "commands.predict": "inference.predict",
    "commands.reproduce": "training.reproduce",
    "commands.train": "training.train",
    "components": "config.components",
    "conditions": "comparison.filters",
    "config": "config.compose",
    "debugger": "distributed.debugger",
    "engine.ddp": "distributed.ddp",
    "engine.group": "distributed.group",
    "engine.hardware": "distributed.hardware",
    "interruption": "distributed.signals",
    "processes": "distributed.processes",
    "refusals": "messages",
    "resume": "commands.resume",
    "runs.files": "files",
    "runs.pictures": "comparison.pictures",
    "runs.tables": "comparison.tables",
    "runs.trust": "config.trust",
    "schema": "config.schema",
}
"""Modules of litlab by their former names."""


def rename_modules(folder: Path, places: Iterable[str]) -> list[str]:
    """Bring the names of the lab's modules up to date in a project's own files; return the files that changed."""
    rewritten = []
    for place in places:
        if not place.endswith((".py", ".yaml", ".toml")) or not (folder / place).is_file():
            continue
        text = (folder / place).read_text(encoding="utf-8")
        if (new := with_new_names(text)) != text:
            (folder / place).write_text(new, encoding="utf-8")
            rewritten.append(place)
    return sorted(rewritten)


def with_new_names(text: str) -> str:
    """The text with the lab's modules as they are called now."""
    names = "|".join(re.escape(name) for name in sorted(RENAMED, key=len, reverse=True))

    def split(found: re.Match[str]) -> str:
        """One line for each module that `from litlab import …` names."""
        lines = []
        for name in (part.strip() for part in found["names"].split(",")):
            home, _, new = f"litlab.{RENAMED.get(name, name)}".rpartition(".")
            lines.append(f"{found['indent']}from {home} import {new if new == name else f'{new} as {name}'}")
        return "\n".join(lines)

    text = re.sub(rf"(?<![\w.])litlab\.({names})(?![\w.]*\w/)(?!\w)", lambda found: f"litlab.{RENAMED[found[1]]}", text)
    text = text.replace("from litlab.config.schema import ", "from litlab.config.types import ")  # what projects take
    text = re.sub(r"(?m)^(?P<indent>[ \t]*)from litlab import (?P<names>[\w, ]+)$", split, text)
    return re.sub(r"(?m)^ +- override hydra/help: train\n", "", text)  # there is one help for all commands

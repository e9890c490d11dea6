"""What a run says on the terminal before it begins and when it has ended."""

import io
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table

from litlab.messages import shell_quoted, visible
from litlab.runs.record import Metrics
from litlab.runs.run import Run

MOST_CLASSES = 20
"""How many classes' accuracies are told, the lowest ones."""


def opening(run: Run, parameters: int) -> str:
    """What will run, where, and on what: a panel on a terminal, elsewhere plain lines.

    Args:
        run: the run that begins, or goes on.
        parameters: how many numbers the network learns.
    """
    title = visible(f"training on {run.record.device}")
    if run.record.resumed:
        title += f", going on after step {run.record.resumed[-1].step:,}"
    rows = _table(_plan(run, parameters))
    if sys.stdout.isatty():
        return _text(Panel(rows, title=title, title_align="left", expand=False))
    return f"{title}\n{_text(rows)}"


def ending(metrics: Metrics) -> str:
    """The test's results, and the accuracy of each class if it is known."""
    classes = metrics.test_by_class
    if len(classes) > MOST_CLASSES:
        classes = dict(sorted(classes.items(), key=itemgetter(1))[:MOST_CLASSES])
    results = metrics.test | {f"test/acc of {name}": accuracy for name, accuracy in classes.items()}
    return _text(_table((name, f"{value:.4f}") for name, value in results.items()))


def tensorboard_command(folder: Path) -> str:
    """What to type to see the run in TensorBoard, by the name of its folder, beside its neighbours.

    Of a folder that is itself the logdir, TensorBoard 2.21 calls the run `.`, and its HPARAMS are then without results.
    """
    return f"tensorboard --logdir {shell_quoted(str(folder.parent))}"


def _plan(run: Run, parameters: int) -> Iterator[tuple[str, str]]:
    settings = run.record.settings
    yield "model", f"{' of '.join(_classes(settings['model']))}, {parameters:,} parameters"
    batch_size = settings["data"].get("batch_size")
    yield "data", "".join(_classes(settings["data"])) + (f", batches of {batch_size:,}" if batch_size else "")
    if optimizer := settings["optimizer"]:
        yield "optimizer", f"{_classes(optimizer)[0]}, lr {optimizer.get('lr', 'default')}"
    trainer = settings["trainer"]
    limits = {"max_epochs": "epochs", "max_steps": "steps", "max_time": "(DD:HH:MM:SS)"}
    yield "length", " or ".join(f"{trainer[key]} {limits[key]}" for key in limits if trainer[key] not in (-1, None))
    if run.record.overrides:
        yield "set", ", ".join(f"{key}={text}" for key, text in run.record.overrides.items())
    yield "folder", str(run.folder)


def _classes(node: Mapping[str, Any]) -> list[str]:
    """The name of a component's class, and of those in it."""
    inner = [name for value in node.values() if isinstance(value, Mapping) for name in _classes(value)]
    return ([str(node["_target_"]).rpartition(".")[2]] if "_target_" in node else []) + inner


def _table(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(*map(visible, row))
    return table


def _text(shown: RenderableType) -> str:
    """What is shown as text, which may go into a log file as well."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    # Brackets in settings are not markup.
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(shown)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())

"""Kills training with SIGKILL at random moments and resumes it; its end must be that of an undisturbed training.

Trainings that are killed are forked from this process, so that torch is imported once. The undisturbed one, and the
last part of each that was killed, are commands of their own, as a user types them: event files are compared across
processes of other parents, which have other hash seeds.
"""

import argparse
import csv
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import hydra
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.graph_pb2 import GraphDef

from digits.mnist import prepare
from litlab.config import schema
from litlab.config.compose import check, run_config, write_config
from litlab.project import CONFIGS
from litlab.runs.checkpoint import read
from litlab.runs.run import Run
from litlab.training.train import train as train_run

ROOT = Path(__file__).resolve().parents[2]
COMMON = (
    f"data.dir={ROOT / 'data'}", "trainer=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=60",
    "trainer.limit_val_batches=2", "trainer.limit_test_batches=2", "logger=[tensorboard,csv]", "scheduler=onecycle",
)  # fmt: skip
VARIANTS = {
    "one step at a time": ("trainer.steps_per_execution=1", "checkpoint.every_n_steps=10"),
    "7 at a time, affine, EMA": ("trainer.steps_per_execution=7", "checkpoint.every_n_steps=10", "augment=affine",
                                 "callbacks=ema", "trainer.val_check_interval=25"),
    "50 at a time, from disk": ("trainer.steps_per_execution=50", "checkpoint.every_n_steps=25", "data.loader=workers",
                                "data.num_workers=0", "optimizer=sgd", "trainer.accumulate_grad_batches=2"),
}  # fmt: skip
KILLS_PER_RUN = 5
CLOCK = ("examples_per_second", "best/training_seconds", "run/", "_hparams_/")
"""Beginnings of the names of what tells times, or the command."""

FORK = multiprocessing.get_context("fork")


def main() -> None:
    """Torture as the command line says; the exit code is 1 unless every end was equal."""
    parser = argparse.ArgumentParser(prog="scripts/dev/kill-and-resume", description="Kills training and resumes it.")
    parser.add_argument("--kills", type=int, default=200, help="how often (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    prepare(ROOT / "data")
    columns = TextColumn("{task.description:<30}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("kills", total=asked.kills)
        tallies = torture(
            asked.kills, Path(folder), asked.seed, lambda name: bar.update(task, description=name, advance=1)
        )
    report(tallies)
    sys.exit(0 if all(tally.ends == tally.equal_ends > 0 for tally in tallies.values()) else 1)


def torture(kills: int, folder: Path, seed: int, on_kill: Callable[[str], Any]) -> dict[str, "Victim"]:
    """Kill so often, in equal parts of the variants; what became of each."""
    torch.set_num_threads(1)  # and none is started before a fork, which would not take it along
    victims = {}
    for number, (name, overrides) in enumerate(VARIANTS.items()):
        victim = victims[name] = Victim(overrides, folder / str(number), random.Random(seed))  # noqa: S311
        share = kills // len(VARIANTS) + (number < kills % len(VARIANTS))
        while victim.kills < share:
            for _ in victim.suffer(min(KILLS_PER_RUN, share - victim.kills)):
                on_kill(name)
    return victims


class Victim:
    """A training that is killed, and what became of it.

    Attributes:
        kills: how often it was killed.
        resumes: how often it went on.
        ends: how often it came to its end.
        differences: what was not the same at an end as in the undisturbed training.
        lost: of each kill, the steps done that had to be done again.
    """

    def __init__(self, overrides: Sequence[str], folder: Path, moments: random.Random) -> None:
        self.overrides, self.folder, self.moments = overrides, folder, moments
        self.config = settings(*overrides)
        self.kills = self.resumes = self.ends = self.equal_ends = 0
        self.lost: list[int] = []
        self.differences: list[str] = []
        self.undisturbed = folder / "undisturbed"
        self.finish(self.undisturbed)
        record = Run.open(self.undisturbed).record
        self.seconds = (record.ended - record.started).total_seconds() if record.ended else 0.0

    def suffer(self, kills: int) -> Iterator[int]:
        """Begin a training, kill it so often or until it was faster, let it end; gives each kill's lost steps."""
        run = self.folder / f"run{self.ends}"
        for attempt in range(kills):
            step = FORK.Value("i", 0)
            process = self.start(run, step)
            self.resumes += attempt > 0
            if self.moments.random() < 0.3:
                wait_for_a_write(run, process)
            else:
                process.join(self.moments.uniform(0, self.seconds))
            if not process.is_alive():
                break
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            self.kills += 1
            self.lost.append(max(0, step.value - saved_step(run)))
            yield self.lost[-1]
        if not (run / "run.json").exists() or Run.open(run).record.status != "done":
            self.resumes += 1
            self.finish(run)
        self.ends += 1
        differences = compare(self.undisturbed, run)
        self.equal_ends += not differences
        self.differences += differences

    def start(self, run: Path, step: Any) -> BaseProcess:
        """A process that trains in the folder `run`, or goes on there, and tells its steps by `step`."""
        run.mkdir(parents=True, exist_ok=True)
        if not (run / "config.yaml").exists():
            write_config(run, self.config)
        process = FORK.Process(target=train, args=(check(self.config, schema.Train), run, step))
        process.start()
        return process

    def finish(self, run: Path) -> None:
        """Train to the end, by a command."""
        begun = (run / "run.json").exists()
        arguments = [f"resume={run}"] if begun else [*COMMON, *self.overrides, f"hydra.run.dir={run}"]
        command = [sys.executable, "-m", "litlab", "train", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(f"a training ended with code {ended.returncode}: {ended.stderr}")


def train(config: schema.Train, run: Path, step: Any) -> None:
    """Train in the folder `run`, or go on there."""
    with Path(f"{run}.log").open("a") as log:
        sys.stderr = sys.stdout = log
        opened = Run.reopen(run) if (run / "run.json").exists() else Run.create(run, config.seed)
        train_run(config, opened, callbacks=[Counting(step)])


class Counting(Callback):
    """Tells another process how many steps are done."""

    def __init__(self, step: Any) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Tell it."""
        self.step.value = trainer.global_step

    # As one of the lab's own, for which steps need not be executed one at a time.
    on_train_batch_end.__module__ = "litlab.callbacks.progress"


def wait_for_a_write(run: Path, process: BaseProcess) -> None:
    """Wait until the process is writing a checkpoint; or has ended."""
    aside = run / "checkpoints" / ".last.ckpt.new"
    while not aside.exists() and process.is_alive():
        time.sleep(0.0001)


def compare(expected: Path, found: Path) -> list[str]:
    """What is not the same in the two runs' folders, but for what depends on the clock."""
    differences = compare_weights(expected, found)
    for name, read_curves in {"TensorBoard's curves": events, "the CSV file": rows, "run.json": metrics}.items():
        if read_curves(expected) != read_curves(found):
            differences.append(f"{found.name}: {name} differs")
    return differences


def compare_weights(expected: Path, found: Path) -> list[str]:
    """What is not the same in the checkpoints."""
    parts = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers")
    differences = []
    for name in ("last", "best"):
        ours, theirs = (read(run / "checkpoints" / f"{name}.ckpt") for run in (expected, found))
        different = [part for part in parts if not same(ours.get(part), theirs.get(part))]
        differences += [f"{found.name}: {name}.ckpt differs in {part}" for part in different]
    return differences


def same(ours: Any, theirs: Any) -> bool:
    """Whether two values are equal, tensors to the last bit."""
    if isinstance(ours, torch.Tensor):
        return isinstance(theirs, torch.Tensor) and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


def events(run: Path) -> list[Any]:
    """Every curve's point, picture, text and graph in TensorBoard's files, in order, but for what the clock says."""
    files = sorted(run.glob("events.out.tfevents.*"))
    events = [event for file in files for event in EventFileLoader(str(file)).Load()]
    return [(value.tag, event.step, shown(value)) for event in events for value in event.summary.value]


def shown(value: Any) -> Any:
    """A point's number; the graph, whose attributes come in any order; the bytes of anything else."""
    if value.tag.startswith(CLOCK):
        return None
    if value.tag == "__run_graph__":
        return GraphDef.FromString(value.tensor.string_val[0])
    return value.tensor.float_val[0] if value.tensor.float_val else value.SerializeToString()


def rows(run: Path) -> list[Any]:
    """The rows of the CSV file."""
    with (run / "csv" / "metrics.csv").open(newline="") as stream:
        return [row | {"examples_per_second": ""} for row in csv.DictReader(stream)]


def metrics(run: Path) -> dict[str, Any]:
    """The record's metrics."""
    metrics = Run.open(run).record.metrics
    metrics.last.pop("examples_per_second")
    return metrics.model_dump()


def saved_step(run: Path) -> int:
    """The steps after which the last checkpoint was written."""
    file = run / "checkpoints" / "last.ckpt"
    return int(read(file)["global_step"]) if file.exists() else 0


def settings(*overrides: str) -> DictConfig:
    """The config of `train OVERRIDES`."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return run_config(hydra.compose("train", [*COMMON, *overrides]))


def report(victims: dict[str, Victim]) -> None:
    """Print what became of them."""
    table = Table(*["", "kills", "resumes", "ends", "bit-equal ends", "lost steps, mean", "most"], box=None)
    for name, victim in victims.items():
        lost = victim.lost or [0]
        ends = [victim.kills, victim.resumes, victim.ends, victim.equal_ends]
        table.add_row(name, *map(str, ends), f"{sum(lost) / len(lost):.1f}", str(max(lost)))
    console = Console()
    console.print(table)
    for victim in victims.values():
        for difference in victim.differences:
            console.print(difference)


if __name__ == "__main__":
    main()

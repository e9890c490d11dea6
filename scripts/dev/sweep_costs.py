"""Measures sweeps: what TPE finds against chance, what pruning saves, what jobs and trials cost, what two at once gain.

Each sweep is a `train -m` in a process of its own, forked from this one so that torch is imported once.
"""

import argparse
import json
import multiprocessing.connection
import multiprocessing.queues
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import litlab.training.train
from digits.mnist import prepare
from litlab import cli
from litlab.comparison.compare import compare
from litlab.config import schema
from litlab.runs.record import Record
from litlab.runs.run import Run
from study_costs import SIZES, choice, timed

LITLAB = (sys.executable, "-m", "litlab")
ROOT = Path(__file__).resolve().parents[2]
FORK = multiprocessing.get_context("fork")
Memory = multiprocessing.queues.SimpleQueue[float]

SEEDS, TRIALS = 5, 30
SPACE = (
    "optimizer.lr=tag(log,interval(1e-5,1.0))", "optimizer.eps=tag(log,interval(1e-8,1.0))",
    "model.label_smoothing=interval(0.0,0.5)", "data.batch_size=choice(20,50,100)", "augment=choice(none,affine)",
)  # fmt: skip
SHORT = (
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=100",
    "trainer.val_check_interval=10",
    "trainer.limit_val_batches=4",
    "logger=none",
)
GRID = ("seed=1,2,3", "optimizer.lr=0.001,0.003", "data.batch_size=50,100", "trainer.max_epochs=1")
KILLS = 3
KINDS = {
    "random": ("sweep=random",),
    "tpe": ("sweep=tpe",),
    "tpe, median pruner": ("sweep=tpe", "sweep.pruner=median"),
}


def main() -> None:
    """Measure what the command line says, by default all."""
    measures: dict[str, Callable[[Path], Table]]
    measures = {"search": search, "survive": survive, "cost": cost, "choice": choice, "parallel": parallel}
    parser = argparse.ArgumentParser(prog="scripts/dev/sweep-costs", description="Measures sweeps.")
    parser.add_argument("measures", nargs="*", metavar="|".join(measures), help="what to measure (all)")
    parser.add_argument("--storage", metavar="URL", help="database for `choice`, where it leaves its studies")
    arguments = parser.parse_args()
    measures["choice"] = partial(choice, storage=arguments.storage)
    asked = arguments.measures or list(measures)
    if unknown := set(asked) - measures.keys():
        parser.error(f"no such measure: {', '.join(unknown)}; there is {', '.join(measures)}")
    prepare(ROOT / "data")
    with tempfile.TemporaryDirectory() as folder:
        for name in asked:
            Console().print(measures[name](Path(folder)))


def search(folder: Path) -> Table:
    """What is the best of as many short trials, and how many steps do they take?"""
    table = Table(f"{TRIALS} trials, {SEEDS} seeds", "best val/acc, mean", "by seed", "steps, mean", "of all", box=None)
    sweeps = [(kind, seed) for seed in range(SEEDS) for kind in KINDS]
    todo, found = list(sweeps), {}
    running: dict[tuple[str, int], BaseProcess] = {}
    for _ in track(sweeps, "searching"):
        while todo and len(running) < len(os.sched_getaffinity(0)):
            kind, seed = todo.pop(0)
            settings = (*KINDS[kind], f"sweep.n_trials={TRIALS}", f"sweep.seed={seed}", f"seed={seed}")
            running[kind, seed] = train(folder / f"{kind} {seed}", 1, *settings, *SPACE, *SHORT)
        sentinels: dict[Any, tuple[str, int]] = {process.sentinel: sweep for sweep, process in running.items()}
        ended = sentinels[multiprocessing.connection.wait(list(sentinels))[0]]
        running.pop(ended).join()
        found[ended] = [Run.open(file).record for file in (folder / f"{ended[0]} {ended[1]}").glob("*/run.json")]
    steps = {kind: statistics.mean(sum(map(steps_of, found[kind, seed])) for seed in range(SEEDS)) for kind in KINDS}
    for kind in KINDS:
        best = [max(map(accuracy_of, found[kind, seed])) for seed in range(SEEDS)]
        by_seed = " ".join(f"{value:.4f}" for value in best)
        share = f"{steps[kind] / steps['tpe']:.2f}"
        table.add_row(kind, f"{statistics.mean(best):.4f}", by_seed, f"{steps[kind]:.0f}", share)
    return table


def accuracy_of(record: Record) -> float:
    """The best of a run that was not pruned."""
    return record.metrics.best.get("val/acc", 0.0) if record.status == "done" else 0.0


def steps_of(record: Record) -> int:
    """Optimizer steps up to the last validation."""
    return record.metrics.validations[-1].step if record.metrics.validations else 0


def survive(folder: Path, overrides: Sequence[str] = GRID) -> Table:
    """Does a sweep that is killed and resumed, again and again, end in the table of one that was left alone?"""
    undisturbed, killed = folder / "left alone", folder / "killed"
    seconds = timed(train(undisturbed, 1, *overrides).join)
    jobs, kills, moments = len(begun(undisturbed)), 0, random.Random(0)  # noqa: S311
    for kill in range(KILLS):
        resuming = [f"resume='{killed}'"] if kill else []
        sweep = train(killed, 1, *overrides, *resuming)
        while len(begun(killed)) <= (kill + 1) * jobs // (KILLS + 1) and sweep.is_alive():
            time.sleep(0.01)
        sweep.join(moments.uniform(0, seconds / jobs))
        sweep.kill()
        sweep.join()
        kills += sweep.exitcode == -signal.SIGKILL
    train(killed, 1, *overrides, f"resume='{killed}'").join()
    table = Table("jobs", "SIGKILLs", "the same table", box=None)
    table.add_row(str(len(begun(killed))), str(kills), "yes" if rows(killed) == rows(undisturbed) else "NO")
    return table


def begun(sweep: Path) -> list[Path]:
    """The records of its jobs, done or not."""
    return list(sweep.glob("*/run.json"))


def rows(sweep: Path) -> list[dict[str, Any]]:
    """What compare says of a sweep, to the last digit; but for the times and the folders."""
    groups = json.loads(compare([sweep]).as_json())["groups"]
    return [{key: value for key, value in group.items() if key not in ("seconds", "runs")} for group in groups]


def cost(folder: Path, sizes: Sequence[int] = SIZES) -> Table:
    """What does the sweeper itself take, when training takes nothing, and comparing what it left behind?"""
    table = Table("jobs that do nothing", "ms a job", "more memory at the end, MB", "compare, s", box=None)
    for jobs in sizes:
        before, after = FORK.SimpleQueue(), FORK.SimpleQueue()
        sweep, nothing = folder / f"cost {jobs}", partial(do_nothing, before=before)
        seconds = timed(
            train(sweep, 1, f"seed=range({jobs})", instead=nothing, at_end=partial(note_memory, after)).join
        )
        comparing = timed(partial(subprocess.run, [*LITLAB, "compare", sweep], check=True, stdout=subprocess.DEVNULL))
        growth = after.get() - before.get()
        table.add_row(str(jobs), f"{1000 * seconds / jobs:.1f}", f"{growth:.0f}", f"{comparing:.2f}")
    return table


def do_nothing(settings: schema.Train, run: Run, *, callbacks: object, before: Memory) -> None:  # noqa: ARG001 (as of train)
    """Leave a record as a training would; the first one notes the memory."""
    with run.tracked():
        run.record.metrics.monitor, run.record.metrics.best = "val/acc", {"val/acc": 0.5}
        run.record.settings = settings.model_dump()
    if before.empty():
        note_memory(before)


def note_memory(notes: Memory) -> None:
    """Note that of this process, in MB."""
    notes.put(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)


def parallel(folder: Path) -> Table:
    """Do two jobs of the default recipe take less time at once than one after the other?"""
    table = Table("2 jobs of the default recipe", "s", box=None)
    cores = len(os.sched_getaffinity(0))
    ways = {"basic": f"one after the other, {cores} threads", "local": f"2 at once, {cores // 2} each"}
    for launcher, words in ways.items():
        seconds = timed(train(folder / launcher, cores, "seed=1,2", f"launcher={launcher}").join)
        table.add_row(words, f"{seconds:.1f}")
    return table


def train(
    sweep: Path,
    threads: int,
    *overrides: str,
    instead: Callable[..., None] | None = None,
    at_end: Callable[[], None] = lambda: None,
) -> BaseProcess:
    """Start `train -m OVERRIDES`, silently, with this function instead of the training."""

    def work() -> None:
        torch.set_num_threads(threads)
        if threads == 1:
            os.environ["OMP_NUM_THREADS"] = "1"
        if instead:
            litlab.training.train.train = instead  # type: ignore[assignment]
        sys.argv = ["train", "-m", *overrides, f"hydra.sweep.dir='{sweep}'", f"data.dir={ROOT / 'data'}", "trainer=cpu"]
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())
        cli.train()
        at_end()

    process = FORK.Process(target=work)
    process.start()
    return process


if __name__ == "__main__":
    main()

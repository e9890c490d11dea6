"""Measures sweeps: what TPE finds against chance, what pruning saves, what a job costs, what two at once gain.

Each sweep is a `train -m` in a process of its own, forked from this one so that torch is imported once.
"""

import argparse
import multiprocessing.connection
import multiprocessing.queues
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import litlab.train
from digits.mnist import prepare
from litlab import cli, schema
from litlab.runs.files import write_text
from litlab.runs.run import Record, Run

ROOT = Path(__file__).resolve().parents[1]
FORK = multiprocessing.get_context("fork")
Memory = multiprocessing.queues.SimpleQueue[float]

SEEDS, TRIALS = 5, 30
SPACE = (
    "optimizer.lr=tag(log,interval(1e-5,1.0))", "optimizer.eps=tag(log,interval(1e-8,1.0))",
    "model.label_smoothing=interval(0.0,0.5)", "data.batch_size=choice(20,50,100)", "augment=choice(none,affine)",
)  # fmt: skip
SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=100", "trainer.val_check_interval=20", "logger=none")
KINDS = {
    "random": ("sweep=random",),
    "tpe": ("sweep=tpe",),
    "tpe, median pruner": ("sweep=tpe", "sweep.pruner=median"),
}


def main() -> None:
    """Measure what the command line says, by default all."""
    measures = {"search": search, "cost": cost, "parallel": parallel}
    parser = argparse.ArgumentParser(prog="scripts/sweeps", description="Measures sweeps.")
    parser.add_argument("measures", nargs="*", metavar="|".join(measures), help="what to measure (all)")
    asked = parser.parse_args().measures or list(measures)
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
        multiprocessing.connection.wait([process.sentinel for process in running.values()])
        ended = next(sweep for sweep, process in running.items() if not process.is_alive())
        running.pop(ended).join()
        found[ended] = [Run.open(file).record for file in (folder / f"{ended[0]} {ended[1]}").glob("*/run.json")]
    steps = {kind: statistics.mean(sum(map(steps_of, found[kind, seed])) for seed in range(SEEDS)) for kind in KINDS}
    for kind in KINDS:
        best = [max(map(accuracy_of, found[kind, seed])) for seed in range(SEEDS)]
        by_seed = " ".join(f"{value:.4f}" for value in best)
        table.add_row(
            kind, f"{statistics.mean(best):.4f}", by_seed, f"{steps[kind]:.0f}", f"{steps[kind] / steps['tpe']:.2f}"
        )
    return table


def accuracy_of(record: Record) -> float:
    """The best of a run that was not pruned."""
    return record.metrics.best.get("val/acc", 0.0) if record.status == "done" else 0.0


def steps_of(record: Record) -> int:
    """Optimizer steps up to the last validation."""
    return record.metrics.validations[-1].step if record.metrics.validations else 0


def cost(folder: Path) -> Table:
    """What does the sweeper itself take, when training takes nothing?"""
    table = Table("jobs that do nothing", "ms a job", "more memory at the end, MB", box=None)
    for jobs in (100, 1000):
        before, after = FORK.SimpleQueue(), FORK.SimpleQueue()
        started = time.perf_counter()
        nothing = partial(do_nothing, before=before)
        train(
            folder / f"cost {jobs}", 1, f"seed=range({jobs})", instead=nothing, at_end=partial(note_memory, after)
        ).join()
        seconds = time.perf_counter() - started
        table.add_row(str(jobs), f"{1000 * seconds / jobs:.1f}", f"{after.get() - before.get():.0f}")
    return table


def do_nothing(config: schema.Train, folder: Path, before: Memory, **_: object) -> None:
    """Leave a record as a training would; the first one notes the memory."""
    record = Record(command="", status="done", started=datetime.now(UTC), seed=config.seed, python="", versions={})
    record.metrics.monitor, record.metrics.best = "val/acc", {"val/acc": 0.5}
    record.settings = config.model_dump()
    write_text(folder / "run.json", record.model_dump_json())
    if before.empty():
        note_memory(before)


def note_memory(notes: Memory) -> None:
    """Note that of this process, in MB."""
    notes.put(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)


def parallel(folder: Path) -> Table:
    """Do two jobs of the default recipe take less time at once than one after the other?"""
    table = Table("2 jobs of the default recipe", "s", box=None)
    cores = len(os.sched_getaffinity(0))
    for launcher, words in {
        "basic": f"one after the other, {cores} threads",
        "local": "2 at once, the threads shared",
    }.items():
        started = time.perf_counter()
        train(folder / launcher, cores, "seed=1,2", f"launcher={launcher}").join()
        table.add_row(words, f"{time.perf_counter() - started:.1f}")
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
            litlab.train.train = instead  # type: ignore[assignment]
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

"""What it takes to choose a sweep's next job as its study grows."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.trial import create_trial
from rich.progress import track
from rich.table import Table

from litlab.sweeps.bases import Base
from litlab.sweeps.outcome import JobResult
from litlab.sweeps.plan import Plan
from litlab.sweeps.pruner import Pruner
from litlab.sweeps.space import Dimension
from litlab.sweeps.study import Study

SIZES = (100, 1_000, 10_000)
CHOICES = 20
"""Jobs that are chosen when the study has grown to a size; the median counts."""


def choice(folder: Path, sizes: Sequence[int] = SIZES, storage: str | None = None) -> Table:
    """What does it take to choose a job and to enter how it has ended, when so many have ended before?"""
    columns = [f"ms after {size:,}" for size in sizes]
    of_the_last = ("opening the last, s", "first question whether to prune, s")
    table = Table("chosen by", *columns, "ms after n thousand", *of_the_last, box=None)
    for sampler in ("grid", "random", "tpe"):
        found = []
        for size in track(sizes, sampler):
            home = folder / f"{sampler} {size}"
            plan = plan_of(sampler, size + CHOICES + 1, storage)
            fill(home, plan, size)
            started = time.perf_counter()
            study = Study(home, plan)
            opening = time.perf_counter() - started
            found.append(1000 * statistics.median(timed(partial(choose, study)) for _ in range(CHOICES)))
        pruning = timed(partial(ask, study))
        slope, base = np.polyfit(np.array(sizes) / 1000, found, 1, w=1 / np.array(found))
        model = f"{base:.1f} + {slope:.2f} n"
        table.add_row(sampler, *(f"{one:.1f}" for one in found), model, f"{opening:.2f}", f"{pruning:.2f}")
    return table


def plan_of(sampler: str, jobs: int, storage: str | None) -> Plan:
    """A sweep over the seed, or by chance over three settings, without the jobs' configs."""
    seeds = [str(seed) for seed in range(jobs)]
    if sampler == "grid":
        own: dict[str, Any] = {"zip": [], "exclude": []}
        dimensions = [Dimension(key="seed", choices=seeds)]
    else:
        own = {"n_trials": jobs, "seed": 0}
        dimensions = [
            Dimension(key="lr", low=1e-4, high=1.0, log=True),
            Dimension(key="width", low=8, high=64, step=8),
            Dimension(key="kind", choices=["a", "b", "c"]),
        ]
    common = {"sampler": sampler, "objectives": None, "pruner": "none", "storage": storage}
    return Plan(
        dimensions=dimensions,
        bases=[Base(choices={}, groups=[], config="")],
        sampling=common | own | {"on_error": "continue", "dry_run": False},  # type: ignore[arg-type]
        objectives={"val/acc": "max"},
        jobs=[{"seed": seed} for seed in seeds] if sampler == "grid" else [],
        planned=jobs,
        study=f"measured-{uuid4()}",
    )


def fill(home: Path, plan: Plan, jobs: int) -> None:
    """Leave a study in which so many have ended, with settings and values drawn by chance."""
    for number in range(jobs):
        (home / str(number)).mkdir(parents=True)
        (home / str(number) / "run.json").touch()
    study, values = Study(home, plan), np.random.default_rng(0).random(jobs)
    distributions = {one.key: one.scale() if plan.jobs else one.distribution() for one in plan.dimensions}
    drawn = optuna.create_study(sampler=RandomSampler(0))
    seeds = [{"seed": int(job["seed"])} for job in plan.jobs]
    params = seeds[:jobs] or [drawn.ask(distributions).params for _ in values]
    study.study.add_trials(
        create_trial(params=one, distributions=distributions, value=value, intermediate_values={0: value, 1: value})
        for one, value in zip(params, values, strict=True)
    )


def choose(study: Study) -> None:
    """Begin a job, and enter that it is done."""
    if following := study.next():
        study.tell(following[0], JobResult("done", values={"val/acc": 0.5}))


def ask(study: Study) -> None:
    """Do what a job of its own process does after its first validation, where there is a pruner."""
    if following := study.next():
        Pruner(study.storage.load("median"), following[0])(0, 0.5)


def timed(work: Callable[[], object]) -> float:
    """Seconds it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

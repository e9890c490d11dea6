"""Measures training on real MNIST: the usual ways, this project's, and the bare operations as the limit.

All run in turn, several times over, in one process, so that each meets the same machine; the median counts.
"""

import argparse
import logging
import os
import platform
import statistics
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarking.contenders import DATA, Task, contenders, ours
from benchmarking.costs import others
from benchmarking.report import ratio, report
from digits.mnist import prepare
from litlab.distributed.hardware import cores, has_bf16_instructions, use_all_cores

ROUNDS = 5


def main() -> None:
    """Measure, print and write what the command line asks for."""
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description="Measures how fast training is.")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="under 3 minutes: fewer steps, and no speedrun")
    parser.add_argument(
        "--processes", action="store_true", help="how training in 1, 2 and 4 processes compares, no more"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    asked = parser.parse_args()
    if asked.device == "gpu" and not torch.cuda.is_available():
        parser.error("--device gpu: there is no GPU with CUDA; take --device cpu")
    quiet()
    use_all_cores()
    prepare(DATA)
    device = torch.device("cuda" if asked.device == "gpu" else "cpu")
    if device.type == "cuda":
        tasks = [Task(device, 50, 1200), Task(device, 512, 117)]
    else:
        tasks = [Task(device, 50, 100 if asked.quick else 1100)]
    columns = TextColumn("{task.description:<45}"), BarColumn(), TimeElapsedColumn()
    if asked.processes:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            table = "\n".join(scaling(device, progress))
        Console().print(Markdown(table))
        return
    with Progress(*columns, console=Console(stderr=True)) as progress:
        figures = {
            "machine": machine(device),
            "command": " ".join(["scripts/benchmark", *sys.argv[1:]]),
            "training": [race(task, progress) for task in tasks],
            "other": others(asked.device, asked.quick, progress),
        }
    report(figures, asked.json)


def race(task: Task, progress: Progress) -> dict[str, Any]:
    """Images per second of each contender in each round."""
    running = contenders(task)
    speeds: dict[str, list[float]] = {contender.name: [] for contender in running}
    bar = progress.add_task("", total=ROUNDS * len(running))
    for _ in range(ROUNDS):
        for contender in running:
            progress.update(bar, description=f"batch {task.batch_size}: {contender.name}")
            speeds[contender.name].append(contender.run())
            progress.advance(bar)
    return {"batch_size": task.batch_size, "steps": task.steps, "images_per_second": speeds}


def machine(device: torch.device) -> str:
    """What this was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    where = f"{cores()} cores of {cpu}"
    if has_bf16_instructions():
        where += " with bf16 instructions"
    if device.type == "cuda":
        where += f", {torch.cuda.get_device_name(device)}"
    return f"{where}; torch {torch.__version__}, lightning {lightning.__version__}"


def scaling(device: torch.device, progress: Progress) -> Iterable[str]:
    """Lines of Markdown: training in several processes, each with one thread, and what a step takes."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for those that are started
    torch.set_num_threads(1)
    counts = (1, 2, 4)
    tasks = [Task(device, size, 10_000 // size) for size in (50, 512)]
    bar = progress.add_task("", total=ROUNDS * len(tasks) * len(counts))
    yield f"On {machine(device)}:"
    yield ""
    yield "| batch | processes | images/s | / one's | ms a step |"
    yield "|---:|---:|---:|---:|---:|"
    for task in tasks:
        speeds: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(ROUNDS):
            for count in counts:
                progress.update(bar, description=f"batch {task.batch_size}: {count} processes")
                speeds[count].append(ours(task, f"trainer.devices={count}", "views=none"))
                progress.advance(bar)
        for count, found in speeds.items():
            speed = statistics.median(found)
            milliseconds = f"{1000 * task.batch_size / speed:.2f}"
            yield f"| {task.batch_size} | {count} | {speed:,.0f} | {ratio(found, speeds[1]):.2f} | {milliseconds} |"


def quiet() -> None:
    """Say nothing about single runs."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()

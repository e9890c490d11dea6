"""What a command costs besides its steps: start-up, jobs of a multirun, memory, pictures; and the speedrun."""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich.progress import Progress
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarking.contenders import DATA, ROOT, now, settings
from digits.mnist import decoded
from litlab.runs.run import Run
from litlab.training.train import train

TRAIN = (sys.executable, "-m", "litlab", "train")
OBJECTIVE = "sweep.objectives={train/loss:min}"  # so short a training validates nothing


def others(device: str, quick: bool, progress: Progress) -> dict[str, float]:
    """Start-up, a job in a multirun, memory, pictures and, if there is time, the speedrun."""
    measures = {
        "from the command to the first step": start_up,
        "a job in a multirun": multirun,
        "memory": memory,
        "pictures": pictures,
    }
    if not quick:
        measures["speedrun"] = speedrun
    bar = progress.add_task("", total=len(measures))
    found: dict[str, float] = {}
    for name, measure in measures.items():
        progress.update(bar, description=name)
        with tempfile.TemporaryDirectory() as folder:
            found |= measure(device, Path(folder))
        progress.advance(bar)
    return found


def start_up(device: str, folder: Path) -> dict[str, float]:
    """From the command to the first step, and what importing the frameworks takes of it."""
    imports, starts = [], []
    for repetition in range(3):
        imports.append(spawn([sys.executable, "-c", "import torch, lightning"]).seconds)
        began, run = time.time(), folder / str(repetition)
        spawn([*TRAIN, *one_step(device), f"hydra.run.dir={run}"])
        starts.append(first_step(run) - began)
    return {
        "import torch and lightning (s)": statistics.median(imports),
        "from the command to the first step (s)": statistics.median(starts),
    }


def multirun(device: str, folder: Path) -> dict[str, float]:
    """What a one-step job costs after the first."""
    jobs = 11
    spawn([*TRAIN, "-m", *one_step(device), f"seed=range({jobs})", OBJECTIVE, f"hydra.sweep.dir={folder}"])
    records = [json.loads((folder / str(job) / "run.json").read_text()) for job in (0, jobs - 1)]
    first, last = (datetime.fromisoformat(record["ended"]) for record in records)
    return {"a one-step job in a multirun after the first (s)": (last - first).total_seconds() / (jobs - 1)}


def memory(device: str, folder: Path) -> dict[str, float]:
    """The most memory on the host."""
    libraries = "hydra, lightning, pydantic, tensorboard, torch, torchmetrics, torchvision, torch.utils.tensorboard"
    epoch = [f"trainer={device}", "trainer.max_epochs=1", "trainer.limit_train_batches=200"]
    parts = [*decoded(DATA, True, torch.device("cpu")), *decoded(DATA, False, torch.device("cpu"))]
    return {
        "memory: libraries imported (MB)": spawn([sys.executable, "-c", f"import {libraries}"]).peak_mb,
        "memory: after training (MB)": spawn([*TRAIN, *epoch, f"hydra.run.dir={folder}/run"]).peak_mb,
        "memory: the dataset (MB)": sum(part.nbytes for part in parts) / 1e6,
    }


def pictures(device: str, folder: Path) -> dict[str, float]:
    """What drawing takes of the default run, and how much TensorBoard gets to read."""
    clock, since = ClockedPictures(), time.perf_counter()
    train(settings(f"trainer={device}"), Run.create(folder, seed=42), callbacks=[clock])
    whole = time.perf_counter() - since
    return {
        "pictures: share of the default run's time (%)": 100 * clock.seconds[0] / whole,
        "event files of the default run (MB)": sum(file.stat().st_size for file in folder.glob("events.*")) / 1e6,
    }


class ClockedPictures(Callback):
    """Clocks the callbacks that draw."""

    def __init__(self) -> None:
        self.seconds = [0.0]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clock them from here on."""
        for callback in trainer.callbacks if stage == "fit" else ():  # type: ignore[attr-defined]
            if type(callback).__module__.startswith(("litlab.views", "litlab.callbacks.class_accuracy")):
                clock_hooks(callback, self.seconds)


def clock_hooks(callback: Callback, seconds: list[float]) -> None:
    """Add the time that the callback's hooks take, once the device has done what they asked for, to `seconds`."""
    for name in (name for name in dir(callback) if name.startswith("on_")):
        hook = getattr(callback, name)

        def clocked_hook(*arguments: Any, hook: Callable[..., Any] = hook) -> Any:
            module = next(part for part in arguments if isinstance(part, LightningModule))
            since = now(module.device)
            try:
                return hook(*arguments)
            finally:
                seconds[0] += now(module.device) - since

        if is_overridden(name, callback, parent=Callback) and not name.endswith(("_checkpoint", "_exception")):
            setattr(callback, name, clocked_hook)


def speedrun(device: str, folder: Path) -> dict[str, float]:
    """How long the recipe trains, all in all and at the speed of its last epoch, when a graph has been captured."""
    seeds = range(10 if device == "gpu" else 3)
    seconds, rest, accuracies = [], [], []
    for seed in seeds:
        (folder / str(seed)).mkdir()
        config = settings("experiment=speedrun", f"trainer.accelerator={device}", f"seed={seed}")
        run = train(config, Run.create(folder / str(seed), seed)).record
        seconds.append(run.training_seconds or math.nan)
        rest.append(seconds[-1] * (run.examples_per_second or math.nan) / run.metrics.last["examples_per_second"])
        accuracies.append(run.metrics.test["test/acc"])
    return {
        "speedrun: seeds": len(seeds),
        "speedrun: training (s)": statistics.median(seconds),
        "speedrun: training at the speed of its last epoch (s)": statistics.median(rest),
        "speedrun: lowest test accuracy": min(accuracies),
        "speedrun: mean test accuracy": statistics.mean(accuracies),
    }


def one_step(device: str) -> list[str]:
    """Overrides for the shortest training there is."""
    return [f"trainer={device}", "trainer.max_steps=1", "trainer.limit_val_batches=1", "test=false"]


@dataclass(frozen=True)
class Finished:
    """A process that has ended."""

    seconds: float
    peak_mb: float


def spawn(command: list[str]) -> Finished:
    """Run a command to its end; how long it took and the most memory it held."""
    since, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
        while process.poll() is None:  # what the kernel counts at the end includes the memory of this process
            peak = max(peak, resident(process.pid))
            time.sleep(0.01)
        seconds = time.perf_counter() - since
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{output.read().decode()}")
    return Finished(seconds, peak / 1e3)


def resident(pid: int) -> int:
    """Most memory that a running process has held so far, in kB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def first_step(folder: Path) -> float:
    """When the first step's loss was written, in seconds since 1970."""
    return float(EventAccumulator(str(folder)).Reload().Scalars("train/loss")[0].wall_time)

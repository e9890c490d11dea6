"""Measures training on real MNIST: the usual ways, this project's, and the bare operations as the limit.

All run in turn, several times over, in one process, so that each meets the same machine; the median counts.
"""

import argparse
import json
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
import lightning
import matplotlib
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from digits.convnet import ConvNet
from digits.mnist import decoded, prepare
from litlab.config import schema
from litlab.config.compose import check, run_config
from litlab.distributed.hardware import cores, has_bf16_instructions, use_all_cores
from litlab.engine.graphs.cuda import CudaGraph
from litlab.engine.graphs.optimization import WARM_UP
from litlab.project import CONFIGS
from litlab.runs.run import Run
from litlab.training.train import train

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
BEFORE = 20  # steps that are not measured
ROUNDS = 5
TRAIN = (sys.executable, "-m", "litlab", "train")
OBJECTIVE = "sweep.objectives={train/loss:min}"  # so short a training validates nothing


@dataclass(frozen=True)
class Task:
    """What each contender does: so many steps of this size."""

    device: torch.device
    batch_size: int
    steps: int

    @property
    def workers(self) -> int:
        """Processes that read images where the contender has such."""
        return 2 if self.device.type == "cpu" else 14

    @property
    def images(self) -> int:
        """Images in all."""
        return self.batch_size * self.steps


@dataclass(frozen=True)
class Contender:
    """A way to train; `run` gives images per second."""

    name: str
    run: Callable[[], float]


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


# --- the contenders ---------------------------------------------------------------------------------------------------


def contenders(task: Task) -> list[Contender]:
    """Return the contenders of a task, the tutorial first; precisions have Lightning's names."""
    best = "bf16-mixed" if task.device.type == "cpu" and has_bf16_instructions() else "32-true"
    found = [
        Contender("the tutorial's loop", lambda: tutorial(task)),
        Contender("Lightning, DataLoader, self.log", lambda: usual_lightning(task)),
    ]
    for precision in dict.fromkeys(["32-true", best]):
        found.append(Contender(f"bare loop, {precision}", lambda p=precision: bare(task, p)))  # type: ignore[misc]
        if task.device.type == "cuda":
            found.append(Contender(f"bare CUDA graph, {precision}", lambda p=precision: bare_graph(task, p)))  # type: ignore[misc]
        found.append(Contender(f"LitLab, {precision}", lambda p=precision: ours(task, p)))  # type: ignore[misc]
    return found


class TutorialsNet(ConvNet):
    """With the ReLU before the pooling, as in the tutorial."""

    def __init__(self) -> None:
        super().__init__()
        for block in (self.conv1, self.conv2):
            block[1], block[2] = block[2], block[1]


def tutorial(task: Task) -> float:
    """The tutorial: images decoded one by one by two workers, and a look at 2,000 test images every 50 steps."""
    net = TutorialsNet().to(task.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    loss_function = nn.CrossEntropyLoss()
    test_images, test_labels = decoded(DATA, False, task.device)
    seen, answers = test_images[:2000].float() / 255, test_labels[:2000]

    def step(index: int, batch: Any) -> None:
        images, labels = (part.to(task.device) for part in batch)
        loss = loss_function(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if index % 50 == 0:
            (net(seen).argmax(1) == answers).float().mean().item()
            loss.item()

    dataset = MNIST(DATA, train=True, transform=ToTensor())
    return clocked(task, step, DataLoader(dataset, task.batch_size, shuffle=True, num_workers=task.workers))


def bare(task: Task, precision: str) -> float:
    """A loop with nothing but the operations themselves, on images in memory."""
    images, labels = decoded(DATA, True, task.device)
    learn = bare_step(task, precision)

    def step(_: int, indices: Tensor) -> None:
        learn(images[indices], labels[indices])

    return clocked(task, step, torch.split(torch.randperm(60_000).to(task.device), task.batch_size))


def bare_graph(task: Task, precision: str) -> float:
    """Train in a bare loop whose step is a CUDA graph."""
    images, labels = decoded(DATA, True, task.device)
    learn = bare_step(task, precision, capturable=True)
    batches = torch.split(torch.randperm(60_000).to(task.device), task.batch_size)
    chosen = batches[0].clone()
    graph = CudaGraph()
    for _ in range(WARM_UP):
        with graph.beside():
            learn(images[chosen], labels[chosen])
    with graph.capturing():
        learn(images[chosen], labels[chosen])

    def step(_: int, indices: Tensor) -> None:
        chosen.copy_(indices)
        graph.replay()

    return clocked(task, step, batches)


def bare_step(task: Task, precision: str, capturable: bool = False) -> Callable[[Tensor, Tensor], None]:
    """Forward, backward and optimizer step, with the settings that LitLab has on this device."""
    net = ConvNet().to(task.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001, fused=True, capturable=capturable)
    loss_function = nn.CrossEntropyLoss()
    autocast = torch.autocast(task.device.type, torch.bfloat16, enabled=precision == "bf16-mixed", cache_enabled=False)

    def learn(images: Tensor, labels: Tensor) -> None:
        pixels = images.float().div(255).to(memory_format=torch.channels_last)
        with autocast:
            loss = loss_function(net(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return learn


def clocked(task: Task, step: Callable[[int, Any], None], batches: Iterable[Any]) -> float:
    """Images per second of `task.steps` steps over the batches, again and again, after some that do not count."""
    since, done = 0.0, 0
    while True:
        for batch in batches:
            if len(batch[0] if isinstance(batch, list) else batch) < task.batch_size:
                continue
            if done == BEFORE:
                since = now(task.device)
            step(done, batch)
            done += 1
            if done == BEFORE + task.steps:
                return task.images / (now(task.device) - since)


def now(device: torch.device) -> float:
    """Seconds, once the device has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class UsualModule(LightningModule):
    """The tutorial as it is usually written with Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TutorialsNet()
        self.loss = nn.CrossEntropyLoss()
        self.accuracy = MulticlassAccuracy(num_classes=10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss and accuracy, logged at each step."""
        images, labels = batch
        logits = self.net(images)
        loss: Tensor = self.loss(logits, labels)
        self.accuracy(logits, labels)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/acc", self.accuracy)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The tutorial's."""
        return torch.optim.Adam(self.parameters(), lr=0.001)


class LastEpoch(Callback):
    """Clocks each epoch."""

    seconds = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self.since = now(pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self.seconds = now(pl_module.device) - self.since


def usual_lightning(task: Task) -> float:
    """Lightning's Trainer over a DataLoader; the first of two epochs does not count."""
    dataset = MNIST(DATA, train=True, transform=ToTensor())
    loader = DataLoader(dataset, task.batch_size, shuffle=True, num_workers=task.workers, persistent_workers=True)
    clock = LastEpoch()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator="cpu" if task.device.type == "cpu" else "gpu",
            devices=1,
            max_epochs=2,
            limit_train_batches=task.steps,
            logger=TensorBoardLogger(folder),
            log_every_n_steps=1,
            callbacks=[clock],
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        ).fit(UsualModule(), loader)
    return task.images / clock.seconds


def ours(task: Task, precision: str) -> float:
    """`train` with its defaults for the device, everything logged; the first of two epochs does not count."""
    with tempfile.TemporaryDirectory() as folder:
        config = settings(
            f"trainer={'gpu' if task.device.type == 'cuda' else 'cpu'}", f"trainer.precision={precision}",
            "trainer.max_epochs=2", f"trainer.limit_train_batches={task.steps}", "trainer.limit_val_batches=1",
            f"data.batch_size={task.batch_size}", f"data.dir={DATA}", "test=false",
        )  # fmt: skip
        return train(config, Run.create(Path(folder), config.seed)).record.metrics.last["examples_per_second"]


def settings(*overrides: str) -> schema.Train:
    """The config of `train OVERRIDES`."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return check(run_config(hydra.compose("train", list(overrides))), schema.Train)


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


# --- everything else --------------------------------------------------------------------------------------------------


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


# --- several processes ------------------------------------------------------------------------------------------------


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
                speeds[count].append(trained_in(count, task))
                progress.advance(bar)
        for count, found in speeds.items():
            speed = statistics.median(found)
            milliseconds = f"{1000 * task.batch_size / speed:.2f}"
            yield f"| {task.batch_size} | {count} | {speed:,.0f} | {ratio(found, speeds[1]):.2f} | {milliseconds} |"


def trained_in(count: int, task: Task) -> float:
    """Images per second of the second of two epochs."""
    with tempfile.TemporaryDirectory() as folder:
        config = settings(
            f"trainer={'gpu' if task.device.type == 'cuda' else 'cpu'}", f"trainer.devices={count}",
            "trainer.max_epochs=2", f"trainer.limit_train_batches={task.steps}", "trainer.limit_val_batches=1",
            f"data.batch_size={task.batch_size}", f"data.dir={DATA}", "test=false", "views=none",
        )  # fmt: skip
        return train(config, Run.create(Path(folder), config.seed)).record.metrics.last["examples_per_second"]


# --- the report -------------------------------------------------------------------------------------------------------


def report(figures: dict[str, Any], file: Path | None) -> None:
    """Print the tables; write them, a plot of them and, if asked for, the figures."""
    folder = ROOT / "logs" / "benchmark" / datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    folder.mkdir(parents=True)
    table = "\n".join([f"Measured by `{figures['command']}` on {figures['machine']}.", "", *tables(figures), ""])
    (folder / "table.md").write_text(table)
    plot(figures, folder / "speed.png")
    if file is not None:
        file.write_text(json.dumps(figures, indent=2))
    Console().print(Markdown(table))
    print(f"written to {folder}")


def tables(figures: dict[str, Any]) -> Iterable[str]:
    """Lines of Markdown: one table a batch size, then one of the rest."""
    for race in figures["training"]:
        speeds: dict[str, list[float]] = race["images_per_second"]
        base, usual, *_ = speeds.values()
        yield f"| batch {race['batch_size']} | images/s | / the tutorial's | / the usual Lightning's | / its limit |"
        yield "|---|---:|---:|---:|---:|"
        for name, found in speeds.items():
            limit = f"{ratio(found, speeds[limit_of(name, speeds)]):.2f}" if name.startswith("LitLab") else ""
            speed = f"{statistics.median(found):,.0f}"
            yield f"| {name} | {speed} | {ratio(found, base):.2f} | {ratio(found, usual):.2f} | {limit} |"
        yield ""
    yield "| | |"
    yield "|---|---:|"
    for name, value in figures["other"].items():
        yield f"| {name} | {value:,.4g} |"


def ratio(speeds: list[float], others: list[float]) -> float:
    """Median over the rounds; within a round the machine is the same, from one to the next it may not be."""
    return statistics.median(own / other for own, other in zip(speeds, others, strict=True))


def limit_of(name: str, speeds: dict[str, list[float]]) -> str:
    """The bare contender of the same settings."""
    precision = name.partition(", ")[2]
    graph = f"bare CUDA graph, {precision}"
    return graph if graph in speeds else f"bare loop, {precision}"


def plot(figures: dict[str, Any], file: Path) -> None:
    """A bar for each contender."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    races = figures["training"]
    drawing, axes = pyplot.subplots(1, len(races), figsize=(7 * len(races), 3), squeeze=False, layout="constrained")
    for race, axis in zip(races, axes[0], strict=True):
        names = list(reversed(race["images_per_second"]))
        speeds = [statistics.median(race["images_per_second"][name]) for name in names]
        colours = ["tab:orange" if name.startswith("LitLab") else "tab:blue" for name in names]
        axis.bar_label(axis.barh(names, speeds, color=colours), fmt="{:,.0f}", padding=3)
        axis.set(title=f"images per second, batch {race['batch_size']}", xlim=(0, max(speeds) * 1.15))
    drawing.savefig(file, dpi=120)


def quiet() -> None:
    """Say nothing about single runs."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()

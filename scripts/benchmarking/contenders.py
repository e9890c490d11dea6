"""The ways to train that are measured against each other: images per second of each."""

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from digits.convnet import ConvNet
from digits.mnist import decoded
from litlab.config import schema
from litlab.config.compose import check, run_config
from litlab.distributed.hardware import has_bf16_instructions
from litlab.engine.graphs.cuda import CudaGraph
from litlab.engine.graphs.optimization import WARM_UP
from litlab.project import CONFIGS
from litlab.runs.run import Run
from litlab.training.train import train

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
BEFORE = 20  # steps that are not measured


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
        found.append(Contender(f"LitLab, {precision}", lambda p=precision: ours(task, f"trainer.precision={p}")))  # type: ignore[misc]
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


def ours(task: Task, *overrides: str) -> float:
    """`train` with its defaults for the device, everything logged; the first of two epochs does not count."""
    with tempfile.TemporaryDirectory() as folder:
        config = settings(
            f"trainer={'gpu' if task.device.type == 'cuda' else 'cpu'}", *overrides, "trainer.max_epochs=2",
            f"trainer.limit_train_batches={task.steps}", "trainer.limit_val_batches=1",
            f"data.batch_size={task.batch_size}", f"data.dir={DATA}", "test=false",
        )  # fmt: skip
        return train(config, Run.create(Path(folder), config.seed)).record.metrics.last["examples_per_second"]


def settings(*overrides: str) -> schema.Train:
    """The config of `train OVERRIDES`."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return check(run_config(hydra.compose("train", list(overrides))), schema.Train)

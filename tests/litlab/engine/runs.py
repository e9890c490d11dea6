"""Short trainings on real digits, and what they leave behind."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from conftest import settings
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.loggers import Logger
from torch import nn

from digits.classifier import Classifier
from litlab.config.components import build
from litlab.engine.metrics import StepMetrics
from litlab.engine.steps import execute_steps
from litlab.training.build import build_module
from litlab.training.trainer import make_trainer

STEP = (
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "data.val_size=57000",
    "trainer.limit_val_batches=1",
    "trainer.num_sanity_val_steps=0",
    "augment=affine",
    "scheduler=onecycle",
    "optimizer=adamw",
    "trainer.gradient_clip_val=0.5",
)
"""Everything at once that Lightning does in a step, on 3,000 images."""

FULL = (*STEP, "callbacks=ema")
"""And what litlab adds."""

FEW = (*FULL, "data.val_size=59700")
"""300 images."""

TEN = (*FEW, "data.batch_size=31", "trainer.max_epochs=2")
"""9 batches of 31 and one of 21, twice."""

PLAIN = (*TEN, "augment=none", "callbacks=none", "scheduler=none")


class Curves(Logger):
    """Keeps what is logged."""

    name, version = "curves", ""

    def __init__(self):
        super().__init__()
        self.points = []

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step):
        self.points.append((step, metrics))

    def curve(self, name):
        return [(step, metrics[name]) for step, metrics in self.points if name in metrics]


class Diary(Callback):
    """Keeps when which hook was called, in optimizer steps; as one of the lab's own, for which executions stay long."""

    __module__ = "litlab."

    def __init__(self):
        self.batch_ends, self.validations, self.indices = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batch_ends.append(trainer.global_step)
        self.indices.append(batch_idx)

    def on_validation_start(self, trainer, pl_module):
        self.validations.append(trainer.global_step)

    on_train_batch_end.__module__ = __module__


@dataclass
class Training:
    """What a training leaves behind."""

    module: torch.nn.Module
    trainer: object
    curves: Curves
    diary: Diary
    metrics: StepMetrics

    def weights(self):
        return torch.cat([parameter.detach().cpu().flatten() for parameter in self.module.parameters()])


def fit(folder, *overrides, steps=None, module_class=None, callbacks=(), checkpoint=None):
    """Train as the overrides say, `steps` at a time; None leaves Lightning's own loop alone."""
    config = settings(*overrides)
    seed_everything(config.seed, workers=True, verbose=False)
    module = build_module(config)
    if module_class:
        module.__class__ = module_class
    curves, diary, metrics = Curves(), Diary(), StepMetrics(config.trainer.on_nan == "skip")
    own = [metrics] if steps else []
    trainer = make_trainer(
        config.trainer,
        callbacks=[*own, *map(build, config.callbacks.values()), *callbacks, diary],
        logger=[curves],
        folder=Path(tempfile.mkdtemp(dir=folder)),
    )
    trainer.strategy.checkpoint_io.folder = folder  # where the tests keep what they look at
    if steps:
        execute_steps(trainer, steps, metrics)
    trainer.fit(module, datamodule=build(config.data), ckpt_path=checkpoint)
    return Training(module, trainer, curves, diary, metrics)


def graphs(training):
    """What has decided on graphs in a training."""
    return training.trainer.fit_loop.epoch_loop.automatic_optimization


def said(caplog):
    """What was said of graphs."""
    return [message for message in caplog.messages if "CUDA graph" in message]


class Regularized(Classifier):
    """Has what draws and what keeps statistics."""

    def configure_model(self):
        self.norm, self.drop = nn.BatchNorm1d(10), nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(self.norm(super().forward(images)))

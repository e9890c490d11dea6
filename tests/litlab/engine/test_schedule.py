"""Schedules of PyTorch's and of the lab's: at each step the rate that the formula gives."""

import json
import math
from functools import partial

import pytest
import torch
from conftest import SHORT, settings
from lightning.pytorch import LightningModule, Trainer
from processes import run
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from litlab.engine.schedule import ScheduleFactory
from litlab.errors import UserError

STEPS, EPOCHS = 5, 4
RATE = 0.1


class Probe(LightningModule):
    """Trains one weight, and keeps the learning rate of each step."""

    def __init__(self, scheduler):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.make_scheduler = scheduler
        self.rates = []

    def training_step(self, batch, batch_idx):
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        self.log("train/loss", 1.0)
        return (self.weight * batch).sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", 1.0)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=RATE, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer, self.trainer)}


def rates(node, checkpoint=("checkpoint.monitor=val/loss", "checkpoint.mode=min"), epochs=EPOCHS):
    """The rate of each step of a training in Lightning's own Trainer."""
    factory = ScheduleFactory(node, settings(*checkpoint).checkpoint)
    module = Probe(factory)
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    loader = DataLoader(torch.ones(STEPS))
    trainer.fit(module, loader, loader)
    return module.rates


def expected(make, per_step):
    """The rates that plain PyTorch gives."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=RATE, momentum=0.9)
    schedule = make(optimizer)
    found = []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if per_step:
                schedule.step()
        if not per_step:
            schedule.step(1.0) if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else schedule.step()
    return found


TOTAL = STEPS * EPOCHS
CYCLE = {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3}
Q = "torch.optim.lr_scheduler"
# The node's own settings, what plain PyTorch is given, and whether it is stepped after each optimizer step.
CLASSES = {
    "ExponentialLR": ({"gamma": 0.5}, {"gamma": 0.5}, False),
    "StepLR": ({"step_size": 2}, {"step_size": 2}, False),
    "MultiStepLR": ({"milestones": [1, 3]}, {"milestones": [1, 3]}, False),
    "PolynomialLR": ({}, {"total_iters": 5}, False),
    "LinearLR": ({}, {"total_iters": 5}, False),
    "ConstantLR": ({"factor": 0.5}, {"factor": 0.5}, False),
    "CosineAnnealingLR": ({}, {"T_max": TOTAL}, True),
    "CosineAnnealingWarmRestarts": ({"T_0": 2}, {"T_0": 2}, False),
    "OneCycleLR": ({"max_lr": 0.5}, {"max_lr": 0.5, "total_steps": TOTAL}, True),
    "CyclicLR": (CYCLE, CYCLE, True),
    "ReduceLROnPlateau": ({"patience": 0}, {"patience": 0}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step\\(\\)`")
def test_a_class_of_pytorchs_gives_the_rates_that_it_gives_without_the_lab(name):
    own, plain, per_step = CLASSES[name]
    found = rates({"_target_": f"{Q}.{name}", **own})
    assert found == expected(partial(getattr(lr_scheduler, name), **plain), per_step)


def test_interval_and_frequency_are_lightnings():
    node = {"_target_": f"{Q}.StepLR", "step_size": 1, "gamma": 0.5, "interval": "step", "frequency": 2}
    done = [2 * (step // STEPS) + step % STEPS // 2 for step in range(TOTAL)]  # Lightning counts anew in each epoch
    assert rates(node) == [RATE * 0.5**count for count in done]


def test_schedules_of_the_lab_go_by_their_formulas():
    cosine = rates({"_target_": "litlab.schedulers.Cosine", "final_lr": 0.01})
    formula = [0.01 + 0.5 * (RATE - 0.01) * (1 + math.cos(math.pi * step / TOTAL)) for step in range(TOTAL)]
    assert cosine == pytest.approx(formula, rel=1e-12)
    rising = rates({"_target_": "litlab.schedulers.Cosine", "final_lr": 0.01, "warmup": 0.2})
    falling = [0.01 + 0.5 * (RATE - 0.01) * (1 + math.cos(math.pi * step / (TOTAL - 4))) for step in range(TOTAL - 4)]
    assert rising == pytest.approx([RATE * share for share in (0.2, 0.4, 0.6, 0.8)] + falling, rel=1e-12)
    onecycle = rates({"_target_": "litlab.schedulers.OneCycle", "warmup": 0.25})
    assert max(onecycle) == onecycle[4] == RATE
    assert onecycle[0] == pytest.approx(RATE / 25)


def test_chained_schedules_get_the_optimizer():
    parts = [{"_target_": f"{Q}.ConstantLR", "factor": 0.5}, {"_target_": f"{Q}.ExponentialLR", "gamma": 0.5}]
    node = {"_target_": f"{Q}.SequentialLR", "schedulers": parts, "milestones": [2]}
    assert rates(node)[::STEPS] == [0.05, 0.05, 0.1, 0.05]


def test_a_plateau_says_what_it_lacks():
    node = {"_target_": f"{Q}.ReduceLROnPlateau"}
    with pytest.raises(UserError, match="ReduceLROnPlateau needs a metric to watch; set scheduler.monitor"):
        rates(node, ["checkpoint.monitor=null"])
    with pytest.raises(UserError, match=r"scheduler.monitor=val/acc: set scheduler.mode"):
        rates({**node, "monitor": "val/acc"})


@pytest.mark.usefixtures("mnist_dir")
@pytest.mark.parametrize("schedule", ["cosine scheduler.warmup=0.3", "onecycle", "linear"])
def test_a_run_that_becomes_longer_has_the_rates_of_the_longer_one(tmp_path, schedule):
    arguments = [*SHORT, *f"scheduler={schedule}".split(), "logger=csv", "trainer.log_every_n_steps=1"]

    def curve(name):
        rows = (tmp_path / name / "csv" / "metrics.csv").read_text().splitlines()
        columns = rows[0].split(",")
        found = [dict(zip(columns, row.split(","), strict=False)) for row in rows[1:]]
        return [float(row["learning_rate"]) for row in found if row.get("learning_rate")]

    assert run(tmp_path, "train", *arguments, f"hydra.run.dir={tmp_path}/grown").code == 0
    grown = run(tmp_path, "train", f"resume={tmp_path}/grown", "trainer.max_epochs=2", "resume.force=true")
    assert grown.code == 0, grown.err
    assert run(tmp_path, "train", *arguments, "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}/long").code == 0
    assert curve("grown")[20:] == pytest.approx(curve("long")[20:], rel=1e-9)
    assert json.loads((tmp_path / "grown" / "run.json").read_text())["status"] == "done"

import sys
from pathlib import Path

import pytest
from conftest import SHORT, settings

from litlab.runs.record import Metrics, Resumption
from litlab.runs.run import Run
from litlab.runs.terminal import MOST_CLASSES, ending, opening, tensorboard_command


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path, 42)
    run.record.settings = settings(*SHORT, "optimizer.lr=0.002").model_dump()
    run.record.device = "cpu (x86_64, 2 threads, 32-true)"
    run.record.overrides = {"callbacks": "[ema,tutorial]"}
    return run


def test_off_a_terminal_it_is_plain_text(run):
    assert opening(run, 28938) == "\n".join(
        [
            "training on cpu (x86_64, 2 threads, 32-true)",
            "model      Classifier of ConvNet, 28,938 parameters",
            "data       MNISTDataModule, batches of 50",
            "optimizer  Adam, lr 0.002",
            "length     1 epochs",
            "set        callbacks=[ema,tutorial]",
            f"folder     {run.folder}",
        ]
    )


def test_on_a_terminal_it_is_a_panel(run, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    first, *_, last = opening(run, 28938).splitlines()
    assert first.startswith("╭─ training on cpu (x86_64, 2 threads, 32-true) ─")
    assert last.startswith("╰──")


def test_where_a_run_goes_on_is_told(run):
    run.record.resumed.append(Resumption(at=run.record.started, step=1100))
    assert opening(run, 1).splitlines()[0].endswith(", going on after step 1,100")


def test_all_ways_to_end_are_told(run):
    run.record.settings["trainer"] |= {"max_epochs": -1, "max_steps": 70, "max_time": "00:01:00:00"}
    assert "length     70 steps or 00:01:00:00 (DD:HH:MM:SS)" in opening(run, 1).splitlines()


def test_the_accuracy_of_each_class_stands_below_the_metrics():
    metrics = Metrics(test={"test/acc": 0.98765, "test/loss": 0.1}, test_by_class={"cat": 1.0, "dog": 0.5})
    assert ending(metrics).splitlines() == [
        "test/acc         0.9877",
        "test/loss        0.1000",
        "test/acc of cat  1.0000",
        "test/acc of dog  0.5000",
    ]


def test_of_many_classes_only_the_lowest_are_told():
    metrics = Metrics(test_by_class={str(number): number / 100 for number in range(100)})
    assert len(ending(metrics).splitlines()) == MOST_CLASSES
    assert ending(metrics).splitlines()[0] == "test/acc of 0   0.0000"


def test_the_command_for_tensorboard_gives_the_run_a_name():
    assert tensorboard_command(Path("/logs/train/runs/2026")) == "tensorboard --logdir /logs/train/runs"

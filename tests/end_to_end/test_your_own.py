"""What docs/your-own.md says is done here: its files are put where it says, and runs do with them what runs do."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SHORT
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from litlab.project import SOURCE

PAGE = (ROOT / "docs" / "your-own.md").read_text()
EXAMPLES = {
    "mlp": "train model=mlp model.net.hidden=128",
    "arrays": "train data=arrays model.net.in_channels=3 model.net.image_size=32",
    "fashion": "train data=fashion",
}
DRAWN = {"train/batch", "val/mistakes", "val/confusion", "test/mistakes", "test/confusion"}


@pytest.fixture(scope="module")
def project(tmp_path_factory, mnist_dir, test_set):
    """A copy of the project with the files that the page lists, each where it says, and data for them."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(SOURCE, folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "data").mkdir()
    # What Fashion-MNIST is published as has MNIST's form, and here its content.
    for name in ("MNIST", "FashionMNIST"):
        (folder / "data" / name).symlink_to(mnist_dir / "MNIST")
    # Real pictures in colour: MNIST's digits, grown to 32x32, in red on blue.
    digits = torch.nn.functional.pad(test_set[0][:3000], (2, 2, 2, 2))
    images = torch.cat([digits, torch.zeros_like(digits), 255 - digits], dim=1)
    np.savez(folder / "data" / "pictures.npz", images=images.numpy(), labels=test_set[1][:3000].numpy())
    files = re.findall(r"`((?:src|configs)/[\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert [name for name, _ in files] == [
        *("src/digits/mlp.py", "configs/model/mlp.yaml", "src/digits/arrays.py", "configs/data/arrays.yaml"),
        *("src/digits/fashion.py", "configs/data/fashion.yaml"),
    ]
    for name, text in files:
        assert not (folder / name).exists()
        (folder / name).write_text(text)
        assert len(text.splitlines()) <= 40
    return folder


def start(project, *arguments):
    environment = os.environ | {"PYTHONPATH": str(project / "src"), "LITLAB_LOGS": str(project / "logs")}
    return subprocess.Popen(
        [sys.executable, "-m", "litlab", *arguments],
        cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(project, *arguments):
    process = start(project, *arguments)
    process.out, process.err = process.communicate(timeout=280)
    return process


def record(folder):
    return json.loads((folder / "run.json").read_text())


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def trained(project, example, folder, *more):
    """The page's `train …`, shortened, with all that is drawn, in the folder."""
    assert f"`{EXAMPLES[example]}`" in PAGE
    short = [setting for setting in SHORT if not setting.startswith("views")]
    done = run(project, *EXAMPLES[example].split(), *short, "test=true", f"hydra.run.dir={folder}", *more)
    assert done.returncode == 0, done.err
    return folder


def images(folder):
    return set(EventAccumulator(str(folder)).Reload().Tags()["images"])


@pytest.mark.slow
def test_another_network(project, tmp_path):
    folder = trained(project, "mlp", tmp_path / "run")
    assert weights(folder)["net.layers.1.weight"].shape == (128, 784)
    assert record(folder)["metrics"]["test"]["test/acc"] > 0.3
    assert images(folder) == DRAWN  # it has no filters

    misspelt = run(project, "train", "model=mlp", "+model.net.hiden=3")
    assert misspelt.returncode == 2
    assert misspelt.err.startswith("train: model.net.hiden=3: no such key, did you mean model.net.hidden?; ")


@pytest.mark.slow
def test_pictures_stored_as_arrays(project, tmp_path):
    folder = trained(project, "arrays", tmp_path / "run")
    assert weights(folder)["net.conv1.0.weight"].shape == (16, 3, 5, 5)
    assert record(folder)["metrics"]["test"]["test/acc"] > 0.2
    assert images(folder) == DRAWN | {"filters"}


@pytest.mark.slow
def test_a_dataset_that_torchvision_reads(project, tmp_path):
    folder = trained(project, "fashion", tmp_path / "run")
    assert record(folder)["metrics"]["test"]["test/acc"] > 0.2
    assert list(record(folder)["metrics"]["test_by_class"])[:2] == ["T-shirt/top", "Trouser"]
    assert images(folder) == DRAWN | {"filters"}


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_it_goes_on_exactly_after_a_kill(project, tmp_path, example):
    settings = ("trainer.limit_train_batches=40", "trainer.max_epochs=3", "checkpoint.every_n_steps=5", "views=none")
    whole = trained(project, example, tmp_path / "whole", *settings)
    short = (*EXAMPLES[example].split(), *SHORT, *settings, "test=true", f"hydra.run.dir={tmp_path}/killed")
    process = start(project, *short)
    killed = tmp_path / "killed"
    while process.poll() is None and not (killed / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    resumed = run(project, "train", f"resume={killed}")
    assert resumed.returncode == 0, resumed.err
    expected, found = weights(whole), weights(killed)
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    assert record(killed)["metrics"]["test"] == record(whole)["metrics"]["test"]


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_it_can_be_swept_and_evaluated(project, tmp_path, example):
    command, *choices = EXAMPLES[example].split()
    done = run(
        project, command, "-m", *choices, *SHORT, "optimizer.lr=0.001,0.003", f"hydra.sweep.dir={tmp_path}/sweep"
    )
    assert done.returncode == 0, done.err
    assert [record(tmp_path / "sweep" / str(job))["status"] for job in range(2)] == ["done", "done"]
    first, second = (weights(tmp_path / "sweep" / str(job)) for job in range(2))
    assert not all(first[name].equal(second[name]) for name in first)
    evaluated = run(project, "evaluate", f"run={tmp_path}/sweep/0")
    assert evaluated.returncode == 0, evaluated.err
    assert "test/acc" in evaluated.out


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_it_predicts_and_is_exported(project, tmp_path, example):
    folder = trained(project, example, tmp_path / "run", "trainer.limit_train_batches=100", "views=none")
    pictures = np.load(project / "data" / "pictures.npz")
    for index in range(10):  # of the test set, or of what the arrays were made of
        picture = pictures["images"][index]
        Image.fromarray(picture.transpose(1, 2, 0) if example == "arrays" else picture[0]).resize((64, 64)).save(
            tmp_path / f"{index}.png"
        )
    predicted = run(project, "predict", f"run={folder}", f"input={tmp_path}/*.png", "format=json")
    assert predicted.returncode == 0, predicted.err
    answers = json.loads(predicted.out)
    assert [Path(answer["file"]).stem for answer in answers] == [str(index) for index in range(10)]
    names = list(record(folder)["metrics"]["test_by_class"])
    word = "digit" if example == "mlp" else "class"
    right = sum(str(answer[word]) == names[label] for answer, label in zip(answers, pictures["labels"], strict=False))
    assert right >= 6
    exported = run(project, "export", f"run={folder}")
    assert exported.returncode == 0, exported.err
    assert (folder / "export" / "model.onnx").stat().st_size > 10_000

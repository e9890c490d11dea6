"""What README says is done here: its commands are run as they stand, its files are put where it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SHORT

from litlab.project import SOURCE

README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
TUTORIAL = "scripts/train experiment=tutorial"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def done(logs):
    """Every command in README's order: how it ended, and the folders of the runs that it made."""
    commands_of_this_python = Path(sys.executable).parent
    environment = os.environ | {"LITLAB_LOGS": str(logs), "PATH": f"{commands_of_this_python}:{os.environ['PATH']}"}
    results = {}
    for line in COMMANDS:
        before = set(logs.rglob("run.json"))
        # Where the tests run with another Python than that of .venv, so do the commands.
        command = line if commands_of_this_python.is_relative_to(ROOT) else line.replace("scripts/train", "train")
        process = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
        results[line] = process, [file.parent for file in sorted(set(logs.rglob("run.json")) - before)]
    return results


def metrics(folder):
    return json.loads((folder / "run.json").read_text())["metrics"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_work(done, line):
    process, runs = done[line]
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert [json.loads((run / "run.json").read_text())["status"] for run in runs] == ["done"] * (
        2 if "-m" in line else 1
    )


def test_training_reaches_its_accuracy(done):
    _, (run,) = done["scripts/train"]
    assert metrics(run)["test"]["test/acc"] >= 0.985
    assert metrics(run)["best_epoch"] in range(5)
    assert {"config.yaml", "run.json", "train.log", "checkpoints"} <= {path.name for path in run.iterdir()}
    (events,) = run.glob("events.out.tfevents.*")
    assert events.stat().st_size < 5_000_000


def test_the_speedrun_reaches_its_accuracy(done):
    _, (run,) = done["scripts/train experiment=speedrun"]
    assert metrics(run)["test"]["test/acc"] >= 0.99


def test_the_tutorial_reaches_its_accuracy(done):
    process, (run,) = done[TUTORIAL]
    assert metrics(run)["last"]["test/acc_first_2000"] >= 0.97
    lines = [line for line in process.stdout.splitlines() if line.startswith("Epoch: ")]
    assert len(lines) == 24  # 1,200 steps, a line every 50
    assert all(re.fullmatch(r"Epoch:  0 \| train loss: \d+\.\d{4} \| test accuracy: \d\.\d{2}", line) for line in lines)
    assert float(lines[-1][-4:]) >= 0.97


def test_evaluate_tests_the_last_training(done):
    (last,) = (runs[-1] for line, (_, runs) in done.items() if "sweep=tpe" in line)
    _, (evaluated,) = done["evaluate run=last"]
    said = json.loads((evaluated / "run.json").read_text())
    assert Path(said["evaluated"]).parents[1] == last
    assert metrics(last)["test"] == {}
    assert metrics(evaluated)["test"]["test/acc"] > 0.8


def test_the_mistake_is_told_as_shown():
    command, answer = re.search(r"```console\n\$ (.*)\n(.*), …\n```", README).groups()
    process = subprocess.run([sys.executable, "-m", "litlab", *command.split()], capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith(answer)


def test_the_choices_are_those_of_the_configs():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE))
    groups = "data augment model optimizer scheduler trainer callbacks logger views sweep launcher experiment debug"
    for group in groups.split():
        options = {file.stem for file in (ROOT / "configs" / group).glob("*.yaml")}
        assert options <= set(re.findall(r"`(\w+)`", rows[group])), group


def test_is_short_and_names_what_exists():
    assert len(README.splitlines()) < 250
    layout = README.rpartition("```\nconfigs/")[2].rpartition("```")[0]
    folders = {
        "src/digits": "mnist.py convnet.py classifier.py tutorial.py schema.py",
        "src/litlab": "cli.py config.py resume.py commands data engine callbacks views runs sweeps",
    }
    for folder, names in folders.items():
        for name in names.split():
            assert (ROOT / folder / name).exists()
            assert name in layout
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).stat().st_size > 10_000


# --- one's own model and data -----------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, mnist_dir):
    """A copy of the project with the files that README lists, each where README says."""
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "MNIST").symlink_to(mnist_dir / "MNIST")
    files = re.findall(r"`((?:src|configs)/[\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", README, re.DOTALL)
    assert [name for name, _ in files] == [
        "src/digits/mlp.py", "configs/model/mlp.yaml", "src/digits/arrays.py", "configs/data/arrays.yaml",
    ]  # fmt: skip
    for name, text in files:
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text)
        assert len(text.splitlines()) <= 40
    return tmp_path


def train(project, line):
    """Run README's `train …`, shortened."""
    assert f"`{line}`" in README
    return subprocess.run(
        [sys.executable, "-m", "litlab", *line.split(), *SHORT, "test=true"],
        cwd=project, env=os.environ | {"PYTHONPATH": str(project / "src")}, capture_output=True, text=True,
    )  # fmt: skip


def only_run(project):
    (run,) = (project / "logs" / "train" / "runs").iterdir()
    return run


def test_ones_own_model(project):
    process = train(project, "train model=mlp model.net.hidden=128")
    assert process.returncode == 0, process.stderr
    weights = torch.load(only_run(project) / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert weights["net.layers.1.weight"].shape == (128, 784)
    assert metrics(only_run(project))["test"]["test/acc"] > 0.3

    misspelt = subprocess.run(
        [sys.executable, "-m", "litlab", "train", "model=mlp", "+model.net.hiden=3"],
        cwd=project, env=os.environ | {"PYTHONPATH": str(project / "src")}, capture_output=True, text=True,
    )  # fmt: skip
    assert misspelt.returncode == 2
    assert misspelt.stderr.startswith("train: model.net.hiden=3: no such key, did you mean model.net.hidden?; ")


def test_ones_own_data(project, test_set):
    # Real pictures in colour: MNIST's digits, grown to 32x32, in red on blue.
    digits = torch.nn.functional.pad(test_set[0][:3000], (2, 2, 2, 2))
    images = torch.cat([digits, torch.zeros_like(digits), 255 - digits], dim=1)
    np.savez(project / "data" / "pictures.npz", images=images.numpy(), labels=test_set[1][:3000].numpy())
    process = train(project, "train data=arrays model.net.in_channels=3 model.net.image_size=32")
    assert process.returncode == 0, process.stderr
    weights = torch.load(only_run(project) / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert weights["net.conv1.0.weight"].shape == (16, 3, 5, 5)
    assert metrics(only_run(project))["test"]["test/acc"] > 0.2

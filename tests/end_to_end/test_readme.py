"""What README says is done here: its commands are run as they stand, its files are put where it says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from environments import lend_environment, run_as_a_user
from PIL import Image

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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_work(done, logs, line):
    process, runs = done[line]
    assert process.returncode == 0, process.stderr
    told = rf"run=last: {logs}/train/\S+\n" if "run=last" in line else ""
    assert re.fullmatch(told, process.stderr)
    number = 2 if "-m" in line else 0 if line.startswith(("predict", "litlab export")) else 1
    assert [json.loads((run / "run.json").read_text())["status"] for run in runs] == ["done"] * number


@pytest.mark.slow
def test_training_reaches_its_accuracy(done):
    _, (run,) = done["scripts/train"]
    assert metrics(run)["test"]["test/acc"] >= 0.985
    assert metrics(run)["best_epoch"] in range(5)
    assert {"config.yaml", "run.json", "train.log", "checkpoints"} <= {path.name for path in run.iterdir()}
    (events,) = run.glob("events.out.tfevents.*")
    assert events.stat().st_size < 5_000_000


@pytest.mark.slow
def test_the_speedrun_reaches_its_accuracy(done):
    _, (run,) = done["scripts/train experiment=speedrun"]
    assert metrics(run)["test"]["test/acc"] >= 0.99


@pytest.mark.slow
def test_the_tutorial_reaches_its_accuracy(done):
    process, (run,) = done[TUTORIAL]
    assert metrics(run)["last"]["test/acc_first_2000"] >= 0.97
    lines = [line for line in process.stdout.splitlines() if line.startswith("Epoch: ")]
    assert len(lines) == 24  # 1,200 steps, a line every 50
    assert all(re.fullmatch(r"Epoch:  0 \| train loss: \d+\.\d{4} \| test accuracy: \d\.\d{2}", line) for line in lines)
    assert float(lines[-1][-4:]) >= 0.97


@pytest.mark.slow
def test_evaluate_tests_the_last_training(done):
    (last,) = (runs[-1] for line, (_, runs) in done.items() if "sweep=tpe" in line)
    _, (evaluated,) = done["evaluate run=last"]
    said = json.loads((evaluated / "run.json").read_text())
    assert Path(said["evaluated"]).parents[1] == last
    assert metrics(last)["test"] == {}
    assert metrics(evaluated)["test"]["test/acc"] > 0.8


@pytest.mark.slow
def test_what_was_trained_is_used(done):
    (last,) = (runs[-1] for line, (_, runs) in done.items() if "name=wider" in line)
    predicted, _ = done["predict run=last input=docs/seven.png"]
    assert predicted.stdout.splitlines()[1].split()[:2] == ["docs/seven.png", "7"]
    exported, _ = done["litlab export run=last"]
    assert exported.stdout.startswith(f"{last}/export/model.onnx: ")
    assert (last / "export" / "model.onnx").stat().st_size > 100_000


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
        "src/litlab": "cli.py commands config training engine distributed data callbacks views runs comparison sweeps",
    }
    for folder, names in folders.items():
        for name in names.split():
            assert (ROOT / folder / name).exists()
            assert name in layout
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ones_own_pictures_in_five_commands(tmp_path, test_set):
    """Digits 0 to 4 as a camera, a scanner and a paint program might leave them: of three sizes, grey and in colour."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout, so there is nothing to clone")
    (block,) = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = block.replace("ADDRESS", ROOT.as_uri()).splitlines()
    assert len(lines) == 5
    for index, (image, label) in enumerate(zip(*(part[:3000] for part in test_set), strict=True)):
        if label < 5:
            picture = Image.fromarray(image[0].numpy())
            if index % 3:
                picture = picture.resize([(64, 64), (70, 56)][index % 2])
            folder = tmp_path / "pictures" / f"kind {label}"
            folder.mkdir(parents=True, exist_ok=True)
            picture.convert(["L", "RGB", "RGBA"][index % 3]).save(folder / f"{index}.png")
    for part in (lines[:2], lines[2:]):
        typed = "\n".join(["set -e", *part])
        done = run_as_a_user("bash", "-c", typed, cwd=tmp_path, HOME=str(tmp_path), OMP_NUM_THREADS="1")
        assert done.returncode == 0, (part, done.stdout, done.stderr)
        if part == lines[:2]:
            lend_environment(tmp_path / "flowers")
    logs = tmp_path / "flowers" / "logs"
    (trained,) = (logs / "train" / "runs").iterdir()
    (evaluated,) = (logs / "evaluate" / "runs").iterdir()
    assert metrics(trained)["test"] == metrics(evaluated)["test"]
    assert metrics(trained)["test"]["test/acc"] > 0.9
    assert list(metrics(trained)["test_by_class"]) == [f"kind {label}" for label in range(5)]

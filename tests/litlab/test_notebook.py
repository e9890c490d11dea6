import json
import logging
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import SHORT
from processes import FORK, run

from litlab import load_run, train
from litlab.errors import UserError

BARE = (
    "import sys\n"
    "sys.modules.update(dict.fromkeys(['hydra', 'omegaconf', 'lightning', 'torchmetrics', 'torchvision']))\n"
    "import torch\n"
    "from litlab import load_run\n"
    "run = load_run(sys.argv[1])\n"
    "images = torch.load(sys.argv[2], weights_only=True)\n"
    "with torch.no_grad():\n"
    "    print(run.model(images).argmax(1).tolist())\n"
    "print(run.record.metrics.test['test/acc'])\n"
)


def test_importing_litlab_imports_no_torch():
    code = "import sys, litlab; print({'torch', 'hydra', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")


def test_a_runs_model_answers_where_there_is_neither_hydra_nor_lightning(a_run, test_set, tmp_path):
    torch.save(test_set[0][:1000].float() / 255, tmp_path / "images.pt")
    done = subprocess.run(
        [sys.executable, "-c", BARE, a_run, tmp_path / "images.pt"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    answers, accuracy = map(json.loads, done.stdout.splitlines())
    right = sum(answer == label for answer, label in zip(answers, test_set[1][:1000].tolist(), strict=True))
    # The test may have computed in bfloat16, where two scores may be equal.
    assert abs(right - 1000 * accuracy) <= 2


def test_a_model_without_a_network_of_its_own_is_told(a_run, tmp_path):
    shutil.copytree(a_run, tmp_path / "run")
    for model in ({"_target_": "digits.classifier.Classifier"}, {"net": 3}, None):
        (tmp_path / "run" / "config.yaml").write_text(json.dumps({"model": model}))
        with pytest.raises(UserError, match="^the run's model has no network of its own: "):
            _ = load_run(tmp_path / "run").model


def test_what_is_no_run_is_told(a_run, tmp_path):
    with pytest.raises(UserError, match="there is no such file, folder or name of a run"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a file: give the run's folder"):
        load_run(a_run / "checkpoints" / "last.ckpt")


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.setenv("LITLAB_LOGS", str(tmp_path / "logs"))
    return tmp_path / "logs"


def test_trains_as_the_command_does(logs, tmp_path):
    given = [*SHORT, "logger=none", "seed=3"]

    def in_a_notebook():
        torch.set_num_threads(1)
        root = logging.getLogger()
        before = root.level, root.handlers[:]
        with (tmp_path / "out").open("w") as sys.stdout:
            trained = train(*given)
        assert (root.level, root.handlers) == before
        assert not trained.model.training
        torch.save(trained.model.state_dict(), tmp_path / "weights.pt")

    # In a process of its own: autograd's threads would be missing in those that other tests fork off this one.
    process = FORK.Process(target=in_a_notebook)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    (folder,) = (logs / "train" / "runs").iterdir()
    trained = load_run(folder)
    assert trained.record.status == "done"
    assert trained.record.overrides["seed"] == "3"
    for told in (tmp_path / "out", folder / "train.log"):
        assert "epoch 0: " in told.read_text()

    by_command = run(tmp_path, "train", *given, f"hydra.run.dir={tmp_path}/run")
    assert by_command.code == 0, by_command.err
    same = load_run(tmp_path / "run")
    assert same.record.metrics.test == trained.record.metrics.test
    assert same.record.settings == trained.record.settings
    assert (same.folder / "config.yaml").read_text() == (folder / "config.yaml").read_text()
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert weights.keys() == same.model.state_dict().keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in same.model.state_dict().items())


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("data.batch_sze=3", "data.batch_sze=3: no such key, did you mean data.batch_size?"),
        ("data.batch_size=-4", "data.batch_size=-4: should be greater than 0"),
        ("optimizer=adm", "optimizer=adm: no such option, did you mean optimizer=adam?"),
        ("model._target_=digits.classifier.Net", "model._target_=digits.classifier.Net: digits.classifier has no Net"),
        ("resume.run=last", "resume.run=last: is for the command `train` alone"),
        ("sweep.dry_run=true", "sweep.dry_run=true: is for the command `train` alone"),
    ],
)
def test_a_mistake_is_told_and_nothing_started(logs, override, line):
    with pytest.raises(UserError) as error:
        train(override)
    assert str(error.value).startswith(line)
    assert not logs.exists()

"""What this user has made may build anything; what somebody else has made does nothing but what it is asked for."""

import io
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, SHORT
from processes import run

from litlab import load_run
from litlab.config import marks
from litlab.errors import UserError

pytestmark = pytest.mark.usefixtures("mnist_dir")

SECRET = "canary-in-the-environment"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home for a new key."""
    monkeypatch.setenv("LITLAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("text", ["seed: 1\n", '{\n "planned": 3\n}\n', "# @package _global_\nseed: 1\n"])
def test_a_mark_is_lost_by_any_change(home, text):
    mine = marks.marked(text)
    assert marks.is_mine(mine)
    assert marks.unmarked(mine) == text
    assert marks.marked(mine) == mine
    assert yaml.safe_load(mine) == yaml.safe_load(text) | ({"mark": mine.split('"')[3]} if text[0] == "{" else {})
    mark = re.search("[0-9a-f]{64}", mine)[0]
    for other in (
        text,
        mine.replace(mark, mark[::-1]),
        mine.replace("seed: 1", "seed: 2").replace('"planned": 3', '"planned": 4'),
        mine.replace("3", "4", 1) + " ",
        mine + mine.splitlines()[-1] + "\n",
    ):
        assert not marks.is_mine(other), other


def test_the_key_is_made_once_and_for_this_user_alone(home):
    code = "from litlab.config.marks import marked; print(marked('seed: 1\\n'))"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0] for process in both)
    assert first == second
    assert [path.name for path in home.iterdir()] == ["key"]
    assert stat.S_IMODE((home / "key").stat().st_mode) == 0o600
    assert marks.is_mine(first.rstrip("\n") + "\n")


def test_a_key_that_others_can_read_is_none(home):
    marks.marked("seed: 1\n")
    (home / "key").chmod(0o644)
    marks._key.cache_clear()
    with pytest.raises(UserError, match="others can read or change it; remove it"):
        marks.marked("seed: 1\n")


def test_no_place_for_a_key_is_told_before_the_run(tmp_path):
    (tmp_path / "file").touch()

    def no_home():
        os.environ["LITLAB_HOME"] = str(tmp_path / "file")
        marks._key.cache_clear()

    ended = run(tmp_path, "train", *SHORT, f"hydra.run.dir={tmp_path}/run", prepare=no_home)
    assert ended.code == 2
    assert ended.err.startswith(f"train: {tmp_path}/file/key, the key that marks your runs, cannot be used: ")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A finished run whose mark is another user's."""
    folder = tmp_path_factory.mktemp("theirs")
    done = run(folder, "train", *SHORT, "logger=none", f"hydra.run.dir={folder}/run")
    assert done.code == 0, done.err
    config = folder / "run" / "config.yaml"
    text = config.read_text()
    config.write_text(text[:-9] + ("00000000\n" if text[-9:-1] != "00000000" else "11111111\n"))
    return folder / "run"


def watched(tmp_path):
    """What prepares a process to note each thing that it does to the world outside `tmp_path`, in a file there."""
    diary = tmp_path / "diary"
    allowed = (str(tmp_path), str(ROOT / "data"), "/dev/", "/proc/", "/tmp/", str(Path.home() / ".cache"))
    changing = {
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.symlink",
        "os.link",
        "os.truncate",
        "shutil.rmtree",
    }

    def note(event, arguments):
        path = os.fsdecode(arguments[0]) if arguments and isinstance(arguments[0], str | bytes) else ""
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        elsewhere = path.startswith("/") and not path.startswith(allowed)
        forbidden = event in ("os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.getaddrinfo")
        git = event == "subprocess.Popen" and list(arguments[1])[:1] == ["git"]
        other = event == "subprocess.Popen" and not git
        if forbidden or other or ((writes or event in changing) and elsewhere):
            os.write(descriptor, f"{event} {arguments}\n".encode())

    descriptor = os.open(diary, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def prepare():
        os.environ["AWS_SECRET_ACCESS_KEY"] = SECRET
        sys.addaudithook(note)

    return diary, prepare


def changed(folder, **nodes):
    """Give nodes of the config, by their keys with `__` for dots, other values."""
    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    for key, value in nodes.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    file.write_text(yaml.safe_dump(config))


OUTSIDE = "/var/tmp/litlab-canary"
STUDY = {
    "_target_": "litlab.sweeps.study.Study",
    "folder": "${oc.env:AWS_SECRET_ACCESS_KEY}",
    "plan": {"storage": "grpc://127.0.0.1:9"},
}
# What is done to the config, and what evaluate says of it; None where it leaves that part out and tests the run.
HOSTILE = {
    "a study that sends a secret": ({"augment": STUDY}, None),
    "a study as the model": ({"model": STUDY}, "only plain references are followed"),
    "a study in the model": ({"model__augment": STUDY}, "only plain references are followed"),
    "a study in the data": ({"data__transform": {**STUDY, "folder": OUTSIDE}}, "this builds nothing"),
    "a callback that overwrites a file": (
        {
            "callbacks": {
                "spikes": {
                    "_target_": "lightning.pytorch.callbacks.SpikeDetection",
                    "exclude_batches_path": f"{OUTSIDE}/x.json",
                }
            }
        },
        None,
    ),
    "a logger that writes elsewhere": (
        {"logger": {"csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": OUTSIDE}}},
        None,
    ),
    "checkpoints elsewhere": (
        {"callbacks": {"keep": {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": OUTSIDE}}},
        None,
    ),
    "a view": ({"views": {"evil": {"_target_": "os.mkdir", "path": OUTSIDE}}}, None),
    "a schedule": ({"scheduler": {"_target_": "os.mkdir", "path": OUTSIDE}}, None),
    "an optimizer": ({"optimizer": {"_target_": "os.mkdir", "path": OUTSIDE}}, "builds an optimizer of torch.optim"),
    "a profiler": ({"trainer__profiler": "simple"}, None),
    "data from elsewhere": ({"data__dir": OUTSIDE}, f"data.dir={OUTSIDE}: is a path of whoever made this folder"),
    "data from beside": ({"data__dir": "private"}, "data.dir=private: is a path of whoever made this folder"),
    "data from above": ({"data__dir": "${paths.data}/../../secret"}, "is a path of whoever made this folder"),
    "a folder of data of its own": ({"paths__data": OUTSIDE}, None),  # the reader's takes its place
    "a function as data": ({"data": {"_target_": "digits.mnist.prepare", "data_dir": OUTSIDE}}, "LightningDataModule"),
    "a module that is run": ({"model__net": {"_target_": "os.mkdir", "path": OUTSIDE}}, "this builds a network"),
    "a class of the lab": ({"model__net": {"_target_": "litlab.loggers.CSV", "save_dir": OUTSIDE}}, "builds a network"),
    "a function of torch": ({"model__net": {"_target_": "torch.load", "f": OUTSIDE}}, "this builds a network"),
    "torch's hub": ({"model__net": {"_target_": "torch.hub.load", "repo_or_dir": "a/b"}}, "this builds a network"),
    "weights from the web": (
        {"model__net": {"_target_": "torchvision.models.resnet18", "num_classes": 10, "pretrained": True}},
        "conv1.weight",
    ),
    "a secret behind an escape": ({"data__batch_size": "${oc.env:AWS_SECRET_ACCESS_KEY}"}, "only plain references"),
    "a file for the network": ({"model__net__weights": f"{OUTSIDE}/w.pt"}, "is a path of whoever made this folder"),
    "settings of Hydra": ({"hydra": {"callbacks": {"evil": {"_target_": "os.mkdir", "path": OUTSIDE}}}}, None),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_folder_from_somebody_else_touches_nothing(theirs, tmp_path, attack):
    nodes, reason = HOSTILE[attack]
    folder = shutil.copytree(theirs, tmp_path / "run")
    changed(folder, **nodes)
    diary, prepare = watched(tmp_path)
    for command in ("evaluate", "predict", "export", "reproduce", "train"):
        more = {
            "evaluate": [f"paths.logs={tmp_path}/logs"],
            "reproduce": [f"paths.logs={tmp_path}/logs"],
            "predict": [f"input={ROOT}/docs/seven.png", f"hydra.run.dir={tmp_path}/predict"],
            "export": ["format=safetensors", f"hydra.run.dir={tmp_path}/export"],
        }.get(command, [])
        if command in ("predict", "export") and reason is None:
            continue  # they read the config by the same call as evaluate
        asked = "resume" if command == "train" else "run"
        ended = run(tmp_path, command, f"{asked}={folder}", *more, prepare=prepare)
        expected = "was made elsewhere" if command in ("reproduce", "train") else reason
        assert ended.code == (0 if expected is None else 2), ended.err
        assert (expected or "") in ended.err
        assert len(ended.lines()) <= 1, ended.err
        assert SECRET not in ended.out + ended.err
    if "net" in "".join(nodes):
        with pytest.raises(UserError):
            _ = load_run(folder).model
    assert diary.read_text() == ""
    assert not Path(OUTSIDE).exists()


@pytest.mark.slow
def test_an_honest_folder_from_somebody_else_can_be_used(theirs, tmp_path):
    folder = shutil.copytree(theirs, tmp_path / "run")
    assert run(tmp_path, "compare", str(folder)).code == 0
    assert run(tmp_path, "evaluate", f"run={folder}", f"paths.logs={tmp_path}/logs").code == 0
    predicted = run(tmp_path, "predict", f"run={folder}", f"input={ROOT}/docs/seven.png", "format=csv")
    assert predicted.out.splitlines()[1].startswith(f"{ROOT}/docs/seven.png,")
    assert run(tmp_path, "export", f"run={folder}", "format=safetensors").code == 0
    assert load_run(folder).model(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_trust_shows_what_would_be_done_and_marks_it(theirs, tmp_path):
    folder = shutil.copytree(theirs, tmp_path / "run")
    changed(folder, callbacks={"spikes": STUDY}, data__dir="/elsewhere")
    asked = run(tmp_path, "trust", folder)
    assert (asked.code, asked.err) == (2, f"trust: {folder}: not marked; yes=true marks it\n")
    for line in (
        "  builds   callbacks.spikes: litlab.sweeps.study.Study",
        "  computes callbacks.spikes.folder: ${oc.env:AWS_SECRET_ACCESS_KEY}",
        "  connects callbacks.spikes.plan.storage: grpc://127.0.0.1:9",
        "  uses     data.dir: /elsewhere",
        "  builds   model: digits.classifier.Classifier",
    ):
        assert line in asked.out.splitlines()
    folder = shutil.copytree(theirs, tmp_path / "honest")
    longer = [f"resume={folder}", "trainer.max_epochs=2"]
    assert "was made elsewhere" in run(tmp_path, "train", *longer).err
    assert run(tmp_path, "trust", folder, "yes=true").code == 0
    assert run(tmp_path, "trust", folder).out == f"{folder} is marked as yours already\n"
    done = run(tmp_path, "train", *longer)
    assert done.code == 0, done.err


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 2), ("no", 2)])
def test_trust_asks_who_sits_at_a_terminal(theirs, tmp_path, answer, code):
    folder = shutil.copytree(theirs, tmp_path / "run")
    typed = io.StringIO(f"{answer}\n")
    typed.isatty = lambda: True
    ended = run(tmp_path, "trust", folder, prepare=lambda: setattr(sys, "stdin", typed))
    assert ended.code == code
    assert "Mark it as yours? [y/N]" in ended.out
    assert marks.is_marked(folder / "config.yaml") == (code == 0)


def test_ones_own_run_may_build_anything(tmp_path):
    arguments = [*SHORT, "model.channels_last=false", "views=none", "logger=none", f"hydra.run.dir={tmp_path}/run"]
    arguments += ["+callbacks.summary={_target_: lightning.pytorch.callbacks.model_summary.ModelSummary}"]
    arguments += ["trainer.precision=32-true"]  # of others the summary warns
    done = run(tmp_path, "train", *arguments)
    assert done.code == 0, done.err
    again = run(tmp_path, "reproduce", f"run={tmp_path}/run", f"paths.logs={tmp_path}/logs")
    assert again.out.endswith("the same: weights and metrics, to the last bit\n")

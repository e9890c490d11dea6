"""A run's folder that comes from somebody else: nothing of it is executed, and what is wrong is told in a line."""

import ast
import json
import os
import pickle
import resource
import shutil
import signal
import zipfile
from collections import OrderedDict
from multiprocessing.util import Finalize
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, SHORT
from processes import at, contents, run

from litlab import load_run
from litlab.errors import UserError

pytestmark = pytest.mark.usefixtures("mnist_dir")

HUGE = 100 * 2**30


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run that was stopped after its first epoch, and what an evaluation of it takes in memory, in kilobytes."""
    folder = tmp_path_factory.mktemp("good")
    arguments = [*SHORT, "trainer.max_epochs=2", "augment=affine", "logger=[tensorboard,csv]"]
    arguments += ["trainer.steps_per_execution=5", "checkpoint.every_n_steps=5", f"hydra.run.dir={folder}/run"]
    killed = run(folder, "train", *arguments, prepare=at("on_train_batch_end", 6))
    assert killed.code == -signal.SIGKILL
    assert (folder / "run" / "checkpoints" / "best.ckpt").exists()
    return folder / "run"


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return os.mkdir, (self.file,)


def checkpoint(folder, name="last"):
    return folder / "checkpoints" / f"{name}.ckpt"


def change(folder, change_it):
    """Change what both checkpoints hold."""
    for name in ("last", "best"):
        file = checkpoint(folder, name)
        content = torch.load(file, weights_only=True)
        change_it(content)
        torch.save(content, file)


def replace(folder, data):
    for name in ("last", "best"):
        checkpoint(folder, name).write_bytes(data)


def save(folder, content, **options):
    for name in ("last", "best"):
        torch.save(content, checkpoint(folder, name), **options)


def cut(folder, share):
    data = checkpoint(folder).read_bytes()
    replace(folder, data[: int(len(data) * share)])


def sparse(file, size=HUGE):
    file.unlink(missing_ok=True)
    file.touch()
    os.truncate(file, size)


def both_sparse(folder):
    for name in ("last", "best"):
        sparse(checkpoint(folder, name))


def compress(folder):
    for name in ("last", "best"):
        file = checkpoint(folder, name)
        with zipfile.ZipFile(file) as stored:
            parts = {part: stored.read(part) for part in stored.namelist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for part, data in parts.items():
                packed.writestr(part, data + bytes(2**28 if part.endswith("data.pkl") else 0))


def fifo(folder):
    for name in ("last", "best"):
        checkpoint(folder, name).unlink()
        os.mkfifo(checkpoint(folder, name))


def loop(folder):
    for name in ("last", "best"):
        checkpoint(folder, name).unlink()
        checkpoint(folder, name).symlink_to(checkpoint(folder, name))


def weight(name, new):
    return lambda content: content["state_dict"].update({name: new})


BIAS = "net.out.bias"


def holding(content):
    """Make the checkpoints hold this."""
    return lambda folder: save(folder, content(folder))


def where(change_it):
    """Change what the checkpoints hold."""
    return lambda folder: change(folder, change_it)


def bias(new):
    """Give a weight this value."""
    return where(lambda content: content["state_dict"].update({BIAS: new}))


def bomb(folder):
    return Bomb(folder / "executed")


def old_bomb(folder):
    save(folder, bomb(folder), _use_new_zipfile_serialization=False)


OF_BOTH = {
    "a bomb": (holding(lambda folder: {"state_dict": bomb(folder)}), "holds more than tensors"),
    "a bare bomb": (lambda folder: replace(folder, pickle.dumps(bomb(folder))), "is not a checkpoint"),
    "an old bomb": (old_bomb, "is not a checkpoint"),
    "a module": (holding(lambda folder: torch.nn.Linear(2, 2)), "holds more than tensors"),
    "a list": (holding(lambda folder: [1, 2]), "holds a list"),
    "nothing": (lambda folder: replace(folder, b""), "is not a checkpoint"),
    "its first half": (lambda folder: cut(folder, 0.5), "is not a checkpoint"),
    "all but its end": (lambda folder: cut(folder, 0.999), "is not a checkpoint"),
    "100 GB of nothing": (both_sparse, "mostly a hole"),
    "compressed": (compress, "it is compressed"),
    "a pipe": (fifo, "does not exist", "has no checkpoint"),
    "a link to itself": (loop, "does not exist", "has no checkpoint"),
    "no weights": (where(lambda content: content.pop("state_dict")), "holds no state_dict"),
    "a weight missing": (where(lambda content: content["state_dict"].pop(BIAS)), "is missing"),
    "a weight too many": (where(lambda content: content["state_dict"].update(more=torch.ones(1))), "more is unknown"),
    "another shape": (bias(torch.zeros(11)), r"is of shape (11,), not (10,)"),
    "another type": (bias(torch.zeros(10).double()), "torch.float64"),
    "a sparse weight": (bias(torch.ones(10).to_sparse()), "sparse"),
    "a weight of no memory": (bias(torch.zeros(10, device="meta")), "meta"),
    "a word": (bias("ten"), "is missing"),
    "a huge weight": (bias(torch.zeros(1).expand(2**35)), "is of shape"),
}


def refused(tmp_path, command, folder, *more):
    """What the command says of the folder, which must be all that it does."""
    argument = "resume" if command == "train" else "run"
    before = {file: content for file, content in sizes(tmp_path).items() if "logs" not in file.parts}
    peak = tmp_path / "peak"

    def measure():
        told = lambda: peak.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))  # noqa: E731
        Finalize(None, told, exitpriority=0)

    logs = [] if command == "train" else [f"paths.logs={tmp_path}/logs"]
    ended = run(tmp_path, command, f"{argument}={folder}", *logs, *more, prepare=measure)
    assert ended.code == 2, ended.err
    assert len(ended.lines()) == 1, ended.err
    assert ended.err.startswith(f"{command}: ")
    assert not (folder / "executed").exists()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert int(peak.read_text()) < own + 300_000
    after = sizes(tmp_path)
    assert {file: size for file, size in before.items() if "checkpoints" in file.parts} == {
        file: size for file, size in after.items() if "checkpoints" in file.parts and "logs" not in file.parts
    }
    return ended.err


def sizes(folder):
    return {file: file.lstat().st_size for file in folder.rglob("*") if not file.is_dir()}


@pytest.mark.slow
@pytest.mark.parametrize("spoilt", OF_BOTH)
def test_what_is_no_checkpoint_of_this_network_is_refused(good, tmp_path, spoilt):
    spoil, *reasons = OF_BOTH[spoilt]
    for command, reason in zip(("train", "evaluate"), reasons * 2, strict=False):
        folder = tmp_path / command
        shutil.copytree(good, folder)
        spoil(folder)
        said = refused(tmp_path, command, folder)
        assert reason in said


def model_refused(folder):
    """What a notebook is told of the folder, without anything being executed."""
    with pytest.raises(UserError) as error:
        _ = load_run(folder).model
    assert not (folder / "executed").exists()
    return str(error.value)


@pytest.mark.parametrize("spoilt", [name for name in OF_BOTH if name != "a weight too many"])  # beside the network's
def test_a_notebook_refuses_them_too(good, tmp_path, spoilt):
    folder = tmp_path / "run"
    shutil.copytree(good, folder)
    spoil, *reasons = OF_BOTH[spoilt]
    spoil(folder)
    assert reasons[-1] in model_refused(folder)


def config(change_it):
    """Change the text of config.yaml."""

    def spoil(folder):
        file = folder / "config.yaml"
        file.write_text(change_it(file.read_text()))

    return spoil


def instead(old, new):
    return config(lambda text: text.replace(old, new))


def piped(folder):
    (folder / "config.yaml").unlink()
    os.mkfifo(folder / "config.yaml")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
GROWS = "a: {x: 1, y: 2}\n" + "".join(
    new + ": [" + ", ".join(["'${" + old + "}'"] * 10) + "]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
TAG = "x: !!python/object/apply:os.mkdir [executed]\n"
CONFIGS = {
    "another target": (instead("torch.optim.Adam", "os.system"), "this builds an optimizer of torch.optim"),
    "an alias": (instead("torch.optim.Adam", "logging.os.system"), "this builds an optimizer of torch.optim"),
    "a tag": (config(lambda text: text + TAG), "cannot be read"),
    "an alias bomb": (config(lambda text: LAUGHS + text), "has YAML aliases"),
    "references that grow": (config(lambda text: GROWS + text.replace("seed: 42", "seed: ${h}")), "grows without end"),
    "a reference to itself": (instead("seed: 42", "seed: ${seed}"), "grows without end"),
    "a call": (instead("seed: 42", "seed: ${new_folder:executed}"), "only plain references are followed"),
    "a call in disguise": (instead("seed: 42", 'seed: "\\x24{new_folder:executed}"'), "only plain references"),
    "a nested call": (instead("seed: 42", "seed: ${oc.decode:${oc.env:HOME}}"), "only plain references"),
    "a call over two lines": (instead("seed: 42", 'seed: "${new_\\\n  folder:executed}"'), "only plain references"),
    "rubbish": (lambda folder: (folder / "config.yaml").write_bytes(b"\x80\xff" * 500), "cannot be read"),
    "brackets": (lambda folder: (folder / "config.yaml").write_text("[" * 100_000), "cannot be read"),
    "100 GB": (lambda folder: sparse(folder / "config.yaml"), "config.yaml"),
    "nothing": (lambda folder: (folder / "config.yaml").unlink(), "holds no config.yaml"),
    "a pipe": (piped, "config.yaml"),
    "a relative folder": (instead("dir: ${paths.data}", "dir: data"), "absolute"),
}


@pytest.mark.slow
@pytest.mark.parametrize("spoilt", CONFIGS)
def test_a_config_that_is_not_ones_own_is_data(good, tmp_path, spoilt):
    spoil, reason = CONFIGS[spoilt]
    for command in ("train", "evaluate", "reproduce"):
        folder = tmp_path / command
        shutil.copytree(good, folder)
        record(lambda said: said.update(status="failed"))(folder)
        spoil(folder)
        said = refused(tmp_path, command, folder)
        assert reason in said or (command != "evaluate" and "was made elsewhere" in said)


def record(change_it):
    """Change what run.json says."""

    def spoil(folder):
        said = json.loads((folder / "run.json").read_text())
        change_it(said)
        (folder / "run.json").write_text(json.dumps(said))

    return spoil


def written(data):
    return lambda folder: (folder / "run.json").write_bytes(data)


RECORDS = {
    "an absolute path": (record(lambda said: said["checkpoints"].update(best="/etc/passwd")), "leads out"),
    "a path upwards": (record(lambda said: said["checkpoints"].update(last="../../last.ckpt")), "leads out"),
    "another kind of value": (record(lambda said: said.update(seed="many")), "seed"),
    "an unknown key": (record(lambda said: said.update(evil=1)), "evil"),
    "half of it": (written(b'{"command": "train", "status"'), "damaged"),
    "rubbish": (written(b"\x80\xff" * 500), "damaged"),
    "brackets": (written(b"[" * 100_000), "damaged"),
    "100 GB": (lambda folder: sparse(folder / "run.json"), "larger than"),
}


@pytest.mark.parametrize("spoilt", RECORDS)
def test_a_record_is_checked_too(good, tmp_path, spoilt):
    spoil, reason = RECORDS[spoilt]
    for command in ("train", "evaluate", "reproduce"):
        folder = tmp_path / command
        shutil.copytree(good, folder)
        spoil(folder)
        assert reason in refused(tmp_path, command, folder)


@pytest.mark.parametrize(("command", "more"), [("predict", [f"input={ROOT}/docs/seven.png"]), ("export", [])])
def test_predict_and_export_refuse_what_evaluate_does(good, tmp_path, command, more):
    for spoil, reason in (OF_BOTH["a bomb"], CONFIGS["another target"], RECORDS["an absolute path"]):
        folder = tmp_path / reason
        shutil.copytree(good, folder)
        spoil(folder)
        assert reason in refused(tmp_path, command, folder, *more)


def settings(change_it):
    """Change the settings that config.yaml has."""

    def change(text):
        said = yaml.safe_load(text)
        change_it(said)
        return yaml.safe_dump(said)

    return config(change)


SETTINGS = {
    "another target": (settings(lambda said: said["model"]["net"].update(_target_="os.system")), "builds a network"),
    "a nested one": (
        settings(lambda said: said["model"]["net"].update(x={"_target_": "os.system"})),
        "model.net.x._target_=os.system: in a folder made elsewhere this builds a network",
    ),
    "no network": (settings(lambda said: said["model"]["net"].update(_target_="torch.optim.SGD")), "builds a network"),
    "no module": (
        settings(lambda said: said["model"].update(net={"_target_": said["data"]["_target_"]})),
        "builds a network",
    ),
    "one of the lab's": (
        settings(lambda said: said["model"].update(net={"_target_": "litlab.data.augment.Affine"})),
        "builds a network",
    ),
    "another kind of value": (settings(lambda said: said["model"]["net"].update(channels="many")), "valid list"),
    "a negative size": (
        settings(lambda said: said["model"]["net"].update(image_size=-1)),
        "greater than or equal to 4",
    ),
    "another network": (settings(lambda said: said["model"]["net"].update(channels=[8, 16])), "is of another network"),
    "no settings": (settings(lambda said: said.clear()), "has no network of its own"),
}


@pytest.mark.parametrize("spoilt", SETTINGS)
def test_a_notebook_checks_the_settings_of_the_network(good, tmp_path, spoilt):
    folder = tmp_path / "run"
    shutil.copytree(good, folder)
    spoil, reason = SETTINGS[spoilt]
    spoil(folder)
    assert reason in model_refused(folder)


def test_nothing_is_written_where_a_link_leads(good, tmp_path):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(good, folder)
    shutil.move(folder / "checkpoints", elsewhere)
    (folder / "checkpoints").symlink_to(elsewhere)
    before = contents(elsewhere)
    said = refused(tmp_path, "train", folder)
    assert "checkpoints leads out of the folder" in said
    assert contents(elsewhere) == before


def test_a_huge_file_of_nothing_is_not_read(good, tmp_path):
    for command, name in ((["train"], "csv/metrics.csv"), (["train", "-m"], "study.journal")):
        folder = shutil.copytree(good, tmp_path / Path(name).stem)
        (folder / name).parent.mkdir(exist_ok=True)
        sparse(folder / name)
        if "-m" in command:
            (folder / "plan.json").touch()
        ended = run(tmp_path, *command, f"resume={folder}")
        assert (ended.code, ended.err) == (2, f"train: resume={folder}: {folder / name} is mostly a hole\n")


def test_checkpoints_are_read_as_data_everywhere():
    for file in [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in {"pickle.load", "pickle.loads", "yaml.load", "eval", "exec"}, file
                if name == "torch.load":
                    options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                    assert options["weights_only"] == "True", file


def test_an_ordered_dictionary_is_a_dictionary(good, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(good, folder)
    change(folder, lambda content: content.update(state_dict=OrderedDict(content["state_dict"])))
    assert run(tmp_path, "train", f"resume={folder}").code == 0

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import ROOT
from PIL import Image
from processes import contents, run
from safetensors import safe_open

import litlab.commands.export
import litlab.inference.export
from digits.convnet import ConvNet
from digits.mnist import MNISTDataModule
from litlab import load_run

LINES = re.search(
    r"```python\n(import numpy as np\nimport onnxruntime\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
)[1]


@pytest.fixture(scope="module")
def own(a_run, test_set):
    """What the run's model answers to the test images, computed without this module's help."""
    model = load_run(a_run).model
    images = test_set[0].float() / 255
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(1000)]).softmax(1), model.features(images[:50])


def with_few_test_images():
    MNISTDataModule.test_dataloader = lambda data: data._loader(False, torch.arange(1000), 500)


IMAGES = {"onnx": 10_000, "torch_export": 1000, "safetensors": 1000}
"""How many test images each file is tried on: here not always all."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory, a_run):
    """A file of each format, and what was said of it."""
    folder = tmp_path_factory.mktemp("exported")
    before = contents(a_run)
    files = {"onnx": "digits.onnx", "torch_export": "digits.pt2", "safetensors": "digits.safetensors"}
    ended = {}
    for form, name in files.items():
        prepare = with_few_test_images if IMAGES[form] == 1000 else lambda: None
        arguments = [f"run={a_run}", f"format={form}", f"file={folder}/new/{name}"]
        ended[form] = run(folder, "export", *arguments, prepare=prepare)
    assert contents(a_run) == before
    assert sorted(file.name for file in (folder / "new").iterdir()) == sorted(files.values())
    return {form: (folder / "new" / name, ended[form]) for form, name in files.items()}


@pytest.mark.parametrize("form", ["onnx", "torch_export", "safetensors"])
def test_says_how_the_file_answers_the_test_images(exported, own, test_set, form):
    file, ended = exported[form]
    assert (ended.code, ended.err) == (0, "")
    images = IMAGES[form]
    right = int((own[0].argmax(1) == test_set[1])[:images].sum())
    beginning = f"{file}: {right} of {images} test images right, as the run's model; outputs within "
    assert ended.out.startswith(beginning)
    assert float(re.search(r"within (\S+) of its", ended.out)[1]) <= 1e-4


def compare(probabilities, features, own):
    assert np.abs(np.asarray(probabilities) - own[0][: len(probabilities)].numpy()).max() < 1e-4
    assert np.abs(np.asarray(features)[:50] - own[1].numpy()[: len(features)]).max() < 1e-4


def about(metadata, a_run):
    """Check the metadata."""
    assert metadata["labels"].splitlines() == list("0123456789")
    assert metadata["input"] == "uint8 (N, 1, 28, 28)"
    assert metadata["run"] == "run"
    assert metadata["checkpoint"] == "best.ckpt"
    assert metadata["seed"] == "42"
    record = load_run(a_run).record
    assert metadata["command"] == record.command
    assert metadata["commit"].startswith(record.git.commit)
    assert json.loads(metadata["metrics"])["test/acc"] == record.metrics.test["test/acc"]
    assert json.loads(metadata["model"])["net"]["channels"] == [16, 32]


def test_onnx_takes_any_number_of_images(exported, a_run, own, test_set):
    session = onnxruntime.InferenceSession(exported["onnx"][0])
    about(session.get_modelmeta().custom_metadata_map, a_run)
    for number in (1, 7, 1000):
        compare(*session.run(None, {"pixels": test_set[0][:number].numpy()}), own)


def test_torch_export_too(exported, a_run, own, test_set):
    extra = {"metadata.json": ""}
    program = torch.export.load(exported["torch_export"][0], extra_files=extra)
    about(json.loads(extra["metadata.json"]), a_run)
    for number in (1, 7, 1000):
        compare(*program.module()(test_set[0][:number]), own)


def test_safetensors_holds_the_networks_weights(exported, a_run, own, test_set):
    with safe_open(exported["safetensors"][0], "pt") as file:
        about(file.metadata(), a_run)
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
    net = ConvNet()
    net.load_state_dict(weights)
    with torch.no_grad():
        images = test_set[0][:50].float() / 255
        compare(net(images).softmax(1), net.features(images), own)


def test_readmes_lines_use_the_file_without_this_project(exported, own, test_set, tmp_path):
    assert len([line for line in LINES.splitlines() if line]) <= 10
    Image.fromarray(test_set[0][0, 0].numpy()).save(tmp_path / "digit.png")
    shutil.copy(exported["onnx"][0], tmp_path / "model.onnx")
    (tmp_path / "lines.py").write_text(
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['litlab', 'digits', 'torch', 'lightning', 'hydra', 'onnx']))\n" + LINES
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "lines.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    digit, probability = done.stdout.split()
    assert int(digit) == own[0][0].argmax() == test_set[1][0]
    assert float(probability) == pytest.approx(float(own[0][0].max()), abs=1e-4)


@pytest.fixture
def copy(a_run, tmp_path):
    shutil.copytree(a_run, tmp_path / "copy")
    return tmp_path / "copy"


SPOILT = {
    "a little off": (lambda outputs: [output + 2e-4 for output in outputs], "outputs differ by up to 0.0002"),
    "no numbers": (lambda outputs: [output * torch.nan for output in outputs], "outputs differ by up to nan"),
    "one image confused": (lambda outputs: [confused(outputs[0]), outputs[1]], "are right, not "),
    "an error": (lambda outputs: outputs[2], "what was written fails and was removed: list index"),
}


def confused(probabilities):
    """The two highest probabilities of the surest image change places."""
    surest = probabilities.max(1).values.argmax()
    order = probabilities[surest].argsort()
    changed = probabilities.clone()
    changed[surest, order[-2:]] = probabilities[surest, order[-2:].flip(0)]
    return changed


@pytest.mark.parametrize("how", SPOILT)
def test_what_answers_otherwise_is_removed(tmp_path, copy, how):
    spoil, reason = SPOILT[how]
    place = copy / "export" / "model.safetensors"
    place.parent.mkdir()
    place.write_text("an older one")

    def prepare():
        with_few_test_images()
        write = litlab.inference.export.WRITERS["safetensors"]

        def write_spoilt(*arguments):
            written = write(*arguments)
            return lambda pixels: spoil(list(written(pixels)))

        litlab.inference.export.WRITERS["safetensors"] = write_spoilt

    ended = run(tmp_path, "export", f"run={copy}", "format=safetensors", prepare=prepare)
    assert (ended.code, len(ended.lines()), ended.out) == (1, 1, "")
    assert ended.err.startswith("export: what was written ")
    assert reason in ended.err
    assert [file.name for file in place.parent.iterdir()] == ["model.safetensors"]
    assert place.read_text() == "an older one"


def test_it_goes_into_the_runs_folder_but_not_where_a_link_leads(tmp_path, copy):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (copy / "export").symlink_to(elsewhere)
    ended = run(tmp_path, "export", f"run={copy}", "format=safetensors")
    assert (ended.code, list(elsewhere.iterdir())) == (2, [])
    assert ended.err == f"export: run={copy}: {copy}/export leads out of the folder, where nothing may be written\n"
    (copy / "export").unlink()
    ended = run(
        tmp_path, "export", f"run={copy}/checkpoints/last.ckpt", "format=safetensors", prepare=with_few_test_images
    )
    assert (ended.code, ended.err) == (0, "")
    with safe_open(copy / "export" / "model.safetensors", "pt") as file:
        assert file.metadata()["checkpoint"] == "last.ckpt"


def test_a_missing_package_or_a_place_that_cannot_be_written_is_told(tmp_path, a_run):
    def prepare():
        find_spec = importlib.util.find_spec
        litlab.commands.export.find_spec = lambda name: None if name.startswith("onnx") else find_spec(name)

    ended = run(tmp_path, "export", f"run={a_run}", prepare=prepare)
    told = "export: format=onnx: takes onnx, onnxscript, onnxruntime; pip install -e '.[export]' brings all\n"
    assert (ended.code, ended.err) == (2, told)
    (tmp_path / "file").touch()
    ended = run(tmp_path, "export", f"run={a_run}", "format=safetensors", f"file={tmp_path}/file/x/y")
    assert (ended.code, ended.err) == (2, f"export: file={tmp_path}/file/x/y cannot be written: Not a directory\n")

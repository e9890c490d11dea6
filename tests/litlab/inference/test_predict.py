import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from matplotlib import image as pictures
from PIL import Image
from processes import contents, run

from digits.mnist import MNISTDataModule

NO_TORCH = (
    "import sys\n"
    "from litlab.cli import predict\n"
    "try: predict()\n"
    "finally:\n"
    "    heavy = {'torch', 'lightning', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
    "    assert not heavy, heavy\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, test_set):
    """The first 1,000 test images as PNG files, named by index and label."""
    folder = tmp_path_factory.mktemp("pictures")
    images, labels = test_set
    for index, (image, label) in enumerate(zip(images[:1000, 0].numpy(), labels[:1000].tolist(), strict=True)):
        Image.fromarray(image).save(folder / f"{index:04d}_{label}.png")
    return folder


def answers(tmp_path, a_run, *arguments):
    """What `predict … format=json` says, which ends well."""
    ended = run(tmp_path, "predict", f"run={a_run}", "format=json", *arguments)
    assert (ended.code, ended.err) == (0, "")
    return json.loads(ended.out)


def hits(said):
    """For each digit, whether its pictures were recognised."""
    truth = [int(one["file"][-5]) for one in said]
    return {
        digit: [one["digit"] == digit for one, true in zip(said, truth, strict=True) if true == digit]
        for digit in range(10)
    }


def right(said):
    return sum(sum(of_digit) for of_digit in hits(said).values())


def test_the_first_thousand_test_images_get_the_answers_of_the_test(tmp_path, a_run, folder):
    said = answers(tmp_path, a_run, f"input={folder}")
    assert [one["file"] for one in said] == sorted(map(str, folder.iterdir()))
    assert list(said[0]) == ["file", "digit", "probability", "runner_up", "runner_up_probability"]
    tested = json.loads((a_run / "run.json").read_text())["metrics"]
    assert right(said) == round(1000 * tested["test"]["test/acc"]) > 900
    by_digit = {str(digit): sum(of_digit) / len(of_digit) for digit, of_digit in hits(said).items()}
    assert by_digit == pytest.approx(tested["test_by_class"], rel=1e-6)  # which is of 32 bits
    assert all(1 >= one["probability"] >= one["runner_up_probability"] >= 0 for one in said)
    assert all(one["digit"] != one["runner_up"] for one in said)
    # On white paper and three times as large: at most 1 % fewer.
    for file in folder.iterdir():
        dark = Image.fromarray(255 - np.asarray(Image.open(file))).resize((84, 84), Image.Resampling.BICUBIC)
        dark.save(tmp_path / file.name)
    assert right(answers(tmp_path, a_run, f"input={tmp_path}/*.png")) >= right(said) - 10


def test_the_formats_say_the_same(tmp_path, a_run, folder):
    one = f"input={folder}/000*.png"
    said = answers(tmp_path, a_run, one)
    assert len(said) == 10
    table, text = (run(tmp_path, "predict", f"run={a_run}", one, *form) for form in ([], ["format=csv"]))
    assert (table.code, text.code) == (0, 0)
    rows = list(csv.DictReader(io.StringIO(text.out)))
    assert rows == [{name: str(value) for name, value in answer.items()} for answer in said]
    header, *lines = table.out.splitlines()
    assert header.split() == ["file", "digit", "probability", "runner-up", "its", "probability"]
    cells = [[one["file"], str(one["digit"]), f"{one['probability']:.1%}"] for one in said]
    assert [line.split()[:3] for line in lines] == cells


def test_a_picture_on_standard_input(tmp_path, a_run, folder):
    def prepare():
        sys.stdin = (folder / "0000_7.png").open()

    (from_file,) = answers(tmp_path, a_run, f"input={folder}/0000_7.png")
    ended = run(tmp_path, "predict", f"run={a_run}", "input=-", "format=json", prepare=prepare)
    assert json.loads(ended.out) == [from_file | {"file": "-"}]


def test_what_cannot_be_read_is_named_and_the_rest_predicted(tmp_path, a_run, folder):
    for name, data in {
        "empty.png": b"",
        "text.png": b"hello",
        "cut.png": (folder / "0000_7.png").read_bytes()[:150],
    }.items():
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    Image.new("L", (50, 50), "white").save(tmp_path / "in" / "white.png")
    named = [
        f"predict: {tmp_path}/in/cut.png: is a damaged picture: image file is truncated",
        f"predict: {tmp_path}/in/empty.png: is empty",
        f"predict: {tmp_path}/in/text.png: is not an image",
        f"predict: {tmp_path}/in/white.png: is blank",
    ]
    ended = run(tmp_path, "predict", f"run={a_run}", f"input={tmp_path}/in")
    assert (ended.code, ended.lines(), ended.out) == (2, named, "")
    (tmp_path / "in" / "seven = '7' [a,b].png").write_bytes((folder / "0000_7.png").read_bytes())
    ended = run(tmp_path, "predict", f"run={a_run}", f"input={tmp_path}/in", "format=json")
    assert (ended.code, ended.lines()) == (1, named)
    assert [(one["file"], one["digit"]) for one in json.loads(ended.out)] == [
        (f"{tmp_path}/in/seven = '7' [a,b].png", 7)
    ]
    assert answers(tmp_path, a_run, f"input={tmp_path}/in/seven = '7' [a,b].png") == json.loads(ended.out)


def test_draws_what_the_network_sees_and_leaves_nothing_else(tmp_path, a_run, folder):
    before = contents(a_run)
    working = tmp_path / "working"
    working.mkdir()

    def prepare():
        os.chdir(working)

    ended = run(tmp_path, "predict", f"run={a_run}", f"input={folder}", "show=true", prepare=prepare)
    assert ended.code == 0
    assert ended.lines() == ["predict: drawn in predictions.png, the first 400 of 1000"]
    assert [file.name for file in working.iterdir()] == ["predictions.png"]
    assert pictures.imread(working / "predictions.png").shape[1] == 2000  # 20 pictures a row
    assert contents(a_run) == before
    ended = run(tmp_path, "predict", f"run={a_run}", f"input={folder}/0000_7.png", "show=/nowhere/x.png")
    assert (ended.code, ended.err) == (2, "predict: show=/nowhere/x.png cannot be written: No such file or directory\n")


def test_whoever_reads_the_answers_may_stop(tmp_path, a_run, folder):
    reading, writing = os.pipe()
    os.close(reading)

    def prepare():
        os.dup2(writing, 1)
        sys.stdout = os.fdopen(1, "w")

    ended = run(tmp_path, "predict", f"run={a_run}", f"input={folder}/000*.png", prepare=prepare)
    os.close(writing)
    assert (ended.code, ended.err) == (0, "")


def test_a_progress_bar_on_a_terminal(tmp_path, a_run, folder):
    ours, theirs = os.openpty()

    def prepare():
        os.dup2(theirs, 2)
        sys.stderr = os.fdopen(2, "w")

    ended = run(tmp_path, "predict", f"run={a_run}", f"input={folder}", prepare=prepare)
    assert ended.code == 0
    assert b"%" in os.read(ours, 100_000)


def test_a_data_module_that_cannot_read_pictures_is_named(tmp_path, a_run, folder):
    def prepare():
        del MNISTDataModule.read_picture

    ended = run(tmp_path, "predict", f"run={a_run}", f"input={folder}", prepare=prepare)
    assert (ended.code, ended.err) == (
        2,
        "predict: digits.mnist.MNISTDataModule cannot read pictures: that takes a method read_picture(picture)\n",
    )


def test_classes_go_by_their_names(tmp_path, a_run, folder):
    def prepare():
        MNISTDataModule.class_names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        del MNISTDataModule.class_word

    ended = run(tmp_path, "predict", f"run={a_run}", f"input={folder}/0000_7.png", "format=json", prepare=prepare)
    assert json.loads(ended.out)[0]["class"] == "seven"

    def prepare_too_few():
        MNISTDataModule.class_names = ["odd", "even"]

    ended = run(tmp_path, "predict", f"run={a_run}", f"input={folder}/0000_7.png", prepare=prepare_too_few)
    assert ended.err == "predict: the data module names 2 classes, and the model tells 10 apart\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run=nowhere", "input=docs"], "predict: run=nowhere: there is no such file, folder or name of a run"),
        (["run=RUN", "input=nowhere"], "predict: input=nowhere: there is no such file or folder"),
        (["run=RUN", "input="], "predict: input=: String should have at least 1 character"),
        (["run=RUN"], "predict: input: needs a value, give input=…"),
        (["run=RUN", "input=docs", "format=xml"], "predict: format=xml: should be 'table', 'json' or 'csv'"),
        (["-m", "run=RUN,RUN", "input=docs"], "predict: does one thing at a time: leave out -m"),
    ],
)
def test_a_mistake_is_told_before_torch(a_run, arguments, line):
    before = contents(ROOT / "logs")
    given = [text.replace("RUN", str(a_run)) for text in arguments]
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, *given], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.returncode, done.stderr) == (2, f"{line}\n")
    assert contents(ROOT / "logs") == before

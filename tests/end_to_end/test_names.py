"""A run is found again by its name, its tags and the options it was made with."""

import json
from pathlib import Path

import pytest
from processes import run

from litlab.runs.run import Run

pytestmark = pytest.mark.usefixtures("mnist_dir")

SMALL = (
    "trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1", "data.batch_size=10", "views=none",
)  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Logs with two runs called wider, one called narrow, and a sweep called rates."""
    folder = tmp_path_factory.mktemp("names")
    for arguments in (
        ["name=wider", "tags=[ablation]"],
        ["name=wider", "tags=[ablation,lr]", "notes='more channels: does it help?'", "optimizer=sgd"],
        ["name=narrow", "optimizer=sgd", "optimizer.lr=0.1", "trainer.limit_train_batches=1"],
        ["-m", "name=rates", "optimizer.lr=0.01,0.02"],
    ):
        done = call(folder, "train", *SMALL, *arguments)
        assert (done.code, done.err) == (0, "")
    return folder


def call(folder, command, *arguments):
    return run(folder, command, *arguments, *([f"paths.logs={folder}/logs"] if command != "compare" else []))


def runs(folder):
    return sorted((folder / "logs/train/runs").iterdir(), key=lambda path: Run.open(path).record.started)


def test_the_name_stands_in_folder_record_and_config(project):
    first, second, third = runs(project)
    assert [path.name.partition("_")[2].partition("_")[2] for path in (first, second, third)] == [
        "wider", "wider", "narrow",
    ]  # fmt: skip
    settings = json.loads((second / "run.json").read_text())["settings"]
    assert (settings["name"], settings["tags"], settings["notes"]) == (
        "wider", ["ablation", "lr"], "more channels: does it help?",
    )  # fmt: skip
    assert settings["choices"]["optimizer"] == "sgd"
    assert settings["choices"].keys().isdisjoint({"sweep", "launcher", "paths", "experiment", "hydra/help"})
    assert "name: wider\n" in (second / "config.yaml").read_text()
    (sweep,) = (project / "logs/train/multiruns").iterdir()
    assert sweep.name.endswith("_rates")
    assert [Run.open(sweep / job).record.settings["name"] for job in "01"] == ["rates", "rates"]


def test_run_finds_the_newest_of_a_name(project):
    done = call(project, "evaluate", "run=wider", "accelerator=cpu")
    assert done.code == 0
    assert f"run=wider: {runs(project)[1]}\n" in done.err
    unknown = call(project, "evaluate", "run=wide")
    assert (unknown.code, unknown.err) == (2, "evaluate: run=wide: there is no such file, folder or name of a run\n")


def test_resume_finds_it_too(project):
    done = call(project, "train", "resume=narrow", "trainer.max_epochs=2", "tags=[longer]")
    assert done.code == 0, done.err
    assert f"resume=narrow: {runs(project)[2]}\n" in done.err
    assert Run.open(runs(project)[2]).record.settings["tags"] == ["longer"]
    other = call(project, "train", "resume=narrow", "name=narrower")
    assert other.code == 2
    assert "`litlab rename` changes it" in other.err
    sweep = call(project, "train", "-m", "resume=rates")
    assert sweep.code == 0, sweep.err
    assert "resume=rates: " in sweep.err


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        ("name==wider", 2), ('"ablation" in tags', 2), ('"lr" in tags and optimizer.lr>0', 1), ("channels in notes", 1),
        ("choices.optimizer==sgd", 2), ('"nothing" in tags or', None),
    ],
)  # fmt: skip
def test_conditions_ask_for_names_tags_and_options(project, condition, count):
    done = call(project, "compare", project / "logs/train/runs", f"where={condition}", "format=json", "metric=val/acc")
    if count is None:
        assert (done.code, done.err.partition(": ")[2].partition(" is")[0]) == (2, f"'{condition}'")
        return
    assert done.code == 0, done.err
    assert sum(len(group["runs"]) for group in json.loads(done.out)["groups"]) == count


def test_names_are_told_and_do_not_tell_groups_apart(project):
    done = call(project, "compare", project / "logs/train/runs", "metric=val/acc")
    assert done.out.split()[0] == "name"
    groups = json.loads(call(project, "compare", project / "logs/train", "format=json", "metric=val/acc").out)["groups"]
    assert sorted(name for group in groups for name in group["names"]) == ["narrow", "rates", "rates", "wider", "wider"]
    assert not any(key.startswith("choices") for group in groups for key in group["settings"])


def test_a_run_is_renamed(project):
    done = call(project, "train", *SMALL, "name=first", "test=false")
    assert done.code == 0
    renamed = call(project, "rename", "run=first", "name=second")
    assert renamed.code == 0, renamed.err
    folder = Path(renamed.out.partition(" is called second")[0])
    assert folder.name.endswith("_second")
    assert Run.open(folder).record.settings["name"] == "second"
    assert "name: second\n" in (folder / "config.yaml").read_text()
    assert call(project, "train", "resume=second", "trainer.max_epochs=2").code == 0  # it is still one's own
    assert Run.open(folder).record.settings["name"] == "second"
    again = call(project, "rename", f"run={folder}", "name=null")
    assert again.out == f"{folder.with_name(folder.name.removesuffix('_second'))} has no name\n"


@pytest.mark.parametrize("name", ["'a b'", "../x", "last", "-a", "ä", "''"])
def test_odd_names_are_refused_before_there_is_a_folder(tmp_path, name):
    done = call(tmp_path, "train", *SMALL, f"name={name}")
    assert done.code == 2
    assert done.err.startswith("train: name=")
    assert not (tmp_path / "logs").exists()

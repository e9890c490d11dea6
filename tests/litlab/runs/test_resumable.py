"""Checkpoints that are not what a training can go on from: each is refused in one line, before a step is done."""

import re
import shutil
import signal
import time
import zipfile
from itertools import pairwise

import pytest
import torch
from conftest import ROOT, SHORT, train
from processes import at, run

from litlab import files
from litlab.config import schema
from litlab.config.compose import load
from litlab.errors import UserError
from litlab.runs.checkpoint import MOST_VALUES, read
from litlab.runs.run import Run
from litlab.runs.writing import AtomicCheckpointIO
from litlab.training.reproduce import reproduce

pytestmark = pytest.mark.usefixtures("mnist_dir")

STOP = "EarlyStopping{'monitor': 'val/loss', 'mode': 'min'}"


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed in the middle of its second epoch of 8 steps, with much that has a state."""
    folder = tmp_path_factory.mktemp("killed")
    arguments = [*SHORT, "trainer.max_epochs=3", "trainer.limit_train_batches=8", "trainer.max_time=00:01:00:00"]
    arguments += ["callbacks=ema", "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping"]
    arguments += ["+callbacks.stop.monitor=val/loss", "scheduler=onecycle", "logger=[tensorboard,csv]"]
    arguments += ["trainer.steps_per_execution=1", "checkpoint.every_n_steps=5", f"hydra.run.dir={folder}/run"]
    ended = run(folder, "train", *arguments, prepare=at("on_train_batch_end", 14))
    assert ended.code == -signal.SIGKILL, ended.err
    return folder / "run"


@pytest.fixture
def copied(killed, tmp_path):
    return shutil.copytree(killed, tmp_path / "run")


def refused(folder):
    """What a resumption says of the folder; it must not take long."""
    began = time.monotonic()
    with pytest.raises(UserError) as error:
        train(load(folder / "config.yaml", schema.Train), folder)
    assert time.monotonic() - began < 30
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def optimizer(c):
    return c["optimizer_states"][0]


def kept(c):
    return optimizer(c)["state"][0]


def group(c):
    return optimizer(c)["param_groups"][0]


def schedule(c):
    return c["lr_schedulers"][0]


def loops(c):
    return c["loops"]["fit_loop"]


def epoch(c):
    return loops(c)["epoch_loop.state_dict"]


def callback(name, **values):
    return lambda c: c["callbacks"][name].update(values)


def nested(depth):
    inner = []
    for _ in range(depth):
        inner = [inner]
    return inner


def of_itself():
    inner = []
    inner.append(inner)
    return inner


def doubling():
    inner = ["x"]
    for _ in range(40):
        inner = [inner, inner]
    return inner


SPOILT = {
    "no average": lambda c: kept(c).pop("exp_avg"),
    "an average that is nothing": lambda c: kept(c).update(exp_avg=None),
    "no average at all": lambda c: [state.pop("exp_avg") for state in optimizer(c)["state"].values()],
    "an average that is a number": lambda c: kept(c).update(exp_avg=1.0),
    "an average of one number": lambda c: kept(c).update(exp_avg=torch.tensor(1.0)),
    "an average of another shape": lambda c: kept(c).update(exp_avg=torch.zeros(3)),
    "an average that is a word": lambda c: kept(c).update(exp_avg="average"),
    "a sparse average": lambda c: kept(c).update(exp_avg=torch.ones(16, 1, 5, 5).to_sparse()),
    "an average of no memory": lambda c: kept(c).update(exp_avg=torch.ones(16, 1, 5, 5, device="meta")),
    "a huge average": lambda c: kept(c).update(exp_avg=torch.zeros(1).expand(2**35)),
    "steps of an optimizer that are a word": lambda c: kept(c).update(step="x"),
    "no steps of an optimizer": lambda c: kept(c).pop("step"),
    "a rate that is a word": lambda c: group(c).update(lr="fast"),
    "a rate that is nothing": lambda c: group(c).update(lr=None),
    "a rate that is a list": lambda c: group(c).update(lr=[1.0]),
    "no rate": lambda c: group(c).pop("lr"),
    "no eps": lambda c: group(c).pop("eps"),
    "too few betas": lambda c: group(c).update(betas=(0.9,)),
    "betas that are words": lambda c: group(c).update(betas=("a", "b")),
    "weights that are a word": lambda c: group(c).update(params="abcdef"),
    "no weights of an optimizer": lambda c: group(c).pop("params"),
    "no optimizer": lambda c: c.pop("optimizer_states"),
    "optimizers that are a dictionary": lambda c: c.update(optimizer_states={}),
    "two optimizers": lambda c: c.update(optimizer_states=c["optimizer_states"] * 2),
    "an optimizer of unknown weights": lambda c: optimizer(c).update(state={"a": {}}),
    "an optimizer of a number": lambda c: optimizer(c).update(state={0: 3}),
    "an optimizer that keeps nothing": lambda c: optimizer(c).update(state={}),
    "a schedule's steps that are a word": lambda c: schedule(c).update(last_epoch="x"),
    "a schedule's length that is a word": lambda c: schedule(c).update(total_steps="x"),
    "a schedule's rates that are a number": lambda c: schedule(c).update(base_lrs=3),
    "a schedule without phases": lambda c: schedule(c).update(_schedule_phases=[]),
    "a schedule of nothing": lambda c: schedule(c).clear(),
    "no schedule": lambda c: c.update(lr_schedulers=[]),
    "a list that holds itself": lambda c: c.update(x=of_itself()),
    "such a list in an optimizer": lambda c: group(c).update(x=of_itself()),
    "lists inside each other": lambda c: c.update(x=nested(150)),
    "lists that double": lambda c: c.update(x=doubling()),
    "two million references": lambda c: c.update(x=[[]] * 2_000_000),
    "too many references to a tensor": lambda c: kept(c).update(x=[c["state_dict"]["net.out.bias"]] * MOST_VALUES),
    "an epoch that is a word": lambda c: c.update(epoch="x"),
    "steps that are a word": lambda c: c.update(global_step="x"),
    "steps that are true": lambda c: c.update(global_step=True),
    "steps that were not done": lambda c: c.update(global_step=2**80),
    "no version": lambda c: c.pop("pytorch-lightning_version"),
    "a version that is a number": lambda c: c.update({"pytorch-lightning_version": 3}),
    "a version that is none": lambda c: c.update({"pytorch-lightning_version": "x.y"}),
    "nothing but weights": lambda c: [c.pop(key) for key in [*c] if key != "state_dict"],
    "weights in a list": lambda c: c.update(state_dict=[1]),
    "a weight without a name": lambda c: c["state_dict"].update({3: torch.ones(1)}),
    "no loops": lambda c: c.pop("loops"),
    "loops that are a number": lambda c: c.update(loops=3),
    "loops without an end": lambda c: loops(c).pop("epoch_loop.state_dict"),
    "epochs that are a word": lambda c: loops(c)["epoch_progress"]["current"].update(completed="x"),
    "epochs that are nothing": lambda c: loops(c)["epoch_progress"]["current"].update(completed=None),
    "fewer epochs than none": lambda c: loops(c)["epoch_progress"]["current"].update(completed=-3),
    "batches in a list": lambda c: loops(c).update({"epoch_loop.batch_progress": []}),
    "schedule's progress": lambda c: loops(c)["epoch_loop.scheduler_progress"]["total"].update(ready="x"),
    "loaders that are a word": lambda c: loops(c)["state_dict"].update(combined_loader="x"),
    "a loader at a word": lambda c: loops(c)["state_dict"].update(combined_loader=[{"epoch": "x", "batches": "y"}]),
    "a loader that is nowhere": lambda c: loops(c)["state_dict"].update(combined_loader=[{}]),
    "saved in the middle of a step": lambda c: epoch(c).update(after_step=False),
    "examples that are a word": lambda c: epoch(c).update(examples="x"),
    "generators that are a word": lambda c: epoch(c).update(random="x"),
    "no generators": lambda c: epoch(c).update(random=[]),
    "no states of generators": lambda c: epoch(c).pop("random"),
    "a generator of another kind": lambda c: epoch(c)["random"][0].update(numpy=3),
    "a generator of another size": lambda c: epoch(c)["random"][0].update(torch=torch.zeros(3).byte()),
    "batches that are a word": lambda c: epoch(c).update(_batches_that_stepped="x"),
    "a validation that is a word": lambda c: epoch(c).update(validates="x"),
    "no callbacks": lambda c: c.pop("callbacks"),
    "callbacks in a list": lambda c: c.update(callbacks=[]),
    "a patience that is a word": callback(STOP, wait_count="x"),
    "a best score that is a word": callback(STOP, best_score="x"),
    "three best scores": callback(STOP, best_score=torch.ones(3)),
    "an epoch that is nothing": callback(STOP, stopped_epoch=None),
    "early stopping in a list": lambda c: c["callbacks"].update({STOP: []}),
    "a time that is a word": callback("Timer", time_elapsed={"train": "x"}),
    "a time of another kind": callback("Timer", time_elapsed=3),
    "an average's step that is a word": callback("EMA", latest_update_step="x"),
    "an average's count that is a word": lambda c: c.update(averaging_state={"n_averaged": "x"}),
    "an average's count of another shape": lambda c: c.update(averaging_state={"n_averaged": torch.ones(3)}),
    "a place of another kind": callback("StepMetrics", places={"train/loss": {"on_step": "x", "reduction": 3}}),
    "a place that is unknown": callback("StepMetrics", places={"x": {"wrong": True}}),
    "places in a list": callback("StepMetrics", places=[]),
    "sums that are words": callback("StepMetrics", epoch={"train/loss": ["a", "b"]}),
    "sums of what was not logged": callback("StepMetrics", epoch={"nowhere": [1.0, 1.0]}),
    "a metric's updates that are a word": callback(
        "StepMetrics", metrics={"train/acc": {"path": "train_acc", "state": {}, "updates": "x"}}
    ),
    "a metric that is a number": callback("StepMetrics", metrics={"train/acc": 3}),
    "skipped batches that are a word": callback("StepMetrics", skipped="x"),
    "what was drawn is a number": callback("Overview", written=3),
    "seconds that are a word": callback("Throughput", seconds="long"),
    "seconds in a list": callback("Throughput", epoch_seconds=[1]),
    "newest values that are words": callback("Checkpoints", newest={"a": "x"}),
    "newest values in a list": callback("Checkpoints", newest=[1]),
    "a best value that is a word": callback("Checkpoints", best="x"),
    "metrics of another kind": callback("Checkpoints", metrics={"best": 3}),
    "loggers of another kind": callback("Checkpoints", loggers=3),
    "rows that are a word": callback("Checkpoints", loggers={"CSV csv": {"rows": "x"}}),
    "rows in a list": callback("Checkpoints", loggers={"CSV csv": [1]}),
    "fewer rows than none": callback("Checkpoints", loggers={"CSV csv": {"rows": -5}}),
    "an optimizer's settings that are a number": callback("Checkpoints", optimizer=3),
}  # fmt: skip


@pytest.mark.parametrize("spoilt", SPOILT)
def test_what_no_training_can_go_on_from_is_refused_in_a_line(copied, spoilt):
    file = copied / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    SPOILT[spoilt](content)
    torch.save(content, file)
    said = refused(copied)
    assert f"{file} is " in said or said == "the checkpoint has no fitting state of the data's loader", said


def test_curves_are_on_the_disk_before_the_checkpoint_that_names_their_length(copied, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync", lambda path: synced.append(path.name))
    ended = train(load(copied / "config.yaml", schema.Train), copied)  # which was not spoilt
    assert ended.record.status == "done"
    checkpoints = [place for place, name in enumerate(synced) if name == ".last.ckpt.new"]
    assert len(checkpoints) > 3
    for before, place in pairwise([0, *checkpoints]):
        curves = set(synced[before:place])
        assert {"metrics.csv", "csv", "run", *(file.name for file in copied.glob("events.out.*"))} <= curves


def test_reproducing_looks_at_the_original_before_it_trains(copied, tmp_path):
    best = copied / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=True)
    weights = content["state_dict"]
    for spoilt in ({}, weights | {"net.out.bias": torch.ones(3)}, weights | {"net.out.bias": torch.ones(10).double()}):
        torch.save(content | {"state_dict": spoilt}, best)
        with pytest.raises(UserError, match="best.ckpt is of another network: "):
            reproduce(Run.open(copied), load(copied / "config.yaml", schema.Train), tmp_path)
        assert not (tmp_path / "run.json").exists()


def flip(file, place):
    """Change one bit of a file, at this byte."""
    data = bytearray(file.read_bytes())
    data[place] ^= 8
    file.write_bytes(data)


def middle(file, part):
    """The middle byte of a part of the archive, such as data.pkl."""
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith(part))
        content = archive.read(name)
    return file.read_bytes().index(content) + len(content) // 2


@pytest.mark.parametrize("part", ["data.pkl", "data/4"])
def test_a_flipped_bit_is_told_with_the_checkpoint_that_is_whole(copied, part):
    last, best = (copied / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    flip(last, middle(last, part))
    said = refused(copied)
    damage = f"{last} is not a checkpoint, or is damaged: the checksum of its part "
    assert said.startswith(damage)
    assert said.endswith(f"{part} is wrong; evaluate, predict and export can take run={best}, which is whole")
    flip(best, middle(best, part))
    assert refused(copied).endswith(f"{part} is wrong")


def test_no_flipped_bit_changes_what_is_read(copied):
    file = copied / "checkpoints" / "last.ckpt"
    data, whole = file.read_bytes(), read(file)
    weights = [weight.clone() for weight in whole["state_dict"].values()]
    refusals = 0
    for place in range(0, len(data), len(data) // 150):  # some are in what fills the space between two parts
        flip(file, place)
        try:
            found = read(file)
        except UserError:
            refusals += 1
        else:
            assert all(map(torch.equal, found["state_dict"].values(), weights))
            assert found["callbacks"]["Checkpoints"] == whole["callbacks"]["Checkpoints"]
        file.write_bytes(data)
    assert refusals > 120


def test_all_that_reads_a_checkpoint_looks_at_its_checksums(copied, tmp_path):
    best = copied / "checkpoints" / "best.ckpt"
    flip(best, middle(best, "data/4"))
    with pytest.raises(UserError, match="best.ckpt is not a checkpoint, or is damaged: the checksum"):
        read(best)
    for command in (["evaluate"], ["predict", f"input={ROOT}/docs/seven.png"], ["export"]):
        ended = run(tmp_path, *command, f"run={best}", f"paths.logs={tmp_path}/logs")
        assert ended.code == 2
        assert ended.err.startswith(f"{command[0]}: {best} is not a checkpoint, or is damaged: the checksum of ")
        assert f"can take run={best.with_name('last.ckpt')}, which is whole" in ended.err
        assert len(ended.lines()) == 1


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    file = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO(tmp_path)
    writer.save_checkpoint({"x": [1.0] * 1000}, file)
    before = file.read_bytes()
    for content in ({"x": [1] * (MOST_VALUES + 1)}, {"x": "x" * 2**24}):
        with pytest.raises(UserError, match="the checkpoint could not be read again: it holds .*; keep long lists in"):
            writer.save_checkpoint(content, file)
    assert [(path, path.read_bytes()) for path in tmp_path.iterdir()] == [(file, before)]


@pytest.mark.parametrize("name", ["events", "rows", "all events"])
def test_curves_that_are_shorter_than_the_checkpoint_says_are_told(copied, caplog, name):
    (events,) = copied.glob("events.out.tfevents.*")
    rows = copied / "csv" / "metrics.csv"
    if name == "rows":
        lines = rows.read_text().splitlines(keepends=True)
        rows.write_text("".join(lines[:7]))
        place, first = "CSV csv", lines[6].split(",")[lines[0].strip().split(",").index("step")]
    elif name == "events":
        with events.open("r+b") as file:
            file.truncate(events.stat().st_size // 2)
        place, first = "TensorBoard .", r"\d+"
    else:
        events.unlink()
        place, first = "TensorBoard .", "0"
    train(load(copied / "config.yaml", schema.Train), copied)
    (said,) = [line for line in caplog.messages if "hole" in line]
    expected = f"the curves of {place} have a hole from step {first} to step 10: files are shorter than they were"
    assert re.match(expected, said), said

"""Evaluating a split of the data, and the table with a row for each example."""

import csv
import io
import json
import math

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from processes import run
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from digits.classifier import Classifier
from digits.mnist import MNISTDataModule
from litlab import load_run
from litlab.errors import UserError
from litlab.inference.examples import ExampleWriter


def rows(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def evaluate(folder, *arguments, prepare=lambda: None):
    return run(folder, "evaluate", f"paths.logs={folder}/logs", *arguments, prepare=prepare)


def record(folder):
    (file,) = (folder / "logs" / "evaluate" / "runs").glob("*/run.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_example_of_a_split_has_a_row(tmp_path, a_run, mnist_dir, split):
    ended = evaluate(tmp_path, f"run={a_run}", f"split={split}", f"output={tmp_path}/new/examples.csv")
    assert ended.code == 0, ended.err
    told, examples = record(tmp_path), rows(tmp_path / "new" / "examples.csv")
    data = MNISTDataModule(str(mnist_dir), shuffle=False)
    data.setup("fit")
    batches = list(getattr(data, f"{split}_dataloader")())[: 300 if split == "train" else 2]
    trained = load_run(a_run)
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=trained.record.precision == "bf16-mixed")
    with torch.no_grad(), mixed:
        scores = torch.cat([trained.model(images / 255) for images, _ in batches]).float()
    labels = torch.cat([labels for _, labels in batches])
    assert [row["example"] for row in examples] == [str(index) for index in range(len(labels))]
    assert [int(row["targets"]) for row in examples] == labels.tolist()
    predicted = [int(row["predicted"]) for row in examples]
    own = torch.tensor([[float(row[f"scores/{digit}"]) for digit in range(10)] for row in examples])
    assert (own - scores).abs().max() <= 0.25  # two steps of bfloat16 at the largest scores
    assert predicted == own.argmax(1).tolist()
    assert float(examples[0]["probability"]) == pytest.approx(float(own[0].softmax(0).max()), abs=1e-6)
    assert told["evaluated_split"] == split
    right = sum(truth == guess for truth, guess in zip(labels.tolist(), predicted, strict=True))
    assert told["metrics"]["test"][f"{split}/acc"] == pytest.approx(right / len(labels), abs=1e-7)


def test_the_validation_split_gives_what_the_training_measured(tmp_path, a_run):
    assert evaluate(tmp_path, f"run={a_run}", "split=val").code == 0
    best = load_run(a_run).record.metrics.best
    assert record(tmp_path)["metrics"]["test"] == {name: best[name] for name in ("val/loss", "val/acc")}


def test_a_split_without_examples_or_a_file_that_cannot_be_written_is_refused(tmp_path, a_run):
    def prepare():
        MNISTDataModule.val_dataloader = lambda data: []

    ended = evaluate(tmp_path, f"run={a_run}", "split=val", prepare=prepare)
    assert (ended.code, ended.err) == (2, "evaluate: split=val: MNISTDataModule has no examples there\n")
    (tmp_path / "file").touch()
    ended = evaluate(tmp_path, f"run={a_run}", f"output={tmp_path}/file/x.csv")
    assert (ended.code, ended.err) == (2, f"evaluate: output={tmp_path}/file/x.csv cannot be written: File exists\n")
    ended = evaluate(tmp_path, f"run={a_run}", "split=all")
    assert (ended.code, len(ended.lines())) == (2, 1)
    assert "split" in ended.err


def test_a_module_that_returns_nothing_is_told_what_to_return_and_an_older_file_stays(tmp_path, a_run):
    (tmp_path / "x.csv").write_text("an older one")

    def prepare():
        Classifier.test_step = lambda self, batch, batch_idx: None

    ended = evaluate(tmp_path, f"run={a_run}", f"output={tmp_path}/x.csv", prepare=prepare)
    told = (
        "output=FILE: test_step of Classifier returns no tensors by name with a value for each example, such as scores"
    )
    assert (ended.code, ended.err) == (2, f"evaluate: {told} and targets\n")
    assert (tmp_path / "x.csv").read_text() == "an older one"


class Answering(LightningModule):
    """Returns outputs as they are given, one list of batches for each loader."""

    def __init__(self, *loaders):
        super().__init__()
        self.net, self.loaders = nn.Linear(1, 1), loaders

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return self.loaders[dataloader_idx][batch_idx]


def written(*loaders):
    stream = io.StringIO()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=[ExampleWriter(stream)], enable_model_summary=False, **options)
    data = [DataLoader(TensorDataset(torch.zeros(len(batches), 1)), batch_size=1) for batches in loaders]
    trainer.validate(Answering(*loaders), dataloaders=data, verbose=False)
    return stream.getvalue().splitlines()


def test_of_a_regression_there_are_targets_and_predictions():
    first = {"preds": torch.tensor([0.5, 1.5]), "targets": torch.tensor([1.0, 2.0]), "inputs": torch.zeros(2, 3)}
    last = {"preds": torch.tensor([2.5]), "targets": torch.tensor([3.0]), "inputs": torch.zeros(1, 3)}
    expected = ["loader,example,preds,targets", "0,0,0.5,1.0", "0,1,1.5,2.0", "0,2,2.5,3.0"]
    assert written([first, last]) == expected


def test_of_several_values_each_has_a_column_and_images_have_none():
    batch = {"preds": torch.tensor([[1.0, 2.0]]), "targets": torch.tensor([[3.0, 4.0]]), "mask": torch.zeros(1, 40, 40)}
    expected = ["loader,example,preds/0,preds/1,targets/0,targets/1", "0,0,1.0,2.0,3.0,4.0", "1,0,1.0,2.0,3.0,4.0"]
    assert written([batch], [batch]) == expected


def test_targets_that_do_not_count_and_scores_that_are_no_numbers_are_minus_one():
    scores = torch.tensor([[0.0, 1.0], [math.nan, 0.0]])
    lines = written([{"scores": scores, "targets": torch.tensor([-1, 0])}])
    assert [line.split(",")[:4] for line in lines] == [
        ["loader", "example", "targets", "predicted"], ["0", "0", "-1", "1"], ["0", "1", "0", "-1"],
    ]  # fmt: skip


def test_outputs_that_change_are_refused():
    batches = [{"preds": torch.zeros(1), "targets": torch.zeros(1)}, {"preds": torch.zeros(1, 2)}]
    with pytest.raises(UserError, match="^output=FILE: validation_step returns other outputs than before: preds/0"):
        written(batches)

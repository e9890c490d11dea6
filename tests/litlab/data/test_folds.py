import pytest
import torch
from multiruns import only, sweep_arguments, table
from optuna.trial import TrialState
from processes import run

from digits.mnist import MNISTDataModule
from litlab.data.folds import fold_numbers
from litlab.sweeps.storage import journal


def test_folds_are_even_in_all_and_in_each_class():
    labels = torch.tensor([0] * 11 + [1] * 7 + [2] * 3)
    numbers = fold_numbers(labels, 4, seed=0)
    assert numbers.bincount().tolist() == [6, 5, 5, 5]
    for label in range(3):
        counts = numbers[labels == label].bincount(minlength=4)
        assert counts.max() - counts.min() <= 1
    assert torch.equal(numbers, fold_numbers(labels, 4, seed=0))
    assert not torch.equal(numbers, fold_numbers(labels, 4, seed=1))


def test_each_image_is_held_out_by_one_fold(mnist_dir):
    held_out = []
    for fold in range(3):
        data = MNISTDataModule(str(mnist_dir), folds=3, fold=fold)
        data.prepare_data()
        data.setup("fit")
        assert torch.equal(torch.cat([data.kept, data.held_out]).sort().values, torch.arange(60_000))
        held_out.append(data.held_out)
    assert [len(one) for one in held_out] == [20_000] * 3
    assert torch.equal(torch.cat(held_out).sort().values, torch.arange(60_000))


def test_a_cross_validation_is_one_trial_and_one_row(tmp_path, mnist_dir):
    folds = ["data.folds=3", "sweep.over={data.fold:3}", "trainer.max_epochs=1"]
    ended = run(tmp_path, "train", *sweep_arguments(tmp_path, *folds))
    assert ended.code == 0, ended.err
    (trial,), (row,) = journal(only(tmp_path)).get_all_trials(0), table(only(tmp_path))
    assert (trial.state, row["n"]) == (TrialState.COMPLETE, 3)
    assert trial.values == [pytest.approx(row["mean"])]

import pytest
from conftest import SHORT
from processes import script

pytestmark = pytest.mark.usefixtures("mnist_dir")


def cells(table):
    return [list(column.cells) for column in table.columns]


@pytest.mark.slow
def test_a_sweep_that_is_killed_is_compared_with_one_that_was_not(tmp_path):
    sweeps = script("dev/sweep_costs")
    survived = sweeps.survive(tmp_path, ("seed=1,2", "data.batch_size=20,50,100", *SHORT))
    assert cells(survived) == [["6"], ["3"], ["yes"]]
    other = sweeps.train(tmp_path / "other", 1, "seed=1,3", "data.batch_size=20,50,100", *SHORT)
    other.join()
    assert sweeps.rows(tmp_path / "other") != sweeps.rows(tmp_path / "killed")


def test_costs_are_measured(tmp_path):
    (jobs,), (milliseconds,), (growth,), (seconds,) = cells(script("dev/sweep_costs").cost(tmp_path, [3]))
    assert jobs == "3"
    assert float(milliseconds) > 0
    assert float(seconds) > 0
    assert abs(float(growth)) < 1000


def test_choices_are_measured(tmp_path):
    table = script("dev/sweep_costs").choice(tmp_path, [3, 30])
    names, after_few, after_more, _, opening, pruning = cells(table)
    assert names == ["grid", "random", "tpe"]
    assert all(float(one) > 0 for one in [*after_few, *after_more])
    assert all(float(one) < 60 for one in [*opening, *pruning])

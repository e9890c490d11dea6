from pathlib import Path

import pytest

from litlab.arguments import given, of_compare, of_predict, of_train


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        (["resume=last", "seed=1"], ["resume.run=last", "seed=1"]),
        (["-m", "experiment=tutorial,best"], ["-m", "experiment=tutorial,best"]),
        (["experiment=/a/experiment/b c.yaml"], ['experiment="b c"', "--config-dir=/a"]),
        (["experiment=experiment/x.yaml", "seed=1"], ['experiment="x"', "seed=1", f"--config-dir={Path.cwd()}"]),
        (["experiment=a/b/experiment/x.yaml"], ['experiment="x"', f"--config-dir={Path.cwd()}/a/b"]),
    ],
)
def test_train_understands_short_names_and_files(typed, understood):
    assert of_train(typed) == understood


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        (["a", "b/c"], ['folders=["a","b/c"]']),
        (["a", "where=optimizer.lr<0.01", "format=csv"], ['where="optimizer.lr<0.01"', "format=csv", 'folders=["a"]']),
        (["--help"], ["--help"]),
        (["metric=val/acc"], ["metric=val/acc"]),
    ],
)
def test_compare_understands_folders_and_conditions(typed, understood):
    assert of_compare(typed) == understood


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        (["run=last", "input=a.png"], ["run=last", 'input="a.png"']),
        (["input=a b/[x]=1, 'y' *.png"], ["input=\"a b/[x]=1, 'y' *.png\""]),
        (["input=-", "format=csv"], ['input="-"', "format=csv"]),
        (["input="], ["input="]),
        (["--help"], ["--help"]),
    ],
)
def test_predict_takes_a_path_as_it_is(typed, understood):
    assert of_predict(typed) == understood


def test_what_was_given_by_its_key():
    typed = {"optimizer": "optimizer=sgd", "a.b": "+a.b=[1,2]", "c": "~c"}
    assert given(list(typed.values())) == typed

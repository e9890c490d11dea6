import json
from pathlib import Path

import pytest
from conftest import settings

from litlab.config.command_line import given, in_order, of_compare, of_predict, of_train
from litlab.config.marks import marked
from litlab.errors import UserError
from litlab.project import CONFIGS


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        (["resume=last", "seed=1"], ["resume.run=last", "seed=1"]),
        (["-m", "experiment=tutorial,best"], ["-m", "experiment=tutorial,best"]),
        (
            ["scheduler._target_=a.B", "augment={_target_: a.B}"],
            ["++scheduler._target_=a.B", "++augment={_target_: a.B}"],
        ),
        (["callbacks.stop={_target_: a.B}"], ["++callbacks.stop={_target_: a.B}"]),
        (["scheduler=cosine", "callbacks.stop.patience=3"], ["scheduler=cosine", "callbacks.stop.patience=3"]),
    ],
)
def test_train_understands_short_names(typed, understood):
    assert of_train(typed) == understood


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        (["a=1", "-m", "b=2"], ["-m", "a=1", "b=2"]),
        (["-m", "a=1", "--cfg", "job", "b=2,3"], ["-m", "--cfg", "job", "a=1", "b=2,3"]),
        (["--info", "all", "a=1"], ["--info", "all", "a=1"]),
        (["a=1", "--foo"], "--foo: no such option; "),
        (["-x", "a=1"], "-x: no such option; "),
        (["a=1", "--config-dir"], "argument --config-dir/-cd: expected one argument; "),
    ],
)
def test_options_may_stand_anywhere(typed, understood):
    if isinstance(understood, str):
        with pytest.raises(UserError, match=f"^{understood}"):
            in_order(typed)
    else:
        assert in_order(typed) == understood


@pytest.mark.parametrize("place", ["experiment/b c.yaml", "experiment/x.yaml", "a/b/experiment/x.yaml"])
def test_train_takes_an_experiment_of_ones_own_from_any_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path(place)
    file.parent.mkdir(parents=True)
    file.write_text("seed: 1\n")
    for asked in (place, str(file.absolute())):
        with pytest.raises(UserError, match=rf"^experiment={asked}: {file.name} was made elsewhere .*litlab trust"):
            of_train([f"experiment={asked}"])
    file.write_text(marked("seed: 1\n"))
    folder = file.absolute().parents[1]
    for asked in (place, str(file.absolute())):
        assert of_train([f"experiment={asked}", "seed=1"]) == [
            f"--config-dir={folder}", f'experiment="{file.stem}"', "seed=1",
        ]  # fmt: skip


@pytest.mark.parametrize(
    "asked",
    ["experiment=../x", "+experiment=../../a/experiment/job_0.yaml", "optimizer=a,../../x", "logger=[csv,../x]",
     "hydra/job_logging=../../x", "callbacks@callbacks=best/../../x", "experiment='../x'"],
)  # fmt: skip
def test_a_choice_stays_within_configs(asked):
    with pytest.raises(UserError, match=r": is outside .*configs; train takes a file of settings as experiment="):
        in_order([asked])
    others = ["resume=../x", "data.dir=../x", "input=../x", "../x", "experiment=../a/experiment/x.yaml"]
    assert in_order(others) == others


def test_an_experiment_of_the_project_needs_no_mark():
    assert of_train([f"experiment={CONFIGS}/experiment/best.yaml"]) == [f"--config-dir={CONFIGS}", 'experiment="best"']


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


ADAMAX = {"_target_": "torch.optim.Adamax", "lr": 0.1}
LINEAR = {"_target_": "torch.nn.Linear", "in_features": 784, "out_features": 10}


def typed(node):
    parts = [f"{key}: {typed(value) if isinstance(value, dict) else json.dumps(value)}" for key, value in node.items()]
    return "{" + ", ".join(parts) + "}"


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_component_takes_the_place_of_a_groups_option(plus):
    told = settings(*of_train([f"{plus}optimizer={typed(ADAMAX)}", "optimizer.lr=0.2"]))
    assert told.optimizer == ADAMAX | {"lr": 0.2}
    assert "optimizer" not in told.choices
    assert told.choices["model"] == "convnet"


def test_a_component_takes_the_place_of_another_wherever_it_is():
    assert settings(*of_train([f"model.net={typed(LINEAR)}"])).model["net"] == LINEAR
    model = {"_target_": "digits.classifier.Classifier", "net": LINEAR, "label_smoothing": 0.1, "channels_last": False}
    assert settings(*of_train([f"model={typed(model)}", "++model.net.bias=false"])).model == model | {
        "net": LINEAR | {"bias": False}
    }
    profiler = {"_target_": "lightning.pytorch.profilers.SimpleProfiler"}
    assert settings(*of_train([f"trainer.profiler={typed(profiler)}"])).trainer.profiler == profiler


def test_interpolations_may_be_hydras_and_omegaconfs_own():
    told = settings("trainer.max_epochs=${oc.select:nothing,3}", "seed=${oc.decode:'7'}")
    assert (told.trainer.max_epochs, told.seed) == (3, 7)


def test_what_was_given_by_its_key():
    typed = {"optimizer": "optimizer=sgd", "a.b": "+a.b=[1,2]", "c": "~c"}
    assert given(list(typed.values())) == typed

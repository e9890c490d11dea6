import importlib
import inspect
from pathlib import Path

import pytest
import torch

from digits import schema as digits_schema
from litlab.config import component_schema
from litlab.config.components import build, schema_of
from litlab.config.signatures import signature_of
from litlab.errors import UserError
from litlab.project import CONFIGS, SOURCE, own_packages


def test_own_packages_are_those_under_src():
    assert own_packages() == {path.name for path in Path(SOURCE).iterdir() if (path / "__init__.py").exists()}
    assert {"digits", "litlab"} <= own_packages()


def accepted_arguments(target):
    signature = signature_of(target)
    return signature and set(signature.types)


def ask_at_the_door(target):
    return schema_of(target), accepted_arguments(target)


def test_a_class_has_the_schema_of_its_name():
    assert schema_of("digits.convnet.ConvNet") is digits_schema.ConvNet
    assert schema_of("litlab.schedulers.Cosine") is component_schema.Cosine
    assert schema_of("torch.optim.AdamW") is component_schema.AdamW
    assert schema_of("torch.optim.RMSprop") is None


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("digits", "not the name of a class or function"),
        ("Adam", "not the name of a class or function"),
        ("", "not the name of a class or function"),
        ("digits./tmp/evil.Net", "not the name of a class or function"),
        ("digits..convnet.ConvNet", "not the name of a class or function"),
        ("digits.convnet.Convnet", "digits.convnet has no Convnet"),
        ("digits.nowhere.Net", "there is not a module digits.nowhere"),
        ("nowhere.Net", "there is not a module nowhere"),
        ("torch.optim.Nope", "torch.optim has no Nope"),
        ("torchvision.transforms.v2.RandomAfine", "torchvision.transforms.v2 has no RandomAfine"),
        ("lightning.pytorch.callbacks.EarlyStoping", "lightning.pytorch.callbacks has no EarlyStoping"),
    ],
)
def test_what_does_not_exist_is_told_at_the_door(target, reason):
    with pytest.raises(UserError, match=reason):
        ask_at_the_door(target)


ANYTHING = {
    "torchvision.models.resnet18": {"num_classes": 3},  # a decorated function
    "torchvision.ops.MLP": {"in_channels": 2, "hidden_channels": [3]},
    "torch.nn.modules.linear.Linear": {"in_features": 2, "out_features": 3},
    "torch.zeros": {"size": [2]},  # a function in C
    "collections.OrderedDict": {"a": 1},
    "datetime.datetime.fromisoformat": {},  # a method of a class, which takes its argument by position
    "math.hypot": {},
    "digits.mnist.Path": {},
}


@pytest.mark.parametrize("target", ANYTHING)
def test_ones_own_config_may_name_any_class_or_function(target):
    schema_of(target)
    accepted = accepted_arguments(target)
    assert accepted is None or accepted >= ANYTHING[target].keys()
    positional = ["2026-11-25"] if target.startswith("datetime") else []
    assert build({"_target_": target, **ANYTHING[target]}, *positional) is not None


CLASSES = [
    "digits.classifier.Classifier",
    "digits.convnet.ConvNet",
    "digits.mnist.MNISTDataModule",
    "digits.tutorial.RunningTestAccuracy",
    "litlab.loggers.CSV",
    "litlab.loggers.TensorBoard",
    "litlab.callbacks.ema.EMA",
    "litlab.data.augment.Affine",
    "litlab.data.folder.FolderDataModule",
    "litlab.networks.torchvision_network",
    "litlab.trackers.mlflow",
    "litlab.trackers.wandb",
    "litlab.schedulers.Cosine",
    "litlab.schedulers.OneCycle",
    "litlab.sweeps.launchers.basic.Basic",
    "litlab.sweeps.launchers.local.Local",
    "litlab.sweeps.launchers.ray.Ray",
    "litlab.sweeps.launchers.slurm.Slurm",
    "litlab.views.batch.TrainingBatch",
    "litlab.views.confusion.ConfusionMatrix",
    "litlab.views.filters.Filters",
    "litlab.views.graph.Graph",
    "litlab.views.mistakes.Mistakes",
    "litlab.views.pr_curves.PRCurves",
    "litlab.views.projector.Projector",
    "torch.optim.Adam",
    "torch.optim.AdamW",
    "torch.optim.SGD",
    "torch.optim.lr_scheduler.ExponentialLR",
    "torch.optim.lr_scheduler.LinearLR",
    "torch.optim.lr_scheduler.MultiStepLR",
    "torch.optim.lr_scheduler.ReduceLROnPlateau",
    "torch.optim.lr_scheduler.StepLR",
    *(
        f"lightning.pytorch.callbacks.{name}"
        for name in (
            *("BackboneFinetuning", "DeviceStatsMonitor", "EarlyStopping", "LearningRateFinder"),
            *("StochasticWeightAveraging", "Timer"),
        )
    ),
]


PLUGINS = ["litlab.cli.Prepare", "hydra_plugins.litlab_sweeps.StudySweeper"]


@pytest.mark.parametrize("target", CLASSES)
def test_a_schema_names_arguments_that_its_class_takes(target):
    module, _, name = target.rpartition(".")
    try:
        taken = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except UserError as error:  # it takes an extra
        pytest.skip(str(error))
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    schema = schema_of(target)
    settings = set(schema.model_fields) if schema else accepted_arguments(target)
    assert takes_any or settings is None or settings <= set(taken)


def test_what_can_be_set_on_each_class_of_the_configs_is_known():
    lines = [line for file in CONFIGS.rglob("*.yaml") for line in file.read_text().splitlines()]
    assert {line.split()[-1] for line in lines if "_target_:" in line} == {*CLASSES, *PLUGINS}


def test_builds_nested_components_first():
    sequential = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    assert build(sequential).weight.shape == (3, 2)
    stack = build({"_target_": "torch.nn.ModuleList", "modules": [sequential, sequential]})
    assert [layer.out_features for layer in stack] == [3, 3]
    classifier = build(
        {
            "_target_": "digits.classifier.Classifier",
            "channels_last": False,
            "net": {"_target_": "digits.convnet.ConvNet", "num_classes": 4},
        },
        optimizer=None,
    )
    assert classifier.net.out.out_features == 4


def test_passes_on_what_the_config_does_not_say():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = build({"_target_": "torch.optim.SGD", "lr": 0.25}, [parameter], momentum=0.5)
    assert optimizer.defaults["lr"] == 0.25
    assert optimizer.defaults["momentum"] == 0.5


def test_wrong_arguments_are_named():
    with pytest.raises(UserError, match="torch.optim.RMSprop cannot be built from lrr: .*'lrr'"):
        build({"_target_": "torch.optim.RMSprop", "lrr": 1}, [])
    with pytest.raises(UserError, match="torch.optim.*RMSprp"):
        build({"_target_": "torch.optim.RMSprp"})


def test_reads_a_constructor_without_importing_it():
    assert accepted_arguments("digits.convnet.ConvNet") == {
        "in_channels", "image_size", "channels", "kernel_size", "num_classes",
    }  # fmt: skip
    assert accepted_arguments("litlab.views.filters.Filters") == set()  # a callback, which has none
    assert accepted_arguments("torch.nn.ReLU6") >= {"inplace"}
    assert accepted_arguments("torch.nn.Conv2d") >= {"in_channels", "kernel_size"}
    assert accepted_arguments("torch.utils.data.ConcatDataset") == {"datasets"}
    assert accepted_arguments("collections.UserDict") is None
    assert accepted_arguments("torch.optim.RMSprop") >= {"lr", "alpha", "momentum"}
    assert accepted_arguments("torch.nn.Linear") >= {"in_features", "out_features"}  # torch.nn imports it by a star
    assert accepted_arguments("torchvision.transforms.v2.RandomAffine") >= {"degrees", "translate"}
    assert accepted_arguments("lightning.pytorch.callbacks.EarlyStopping") >= {"monitor", "patience"}


@pytest.mark.parametrize(
    ("node", "line"),
    [
        ({"_target_": "torch.nn.Linear", "in_features": -1, "out_features": 3}, "negative dimension -1"),
        ({"_target_": "torch.nn.Linear", "in_features": 10**30, "out_features": 3}, "Overflow"),
        ({"_target_": "torch.nn.Linear", "in_features": 10**7, "out_features": 10**8}, "can't allocate memory"),
        ({"_target_": "digits.convnet.ConvNet", "channels": [10**6, 10**8]}, "can't allocate memory"),
        ({"_target_": "lightning.pytorch.loggers.CometLogger"}, "comet-ml"),
        ({"_target_": "nowhere.Net"}, "No module named 'nowhere'"),
    ],
)
def test_what_a_constructor_cannot_do_is_a_line_with_the_key(node, line):
    with pytest.raises(UserError, match=rf"^model\.net[.:].*{line}"):
        build(node, key="model.net")


def layer(width):
    return torch.nn.Linear(width, width)


def test_functions_partials_and_positional_arguments_work_as_in_hydra():
    here = "litlab.config.components.Path"  # any class that takes its arguments by position
    assert build({"_target_": here, "_args_": ["a", "b"]}) == Path("a/b")
    make = build({"_target_": "torch.optim.RMSprop", "_partial_": True, "lr": 0.5})
    assert make(torch.nn.Linear(2, 2).parameters()).defaults["lr"] == 0.5
    assert build({"_target_": "torch.nn.functional.relu", "_args_": [torch.tensor(-1.0)]}) == 0
    parts = [{"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}, {"_target_": "torch.nn.ReLU"}]
    assert len(build({"_target_": "torch.nn.Sequential", "_args_": parts})) == 2
    kept = build({"_target_": "builtins.dict", "_recursive_": False, "inner": parts[1]})
    assert kept == {"inner": parts[1]}


NET = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}


@pytest.mark.parametrize(
    ("key", "node", "line"),
    [
        ("optimizer", NET, "optimizer: torch.nn.Linear gives a Linear, not a Optimizer"),
        ("model.net", {"_target_": "builtins.dict"}, None),
    ],
)
def test_another_kind_of_thing_is_a_line_with_the_key(key, node, line):
    if line:
        with pytest.raises(UserError, match=line):
            build(node, key=key, kind=torch.optim.Optimizer)
        return
    classifier = {"_target_": "digits.classifier.Classifier", "net": node, "channels_last": False}
    with pytest.raises(UserError, match=r"model.net: builtins.dict gives a dict, not a Module"):
        build(classifier, key="model", optimizer=None)

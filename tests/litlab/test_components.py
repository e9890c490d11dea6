import importlib
from pathlib import Path

import pytest
import torch

from digits import schema as digits_schema
from litlab import schema
from litlab.components import SOURCE, accepted_arguments, build, own_packages, schema_of
from litlab.errors import UserError


def test_own_packages_are_those_under_src():
    assert own_packages() == {path.name for path in Path(SOURCE).iterdir() if (path / "__init__.py").exists()}
    assert {"digits", "litlab"} <= own_packages()


def test_a_class_has_the_schema_of_its_name():
    assert schema_of("digits.convnet.ConvNet") is digits_schema.ConvNet
    assert schema_of("litlab.schedulers.Cosine") is schema.Cosine
    assert schema_of("torch.optim.AdamW") is schema.AdamW
    assert schema_of("torch.optim.RMSprop") is None


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.hub.load",
        "torch.nn.modules.module.Module",
        "lightning.pytorch.Trainer",
        "litlab.cli.os.system",
        "digits",
        "Adam",
        "",
        "digits.mnist.MNIST",
        "digits.mnist.Path",
        "litlab.runs.run.subprocess",
        "litlab.train.train",
        "digits.convnet.Convnet",
        "digits.nowhere.Net",
    ],
)
def test_a_config_may_not_build_anything_else(target):
    with pytest.raises(UserError):
        schema_of(target)
    with pytest.raises(UserError):
        build({"_target_": target})


def test_every_schema_names_arguments_that_its_class_takes():
    for package, module in (("digits", digits_schema), ("litlab", schema)):
        sources = (file for file in (SOURCE / package).rglob("*.py") if file.stem not in ("schema", "__main__"))
        modules = [".".join(file.relative_to(SOURCE).with_suffix("").parts) for file in sources]
        for name, found in vars(module).items():
            homes = [home for home in modules if name in vars(importlib.import_module(home))]
            if (
                isinstance(found, type)
                and issubclass(found, schema.Settings)
                and package == "digits"
                and name != "Settings"
            ):
                accepted = accepted_arguments(f"{package}.{home_of(name, homes)}")
                assert set(found.model_fields) <= accepted, name


def home_of(name, homes):
    """The module that defines the class `name`, without its package."""
    defined = next(home for home in homes if getattr(importlib.import_module(home), name).__module__ == home)
    return f"{defined.partition('.')[2]}.{name}"


def test_builds_nested_components_first():
    sequential = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    assert build(sequential).weight.shape == (3, 2)
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
    with pytest.raises(UserError, match="torch.optim has no class RMSprp"):
        build({"_target_": "torch.optim.RMSprp"})


def test_reads_a_constructor_without_importing_it():
    assert accepted_arguments("digits.convnet.ConvNet") == {
        "in_channels", "image_size", "channels", "kernel_size", "num_classes",
    }  # fmt: skip
    assert accepted_arguments("litlab.callbacks.learning_rate.LearningRate") is None  # has the one of its base
    assert accepted_arguments("torch.optim.Adam") is None

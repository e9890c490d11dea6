"""What is to be filled in says so. Fill it in, and put tests of what it does in the place of these."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from digits.model import Model, Network
from litlab.config import schema
from litlab.config.compose import check, run_config
from litlab.errors import UserError
from litlab.project import CONFIGS
from litlab.runs.run import Run
from litlab.training.build import build_module
from litlab.training.train import train


def settings(*overrides):
    """The checked config of `train OVERRIDES`."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return check(run_config(compose("train", overrides=list(overrides))), schema.Train)


OPTIONS = [f"{file.parent.name}={file.stem}" for file in Path(CONFIGS).glob("[!h]*/*.yaml")]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_can_be_chosen(option):
    assert settings(option).seed == 42


def test_the_data_is_to_be_written(tmp_path):
    with pytest.raises(UserError, match=r"src/digits/data.py: DataModule.setup is yours to write"):
        train(settings("trainer=cpu"), Run.create(tmp_path, seed=0))


def test_the_model_is_to_be_written():
    module = build_module(settings())
    assert isinstance(module, Model)
    assert isinstance(module.net, Network)
    with pytest.raises(UserError, match=r"src/digits/model.py: Network.forward is yours to write"):
        module(torch.zeros(1, 1, 28, 28))
    with pytest.raises(UserError, match=r"src/digits/model.py: Model.loss is yours to write"):
        module.loss((torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64)))

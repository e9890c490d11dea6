"""A learning-rate range test suggests a rate and leaves the training as it is."""

import re

import pytest
import torch
from conftest import SHORT, settings, train
from PIL import Image

pytestmark = pytest.mark.usefixtures("mnist_dir")


def weights(run):
    return torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_debug_lr_range_prints_a_rate_and_draws_the_curve(tmp_path, caplog):
    with caplog.at_level("INFO"):
        run = train(settings("trainer=cpu", "logger=none", "debug=lr_range"), tmp_path / "run")
    found = re.search(r"try optimizer\.lr=(\S+);", caplog.text)
    assert found, caplog.text
    assert 1e-4 < float(found[1]) < 1
    with Image.open(run.folder / "learning_rate.png") as picture:
        assert picture.width > 500
    assert not list(run.folder.glob(".lr_find*"))


def test_the_training_is_the_same_as_without(tmp_path):
    plain = train(settings(*SHORT, "logger=none", "test=false"), tmp_path / "plain")
    after = train(settings(*SHORT, "logger=none", "test=false", "callbacks=lr_finder"), tmp_path / "after")
    assert all(torch.equal(value, weights(after)[name]) for name, value in weights(plain).items())

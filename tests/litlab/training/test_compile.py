"""trainer.compile=true."""

import pytest
import torch
from conftest import SHORT, settings, train

from litlab.errors import UserError

pytestmark = pytest.mark.usefixtures("mnist_dir")

COMPILED = (*SHORT, "trainer.precision=32-true", "trainer.limit_train_batches=6")


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_compiled_module_trains_is_resumed_and_keeps_the_names_of_its_weights(tmp_path):
    for name in ("plain", "compiled"):
        (tmp_path / name).mkdir()
        train(settings(*COMPILED, f"trainer.compile={str(name == 'compiled').lower()}"), tmp_path / name)
    plain, compiled = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert plain.keys() == compiled.keys()
    assert all(torch.allclose(value, compiled[name], atol=1e-4) for name, value in plain.items())
    longer = settings(*COMPILED, "trainer.compile=true", "trainer.max_epochs=2")
    assert train(longer, tmp_path / "compiled").record.status == "done"


@pytest.mark.parametrize(
    ("compiler", "asked", "line"),
    [
        ("none", "true", "trainer.compile: needs a C++ compiler; install g++"),
        ("sh", "{mode: fastest}", "trainer.compile={'mode': 'fastest'}: Unrecognized mode=fastest"),
        ("sh", "{speed: 9}", "trainer.compile={'speed': 9}: "),
    ],
)
def test_what_cannot_be_compiled_is_a_line(tmp_path, monkeypatch, compiler, asked, line):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr("litlab.training.build.shutil.which", lambda name: None if name != "sh" else "/bin/sh")
    with pytest.raises(UserError) as error:
        train(settings(*COMPILED, f"trainer.compile={asked}"), tmp_path)
    assert str(error.value).startswith(line)

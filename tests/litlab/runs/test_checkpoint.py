import pickle

import pytest
import torch
from torch import nn

from litlab.errors import UserError
from litlab.runs.checkpoint import load_weights


@pytest.fixture
def saved(tmp_path):
    net = nn.Linear(2, 3)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "a.ckpt")
    return net, tmp_path / "a.ckpt"


def test_loads_what_was_saved(saved):
    net, file = saved
    other = nn.Linear(2, 3)
    load_weights(other, file)
    assert torch.equal(other.weight, net.weight)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.ckpt does not exist"):
        load_weights(nn.Linear(1, 1), tmp_path / "none.ckpt")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:200], lambda data: b"no checkpoint at all"])
def test_a_damaged_file_is_named(saved, damage):
    _, file = saved
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match="a.ckpt is not a checkpoint, or is damaged"):
        load_weights(nn.Linear(2, 3), file)


@pytest.mark.parametrize("content", [[1, 2], {"weights": {}}, {"state_dict": 3}])
def test_another_kind_of_file_is_named(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="a.ckpt is not a checkpoint: it holds"):
        load_weights(nn.Linear(2, 3), tmp_path / "a.ckpt")


def test_another_networks_weights_are_refused(saved):
    with pytest.raises(UserError, match="of another network: weight is of shape \\(3, 2\\), not \\(3, 5\\)"):
        load_weights(nn.Linear(5, 3), saved[1])


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"state_dict": Bomb()}))
    with pytest.raises(UserError, match="a.ckpt is not a checkpoint"):
        load_weights(nn.Linear(2, 3), tmp_path / "a.ckpt")
    torch.save({"state_dict": Bomb()}, tmp_path / "b.ckpt")
    with pytest.raises(UserError, match="b.ckpt is not a checkpoint"):
        load_weights(nn.Linear(2, 3), tmp_path / "b.ckpt")
    assert not (tmp_path / "executed").exists()

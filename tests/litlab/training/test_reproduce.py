import json

import pytest
from conftest import SHORT
from processes import at, run

from litlab.config.marks import marked

pytestmark = pytest.mark.usefixtures("mnist_dir")


@pytest.fixture
def original(tmp_path):
    """A run that is done."""
    arguments = [*SHORT, "augment=affine", "callbacks=ema", f"hydra.run.dir={tmp_path}/run"]
    assert run(tmp_path, "train", *arguments).code == 0
    return tmp_path / "run"


def test_a_run_comes_out_the_same(original, tmp_path):
    done = run(tmp_path, "reproduce", f"run={original}", f"paths.logs={tmp_path}/logs")
    assert done.code == 0, done.err
    assert done.out.endswith("the same: weights and metrics, to the last bit\n")
    (again,) = (tmp_path / "logs" / "reproduce" / "runs").iterdir()
    said, says = (json.loads((folder / "run.json").read_text())["metrics"]["test"] for folder in (original, again))
    assert said == says


def test_what_has_changed_is_named(original, tmp_path):
    config = original / "config.yaml"
    config.write_text(marked(config.read_text().replace("lr: 0.001", "lr: 0.002")))
    record = json.loads((original / "run.json").read_text())
    record["versions"]["torch"] = "2.11.0"
    record["device"] = "cpu (a tablet)"
    record["git"] = {"commit": "0" * 40, "dirty": False}
    (original / "run.json").write_text(json.dumps(record))
    done = run(tmp_path, "reproduce", f"run={original}", f"paths.logs={tmp_path}/logs")
    assert done.code == 1
    assert done.err == ""
    lines = done.out.splitlines()
    differences = [line for line in lines if line.startswith("not the same: ")]
    assert any(line.startswith("not the same: test test/acc was ") for line in differences)
    assert differences[-1].startswith("not the same: 6 of 6 weights, by up to 0.0")
    changes = [line.removeprefix("what has changed: ") for line in lines if line.startswith("what has changed: ")]
    assert changes[0].startswith("device, cpu (a tablet) before, now cpu (")
    assert "optimizer.lr, 0.001 before, now 0.002" in changes
    assert any(change.startswith("versions.torch, 2.11.0 before, now ") for change in changes)
    assert any(change.startswith("the code: commit 000000000000 before, now ") for change in changes)
    assert len(changes) == 4


def test_only_what_is_done_can_be_compared(tmp_path):
    run(tmp_path, "train", *SHORT, f"hydra.run.dir={tmp_path}/run", prepare=at("on_train_epoch_end"))
    refused = run(tmp_path, "reproduce", f"run={tmp_path}/run", f"paths.logs={tmp_path}/logs")
    assert (refused.code, refused.err) == (
        2,
        f"reproduce: run={tmp_path}/run: nothing to compare with, the run's status is running\n",
    )

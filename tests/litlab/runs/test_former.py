"""A run that an earlier version of the lab has left: its folder is read, tested and resumed as ever."""

import json
import shutil

import pytest
from conftest import ROOT
from processes import run

from litlab import load_run
from litlab.config.marks import marked

pytestmark = pytest.mark.usefixtures("mnist_dir")


@pytest.fixture
def former(tmp_path):
    """The run, copied, and marked as one's own."""
    folder = shutil.copytree(ROOT / "tests" / "data" / "run-0.1", tmp_path / "run")
    config = folder / "config.yaml"
    config.write_text(marked(config.read_text()))
    return folder


def test_its_record_and_network_are_read(former):
    found = load_run(former)
    assert (found.record.status, found.record.metrics.validations[-1].step) == ("done", 8)
    assert sum(weight.numel() for weight in found.model.parameters()) == 1_685


def test_it_is_evaluated_compared_and_exported(former, tmp_path):
    record = json.loads((former / "run.json").read_text())
    tested = run(tmp_path, "evaluate", f"run={former}", f"hydra.run.dir={tmp_path}/tested")
    assert tested.code == 0, tested.err
    again = json.loads((tmp_path / "tested" / "run.json").read_text())
    assert again["metrics"]["test"]["test/acc"] == pytest.approx(record["metrics"]["test"]["test/acc"], abs=0.002)
    compared = run(tmp_path, "compare", str(former), "format=json")
    assert json.loads(compared.out)["groups"][0]["mean"] == pytest.approx(record["metrics"]["best"]["val/acc"])
    assert run(tmp_path, "export", f"run={former}", "format=safetensors").code == 0


def test_it_trains_on(former, tmp_path):
    longer = run(tmp_path, "train", f"resume={former}", "trainer.max_epochs=2", "resume.force=true")
    assert longer.code == 0, longer.err
    record = json.loads((former / "run.json").read_text())
    assert (record["status"], [validation["step"] for validation in record["metrics"]["validations"]]) == (
        "done",
        [8, 16],
    )
    assert [resumption["step"] for resumption in record["resumed"]] == [8]

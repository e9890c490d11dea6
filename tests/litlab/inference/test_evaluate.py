import json

import pytest
import torch
from conftest import SHORT


@pytest.fixture
def trained(command, tmp_path):
    """A short run, made by a process of its own."""
    done = command("train", *SHORT, "trainer.limit_test_batches=3", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def evaluated(tmp_path):
    """Records of all evaluations, the oldest first."""
    files = sorted(
        (tmp_path / "logs" / "evaluate" / "runs").glob("*/run.json"), key=lambda file: file.stat().st_mtime_ns
    )
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.slow
def test_gives_exactly_the_metrics_of_the_training(command, trained, tmp_path):
    tested = json.loads((trained / "run.json").read_text())["metrics"]["test"]
    assert command("evaluate", "run=run").returncode == 0
    assert command("evaluate", f"run={trained}/checkpoints/last.ckpt").returncode == 0
    by_folder, by_checkpoint = evaluated(tmp_path)
    assert by_folder["metrics"]["test"] == tested
    assert by_folder["evaluated"] == str(trained / "checkpoints" / "best.ckpt")
    assert by_checkpoint["metrics"]["test"] == tested  # one epoch: the last weights are the best
    assert by_checkpoint["evaluated"] == str(trained / "checkpoints" / "last.ckpt")


@pytest.mark.slow
def test_what_is_no_run_is_named(command, trained, tmp_path):
    (tmp_path / "empty").mkdir()
    answers = {
        "run=nowhere": "evaluate: run=nowhere: there is no such file, folder or name of a run\n",
        "run=empty": "evaluate: run=empty: not a run's folder; it holds no run.json\n",
        "run=last paths.logs=other": "evaluate: there is no run in other/train\n",
    }
    for overrides, answer in answers.items():
        done = command("evaluate", *overrides.split())
        assert (done.returncode, done.stderr) == (2, answer)

    best = trained / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:1000])
    done = command("evaluate", "run=run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"evaluate: {best} is not a checkpoint, or is damaged: ")
    assert done.stderr.count("\n") == 1

    torch.save({"state_dict": {"net.out.bias": torch.zeros(3)}}, best)
    done = command("evaluate", "run=run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"evaluate: {best} is of another network: ")
    assert done.stderr.count("\n") == 1

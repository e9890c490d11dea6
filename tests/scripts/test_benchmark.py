import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from benchmarking import report
from benchmarking.contenders import Task, contenders
from benchmarking.costs import spawn

pytestmark = pytest.mark.usefixtures("mnist_dir")

FIGURES = {
    "machine": "2 cores of a thing",
    "command": "scripts/benchmark",
    "training": [
        {
            "batch_size": 50,
            "steps": 3,
            "images_per_second": {
                "the tutorial's loop": [100.0, 50.0, 200.0],
                "Lightning, DataLoader, self.log": [200.0, 100.0, 400.0],
                "bare loop, 32-true": [400.0, 300.0, 800.0],
                "LitLab, 32-true": [380.0, 300.0, 700.0],
                "bare loop, bf16-mixed": [500.0, 400.0, 900.0],
                "LitLab, bf16-mixed": [450.0, 300.0, 900.0],
            },
        }
    ],
    "other": {"from the command to the first step (s)": 4.25},
}


def test_every_contender_trains():
    task = Task(torch.device("cpu"), 50, 5)
    speeds = {contender.name: contender.run() for contender in contenders(task)}
    assert list(speeds)[:4] == list(FIGURES["training"][0]["images_per_second"])[:4]
    assert all(speed > 0 for speed in speeds.values())


def test_ratios_compare_what_ran_next_to_each_other():
    rows = [line.split(" | ") for line in report.tables(FIGURES) if line.startswith("| LitLab")]
    assert rows == [
        ["| LitLab, 32-true", "380", "3.80", "1.90", "0.95 |"],
        ["| LitLab, bf16-mixed", "450", "4.50", "2.25", "0.90 |"],
    ]


def test_the_report_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    report.report(FIGURES, tmp_path / "figures.json")
    (folder,) = (tmp_path / "logs" / "benchmark").iterdir()
    table = (folder / "table.md").read_text()
    assert table.startswith("Measured by `scripts/benchmark` on 2 cores of a thing.\n")
    assert "| from the command to the first step (s) | 4.25 |" in table
    assert (folder / "speed.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "figures.json").read_text()) == FIGURES
    assert "380" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    script = [sys.executable, ROOT / "scripts" / "benchmark.py", "--device", "gpu"]
    process = subprocess.run(script, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1] == (
        "scripts/benchmark: error: --device gpu: there is no GPU with CUDA; take --device cpu"
    )


def test_the_memory_of_a_command_is_its_own():
    hold = "held = bytearray(b'x') * 300_000_000; import time; time.sleep(0.2)"
    finished = spawn([sys.executable, "-c", hold])
    assert 300 < finished.peak_mb < 340
    assert finished.seconds > 0.2

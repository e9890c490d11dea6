"""The set-up is tried on a small project of its own, with the real scripts, pip and processes."""

import os
import shutil
import signal
import subprocess
import time

import pytest
from conftest import ROOT

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "tiny"
version = "1.0"
[project.optional-dependencies]
dev = []
[project.scripts]
train = "tiny:train"
[tool.hatch.build.targets.wheel]
packages = ["src/tiny"]
"""

TINY = """
import sys
def train():
    print("trained", *sys.argv[1:])
"""


@pytest.fixture
def project(tmp_path):
    """A project with these scripts and no dependencies."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "src" / "tiny").mkdir(parents=True)
    (tmp_path / "src" / "tiny" / "__init__.py").write_text(TINY)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "constraints.txt").write_text("")
    return tmp_path


def start(project):
    command = [project / "scripts" / "train", "seed=1"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", start_new_session=True
    )


def outcome(process):
    output, errors = process.communicate(timeout=250)
    return process.returncode, output, errors


def is_ready(project):
    return (project / ".venv" / "installed-from").exists()


def test_installs_once_and_again_when_its_inputs_change(project):
    code, output, errors = outcome(start(project))
    assert (code, output) == (0, "trained seed=1\n"), errors
    assert "Setting up .venv" in errors
    installed = (project / ".venv" / "bin" / "train").stat().st_mtime_ns

    assert outcome(start(project)) == (0, "trained seed=1\n", "")
    assert (project / ".venv" / "bin" / "train").stat().st_mtime_ns == installed

    (project / "constraints.txt").write_text("# changed\n")
    code, output, errors = outcome(start(project))
    assert (code, output) == (0, "trained seed=1\n"), errors
    assert "Setting up .venv" in errors
    assert (project / ".venv" / "bin" / "train").stat().st_mtime_ns > installed

    moved = project.with_name("moved")
    project.rename(moved)
    code, output, errors = outcome(start(moved))
    assert (code, output) == (0, "trained seed=1\n"), errors
    assert "Setting up .venv" in errors


def test_an_interrupted_set_up_is_redone(project):
    process = start(project)
    while not (project / ".venv" / "bin" / "python").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not is_ready(project)
    (project / ".venv" / "leftover").touch()

    code, output, errors = outcome(start(project))
    assert (code, output) == (0, "trained seed=1\n"), errors
    assert is_ready(project)
    assert not (project / ".venv" / "leftover").exists()


def test_a_failed_set_up_is_said_and_never_used(project):
    (project / "pyproject.toml").write_text(PYPROJECT.replace('version = "1.0"', ""))
    code, output, errors = outcome(start(project))
    assert (code, output) == (1, "")
    assert errors.endswith("The set-up of .venv failed; pip says above why. The next try begins again.\n")
    assert not is_ready(project)

    (project / "pyproject.toml").write_text(PYPROJECT)
    assert outcome(start(project))[:2] == (0, "trained seed=1\n")


def test_two_started_together_do_not_fight(project):
    both = [outcome(process) for process in [start(project), start(project)]]
    assert [result[:2] for result in both] == [(0, "trained seed=1\n")] * 2
    assert sorted("Setting up .venv" in errors for _, _, errors in both) == [False, True]

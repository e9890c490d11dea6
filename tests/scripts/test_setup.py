"""The set-up is tried on a small project of its own, with the real scripts, pip and processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
import venv

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
    stamp = project / ".venv" / "installed-from"
    return stamp.exists() and stamp.read_text() != ""


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_failed_set_up_is_said_and_never_used(project):
    (project / "pyproject.toml").write_text(PYPROJECT.replace('version = "1.0"', ""))
    code, output, errors = outcome(start(project))
    assert (code, output) == (1, "")
    assert errors.endswith("The set-up of .venv failed; pip says above why. The next try begins again.\n")
    assert not is_ready(project)

    (project / "pyproject.toml").write_text(PYPROJECT)
    assert outcome(start(project))[:2] == (0, "trained seed=1\n")


@pytest.mark.slow
def test_two_started_together_do_not_fight(project):
    both = [outcome(process) for process in [start(project), start(project)]]
    assert [result[:2] for result in both] == [(0, "trained seed=1\n")] * 2
    assert sorted("Setting up .venv" in errors for _, _, errors in both) == [False, True]


def contents(folder):
    """All below it that is no folder, but for bytecode."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def installed(project, name, version, origin=None):
    """Put into the project's environment what says that a package is installed."""
    (site,) = (project / ".venv" / "lib").glob("python3*/site-packages")
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if origin:
        (info / "direct_url.json").write_text(f'{{"url": "{origin.as_uri()}", "dir_info": {{"editable": true}}}}')
        (site / "tiny.pth").write_text(f"{origin}/src")
        command = project / ".venv" / "bin" / "train"
        command.write_text(f"#!{project}/.venv/bin/python\nimport tiny; tiny.train()\n")
        command.chmod(0o755)


def test_an_environment_made_in_another_way_is_used_if_it_fits_and_never_changed(project):
    (project / "pyproject.toml").write_text(
        PYPROJECT.replace('version = "1.0"', 'version = "1.0"\ndependencies = ["numbers_.of-pi>=3.1,<4", "other"]')
    )
    environment = project / ".venv"
    venv.create(environment, symlinks=True, with_pip=False)

    def reinstalled(old, *new):
        shutil.rmtree(next(environment.rglob(f"{old}.dist-info")))
        installed(project, *new)

    steps = [
        (lambda: None, "lacks tiny from this folder, lacks numbers_.of-pi, lacks other"),
        (lambda: installed(project, "tiny", "1.0", project / "elsewhere"), "lacks tiny from this folder, lacks"),
        (lambda: reinstalled("tiny-1.0", "tiny", "1.0", project), "lacks numbers_.of-pi, lacks other"),
        (lambda: installed(project, "Numbers-Of_Pi", "4.0"), "has numbers_.of-pi 4.0, not <4,>=3.1, lacks other"),
        (lambda: reinstalled("Numbers-Of_Pi-4.0", "numbers-of-pi", "3.2"), "lacks other"),
    ]
    for prepare, lacking in steps:
        prepare()
        before = contents(environment)
        code, output, errors = outcome(start(project))
        assert (code, output) == (1, "")
        assert errors.startswith(f"{environment} was made in another way and {lacking}")
        assert errors.count("\n") == 1
        assert contents(environment) == before
    installed(project, "other", "0.1")
    before = contents(environment)
    assert outcome(start(project)) == (0, "trained seed=1\n", "")
    assert contents(environment) == before
    (environment / "bin" / "python").unlink()
    assert outcome(start(project))[2].startswith(f"{environment} was made in another way and its bin/python does not")


@pytest.mark.parametrize(
    ("prepare", "line"),
    [
        (lambda venv: venv.symlink_to("../shared"), ".venv is not a folder of this project; remove it"),
        (lambda venv: venv.symlink_to("nowhere"), ".venv is not a folder of this project; remove it"),
        (lambda venv: venv.write_text("mine"), ".venv is not a folder of this project; remove it"),
        (lambda venv: (venv.mkdir(), (venv / "mine").touch()), ".venv was made in another way and its bin/python"),
        (lambda venv: (venv.mkdir(), (venv / "installed-from").write_bytes(b"\xff")), "installed-from is damaged"),
        (lambda venv: (venv / "installed-from").mkdir(parents=True), "installed-from is damaged"),
        (lambda venv: (venv.mkdir(), (venv / "installed-from").symlink_to("x")), "installed-from is damaged"),
        (lambda venv: venv.with_name(".venv.lock").mkdir(), ".venv.lock cannot be used: Is a directory"),
    ],
)
def test_what_is_not_ours_is_refused_in_one_line_and_left_as_it_is(project, prepare, line):
    shared = project.parent / "shared"
    shared.mkdir(exist_ok=True)
    (shared / "thesis").write_text("years of work")
    prepare(project / ".venv")
    before = contents(project)
    code, output, errors = outcome(start(project))
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert line in errors
    assert contents(project) == before
    assert (shared / "thesis").read_text() == "years of work"


PIP = """
import sys, time
from pathlib import Path
here = Path(__file__).parent
with (here / "log").open("a") as log:
    print("begins", file=log, flush=True)
    while not (here / "go").exists():
        time.sleep(0.01)
    print("ends", file=log, flush=True)
"""


def test_a_read_only_clone_is_told_in_a_line(project):
    try:
        for options in (["--bind"], ["-o", "remount,bind,ro"]):
            done = subprocess.run(["mount", *options, project, project], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        ended = outcome(start(project))
    finally:
        subprocess.run(["umount", "--lazy", project], check=False, capture_output=True)
    assert ended == (1, "", f"{project}/.venv.lock cannot be used: Read-only file system\n")


def test_pip_keeps_the_lock_if_the_set_up_alone_is_killed(project):
    pip = project / "stub" / "pip"
    pip.mkdir(parents=True)
    (pip / "__init__.py").touch()
    (pip / "__main__.py").write_text(PIP)
    command = [sys.executable, project / "scripts" / "setup.py"]
    begin = {"env": os.environ | {"PYTHONPATH": str(pip.parent)}, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(command, **begin)
    while not (pip / "log").exists() or not (pip / "log").read_text():
        time.sleep(0.01)
    first.kill()
    first.wait()
    assert not (project / ".venv" / "installed-from").read_text()
    second = subprocess.Popen(command, **begin)
    time.sleep(1)
    assert (pip / "log").read_text() == "begins\n"
    (pip / "go").touch()
    assert second.wait(60) == 0
    assert (pip / "log").read_text() == "begins\nends\n" * 2
    assert len((project / ".venv" / "installed-from").read_text()) == 64

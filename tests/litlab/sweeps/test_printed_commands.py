"""What is told of a sweep's, or a run's, command line before anything is done: one line each, whose advice works."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHORT, settings
from hydra.core.override_parser.overrides_parser import OverridesParser
from multiruns import only, sweep_arguments
from omegaconf import OmegaConf
from processes import run

from litlab.config.command_line import of_train
from litlab.config.marks import marked
from litlab.errors import UserError
from litlab.messages import visible
from litlab.runs.run import resume_command
from litlab.runs.terminal import tensorboard_command

SEVERAL = {
    "seed=1,2": "seed=1,2: several values need `train -m`, which runs a job for each, or brackets if they are a list",
    "optimizer=adam,sgd": "optimizer=adam,sgd: several values need `train -m`",
    "seed=range(1,4)": "seed=range(1,4): several values need `train -m`, which runs a job for each\n",
    "optimizer.lr=interval(0.1,1)": "optimizer.lr=interval(0.1,1): several values need `train -m`",
    "seed=choice(1,2)": "seed=choice(1,2): several values need `train -m`",
    "optimizer=glob(*)": "optimizer=glob(*): several values need `train -m`",
    "optimizer.lr=tag(log,interval(0.1,1))": "optimizer.lr=tag(log,interval(0.1,1)): several values need `train -m`",
    "data.batch_size=shuffle(1,2,3)": "data.batch_size=shuffle(1,2,3): several values need `train -m`",
}
REFUSED = {
    "hydra/sweeper=basic": "hydra/sweeper=basic: Hydra's own sweepers are not used; sweep=… chooses the jobs",
    "hydra/sweeper=optuna": "hydra/sweeper=optuna: Hydra's own ",
    "hydra/launcher=basic": "hydra/launcher=basic: Hydra's own launchers are not used; launcher=… starts the jobs",
    "hydra/launcher=joblib": "hydra/launcher=joblib: Hydra's own ",
    "hydra/launcher=submitit_slurm": "hydra/launcher=submitit_slurm: Hydra's own ",
    "+hydra.sweeper.params.seed='3,4'": "+hydra.sweeper.params.seed='3,4': Hydra's own ",
    "hydra.sweeper._target_=os.getcwd": "hydra.sweeper._target_=os.getcwd: Hydra's own ",
    "hydra.launcher._target_=os.getcwd": "hydra.launcher._target_=os.getcwd: Hydra's own ",
    "hydra.sweep.subdir=job_${hydra.job.num}": "hydra.sweep.subdir=job_${hydra.job.num}: a job's folder is named ",
    "hydra.run.dir=/tmp/x": "hydra.run.dir=/tmp/x: has no effect with -m; give hydra.sweep.dir=/tmp/x",
    "hydra.job.chdir=true": "hydra.job.chdir=true: has no effect with -m; leave it out",
    "hydra/job_logging=none": "hydra/job_logging=none: has no effect with -m; leave it out",
    "trainer.gradient_clip_val=choice(null,0.5)": "trainer.gradient_clip_val=choice(null,0.5): Hydra's functions take ",
    "seed=choice()": "seed=choice(): empty choice is not legal",
    "optimizer=glob(zzz)": "optimizer=glob(zzz): has no value",
}


@pytest.mark.parametrize("given", SEVERAL)
def test_several_values_in_a_single_run_say_that_m_is_missing(tmp_path, given):
    ended = run(tmp_path, "train", given, f"hydra.run.dir={tmp_path}/run")
    assert ended.code == 2
    assert ended.err.startswith(f"train: {SEVERAL[given]}")
    assert len(ended.lines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", REFUSED)
def test_what_a_sweep_would_not_obey_is_refused_by_name(tmp_path, given):
    ended = run(tmp_path, "train", "-m", "seed=1,2", given, "sweep.dry_run=true", f"paths.logs={tmp_path}/logs")
    assert ended.code == 2
    assert ended.err.startswith(f"train: {REFUSED[given]}")
    assert len(ended.lines()) == 1
    assert "1: seed=2" not in ended.out


@pytest.mark.parametrize("node", ["defaults: [override /hydra/sweeper: basic]", "hydra: {sweep: {subdir: a}}"])
def test_nor_from_a_file(tmp_path, node):
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "other.yaml"
    file.write_text(marked(f"# @package _global_\n{node}\n"))
    ended = run(tmp_path, "train", "-m", "seed=1,2", f"experiment={file}", "sweep.dry_run=true")
    assert ended.code == 2, ended.out
    assert ended.err.startswith("train: hydra.sweep")
    assert "only hydra.sweep.dir is obeyed" in ended.err


def test_null_among_values_works_as_the_hint_says(tmp_path):
    arguments = ["-m", "sweep=random", "sweep.n_trials=2", "trainer.gradient_clip_val=null,0.5", "sweep.dry_run=true"]
    ended = run(tmp_path, "train", *arguments)
    assert (ended.code, ended.err) == (0, "")
    assert "trainer.gradient_clip_val=null,0.5" in ended.out


@pytest.mark.parametrize(
    "key",
    ["limit_train_batches", "limit_val_batches", "limit_test_batches", "val_check_interval"],
)
@pytest.mark.parametrize(("values", "told"), [("0.5,1", True), ("1,2e-1", True), ("0.5,1.0", False), ("1,2", False)])
def test_one_batch_beside_a_share_is_told(capsys, key, values, told):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from litlab.sweeps.space import Dimension

    (override,) = OverridesParser.create().parse_overrides([f"trainer.{key}={values}"])
    line = Dimension.of(override, in_grid=True).ambiguity()
    assert bool(line) == told
    assert not told or line.endswith(" is a share, but 1 is a single batch; 1.0 is the whole")


def test_and_printed(tmp_path):
    ended = run(tmp_path, "train", "-m", "trainer.limit_train_batches=0.5,1", "sweep.dry_run=true")
    assert ended.out.startswith("trainer.limit_train_batches=0.5,1: 0.5 is a share, but 1 is a single batch; ")


@pytest.mark.parametrize(
    "text",
    ["10 m", "00:00:10", "1:2:3:4", "-1:00:00:00", "", "1.5h", "600", "00:00:00:10s", "9999999:0:0:0"],
)
def test_a_time_in_another_form_is_refused_with_the_form(text):
    with pytest.raises(UserError, match="trainer.max_time=.*should be (DD:HH:MM:SS|a valid string)"):
        settings(f"trainer.max_time='{text}'" if text != "600" else "trainer.max_time=600")


@pytest.mark.parametrize(("text", "time"), [("90m", "00:01:30:00"), ("2h", "00:02:00:00"), ("10d", "10:00:00:00")])
def test_a_short_form_is_taken(text, time):
    assert settings(f"trainer.max_time={text}").trainer.max_time == time


@pytest.mark.parametrize("text", ["00:00:10:00", "7:00:00:00", "100:23:59:59"])
def test_lightnings_form_is_taken(text):
    assert settings(f"trainer.max_time={text}").trainer.max_time == text


def test_a_test_to_come_needs_test_data():
    with pytest.raises(UserError, match=r"^data.test_fraction=0: leaves nothing to test .*; set test=false$"):
        settings("data=folder", "data.dir=/x", "data.test_fraction=0")
    assert settings("data=folder", "data.dir=/x", "data.test_fraction=0", "test=false").test is False


def test_the_hint_of_too_long_an_interval_works(tmp_path, mnist_dir):
    long = [*SHORT, "trainer.val_check_interval=30", "trainer.max_epochs=2"]
    refused = run(tmp_path, "train", *long, f"hydra.run.dir={tmp_path}/refused")
    assert refused.code == 2
    assert len(refused.lines()) == 1
    assert "set trainer.check_val_every_n_epoch=null" in refused.err
    taken = run(tmp_path, "train", *long, "trainer.check_val_every_n_epoch=null", f"hydra.run.dir={tmp_path}/taken")
    assert taken.code == 0, taken.err
    from litlab.runs.run import Run

    assert [one.step for one in Run.open(tmp_path / "taken").record.metrics.validations] == [30, 40]  # and the end
    with pytest.raises(
        UserError, match="trainer.check_val_every_n_epoch=null: validates after so many steps; set trai"
    ):
        settings("trainer.check_val_every_n_epoch=null")


FOLDERS = [
    "/a/b",
    "/a b/c",
    "/a/$HOME/x",
    '/a"b/c',
    "/a'b",
    "/a/${x}/y",
    "/a\\",
    '/a\\"b',
    "/a,b",
    "/a=b(1)",
    "/ü/é",
    "/a;b&c",
    "/a\\${x}\\",
    "/new\nline",
    "/'\n\"\\",
    "/end\n",
    "/\x1b[31m\x85\u202e",
]


def pasted(command):
    """What bash makes of a command line, as a terminal shows it."""
    told = subprocess.run(["bash", "-c", rf"printf '%s\0' {visible(command)}"], capture_output=True, check=True)
    return os.fsdecode(told.stdout).split("\0")[:-1]


@pytest.mark.parametrize("folder", FOLDERS)
def test_printed_commands_can_be_typed(monkeypatch, folder):
    monkeypatch.setattr(sys, "argv", ["python -m litlab train"])
    *command, resume = pasted(resume_command(Path(folder), multirun=True))
    assert command == ["python", "-m", "litlab", "train", "-m"]
    (override,) = OverridesParser.create().parse_overrides(of_train([resume]))
    assert OmegaConf.create({"run": override.value()}).run == folder
    assert pasted(tensorboard_command(Path(folder, "run"))) == ["tensorboard", "--logdir", folder]


def test_the_program_is_quoted_too(monkeypatch, tmp_path):
    program = tmp_path / "my project" / "bin" / "train"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert shlex.split(resume_command(Path("/a")))[0] == str(program)


def test_the_best_job_in_a_folder_with_a_space_can_be_trained_again_as_printed(tmp_path, mnist_dir):
    folder = tmp_path / "a b"
    folder.mkdir()
    ended = run(tmp_path, "train", *sweep_arguments(folder, "seed=1,2"))
    assert ended.code == 0, ended.err
    line = next(line for line in ended.out.splitlines() if "the same again" in line)
    *command, experiment = shlex.split(line.partition(": ")[2])
    assert command == ["python", "-m", "litlab", "train"]
    assert experiment.startswith(f"experiment={only(folder)}/experiment/job_")
    assert run(tmp_path, "train", experiment, "trainer.limit_train_batches=1", f"hydra.run.dir={tmp_path}/x").code == 0

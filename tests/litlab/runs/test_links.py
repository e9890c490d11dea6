"""A folder that goes on may hold links: what the lab writes there, it writes nowhere else."""

import os
import shutil
import signal
import socket

import pytest
from conftest import SHORT
from processes import at, contents, run, script

from litlab.errors import UserError
from litlab.runs.links import break_links, refuse_traps

pytestmark = pytest.mark.usefixtures("mnist_dir")

LINKS = {"hard": os.link, "symbolic": os.symlink}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was killed, and one like it that went on."""
    folder = tmp_path_factory.mktemp("stopped")
    arguments = [*SHORT, "trainer.max_epochs=2", "logger=[tensorboard,csv]", "checkpoint.every_n_steps=5"]
    arguments += ["+logger.mine={_target_:litlab.loggers.CSV,name:mine,version:v0}"]
    arguments += ["trainer.steps_per_execution=5", "trainer.profiler=simple", f"hydra.run.dir={folder}/run"]
    killed = run(folder, "train", *arguments, prepare=at("on_train_batch_end", 6))
    assert killed.code == -signal.SIGKILL
    (folder / "run" / "fit-profile.txt").write_text("of the first part")
    shutil.copytree(folder / "run", folder / "done")
    assert run(folder, "train", f"resume={folder}/done").code == 0
    return folder


@pytest.mark.parametrize("link", LINKS)
def test_a_run_whose_files_are_links_goes_on_and_changes_no_others(stopped, tmp_path, link):
    folder, shared = tmp_path / "run", tmp_path / "shared"
    shutil.copytree(stopped / "run", shared)
    shutil.copytree(shared, folder, copy_function=LINKS[link])
    (folder / "wandb").mkdir()
    (folder / "wandb" / "latest-run").symlink_to(shared)
    (folder / "wandb" / "debug.log").symlink_to(tmp_path / "gone")
    before = contents(shared)
    done = run(tmp_path, "train", f"resume={folder}")
    assert done.code == 0, done.err
    assert contents(shared) == before
    torture = script("dev/kill_and_resume")
    assert torture.compare(stopped / "done", folder) == []
    assert torture.events(folder) == torture.events(stopped / "done")
    others = {folder / "wandb" / name for name in ("latest-run", "debug.log")}
    assert all(link.is_symlink() for link in others)
    own = [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"]  # which is never written
    assert {file.name for file in own} >= {"train.log", "metrics.csv", "last.ckpt", "best.ckpt", "fit-profile.txt"}
    assert [file for file in own if file.is_symlink() or file.stat().st_nlink > 1] == []
    assert (folder / "train.log").read_text().startswith((shared / "train.log").read_text())
    assert (folder / "mine" / "v0" / "metrics.csv").read_text() == (folder / "csv" / "metrics.csv").read_text()
    assert (folder / "fit-profile.txt").read_text().startswith("of the first part")


def test_a_loggers_folder_that_leads_out_is_refused(stopped, tmp_path):
    folder = shutil.copytree(stopped / "run", tmp_path / "run")
    (folder / "mine").rename(tmp_path / "elsewhere")
    (folder / "mine").symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    refused = run(tmp_path, "train", f"resume={folder}")
    assert (refused.code, refused.lines()) == (
        2,
        [f"train: resume={folder}: {folder}/mine/v0 leads out of the folder, where nothing may be written"],
    )
    assert contents(tmp_path / "elsewhere") == before


def test_what_other_programs_leave_does_not_matter(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "run"
    (outside / "logs").mkdir(parents=True)
    (outside / "debug.log").write_text("theirs")
    (folder / "wandb" / "run-1" / "logs").mkdir(parents=True)
    links = {
        "wandb/latest-run": folder / "wandb" / "run-1",
        "wandb/debug.log": outside / "debug.log",
        "wandb/run-1/logs/debug-core.log": tmp_path / "gone",
        "wandb/cache": outside / "logs",
        "notes.txt": outside / "debug.log",
        "wandb/itself": folder / "wandb" / "itself",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")
    with (folder / "dataset.mdb").open("wb") as hole:
        hole.truncate(2**40)
    os.link(outside / "debug.log", folder / "also.txt")
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(os.path.relpath(folder / "socket"))
        refuse_traps(folder, "resume=x")
        break_links(folder)
    assert all((folder / name).readlink() == target for name, target in links.items())
    assert (folder / "also.txt").stat().st_nlink == 2


TRAPS = {
    "checkpoints elsewhere": ("checkpoints", lambda path, out: path.symlink_to(out), "leads out of the folder"),
    "csv elsewhere": ("csv", lambda path, out: path.symlink_to(out), "leads out of the folder"),
    "a job elsewhere": ("3", lambda path, out: path.symlink_to(out), "leads out of the folder"),
    "a job's checkpoints elsewhere": ("3/checkpoints", lambda path, out: path.symlink_to(out), "leads out of the fol"),
    "a pipe": ("train.log", lambda path, out: os.mkfifo(path), "train.log is not a file"),
    "a device": ("3/train.log", lambda path, out: path.symlink_to("/dev/zero"), "train.log is not a file"),
    "a file as a folder": ("checkpoints", lambda path, out: path.touch(), "checkpoints is not a folder"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_what_the_lab_would_write_elsewhere_or_wait_for_is_refused(tmp_path, trap):
    name, make, message = TRAPS[trap]
    outside, folder = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (outside / "metrics.csv").write_text("step\n")
    (folder / name).parent.mkdir(parents=True)
    make(folder / name, outside)
    with pytest.raises(UserError, match=f"^resume=x: {folder}/.*{message}"):
        refuse_traps(folder, "resume=x")


WRITTEN = (
    "train.log", "fit-profile.txt", "events.out.tfevents.1.host.2.0", "csv/metrics.csv", "hparams.yaml",
    "projector_config.pbtxt", "study.journal", ".study.journal.lock", "12/train.log", "12/csv/metrics.csv",
)  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_links_are_broken_with_their_content_kept(tmp_path, name):
    (tmp_path / "shared").write_text("precious")
    for kind, link in LINKS.items():
        file = tmp_path / kind / name
        file.parent.mkdir(parents=True)
        link(tmp_path / "shared", file)
        break_links(tmp_path / kind)
        file.write_text(f"{file.read_text()} and more")
    assert {(tmp_path / kind / name).read_text() for kind in LINKS} == {"precious and more"}
    assert (tmp_path / "shared").read_text() == "precious"
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    break_links(tmp_path / "symbolic")
    file.write_text("new")
    assert not (tmp_path / "nowhere").exists()

"""Projects are made from a copy of this template, with the real script and git."""

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from environments import lend_environment, run_as_a_user
from processes import script


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """The template as a downloaded archive has it: what belongs to it, without history; and what its use leaves."""
    folder = tmp_path_factory.mktemp("template")
    for path in script("new").template():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    for junk in (
        *(".venv/bin/python", ".venv.lock", "src/digits/__pycache__/mnist.pyc", "logs/train/runs/1/run.json"),
        *("data/MNIST/raw/train-images-idx3-ubyte", "data/pictures/cat/1.png", ".ruff_cache/0"),
    ):
        (folder / junk).parent.mkdir(parents=True, exist_ok=True)
        (folder / junk).write_text("digits")
    return folder


@pytest.fixture(scope="module")
def projects(template, tmp_path_factory):
    """One in each form, made from the archive; two names, one before `litlab` in the alphabet and one after."""
    folder = tmp_path_factory.mktemp("projects")
    made = {"aardvark": new(template, "aardvark", folder / "full"),
            "zebra_of_a_long_name": new(template, "zebra_of_a_long_name", folder / "bare", "--bare")}  # fmt: skip
    assert all((done.returncode, done.stderr) == (0, "") for done in made.values())
    assert [done.stdout for done in made.values()] == [
        f"{name} is in {folder / form}, committed\nNext, in that folder: scripts/train, which first sets up .venv\n"
        for name, form in zip(made, ("full", "bare"), strict=True)
    ]
    return folder


def new(template, *arguments, **environment):
    return subprocess.run(
        [template / "scripts" / "new", *arguments],
        cwd=template.parent, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip


def git(folder, *arguments):
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout


def files(folder):
    """The content of each file that is tracked."""
    return {path: (folder / path).read_bytes() for path in git(folder, "ls-files").splitlines()}


# --- what comes along -------------------------------------------------------------------------------------------------


STAYING = ("scripts/", "tests/", "CONTRIBUTING.md", "CHANGELOG.md", ".pre-commit-config.yaml")
"""What is the template's alone."""


def test_the_project_has_the_lab_the_example_and_nothing_else(projects, template):
    found = files(projects / "full")
    expected = {
        path.replace("/digits/", "/aardvark/")
        for path in script("new").template()
        if not path.startswith(
            ("scripts/", "tests/", "CONTRIBUTING", "CHANGELOG", ".pre-commit", ".vscode", "configs/.schema")
        )
        or path.startswith("tests/digits/")
    }
    others = {"docs/litlab.md", ".litlab.json", "scripts/setup.py", "scripts/train", "scripts/test"}
    assert found.keys() == expected | others | {"tests/conftest.py"}
    for path, content in found.items():
        if path.startswith(("src/litlab/", "src/hydra_plugins/", "scripts/", "data/MNIST/")):
            assert content == (template / path).read_bytes()
    assert os.access(projects / "full" / "scripts" / "train", os.X_OK)
    assert os.access(projects / "full" / ".ci" / "run", os.X_OK)


def test_the_examples_package_has_the_new_name_everywhere(projects):
    for path, content in files(projects / "full").items():
        if not path.startswith(("src/litlab/", "data/")) and not path.endswith(".png"):
            places = re.findall(r".*\bdigits\b.*", content.decode().replace("handwritten digits", "").lower())
            assert not [place for place in places if re.search(r"digits[./`]\w|import digits|src/digits", place)], path
    assert "_target_: aardvark.mnist.MNISTDataModule" in (projects / "full/configs/data/mnist.yaml").read_text()
    assert 'packages = ["src/aardvark", ' in (projects / "full/pyproject.toml").read_text()
    assert '\nname = "aardvark"\n' in (projects / "full/pyproject.toml").read_text()


def test_a_bare_project_has_no_example(projects):
    found = files(projects / "bare")
    assert {path for path in found if path.startswith(("tests/", "data/", "src/zebra", "logs/"))} == {
        *(f"tests/zebra_of_a_long_name/test_{name}.py" for name in ("checks", "places")),
        *(f"src/zebra_of_a_long_name/{name}.py" for name in ("__init__", "data", "model", "schema")),
    }
    lab = {path for path in files(projects / "full") if path.startswith(("src/litlab/", "configs/", "docs/"))}
    gone = {path for path in lab - found.keys() if not path.startswith("configs/experiment/")}
    assert {path for path in gone if not path.startswith("configs/.schema/")} == {
        f"configs/{choice}.yaml" for choice in ("data/mnist", "model/convnet", "model/resnet18", "callbacks/tutorial")
    }
    for path, content in found.items():
        if path.startswith(("src/zebra", "configs/", "tests/")):
            assert b"MNIST" not in content
            assert b"digits" not in content


def test_a_checkout_gives_the_same_as_an_archive(projects, tmp_path):
    done = new(ROOT, "aardvark", tmp_path / "full")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "full") == files(projects / "full")


@pytest.mark.parametrize("form", ["full", "bare"])
def test_it_is_committed_once_and_is_in_order(projects, form):
    project = projects / form
    assert git(project, "status", "--porcelain", "--ignored") == ""
    assert len(git(project, "log", "--format=%s").splitlines()) == 1
    ruff = [Path(sys.executable).with_name("ruff")]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([*ruff, *command, "--no-cache", "."], cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def ready(projects):
    """Copies of them in which scripts/setup.py has no gigabytes to install."""
    folder = shutil.copytree(projects, projects.with_name("ready"))
    for project in folder.iterdir():
        lend_environment(project)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", ["full", "bare"])
def test_its_own_checks_are_green(ready, form):
    """All that `.ci/run` of the project does: its set-up, lint, types, and all of its tests."""
    done = run_as_a_user(ready / form / ".ci" / "run", cwd=ready)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)
    assert git(ready / form, "status", "--porcelain") == ""


@pytest.mark.slow
def test_a_bare_project_says_where_to_begin(ready):
    done = run_as_a_user(ready / "bare" / "scripts" / "train", cwd=ready)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "train: src/zebra_of_a_long_name/data.py: DataModule.setup is yours to write: it reads the examples"
    )


@pytest.mark.slow
def test_its_wheel_knows_its_packages(projects, tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, projects / "full"]
    subprocess.run(build, check=True, capture_output=True)
    (file,) = tmp_path.glob("aardvark-*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path / "site")
    code = f"import sys; sys.path[:0] = [{str(tmp_path / 'site')!r}]; from litlab.project import own_packages as known"
    done = run_as_a_user(sys.executable, "-S", "-c", f"{code}; print(*sorted(known()))", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("aardvark litlab\n", "")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["my-lab", "there"], "my-lab: a package's name has letters, digits and _ within, and begins with a letter"),
        (["_lab", "there"], "_lab: a package's name has letters"),
        (["größe", "there"], "größe: a package's name has letters"),
        (["class", "there"], "class: is Python's own name; take another"),
        (["random", "there"], "random: is Python's own name; take another"),
        (["torch", "there"], "torch: a package that the project needs has this name; take another"),
        (["litlab", "there"], "litlab: a package that the project needs"),
        (["tests", "there"], "tests: a package that the project needs"),
        (["PIL", "there"], "PIL: a package that the project needs"),
        (["shapes", "full"], "full is not empty: name a new folder"),
        (["shapes", "file"], "file is not empty: name a new folder"),
        (["shapes", "file/there"], "/file cannot be used: "),
        (["shapes", "template/there"], "template/there is inside the template: name a folder elsewhere"),
        (["shapes"], "scripts/new: give NAME FOLDER [--bare], or --update FOLDER"),
        (["--update", "full", "--bare"], "scripts/new: give NAME FOLDER [--bare], or --update FOLDER"),
        (["--update", "there"], "there is not a project that scripts/new has made: it has no .litlab.json"),
        (["--barre", "shapes", "there"], "scripts/new: unrecognized arguments: --barre"),
    ],
)
def test_a_mistake_is_told_in_one_line(template, tmp_path, arguments, reason):
    (tmp_path / "template").symlink_to(template)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "file").touch()
    done = subprocess.run(
        [template / "scripts" / "new", *arguments], cwd=tmp_path, capture_output=True, text=True
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("scripts/new: ")
    assert reason in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"template", "full", "file"}


def test_no_name_hides_what_the_project_needs():
    needed = {re.sub(r"[-.]", "_", line.partition("==")[0]).lower()
              for line in (ROOT / "constraints.txt").read_text().splitlines()}  # fmt: skip
    modules = {
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if needed & {re.sub(r"[-.]", "_", name).lower() for name in distributions}
    }
    assert {"torch", "yaml", "hydra"} <= modules
    for module in modules:
        with pytest.raises(script("new").RefusedError):
            script("new").refuse_name(module)


def test_an_empty_folder_will_do_and_git_needs_to_know_nobody(template, tmp_path):
    (tmp_path / "config").write_text("[user]\nuseConfigOnly = true\n[core]\nexcludesFile = ~/ignored\n")
    (tmp_path / "ignored").write_text("*.gz\n")
    (tmp_path / "there").mkdir()
    stranger = {"HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": str(tmp_path / "config"), "GIT_CONFIG_NOSYSTEM": "1"}
    done = new(template, "shapes", tmp_path / "there", **stranger)
    assert (done.returncode, done.stderr) == (0, "")
    told = "committed as shapes@localhost, since git knows no user.email"
    assert done.stdout.splitlines()[0] == f"shapes is in {tmp_path}/there, {told}"
    assert git(tmp_path / "there", "log", "--format=%an %ae") == "shapes shapes@localhost\n"
    assert "data/MNIST/raw/train-images-idx3-ubyte.gz" in files(tmp_path / "there")


def test_without_git_it_says_so(template, tmp_path):
    (tmp_path / "bin").mkdir()
    for program in ("bash", "dirname"):
        (tmp_path / "bin" / program).symlink_to(shutil.which(program))
    (tmp_path / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    done = new(template, "shapes", tmp_path / "there", PATH=str(tmp_path / "bin"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"shapes is in {tmp_path}/there; not committed: there is no git"
    assert (tmp_path / "there" / "src" / "shapes" / "mnist.py").exists()


# --- a newer lab ------------------------------------------------------------------------------------------------------


@pytest.fixture
def newer(template, tmp_path):
    """A template that has gone on."""
    newer = shutil.copytree(template, tmp_path / "newer")
    (newer / "src/litlab/errors.py").write_text('"""Another."""\n')
    (newer / "src/litlab/schedulers.py").unlink()
    (newer / "src/litlab/fresh.py").write_text('"""New."""\n')
    (newer / "configs/trainer/huge.yaml").write_text("# New.\n")
    (newer / "configs/optimizer/sgd.yaml").write_text("# Another.\n")
    (newer / "configs/trainer/cpu.yaml").write_text("# Another.\n")
    (newer / "src/digits/mnist.py").write_text('"""Another example."""\n')
    (newer / "constraints.txt").write_text("# Others.\n")
    return newer


@pytest.fixture
def project(template, tmp_path):
    """A project in which its owner has worked."""
    new(template, "shapes", tmp_path / "project")
    project = tmp_path / "project"
    (project / "src/shapes/mnist.py").write_text('"""Mine."""\n')
    (project / "src/shapes/own.py").write_text('"""Mine."""\n')
    (project / "configs/optimizer/sgd.yaml").write_text("# Mine.\n")
    (project / "configs/optimizer/adamw.yaml").unlink()
    (project / "configs/data/own.yaml").write_text("# Mine.\n")
    (project / "README.md").write_text("# Mine\n")
    commit(project)
    return project


def commit(project):
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "My work")


def test_an_update_brings_the_lab_and_touches_nothing_else(project, newer):
    before = files(project)
    done = new(newer, "--update", project)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{project} has this lab, committed",
        "configs/optimizer/adamw.yaml is yours since you changed it, and was left alone",
        "configs/optimizer/sgd.yaml is yours since you changed it, and was left alone",
        "constraints.txt is yours and was left alone; the template's has changed: "
        f"compare with {newer}/constraints.txt",
    ]
    after = files(project)
    assert {path for path in before.keys() | after if before.get(path) != after.get(path)} == {
        *("src/litlab/errors.py", "src/litlab/schedulers.py", "src/litlab/fresh.py"),
        *("configs/trainer/huge.yaml", "configs/trainer/cpu.yaml", ".litlab.json"),
    }
    assert after["src/litlab/errors.py"] == b'"""Another."""\n'
    assert "src/litlab/schedulers.py" not in after
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "log", "--format=%s").splitlines() == ["A newer LitLab", "My work", "shapes, made from LitLab"]


def test_what_became_the_projects_stays_so(project, newer):
    new(newer, "--update", project)
    (newer / "configs/optimizer/sgd.yaml").write_text("# Yet another.\n")
    (newer / "src/litlab/errors.py").write_text('"""Yet another."""\n')
    done = new(newer, "--update", project)
    assert (done.returncode, done.stderr) == (0, "")
    assert (project / "configs/optimizer/sgd.yaml").read_text() == "# Mine.\n"
    assert not (project / "configs/optimizer/adamw.yaml").exists()
    assert (project / "src/litlab/errors.py").read_text() == '"""Yet another."""\n'
    assert "constraints.txt" not in done.stdout


def test_an_update_loses_nothing(project, newer):
    (project / "src/litlab/errors.py").write_text('"""Changed here."""\n')
    before = (project / "src/litlab/errors.py").read_bytes()
    done = new(newer, "--update", project)
    assert done.returncode == 2
    assert "has changes that are not committed: commit them, so that nothing can be lost" in done.stderr
    commit(project)
    (project / "src/litlab/fresh.py").write_text('"""My own."""\n')
    commit(project)
    everything = files(project)
    done = new(newer, "--update", project)
    assert done.returncode == 2
    assert done.stderr == (
        f"scripts/new: changed in {project}, where the lab's go: src/litlab/errors.py, src/litlab/fresh.py; "
        "move your changes away\n"
    )
    assert (project / "src/litlab/errors.py").read_bytes() == before
    assert files(project) == everything


def test_the_same_lab_again_changes_nothing(template, project):
    before = files(project)
    done = new(template, "--update", project)
    assert (done.returncode, done.stderr) == (0, "")
    assert files(project) == before
    assert json.loads(before[".litlab.json"])["name"] == "shapes"


BEFORE = """from litlab import schema, train
from litlab.schema import PositiveInt, Settings
from litlab.config import check, run_config
from litlab.data.memory import InMemoryLoader
from litlab.interruption import stop
import litlab.engine.group
patched = "litlab.commands.train.build"
"""
AFTER = """from litlab.config import schema
from litlab import train
from litlab.config.types import PositiveInt, Settings
from litlab.config.compose import check, run_config
from litlab.data.memory import InMemoryLoader
from litlab.distributed.signals import stop
import litlab.distributed.group
patched = "litlab.training.train.build"
"""


def test_a_project_made_with_former_names_of_modules_gets_the_new_ones(project, newer):
    made = json.loads((project / ".litlab.json").read_text())
    (project / "src/litlab/schema.py").write_text("")
    made["lab"]["src/litlab/schema.py"] = hashlib.sha256().hexdigest()
    (project / ".litlab.json").write_text(json.dumps(made))
    (project / "src/shapes/mine.py").write_text(BEFORE)
    (project / "configs/train.yaml").write_text("defaults:\n  - data: mnist\n  - override hydra/help: train\n")
    commit(project)
    done = new(newer, "--update", project)
    assert done.returncode == 0, done.stderr
    assert (project / "src/shapes/mine.py").read_text() == AFTER
    assert (project / "configs/train.yaml").read_text() == "defaults:\n  - data: mnist\n"
    told = "names the lab's modules as they are called now; see what else has changed in them"
    assert f"src/shapes/mine.py {told}" in done.stdout
    assert git(project, "status", "--porcelain") == ""
    new(newer, "--update", project)
    assert (project / "src/shapes/mine.py").read_text() == AFTER

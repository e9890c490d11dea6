import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

NO_TORCH = (
    "import sys; sys.argv = ['train', *sys.argv[1:]]\n"
    "from litlab import cli\n"
    "try: cli.train()\n"
    "except SystemExit as end: code = end.code\n"
    "else: code = 0\n"
    "heavy = {'torch', 'lightning', 'torchmetrics', 'torchvision'} & set(sys.modules)\n"
    "assert not heavy, heavy\n"
    "sys.exit(code)"
)


def train_without_torch(*arguments, **kwargs):
    """Run `train` in a process that fails if it has imported torch."""
    return subprocess.run(
        [sys.executable, "-c", NO_TORCH, *arguments], capture_output=True, text=True, timeout=60, **kwargs
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["data.batch_sze=3"], "train: data.batch_sze=3: no such key, did you mean data.batch_size?"),
        (["+data.batch_sze=3"], "train: data.batch_sze=3: no such key, did you mean data.batch_size?"),
        (["data.batch_size=-4"], "train: data.batch_size=-4: should be greater than 0"),
        (["optimizer=adm"], "train: optimizer=adm: no such option, did you mean optimizer=adam?"),
        (["data.batch_size"], "train: data.batch_size: needs a value, give data.batch_size=…"),
        (["--config-name=evaluate"], "train: --config-name, --config-path: a command has its own config"),
        (["--config-path=/tmp"], "train: --config-name, --config-path: a command has its own config"),
        (["--config-dir=/nowhere"], "train: Additional config directory '/nowhere' not found"),
        (["-m", "seed=1,2", "data.batch_sze=3"], "train: data.batch_sze=3: no such key"),
        (["-m", "data.batch_sze=1,2"], "train: data.batch_sze=1: no such key"),
        (["-m", "data.batch_size=50,0"], "train: data.batch_size=0: should be greater than 0"),
        (["data=null"], "train: Config group override must be a string or a list"),
        (["hydra.job.name=other", "seed=-1"], "train: seed=-1: should be greater than or equal to 0"),
    ],
)
def test_a_mistake_ends_with_code_2_before_torch_and_before_a_folder(command, tmp_path, arguments, line):
    done = train_without_torch(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    by_module = command("train", *arguments)
    assert (by_module.returncode, by_module.stderr) == (2, done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_help_is_one_screen_and_names_every_choice():
    done = train_without_torch("--help")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) < 40
    groups = [path.name for path in (ROOT / "configs").iterdir()]
    own = [line for line in done.stdout.splitlines() if line.partition(":")[0] not in groups]
    assert max(map(len, own)) <= 100
    for group in ("data", "model", "optimizer", "scheduler", "trainer", "logger", "experiment", "debug"):
        options = sorted(file.stem for file in (ROOT / "configs" / group).glob("*.yaml"))
        listed = next(line for line in done.stdout.splitlines() if line.startswith(f"{group}: "))
        assert sorted(listed.removeprefix(f"{group}: ").split(", ")) == options


def test_shows_the_config():
    done = train_without_torch("--cfg", "job", "optimizer=sgd")
    assert done.returncode == 0
    assert "_target_: torch.optim.SGD" in done.stdout
    assert "max_epochs: 5" in done.stdout


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train optimizer=", {"optimizer=adam", "optimizer=adamw", "optimizer=none", "optimizer=sgd"}),
        ("train trainer.fa", {"trainer.fast_dev_run="}),
        ("train seed=1 data.sp", {"data.split_seed="}),
        ("train trainer.on_nan=", {"trainer.on_nan=skip", "trainer.on_nan=stop"}),
        ("train trainer.precision=b", {"trainer.precision=bf16-mixed", "trainer.precision=bf16-true"}),
        ("train trainer.max_epochs=", {"trainer.max_epochs=5"}),
    ],
)
def test_completes_by_tab(tmp_path, line, words):
    completed = train_without_torch(
        "-sc",
        "query=bash",
        cwd=tmp_path,
        env={"COMP_LINE": line, "COMP_POINT": str(len(line)), "PATH": "/usr/bin:/bin"},
    )
    assert completed.returncode == 0
    assert set(completed.stdout.split()) == words


def test_an_unknown_command_lists_the_commands(command):
    done = command("trian")
    assert done.returncode == 2
    commands = "train|evaluate|reproduce|compare|predict|export|trust|rename|report|schema|check"
    assert done.stderr == f"litlab: usage: python -m litlab {commands} [OVERRIDES]\n"


def test_console_scripts_are_installed():
    for name in ("train", "evaluate", "reproduce", "compare", "predict"):
        done = subprocess.run(
            [Path(sys.executable).with_name(name), "--help"], capture_output=True, text=True, timeout=60
        )
        assert done.stdout.startswith(f"{name}: ")


def test_a_shell_does_not_take_an_export_for_its_own():
    litlab = Path(sys.executable).with_name("litlab")
    done = subprocess.run(["bash", "-c", f"{litlab} export --help"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("export: ")
    assert not Path(sys.executable).with_name("export").exists()  # which would do nothing there, without a word


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, unpacked as pip would install it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT], check=True, capture_output=True
    )
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(wheel, tmp_path, archives):
    packed = {path.relative_to(wheel / "litlab" / "configs") for path in (wheel / "litlab" / "configs").rglob("*.yaml")}
    assert packed == {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in archives.glob("*.gz"):
        (raw / archive.name).symlink_to(archive)
    # -S with our own path: the editable install of this checkout must not be found.
    site = Path(next(path for path in sys.path if path.endswith("site-packages")))
    code = f"import sys; sys.path = [{str(wheel)!r}, *sys.path, {str(site)!r}]; from litlab.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, "train", "debug=one_batch", "trainer=cpu"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    assert (run / "run.json").exists()


COUNTING = """
import sys
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from litlab.cli import start

load, sys.argv[:1] = ConfigLoaderImpl.load_configuration, ["train"]

def counted(*args, **kwargs):
    print("composed")
    return load(*args, **kwargs)

ConfigLoaderImpl.load_configuration = counted
start("train")
"""


@pytest.mark.parametrize(
    ("arguments", "times"), [(["data.batch_sze=1"], 1), (["--help"], 0), (["-m", "sweep.dry_run=true", "seed=1,2"], 2)]
)
def test_a_config_is_composed_once(arguments, times):
    """Of a sweep also what its jobs have in common."""
    done = subprocess.run([sys.executable, "-c", COUNTING, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines().count("composed") == times


def test_a_config_may_ask_for_several_jobs_as_the_command_line_does(command):
    mode = ["hydra.mode=MULTIRUN", "sweep.dry_run=true"]
    for arguments in (["seed=1,2"], ["sweep=random", "optimizer.lr=interval(0.1,0.2)"], ["-m", "seed=1,2"]):
        assert command("train", *arguments, *mode).stdout == command("train", "-m", *arguments, mode[1]).stdout != ""

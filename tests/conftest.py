"""What many tests need: the project's folders, a checked config, MNIST, and commands in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra import initialize_config_dir
from omegaconf import DictConfig

from digits.mnist import MNISTDataModule, decoded, prepare
from litlab.config import schema
from litlab.config.compose import check, run_config, without_hydra
from litlab.project import CONFIGS
from litlab.runs.run import Run

# Two tests run at a time, mostly waiting for imports; with a thread each they do not get into each other's way.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
os.environ["LITLAB_HOME"] = str(ROOT / ".pytest_cache" / "litlab")  # runs of tests are not marked with the user's key
CAPTURES = "litlab.engine.graphs.optimization"
SHORT = (
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=20",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "views=none",
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU with CUDA")


def compose(*overrides: str, command: str = "train") -> DictConfig:
    """The config that a command line leads to, unchecked."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return without_hydra(hydra.compose(command, overrides=list(overrides), return_hydra_config=True))


def settings(*overrides: str) -> schema.Train:
    """The checked config of `train OVERRIDES`."""
    return check(run_config(compose(*overrides)), schema.Train)


def settings_of(module: str, data: str, monitor: str | None, *overrides: str) -> schema.Train:
    """The checked config of a training of these classes, whose optimizer is their own, with a loss to monitor."""
    return settings(
        "trainer=cpu", "~data", f"++data._target_={data}", "~model", f"++model._target_={module}", "optimizer=none",
        f"checkpoint.monitor={monitor or 'null'}", f"checkpoint.mode={'min' if monitor else 'null'}", *overrides,
    )  # fmt: skip


def train(config: schema.Train, folder: Path, overrides: dict[str, str] | None = None, callbacks: Any = ()) -> Run:
    """Train in the folder, or go on with the run in it."""
    from litlab.training.train import train as train_run

    if (folder / "run.json").exists():
        return train_run(config, Run.reopen(folder, overrides), callbacks=callbacks)
    folder.mkdir(exist_ok=True)
    return train_run(config, Run.create(folder, config.seed, overrides), callbacks=callbacks)


@pytest.fixture(scope="session")
def archives() -> Path:
    """The folder of MNIST's four archives."""
    return ROOT / "data" / "MNIST" / "raw"


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """A data folder that is ready to be read."""
    prepare(ROOT / "data")
    return ROOT / "data"


@pytest.fixture(scope="session")
def mnist(mnist_dir: Path) -> MNISTDataModule:
    """The data module with its default settings, set up."""
    data = MNISTDataModule(str(mnist_dir))
    data.setup("fit")
    return data


@pytest.fixture(scope="session")
def test_set(mnist_dir: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The 10,000 test images, uint8, and their labels."""
    return decoded(mnist_dir, False, torch.device("cpu"))


@pytest.fixture(scope="session")
def a_run(tmp_path_factory: pytest.TempPathFactory, mnist_dir: Path) -> Path:
    """A run of 300 steps, tested on the first 1,000 test images; not to be changed."""
    folder = tmp_path_factory.mktemp("a_run")
    short = ["trainer.limit_train_batches=300", "trainer.limit_val_batches=2", "trainer.limit_test_batches=2"]
    train = [sys.executable, "-m", "litlab", "train", *SHORT, *short, "logger=none", f"hydra.run.dir={folder}/run"]
    ended = subprocess.run(train, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder / "run"


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m litlab …` in another folder than the project's; logs go to `tmp_path/logs`."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "litlab", *arguments],
            cwd=tmp_path,
            env=os.environ | {"LITLAB_LOGS": str(tmp_path / "logs")} | environment,
            capture_output=True,
            text=True,
            timeout=280,
        )

    return run


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Lets the engine capture its steps on the CPU; the captures."""
    from tape import Tape

    monkeypatch.setattr(f"{CAPTURES}.CudaGraph", Tape)
    monkeypatch.setattr(Tape, "made", [])
    for name in ("adadelta", "adam", "adamax", "asgd", "nadam", "radam", "rmsprop", "rprop"):
        module = sys.modules[f"torch.optim.{name}"]
        monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda *_, **__: ["cpu"])
    made: list[Any] = Tape.made
    return made


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Trains as `fit` does, several steps at a time, without ever capturing one."""

    def trained(*arguments: Any, **options: Any) -> Any:
        from runs import fit

        with monkeypatch.context() as patch:
            patch.setattr(f"{CAPTURES}.WARM_UP", 10**9)
            return fit(*arguments, **options, steps=7)

    return trained

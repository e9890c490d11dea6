"""Every argument of Lightning's Trainer is obeyed, or answered by a line that names the lab's way."""

import inspect
import json
import logging

import pytest
import torch
from conftest import SHORT, settings, train
from lightning.pytorch import Trainer

from litlab.config.command_line import of_train
from litlab.errors import UserError
from litlab.training.trainer import make_trainer

pytestmark = pytest.mark.usefixtures("mnist_dir")

OBEYED = {
    "accelerator": "cpu",
    "accumulate_grad_batches": 2,
    "benchmark": True,
    "check_val_every_n_epoch": 2,
    "detect_anomaly": True,
    "deterministic": True,
    "devices": "auto",
    "enable_autolog_hparams": False,
    "enable_checkpointing": False,
    "enable_model_summary": True,
    "enable_progress_bar": False,
    "fast_dev_run": 2,
    "gradient_clip_algorithm": "value",
    "gradient_clip_val": 0.5,
    "inference_mode": False,
    "limit_predict_batches": 2,
    "limit_test_batches": 2,
    "limit_train_batches": 3,
    "limit_val_batches": 2,
    "log_every_n_steps": 2,
    "logger": False,
    "max_epochs": 1,
    "max_steps": 2,
    "max_time": "{minutes:3}",
    "min_epochs": 1,
    "min_steps": 2,
    "num_nodes": 1,
    "num_sanity_val_steps": 0,
    "overfit_batches": 2,
    "plugins": "[]",
    "precision": "64",
    "profiler": "simple",
    "reload_dataloaders_every_n_epochs": 1,
    "strategy": "ddp",
    "sync_batchnorm": True,
    "use_distributed_sampler": False,
    "val_check_interval": 3,
}
ANSWERED = {
    "barebones": (True, "trainer.barebones=true: take logger=none views=none"),
    "callbacks": ("[{_target_: lightning.pytorch.Callback}]", "choose callbacks by callbacks=NAME"),
    "default_root_dir": ("/tmp", "a run's folder is hydra.run.dir"),
    "model_registry": ("mine", "belongs to Lightning's own cloud; leave it out"),
    "logger": ("{_target_: lightning.pytorch.loggers.CSVLogger}", "choose loggers by logger=NAME"),
    "num_nodes": (2, "trainer.num_nodes=2: torchrun or srun say how many machines there are"),
    "plugins": (
        "{_target_: lightning.pytorch.plugins.io.TorchCheckpointIO}",
        "trainer.plugins: checkpoints are written by the lab alone; leave out TorchCheckpointIO",
    ),
    "strategy": ("fsdp", "Lightning refuses these settings: The strategy `fsdp` requires a GPU"),
    "min_epochs": ("many", "trainer.min_epochs=many: should be a valid integer"),
    "precision": ("8", "trainer.precision=8: should be 'auto', '32-true'"),
}


SLOW = pytest.mark.slow
BY_THE_LAB = {
    *("devices", "enable_checkpointing", "enable_progress_bar", "fast_dev_run", "logger", "max_time", "num_nodes"),
    *("overfit_batches", "plugins", "precision", "strategy"),
}
"""Those of OBEYED that are not simply handed on to Lightning."""


def asked(name, value):
    text = str(value).lower() if isinstance(value, bool) else value
    return of_train([*SHORT, "trainer.limit_train_batches=4", f"trainer.{name}={text}"])


def test_every_argument_is_tried():
    arguments = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert arguments == OBEYED.keys() | ANSWERED.keys()


@pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary")  # Lightning's own
@pytest.mark.parametrize("name", [name if name in BY_THE_LAB else pytest.param(name, marks=SLOW) for name in OBEYED])
def test_is_obeyed(tmp_path, name, caplog):
    with caplog.at_level(logging.INFO):
        run = train(settings(*asked(name, OBEYED[name])), tmp_path)
    assert run.record.status == "done"
    assert (name != "enable_checkpointing") == (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert (name in ("logger", "fast_dev_run")) != any(tmp_path.glob("events.*"))
    assert (name != "enable_progress_bar") == any(text.startswith("epoch 0: ") for text in caplog.messages)


@pytest.mark.parametrize("name", ANSWERED)
def test_is_answered(tmp_path, name):
    value, line = ANSWERED[name]
    with pytest.raises(UserError) as error:
        make_trainer(settings(*asked(name, value)).trainer, [], [], tmp_path)
    assert line in str(error.value)


def test_values_count(tmp_path):
    trainer = make_trainer(settings(*asked("min_epochs", 3), "trainer.precision=bf16").trainer, [], [], tmp_path)
    assert trainer.fit_loop.min_epochs == 3
    assert trainer.precision == "bf16-mixed"
    run = train(settings(*asked("fast_dev_run", 2)), tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["metrics"]["test"]
    assert run.record.metrics.last["train/loss"] > 0


def test_the_same_batches_are_overfitted_in_each_epoch(tmp_path):
    overfit = [*asked("overfit_batches", 2), "trainer.max_epochs=40", "test=false", "optimizer.lr=0.003"]
    run = train(settings(*overfit), tmp_path)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 80
    assert run.record.metrics.last["train/acc"] == 1.0

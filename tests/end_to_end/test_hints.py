"""What a message says to do works: every setting that a refusal names is tried in its place."""

import re

import pytest
from conftest import train

from litlab.config.command_line import of_train
from litlab.config.command_schema import TrainCommand
from litlab.config.compose import check, compose, run_config, without
from litlab.config.schema import Train
from litlab.errors import UserError

pytestmark = pytest.mark.usefixtures("mnist_dir")

SMALL = (
    "trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1", "data.batch_size=10", "views=none", "logger=none",
)  # fmt: skip

REFUSED = [
    ["trainer.max_epoch=1"],
    ["model.net.in_channel=1"],
    ["optimizr=sgd"],
    ["experiment=tutorials"],
    ["checkpoint.monitor=val/loss"],
    ["trainer.limit_val_batches=0"],
    ["trainer.devices=[0]"],
    ["trainer.precision=16"],
    ["trainer.barebones=true"],
    ["optimizer=none"],
    ["optimizer={_target_: torch.optim.Adamax, lr: 0.1}", "optimizer.maximize=true"],
    ["callbacks=early_stopping", "~callbacks.early_stopping.mode"],
    ["scheduler={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, monitor: val/acc}"],
    ["model.net.num_classes=5"],
    ["model.net.in_channels=3"],
    ["model.net.image_size=32"],
]
"""Command lines of `train` that are refused."""

HINT = re.compile(r"\+?[\w./]+=(?:\[[^\]]*\]|\{[^}]*\}|[^\s;,?)…']+)")
"""A setting in a message."""

NAMES_OF_ANY = re.compile(r"NAME|CLASS|FOLDER|FILE|OLD|…|=\d*\.\.\.|_target_")
"""What stands for whatever the user has."""


def refusal(overrides, folder):
    """The message by which a training with these settings is refused; None if it ends well."""
    try:
        composed = compose("train", of_train([*SMALL, *overrides]))
        check(composed, TrainCommand) if "sweep" in str(overrides) else check(
            without(composed, {"hydra"}), TrainCommand
        )
        train(check(run_config(composed), Train), folder)
    except UserError as error:
        return str(error)
    return None


def hints(message, overrides):
    """The settings that a message names to be given instead, as lists that belong together."""
    if meant := re.search(r"did you mean ([\w./]+)(=\S+)?\?", message):
        value = meant[2] or "=" + message.partition(":")[0].partition("=")[2]
        return [meant[1] + value]
    said = message.partition(": ")[2]
    return [hint for hint in HINT.findall(said) if hint not in overrides and not NAMES_OF_ANY.search(hint)]


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_what_a_refusal_names_works(tmp_path, overrides):
    message = refusal(overrides, tmp_path / "refused")
    assert message, "is not refused"
    answered = message.partition("=")[0] if "did you mean" in message or "barebones" in message else None
    tried = hints(message, overrides)
    if "barebones" in message:  # it names settings that come together
        tried = [" ".join(tried)]
    for number, hint in enumerate(tried):
        replaced = {answered, *(text.partition("=")[0].lstrip("+") for text in hint.split())}
        kept = [text for text in overrides if text.partition("=")[0].lstrip("+") not in replaced]
        assert refusal([*kept, *hint.split()], tmp_path / str(number)) is None
    assert tried, message

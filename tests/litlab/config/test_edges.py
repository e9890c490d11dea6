"""Whatever is asked for, there is a valid config or a clear refusal."""

import contextlib
import io
import sys

import hydra
import pytest
from conftest import compose
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as any_of
from omegaconf import OmegaConf

import litlab.training.train
from litlab import cli
from litlab.config import schema
from litlab.config.compose import check, explain
from litlab.errors import UserError
from litlab.project import CONFIGS
from litlab.runs.run import Run


def keys(values, prefix=""):
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


KEYS = sorted(keys(OmegaConf.to_container(compose())))
GROUPS = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name != "hydra")
WORDS = any_of.text("abcxyz_-.=,:[]{}()$'\"\\ \n\t#@é~+*0123456789", max_size=12)
NUMBERS = any_of.one_of(
    any_of.integers(),
    any_of.integers(-2, 3),
    any_of.floats(),
    any_of.sampled_from(["1e400", "-0", "0x10", "1_000", ".5", "00", "inf", "nan", "1e-320", "9" * 400]),
)
VALUES = any_of.one_of(
    NUMBERS.map(str),
    WORDS,
    any_of.sampled_from(["null", "true", "false", "[]", "{}", "???", "last"]),
    any_of.sampled_from(["${seed}", "${nowhere}", "${trainer}", "${seed"]),
    any_of.lists(NUMBERS, max_size=3).map(str),
    any_of.dictionaries(any_of.sampled_from(["lr", "_target_", "a b"]), NUMBERS, max_size=2).map(str),
)
MISSPELT = any_of.builds(
    lambda key, place: key[: place % len(key)] + key[place % len(key) + 1 :],
    any_of.sampled_from(KEYS),
    any_of.integers(0, 30),
)
NAMES = any_of.one_of(any_of.sampled_from(KEYS), any_of.sampled_from(GROUPS), MISSPELT, WORDS)
OVERRIDES = any_of.builds(
    lambda mark, name, value: f"{mark}{name}={value}",
    any_of.sampled_from(["", "", "", "+", "++", "~"]),
    NAMES,
    VALUES,
)
OFTEN = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", autouse=True)
def composing():
    """Hydra, ready to compose again and again."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@pytest.mark.slow
@OFTEN
@given(any_of.lists(OVERRIDES, min_size=1, max_size=2))
@example(["trainer.max_epochs=1e400"])
@example(["model.net.channels=[16,32,64]"])
@example(["data=null"])
def test_a_config_is_valid_or_refused_in_lines_that_are_clear(overrides):
    try:
        composed = hydra.compose("train", overrides)
    except Exception as refusal:  # Hydra's own, of any type; the front door explains them
        message = explain(refusal)
    else:
        try:
            assert isinstance(check(composed, schema.Train), schema.Train)
        except UserError as refusal:
            message = str(refusal)
        else:
            return
    assert message.strip()
    assert "Traceback" not in message
    assert all(line.isprintable() and len(line) < 1500 for line in message.splitlines())


@settings(OFTEN, max_examples=25)
@given(any_of.lists(OVERRIDES, min_size=1, max_size=2))
@example(["data.batch_size=0"])
@example(["seed=1,2"])
@example(["hydra.run.dir=/proc/nowhere"])
@example(["-m", "seed=a,b"])
def test_the_command_ends_well_or_with_code_2(tmp_path_factory, arguments):
    """The front door as it is, but nothing trains behind it."""
    hydra.core.global_hydra.GlobalHydra.instance().clear()
    said, trained, code = io.StringIO(), [], 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", ["train", *arguments])
        patch.setenv("LITLAB_LOGS", str(tmp_path_factory.getbasetemp() / "logs"))
        patch.setattr(litlab.training.train, "train", lambda *anything, **more: trained.append(anything) or Nothing)
        patch.setattr("litlab.commands.train.write_text", lambda *_: None)
        patch.setattr("litlab.commands.train.remember", lambda *_: None)
        patch.setattr(Run, "create", lambda *_: None)
        try:
            cli.train()
        except SystemExit as end:
            code = end.code
    if not trained and code != 0:
        assert code == 2, said.getvalue()
        assert all(line.startswith("train: ") for line in said.getvalue().splitlines())
        assert said.getvalue()


class Nothing:
    """What a training that does nothing gives."""

    objective = None

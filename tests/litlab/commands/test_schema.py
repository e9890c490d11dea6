"""The JSON Schemas say what the lab accepts, and are those of the configs as they are."""

import json

import pytest
from conftest import ROOT
from jsonschema import Draft202012Validator
from omegaconf import OmegaConf
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from litlab.commands.schema import schemas, settings_text
from litlab.config.describe import group_schema, groups, options
from litlab.config.group_help import PARTS, help_of_group
from litlab.errors import UserError
from litlab.project import CONFIGS

SCHEMAS = schemas()
CREATED = Registry().with_resources(
    (f"{name}.json", DRAFT202012.create_resource(schema)) for name, schema in SCHEMAS.items()
)


def problems(name, text):
    """What the schema of that name has against a YAML."""
    values = OmegaConf.to_container(OmegaConf.create(text or "{}"), resolve=False)
    validator = Draft202012Validator(SCHEMAS[name], registry=CREATED)
    return [error.message for error in validator.iter_errors(values)]


def test_what_is_kept_is_up_to_date():
    kept = {file.stem: json.loads(file.read_text()) for file in (CONFIGS / ".schema").glob("*.json")}
    assert kept == SCHEMAS, "run `litlab schema`"
    assert (ROOT / ".vscode" / "settings.json").read_text() == settings_text(kept)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")) + sorted(CONFIGS.glob("[a-gi-z]*/*.yaml")), ids=str)
def test_every_config_passes(file):
    name = file.stem if file.parent == CONFIGS else file.parent.name
    if name != "schema":
        assert problems(name, file.read_text()) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("trainer", "max_epoch: 3"),
        ("trainer", "max_epochs: many"),
        ("trainer", "fast_dev_run: maybe"),
        ("optimizer", "{_target_: torch.optim.Adam, lr: -1}"),
        ("scheduler", "{_target_: torch.optim.lr_scheduler.StepLR, step_size: often}"),
        ("scheduler", "{_target_: torch.optim.lr_scheduler.StepLR, interval: day}"),
        ("callbacks", "stop: {_target_: lightning.pytorch.callbacks.EarlyStopping, patience: long}"),
        ("experiment", "trainer: {max_epochs: many}"),
        ("experiment", "checkpoint: {mode: up}"),
        ("train", "seed: none"),
        ("sweep", "{sampler: grid, zips: []}"),
    ],
)
def test_what_the_lab_refuses_is_marked(name, text):
    assert problems(name, text)


@pytest.mark.parametrize(
    "text", ["max_epochs: 3", "max_epochs: ${oc.env:EPOCHS}", "{fast_dev_run: true, min_epochs: 1}"]
)
def test_what_the_lab_takes_is_not(text):
    assert problems("trainer", text) == []


@pytest.mark.parametrize("group", [*groups(), *PARTS])
def test_help_has_each_key_of_each_option(group):
    text = help_of_group(group)
    for name in options(group) if group not in PARTS else ():
        assert f"{group}={name}" in text
    if group == "trainer":
        for key in group_schema(group)["properties"].keys() - {"defaults"}:
            assert f"  trainer.{key} " in text


def test_help_gives_type_value_and_sentence(command):
    done = command("train", "--help", "optimizer")
    line = next(line for line in done.stdout.splitlines() if line.startswith("  optimizer.lr "))
    assert line.split(maxsplit=4)[1:] == [
        "float",
        ">=",
        "0",
        "= 0.001         Learning rate; with a scheduler, its highest.",
    ]
    wrong = command("train", "--help", "optimiser")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert wrong.stderr.startswith("train: --help optimiser: no such group; there is augment, ")
    with pytest.raises(UserError):
        help_of_group("nothing")

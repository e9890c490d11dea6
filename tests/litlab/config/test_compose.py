import ast
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from conftest import compose, settings
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from litlab.commands.evaluate import Evaluate
from litlab.config import schema
from litlab.config.compose import check, config_text, explain, load, read, run_config, settled, write_config
from litlab.config.compose import compose as litlab_compose
from litlab.errors import UserError
from litlab.project import CONFIGS, SOURCE


def refusal(*overrides):
    """What a user is told about these overrides."""
    try:
        settings(*overrides)
    except UserError as error:
        return str(error)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        return explain(error)
    raise AssertionError(f"{overrides} were accepted")


# The command line, and the start of the answer: the key as given, what was given, what is right.
REFUSALS = {
    "data.batch_sze=3": "data.batch_sze=3: no such key, did you mean data.batch_size?; data has dir, batch_size,",
    "+data.batch_sze=3": "data.batch_sze=3: no such key, did you mean data.batch_size?; data has dir, batch_size,",
    "sed=1": "sed=1: no such key, did you mean seed?; there is seed, test, ",
    "+sed=1": "sed=1: no such key, did you mean seed?; there is seed, test, ",
    "max_epochs=3": "max_epochs=3: no such key, did you mean trainer.max_epochs?",
    "trainer.max_epoch=3": "trainer.max_epoch=3: no such key, did you mean trainer.max_epochs?; trainer has accel",
    "trainr.max_epochs=3": "trainr.max_epochs=3: no such key, did you mean trainer.max_epochs?",
    "data.lr=0.1": "data.lr=0.1: no such key, did you mean optimizer.lr?",
    "optimizer.lrr=0.1": "optimizer.lrr=0.1: no such key, did you mean optimizer.lr?",
    "optimizer.learning_rate=1": "optimizer.learning_rate=1: no such key; optimizer has lr, betas,",
    "model.channels=[1,2]": "model.channels=[1,2]: no such key, did you mean model.net.channels?; model has",
    "+model.net.depth=3": "model.net.depth=3: no such key; model.net has in_channels, image_size,",
    "+logger.tensorboard.nam=x": "logger.tensorboard.nam=x: no such key, did you mean logger.tensorboard.name?",
    "optimzer=adam": "optimzer=adam: no such key, did you mean optimizer?",
    "data=mnst": "data=mnst: no such option, did you mean data=mnist?; there is folder, mnist",
    "optimizer=adm": "optimizer=adm: no such option, did you mean optimizer=adam?; there is adam, adamw, none, sgd",
    "experiment=nonsense": "experiment=nonsense: no such option; there is best, speedrun, tutorial",
    "data.batch_size=abc": "data.batch_size=abc: should be a valid integer",
    "data.batch_size=-4": "data.batch_size=-4: should be greater than 0",
    "data.batch_size=9223372036854775808": "data.batch_size=9223372036854775808: should be less than 2147483648",
    "trainer.accumulate_grad_batches=2147483648": (
        "trainer.accumulate_grad_batches=2147483648: should be less than 2147483648"
    ),
    "trainer.limit_train_batches=9223372036854775808": (
        "trainer.limit_train_batches=9223372036854775808: should be less than 2147483648 or less than or equal to 1"
    ),
    "data.num_workers=4294967296": "data.num_workers=4294967296: should be less than 2147483648",
    "data.batch_size=2.5": "data.batch_size=2.5: should be a valid integer",
    "data.batch_size=null": "data.batch_size=null: should be a valid integer",
    "data.fold=2": "data.fold=2: no such fold; set data.folds, such as 3",
    "data.val_size=60000": "data.val_size=60000: should be less than 60000",
    "data.dir=there": f"data.dir=there: should be absolute, such as {Path.cwd()}/there",
    "data.dir='~/there'": f"data.dir=~/there: should be absolute, such as {Path.home()}/there",
    "data=folder data.val_fraction=0.5 data.test_fraction=0.5": "data.val_fraction and data.test_fraction leave noth",
    "data.shuffle=1": "data.shuffle=1: should be a valid boolean",
    "optimizer.lr=-1": "optimizer.lr=-1: should be greater than or equal to 0",
    "optimizer.lr=fast": "optimizer.lr=fast: should be a valid number",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9]: List should have at least 2 items",
    "optimizer.betas=[0.9,1.5]": "optimizer.betas.1=1.5: should be less than 1",
    "trainer.precision=8": "trainer.precision=8: should be 'auto', '32-true', 'bf16-mixed', '16-mixed', '64-true'",
    "trainer.limit_train_batches=2.5": "trainer.limit_train_batches=2.5: should be a valid integer or less than or eq",
    "trainer.max_epochs=0": "trainer.max_epochs=0: should be -1 or greater than 0",
    "trainer.devices=0": "trainer.devices=0: should be 'auto' or -1 or greater than 0 or a valid list",
    "seed=-1": "seed=-1: should be greater than or equal to 0",
    "seed=4294967296": "seed=4294967296: should be less than 4294967296",
    "checkpoint.mode=biggest": "checkpoint.mode=biggest: should be 'min' or 'max'",
    "checkpoint.monitor=val/loss": "checkpoint.monitor=val/loss: needs its direction; add checkpoint.mode=min or ",
    "checkpoint.monitor=val/loss checkpoint.mode=null": "checkpoint.monitor=val/loss: needs its direction; add che",
    "+callbacks.s={_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:val/acc}": (
        "callbacks.s.monitor=val/acc: EarlyStopping minimizes it by default, but checkpoint.mode is max; add +cal"
    ),
    "+callbacks.k={_target_:lightning.pytorch.callbacks.ModelCheckpoint,monitor:val/acc}": (
        "callbacks.k.monitor=val/acc: ModelCheckpoint minimizes it by default, but checkpoint.mode is max; add +cal"
    ),
    "model.net.kernel_size=4": "model.net.kernel_size=4: should be odd",
    "model._target_=json.dumpz": "model._target_=json.dumpz: json has no dumpz",
    "model.net._target_=digits.convnet.Cnn": "model.net._target_=digits.convnet.Cnn: digits.convnet has no Cnn",
    "scheduler=cosine scheduler.final_lr=x": "scheduler.final_lr=x: should be a valid number",
    "optimizer=sgd optimizer.momentum=0 optimizer.nesterov=true": "optimizer.nesterov=true needs optimizer.momentum",
    "trainer.max_epochs=-1": "training would never end: set trainer.max_epochs, ",
    "trainer=cpu trainer.devices=[1]": "trainer.devices as a list names a GPU, but trainer.accelerator is cpu",
    "trainer=cpu trainer.devices=-1": "trainer.devices=-1 means all GPUs, but trainer.accelerator is cpu: say how many",
    "data.batch_size": "data.batch_size: needs a value, give data.batch_size=…",
    "data.dir=a==b": "data.dir=a==b: mismatched input '=' expecting <EOF>; special characters need quotes, such as ",
    "data.dir=(": "data.dir=(: extraneous input '(' expecting ",
    "experimnt=tutorial": "experimnt=tutorial: no such key, did you mean experiment?; there is seed, test, ",
    "+debgu=one_batch": "debgu=one_batch: no such key, did you mean debug?; there is seed, test, ",
    "logger=[tensorboard,csvv]": "logger=csvv: no such option, did you mean logger=csv?; there is csv, mlflow, ",
    "model={a:1}": "model.a: no such key; model has channels_last, label_smoothing, net",
    "optimizer.lr=inf": "optimizer.lr=inf: should be a finite number",
    "~optimizer._target_ optimizer.lr=0.01": "optimizer={'lr': 0.01, 'betas': [0.9, 0.999], 'eps': 1e-08, "
    "'weight_decay': 0.0, 'fused': True}: should be a node with a _target_, the class to build",
    "optimizer._target_=torch.optim.Nope": "optimizer._target_=torch.optim.Nope: torch.optim has no Nope",
    "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping +callbacks.stop.monitr=x": (
        "callbacks.stop.monitr=x: no such key, did you mean callbacks.stop.monitor?; lightning.pytorch.callbacks.Earl"
    ),
    "trainer.limit_train_batches=0": "trainer.limit_train_batches=0: should be greater than 0",
    "scheduler=cosine trainer.max_epochs=-1 trainer.max_time=00:01:00:00": "scheduler needs to know the number of st",
    "data.dir=${nowhere}": "data.dir: is nowhere unless given, and there is none; give data.dir=…",
    "data=folder ~model.net.image_size": "data.size: is model.net.image_size unless given, and there is none; give dat",
}


@pytest.mark.parametrize("overrides", REFUSALS)
def test_a_mistake_is_told_in_one_line(overrides):
    answer = refusal(*overrides.split())
    assert answer.startswith(REFUSALS[overrides])
    assert "\n" not in answer


def test_all_mistakes_are_told_at_once():
    answer = refusal("seed=-1", "optimizer.lr=x", "+model.net.depth=3", "trainer.max_epochs=0").splitlines()
    assert len(answer) == 4  # data.seed, which is ${seed}, is not told again
    assert [line.partition("=")[0] for line in answer] == [
        "seed",
        "trainer.max_epochs",
        "optimizer.lr",
        "model.net.depth",
    ]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("data: {batch_sze: 3}", "data.batch_sze=3: no such key, did you mean data.batch_size?"),
        ("sed: 1", "sed=1: no such key, did you mean seed?"),
        ("optimizer: {lr: fast}", "optimizer.lr=fast: should be a valid number"),
        ("trainer: 3", "trainer=3: should be a valid dictionary"),
        ("seed: [", "while parsing a flow node: "),
        ("model: {_target_: digits.net.Net}", "model._target_=digits.net.Net: there is not a module digits.net"),
    ],
)
def test_a_mistake_in_an_experiment_file_is_told_too(tmp_path, text, start):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    answer = refusal(f"hydra.searchpath=[{tmp_path}]", "experiment=mine")
    assert answer.startswith(start)


def options(group):
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


GROUPS = (
    "data",
    "augment",
    "model",
    "optimizer",
    "scheduler",
    "trainer",
    "callbacks",
    "logger",
    "views",
    "sweep",
    "launcher",
    "experiment",
    "debug",
    "paths",
)


def test_every_folder_of_configs_is_known_to_this_test():
    assert {path.name for path in CONFIGS.iterdir() if path.is_dir()} == {*GROUPS, "hydra", ".schema"}


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in GROUPS for name in options(group)])
def test_every_option_is_valid(choice):
    assert settings(choice).seed == 42


def test_configs_hold_all_values_and_nothing_else():
    for file in CONFIGS.rglob("*.yaml"):
        assert yaml.safe_load(file.read_text()) is None or isinstance(yaml.safe_load(file.read_text()), dict)
    trainer = yaml.safe_load((CONFIGS / "trainer" / "auto.yaml").read_text())
    assert list(trainer) == list(schema.Trainer.model_fields)


SCHEMAS = [
    file
    for pattern in ("**/*schema.py", "litlab/commands/*.py")
    for file in SOURCE.glob(pattern)
    if re.search(r"(?m)^class \w+\((Settings|OfRun)\)", file.read_text())
]


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: str(file.relative_to(SOURCE)))
def test_every_setting_has_a_sentence(file):
    tree = ast.parse(file.read_text()).body
    classes = [node for node in tree if isinstance(node, ast.ClassDef) and not node.decorator_list]
    assert classes
    for found in classes:
        for field, after in pairwise([*found.body, ast.Pass()]):
            if isinstance(field, ast.AnnAssign):
                is_sentence = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert is_sentence, f"{found.name}.{field.target.id}"
                assert after.value.value.endswith(".")


def test_a_file_of_whole_settings_must_say_so(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("seed: 1\n")
    answer = refusal(f"hydra.searchpath=[{tmp_path}]", "experiment=mine")
    assert answer.startswith("experiment: begin its file with '# @package _global_'")


def test_zero_is_a_seed():
    assert settings("seed=0").seed == 0
    assert settings("seed=0").data["seed"] == 0


def test_a_missing_value_says_how_to_give_it():
    with pytest.raises(UserError, match="run: needs a value, give run=…"):
        check(compose(command="evaluate"), Evaluate)


def test_load_reads_what_was_saved(tmp_path):
    OmegaConf.save(run_config(compose("seed=7")), tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml", schema.Train) == settings("seed=7")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: [", "cannot be read"),
        ("- 1", "holds no config"),
        ("seed: 1", "paths: is missing"),
        ("\x00", "cannot be read"),
    ],
)
def test_load_names_a_damaged_file(tmp_path, text, reason):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=reason) as error:
        load(tmp_path / "config.yaml", schema.Train)
    assert str(tmp_path / "config.yaml") in str(error.value)


def test_load_names_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="holds no config.yaml"):
        load(tmp_path / "config.yaml", schema.Train)


def test_a_file_that_changes_the_monitored_metric_needs_its_direction_too(tmp_path, monkeypatch):
    copied = tmp_path / "configs"
    shutil.copytree(CONFIGS, copied)
    monkeypatch.setattr("litlab.config.compose.CONFIGS", copied)

    def checkpoint(text):
        (copied / "experiment" / "mine.yaml").write_text(f"# @package _global_\ncheckpoint: {text}\n")
        return check(run_config(litlab_compose("train", ["experiment=mine"])), schema.Train).checkpoint

    with pytest.raises(UserError, match="^checkpoint.monitor=val/loss: needs its direction; add checkpoint.mode=min"):
        checkpoint("{monitor: val/loss}")
    assert checkpoint("{monitor: val/loss, mode: min}").mode == "min"
    assert checkpoint("{every_minutes: 1.0}").mode == "max"


EXPERIMENT = """# @package _global_
optimizer:
  lr: ${oc.decode:${oc.env:MYLR,0.01}}
seed: ${oc.decode:${oc.env:MYSEED}}
checkpoint:
  every_n_steps: ${oc.select:model.net.image_size,3}
logger:
  tensorboard:
    name: ${oc.env:MYNAME,none}
"""


def test_what_resolvers_compute_is_fixed_when_the_run_is_composed(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "x.yaml").write_text(EXPERIMENT)
    for name, value in {"MYLR": "0.02", "MYSEED": "7", "MYNAME": "a${b}", "LITLAB_DATA": "/elsewhere"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LITLAB_LOGS", raising=False)
    composed = run_config(compose("experiment=x", f"hydra.searchpath=[{tmp_path}]"))
    with pytest.raises(UserError, match=r"^logger.tensorboard.name: cannot be written"):
        config_text(composed)
    monkeypatch.setenv("MYNAME", "x")
    write_config(tmp_path, composed)
    for name in ("MYLR", "MYSEED", "MYNAME", "LITLAB_DATA"):
        monkeypatch.delenv(name)
    read = load(tmp_path / "config.yaml", schema.Train)
    assert (read.optimizer["lr"], read.seed, read.checkpoint.every_n_steps) == (0.02, 7, 28)
    assert (read.paths.data, read.data["dir"], read.logger["tensorboard"]["name"]) == ("/elsewhere", "/elsewhere", "x")
    text = (tmp_path / "config.yaml").read_text()
    assert "root: ${project_root:}" in text  # so that the project can be moved
    assert "logs: ${paths.root}/logs" in text


def test_any_number_of_references_is_written_and_read(tmp_path):
    references = [f"+model.net.more{number}='${{seed}}'" for number in range(40)]
    config = run_config(compose("seed=3", *references))
    write_config(tmp_path, config)
    assert OmegaConf.to_container(read(tmp_path / "config.yaml"), resolve=True) == OmegaConf.to_container(
        config, resolve=True
    )


def test_a_value_that_a_sweep_has_yet_to_choose_leaves_open_what_is_computed_from_it():
    config = OmegaConf.create(
        {"a": "1", "b": "${oc.decode:${a}}", "c": "${oc.decode:'2'}", "d": ["${oc.select:a,3}", "${c}"], "e": "${a}"}
    )
    fixed = OmegaConf.to_container(settled(config, {"a"}))
    assert fixed == {"a": "1", "b": "${oc.decode:${a}}", "c": 2, "d": ["${oc.select:a,3}", "${c}"], "e": "${a}"}
    assert OmegaConf.to_container(settled(config)) == {"a": "1", "b": 1, "c": 2, "d": ["1", "${c}"], "e": "${a}"}


def test_a_variable_that_hydra_sets_counts_when_the_config_is_checked(tmp_path):
    from processes import run

    asked = ["optimizer.lr='${oc.decode:${oc.env:MYLR}}'", "+hydra.job.env_set.MYLR=0.5"]
    ended = run(tmp_path, "train", "--cfg", "job", "--resolve", *asked[:1])
    assert "MYLR" in ended.err
    refused = run(tmp_path, "train", *asked, "trainer.max_epochs=-3", f"hydra.run.dir={tmp_path}/run")
    assert refused.code == 2
    assert refused.err.splitlines() == ["train: trainer.max_epochs=-3: should be -1 or greater than 0"]

import json

import pytest
from conftest import SHORT, compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import OmegaConf

from litlab.config import command_schema, schema
from litlab.config.compose import check, run_config
from litlab.errors import UserError
from litlab.project import CONFIGS
from litlab.sweeps.plan import Plan


@pytest.fixture
def make():
    """The plan of `train -m OVERRIDES`."""

    def plan(*overrides, configs=CONFIGS):
        loader = ConfigLoaderImpl(create_config_search_path(str(configs)))
        composed = loader.load_configuration("train", list(overrides), RunMode.MULTIRUN)
        own = OmegaConf.masked_copy(composed, list(command_schema.SweepCommand.model_fields))
        return Plan.make(check(own, command_schema.SweepCommand), loader, overrides)

    return plan


@pytest.mark.parametrize(
    "overrides",
    [
        ("seed=1,2", "optimizer=adam,sgd", "trainer.max_epochs=3"),
        ("optimizer=adam,sgd", "optimizer.lr=0.1,0.01", "debug=profile"),
        ("model.net.channels=[8,16],[16,32]", "checkpoint={every_minutes:1.0},{every_n_steps:5}"),
        ("callbacks=[ema],none", "logger=[tensorboard,csv],csv"),
        ("+callbacks.timer={_target_:lightning.pytorch.callbacks.Timer}", "seed=1,2"),
        ("seed=1,2", "seed=3,4"),
    ],
)
def test_a_job_has_the_config_that_its_own_command_line_gives(make, overrides):
    plan = make(*overrides)
    fixed = [text for text in overrides if not any(text.startswith(f"{one.key}=") for one in plan.dimensions)]
    assert plan.planned == len(plan.jobs) > 1
    for job in plan.jobs:
        alone = compose(*fixed, *(f"{key}={value}" for key, value in job.items()), "test=false", "views=none")
        assert plan.config(job) == run_config(alone)


def test_the_test_set_is_left_alone_unless_asked_for(make):
    assert not plan_tests(make("seed=1,2"))
    assert plan_tests(make("seed=1,2", "test=true"))


def plan_tests(plan):
    return plan.config(plan.jobs[0]).test


def test_every_wrong_value_is_told_with_its_jobs(make):
    with pytest.raises(UserError) as error:
        make("data.batch_size=50,0", "seed=range(10)", "optimizer.lr=0.1")
    assert str(error.value) == "data.batch_size=0: should be greater than 0 (jobs 10, 11, 12 and 7 more)"
    with pytest.raises(UserError) as error:
        make("optimizer.lr=0.1,-1", "sweep.exclude=['optimizer.lr==0.1']")
    assert str(error.value) == "optimizer.lr=-1: should be greater than or equal to 0 (job 0)"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=interval(-1,0.5)"], "optimizer.lr=-1.0: should be greater than or equal to 0"),
        (["data.batch_size=choice(50,0)"], "data.batch_size=0: should be greater than 0"),
        (["optimizer.lr=tag(log,interval(0,1.0))"], "optimizer.lr: .*low > 0.* must hold"),
    ],
)
def test_what_could_be_drawn_is_checked_too(make, overrides, message):
    with pytest.raises(UserError, match=message):
        make("sweep=tpe", *overrides)


def test_a_sweep_needs_something_to_compare_by(make):
    with pytest.raises(UserError, match="there is nothing to compare the jobs by"):
        make("seed=1,2", "checkpoint.monitor=null")
    assert make("seed=1,2", "checkpoint.monitor=null", "sweep.objectives={train/loss:min}").objectives == {
        "train/loss": "min"
    }
    assert make("seed=1,2", "checkpoint.monitor=val/loss", "checkpoint.mode=min").objectives == {"val/loss": "min"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["checkpoint.monitor=val/acc,val/loss", "checkpoint.mode=max"],
            "jobs that go by different metrics need 'sweep.objectives=.* .job 1",
        ),
        (["checkpoint.monitor=val/acc,val/loss"], r"^checkpoint.monitor=val/loss: needs its direction; .* \(job 1\)"),
        (
            ["seed=1,2", "checkpoint.monitor=val/loss"],
            "^checkpoint.monitor=val/loss: needs its direction; add checkpoi",
        ),
        (
            ["checkpoint.monitor=val/acc,val/loss", "sweep.objectives={val/acc:max}"],
            r"^checkpoint.monitor=val/loss: needs its direction; .* \(job 1\)",
        ),
        (["sweep=random", "sweep.n_trials=2", "checkpoint.monitor=choice(val/acc,val/f1)"], "val/f1: needs its direct"),
    ],
)
def test_what_a_job_could_not_use_is_refused(make, overrides, message):
    with pytest.raises(UserError, match=message):
        make(*overrides)


def test_what_is_the_sweeps_own_takes_one_value(make):
    with pytest.raises(UserError, match="^sweep.pruner: takes one value"):
        make("seed=1,2", "sweep.pruner=none,median")


def test_a_plan_does_not_change_with_the_files_it_was_made_from(make, tmp_path):
    copied = tmp_path / "configs"
    for file in CONFIGS.rglob("*.yaml"):
        (copied / file.relative_to(CONFIGS)).parent.mkdir(parents=True, exist_ok=True)
        (copied / file.relative_to(CONFIGS)).write_text(file.read_text())
    plan = make("optimizer=adam,sgd", configs=copied)
    plan.save(tmp_path)
    edited = copied / "optimizer" / "sgd.yaml"
    edited.write_text(edited.read_text().replace("lr: 0.05", "lr: 1.0"))
    loaded = Plan.load(tmp_path)
    assert loaded == plan
    assert loaded.config(plan.jobs[1]).optimizer.lr == 0.05
    assert make("optimizer=adam,sgd", configs=copied).definition() != plan.definition()


def test_a_listing_shows_the_jobs_or_what_they_are_drawn_from(make):
    assert make("seed=1,2").listing() == "0: seed=1\n1: seed=2\n2 jobs"
    drawn = make("sweep=random", "sweep.n_trials=5", "optimizer.lr=tag(log,interval(1e-4,0.1))", "seed=range(0,10,2)")
    assert drawn.listing().splitlines() == [
        "drawn by random from",
        "  optimizer.lr: 0.0001 to 0.1, log",
        "  seed: 0 to 8 in steps of 2",
        "5 jobs",
    ]


@pytest.mark.parametrize("job", [0, 3])
def test_an_experiment_file_gives_the_jobs_config_again(make, tmp_path, job):
    varied = (
        "optimizer=adam,sgd",
        "optimizer.lr=0.1,0.01",
        "callbacks=ema",
        "~callbacks.ema",
        "scheduler=onecycle",
        *SHORT,
    )
    plan = make(*varied)
    for file in CONFIGS.rglob("*.yaml"):
        (tmp_path / file.relative_to(CONFIGS)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.relative_to(CONFIGS)).write_text(file.read_text())
    config = plan.config(plan.jobs[job])
    (tmp_path / "experiment" / "again.yaml").write_text(plan.experiment(plan.jobs[job], config, "a title"))
    loader = ConfigLoaderImpl(create_config_search_path(str(tmp_path)))
    again = loader.load_configuration("train", ["experiment=again", "test=false", "views=none"], RunMode.RUN)
    settings = [check(run_config(config), schema.Train) for config in (again, plan.config(plan.jobs[job]))]
    assert settings[0].model_copy(update={"choices": settings[1].choices}) == settings[1]
    assert settings[0].choices == {"experiment": "again", "views": "none"}
    plain = loader.load_configuration("train", [], RunMode.RUN)
    for part in ("run", "sweep", "callbacks", "sweeper", "job_logging"):  # it is a run like any other
        ours, theirs = (OmegaConf.to_container(config.hydra[part]) for config in (again, plain))
        assert ours == theirs, part


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:100], "plan.json is damaged"),
        (lambda text: text.replace('"planned"', '"planed"'), "plan.json is damaged: planned: Field required"),
        (lambda text: json.dumps([]), "plan.json is damaged"),
    ],
)
def test_a_damaged_plan_is_refused(make, tmp_path, change, message):
    make("seed=1,2").save(tmp_path)
    file = tmp_path / "plan.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=message):
        Plan.load(tmp_path)

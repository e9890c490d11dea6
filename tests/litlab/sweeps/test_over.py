"""Trials of several jobs: `sweep.over`."""

import json
import os
import signal
from statistics import fmean

import pytest
from multiruns import PAIRS, at_work, only, pairs, statuses, sweep_arguments, table
from optuna.trial import TrialState
from plans import plan_of
from processes import Process, run
from records import said

from litlab.errors import UserError
from litlab.runs.run import Run
from litlab.sweeps.outcome import JobResult, by_trial, outcome, trial_result
from litlab.sweeps.pruner import Pruner
from litlab.sweeps.storage import journal
from litlab.sweeps.study import Study


def value_of(job):
    return Run.open(job).record.measured("val/acc")


def leave(folder, number, status, *validations, **overrides):
    """The record that a job leaves, and what the sweep takes it for."""
    best = {"val/acc": max(validations)} if validations else {}
    measured = [{"epoch": at, "step": at, "metrics": {"val/acc": value}} for at, value in enumerate(validations)]
    metrics = {"monitor": "val/acc", "best": best, "validations": measured}
    (folder / str(number)).mkdir(exist_ok=True)
    record = said(status=status, metrics=metrics, overrides=overrides)
    (folder / str(number) / "run.json").write_text(record)
    return JobResult(status, values=best if status == "done" else {})


@pytest.fixture(scope="module")
def two_by_three():
    return plan_of("optimizer.lr=0.001,0.01,0.1", "sweep.over={seed:2}", "sweep.pruner=median")


def test_jobs_are_each_choice_with_each_value(two_by_three):
    assert two_by_three.n_jobs == 6
    assert two_by_three.listing().splitlines() == [
        "0: optimizer.lr=0.001 seed=0",
        "1: optimizer.lr=0.001 seed=1",
        "2: optimizer.lr=0.01 seed=0",
        "3: optimizer.lr=0.01 seed=1",
        "4: optimizer.lr=0.1 seed=0",
        "5: optimizer.lr=0.1 seed=1",
        "6 jobs",
    ]
    drawn = plan_of("sweep=tpe", "optimizer.lr=interval(0.1,0.2)", "sweep.n_trials=4", "sweep.over={seed:[7,9]}")
    assert drawn.listing().splitlines()[2:] == ["each with", "  seed=7", "  seed=9", "8 jobs"]
    assert plan_of("sweep.over={seed:3}").listing().splitlines()[-1] == "3 jobs"
    both = plan_of("optimizer.lr=1,2", "sweep.over={seed:2,trainer.precision:[32-true,bf16-mixed]}")
    assert both.replicates[1] == {"seed": "0", "trainer.precision": "bf16-mixed"}
    assert both.config(both.jobs[0] | both.replicates[3]).trainer.precision == "bf16-mixed"


def test_a_text_reaches_the_jobs_as_it_was():
    texts = ["plain", "a b", "true", "null", "3", "x,[y", "it's"]
    plan = plan_of(f"sweep.over={{notes:[{','.join(map(json.dumps, texts))}]}}")
    assert [plan.config(one).notes for one in plan.replicates] == texts


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["seed=1,2", "sweep.over={seed:3}"], "sweep.over: seed has values of its own; leave out one of the two"),
        (["seed=1", "sweep.over={seed:3}"], "sweep.over: seed has values of its own; leave out one of the two"),
        (["sweep.over={sed:3}"], "sed=0: no such key, did you mean seed?"),
        (["sweep.over={data.batch_size:2}"], "data.batch_size=0: should be greater than 0 (job 0)"),
        (["sweep.over={seed:1}"], "sweep.over.seed=1: should be "),
        (["sweep.over={seed:[3]}"], "sweep.over.seed=[3]: should "),
        (["sweep.over={seed:200000}"], "sweep.over: makes 200,000 jobs; a sweep has at most 100,000"),
        (["sweep.over={seed:2}", "sweep.pruner=hyperband"], "sweep.pruner=hyperband judges single jobs: "),
    ],
)
def test_a_mistake_is_told_before_there_is_a_folder(overrides, line):
    with pytest.raises(UserError) as told:
        plan_of(*overrides)
    assert str(told.value).startswith(line)


def test_a_trial_is_judged_by_the_mean_of_its_jobs(two_by_three, tmp_path):
    study = Study(tmp_path, two_by_three)
    work = [study.next() for _ in range(6)]
    assert study.next() is None
    assert work[3] == (3, {"optimizer.lr": "0.01", "seed": "1"})
    study.tell(0, leave(tmp_path, 0, "done", 0.25))
    assert study.trials()[0].state == TrialState.RUNNING
    study.tell(1, leave(tmp_path, 1, "done", 0.5))
    study.tell(3, leave(tmp_path, 3, "done", 1.0))  # in any order
    study.tell(2, leave(tmp_path, 2, "failed"))
    study.tell(5, leave(tmp_path, 5, "done", 1.0))
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
    assert study.trials()[0].values == [0.375]
    again = Study(tmp_path, two_by_three)
    assert again.ended == {0, 1, 2, 3}
    assert [again.next()[0] for _ in range(2)] == [4, 5]  # job 5 has ended, which is entered with its trial


def test_a_study_that_was_lost_is_filled_from_the_jobs_folders(two_by_three, tmp_path):
    first = {"optimizer.lr": "0.001"}
    leave(tmp_path, 0, "done", 0.25, 0.5, **first, seed="0")
    leave(tmp_path, 1, "interrupted", 0.75, **first, seed="1")
    study = Study(tmp_path, two_by_three)
    assert [study.next()[0] for _ in range(2)] == [0, 1]
    assert study.trials()[0].intermediate_values == {0: 0.5, 1: 0.5}
    assert not Pruner(study.storage.load("median"), 1, jobs=2)(1, 1.0)
    assert Study(tmp_path, two_by_three).trials()[0].intermediate_values == {0: 0.5, 1: 0.75}


def test_what_the_sampler_draws_is_the_trials_and_goes_on_as_it_was(tmp_path):
    plan = plan_of(
        "sweep=tpe", "optimizer.lr=interval(0.1,0.2)", "sweep.n_trials=12", "sweep.over={seed:2}"
    )  # fmt: skip

    def work_off(folder, at_once):
        """Both jobs of a trial end alike; after some jobs another process goes on."""
        folder.mkdir()
        drawn, study = [], Study(folder, plan)
        while following := study.next():
            number, params = following
            if (folder / str(number)).exists():  # it has ended before its trial
                study.tell(number, outcome(folder / str(number), ["val/acc"]))
                continue
            drawn.append((number, params))
            lr = float(params["optimizer.lr"])
            study.tell(number, leave(folder, number, "done", lr, **params))
            if len(drawn) % at_once == 0:
                study = Study(folder, plan)
        return drawn

    undisturbed = work_off(tmp_path / "a", at_once=100)
    assert work_off(tmp_path / "b", at_once=5) == undisturbed
    assert [params["seed"] for _, params in undisturbed] == ["0", "1"] * 12
    assert len({params["optimizer.lr"] for _, params in undisturbed}) == 12


def test_the_mean_is_pruned_and_the_trials_other_jobs_with_it(tmp_path):
    rates = ",".join(str(number / 1000) for number in range(1, 8))
    plan = plan_of(f"optimizer.lr={rates}", "sweep.over={seed:3}", "sweep.pruner=median")
    study = Study(tmp_path, plan)

    def pruner(number):
        return Pruner(study.storage.load("median"), number, jobs=3)

    for level in range(5):  # Optuna lets the first five go on
        for _ in range(3):
            number, _ = study.next()
            assert [pruner(number)(at, level + number % 3) for at in range(2)] == [False, False]
            study.tell(number, leave(tmp_path, number, "done", level + number % 3))
    assert study.trials()[2].values == [3.0]
    assert study.trials()[2].intermediate_values == {0: 3.0, 1: 3.0}
    # The median of the means is 3. A job that is below it alone goes on if its trial is not.
    assert [study.next()[0] for _ in range(3)] == [15, 16, 17]
    assert not pruner(15)(0, 6.0)
    assert not pruner(16)(0, 1.0)  # the mean is 3.5
    assert pruner(17)(0, 1.0)  # 2.67
    assert pruner(15)(1, 9.0)  # what another one was told holds for all
    study.tell(17, leave(tmp_path, 17, "pruned"))
    assert study.trials()[5].state == TrialState.PRUNED
    assert pruner(16)(1, 9.0)  # also one that was still at work
    study = Study(tmp_path, plan)
    number, _ = study.next()
    assert number == 18
    assert pruner(number)(0, 0.0)
    study.tell(number, leave(tmp_path, number, "pruned"))
    assert study.next() is None  # the others of that trial are not begun
    jobs = [JobResult("done", values={"val/acc": 1.0}), JobResult("pruned", "worse"), JobResult("missing")]
    assert trial_result(jobs) == jobs[1]
    assert [job.status for job in by_trial(jobs, 3)[0]] == ["done", "pruned", "pruned"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, mnist_dir):
    return pairs(tmp_path_factory.mktemp("undisturbed"))


def test_a_sweep_over_seeds_finds_the_best_by_the_mean(undisturbed):
    sweep, printed = undisturbed
    means = [fmean(value_of(sweep / str(2 * trial + seed)) for seed in (0, 1)) for trial in range(4)]
    trials = journal(sweep).get_all_trials(0)
    assert [trial.values for trial in trials] == [[mean] for mean in means]
    assert [row["n"] for row in table(sweep)] == [2] * 4
    assert table(sweep)[0]["mean"] == pytest.approx(max(means))
    best = 2 * means.index(max(means))
    assert f"best mean of the jobs {best} to {best + 1}: val/acc {max(means):.4g}, optimizer.lr=" in printed
    assert [file.name for file in (sweep / "experiment").iterdir()] == [f"job_{best}.yaml"]
    assert "8 jobs: 8 done" in printed


@pytest.mark.slow
def test_hopeless_trials_are_pruned_by_several_jobs_at_once(tmp_path):
    drawn = ["sweep=random", "sweep.n_trials=8", "optimizer.lr=choice(0.003,0.000001)", "sweep.seed=2"]
    several = ["sweep.over={seed:2}", "sweep.pruner=median", "trainer.max_epochs=4", "launcher=local"]
    ended = run(tmp_path, "train", *sweep_arguments(tmp_path, *drawn), *several, "launcher.n_jobs=2")
    assert ended.code == 0, ended.err
    sweep = only(tmp_path)
    pruned = [trial for trial in journal(sweep).get_all_trials(0) if trial.state == TrialState.PRUNED]
    assert "1e-06" in {trial.params["optimizer.lr"] for trial in pruned}
    for trial in pruned:
        jobs = [sweep / str(2 * trial.number + seed) for seed in (0, 1)]  # of which one need not have begun
        assert [Run.open(job).record.status for job in jobs if job.exists()].count("done") < 2
        first = [value for key, value in trial.user_attrs.items() if key.startswith("0/")]
        # A job that reports while its trial ends may come too late to be counted.
        assert trial.intermediate_values[0] in [pytest.approx(mean) for mean in (fmean(first), *first)]


@pytest.mark.parametrize(
    "launcher",
    ["basic", *(pytest.param(one, marks=pytest.mark.slow) for one in ("local", "ray"))],
)
def test_a_job_that_was_killed_goes_on_and_the_sweep_ends_in_the_same_table(undisturbed, tmp_path, launcher):
    process = Process(tmp_path, "train", *sweep_arguments(tmp_path, *PAIRS), f"launcher={launcher}")
    process.wait_for(lambda: list((tmp_path / "logs" / "train" / "multiruns").glob("*/3/checkpoints/last.ckpt")))
    sweep = only(tmp_path)
    os.kill(at_work(sweep / "3"), signal.SIGKILL)
    process.end()
    if statuses(sweep) != ["done"] * 8:  # Ray itself starts a killed job again
        ended = run(tmp_path, "train", "-m", "resume=last", f"paths.logs={tmp_path}/logs")
        assert ended.code == 0, ended.err
    assert statuses(sweep) == ["done"] * 8
    assert table(sweep) == table(undisturbed[0])
    assert [one.values for one in journal(sweep).get_all_trials(0)] == [
        one.values for one in journal(undisturbed[0]).get_all_trials(0)
    ]

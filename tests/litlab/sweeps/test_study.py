import math

import optuna
import pytest
from optuna.trial import TrialState

from litlab.config import command_schema
from litlab.errors import UserError
from litlab.sweeps.bases import Base
from litlab.sweeps.outcome import JobResult
from litlab.sweeps.plan import Plan
from litlab.sweeps.pruner import Pruner
from litlab.sweeps.space import Dimension
from litlab.sweeps.storage import JOURNAL, Lock, journal
from litlab.sweeps.study import Study

COMMON = {"objectives": None, "pruner": "none", "storage": None, "on_error": "continue", "dry_run": False}
LR = Dimension(key="lr", low=1e-4, high=1.0, log=True)
WIDTH = Dimension(key="width", low=8, high=64, step=8)
KIND = Dimension(key="kind", choices=["a", "[8,16]"])


def sampled(sampler, n_trials=20, seed=0, objectives=None, **others):
    settings = command_schema.Sampled(**COMMON | others, sampler=sampler, n_trials=n_trials, seed=seed)
    return plan([LR, WIDTH, KIND], settings, [], n_trials, objectives)


def gridded(jobs=3):
    settings = command_schema.Grid(**COMMON, sampler="grid", zip=[], exclude=[])
    choices = [str(number) for number in range(jobs)]
    return plan([Dimension(key="seed", choices=choices)], settings, [{"seed": value} for value in choices], jobs)


def plan(dimensions, settings, jobs, planned, objectives=None):
    base = Base(choices={}, groups=[], config="")
    return Plan(
        dimensions=dimensions,
        bases=[base],
        sampling=settings,
        objectives=objectives or {"val/acc": "max"},
        jobs=jobs,
        planned=planned,
        study="sweep-of-this-test",
    )


def done(accuracy, **others):
    return JobResult("done", values={"val/acc": accuracy, **others})


def leave(folder, number):
    """What a job leaves in its folder."""
    (folder / str(number)).mkdir()
    (folder / str(number) / "run.json").touch()


def quality(params):
    """Best in the middle of the interval, at a width of 40."""
    return 1 - abs(math.log10(float(params["lr"])) + 2) / 4 - abs(int(params["width"]) - 40) / 100


def work_off(study, jobs):
    worked_off = []
    for _ in range(jobs):
        number, params = study.next()
        leave(study.folder, number)
        study.tell(number, done(quality(params)))
        worked_off.append((number, params))
    return worked_off


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "gp", "nsgaii"])
def test_a_study_that_is_opened_again_draws_what_it_would_have(tmp_path, sampler):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    undisturbed = work_off(Study(tmp_path / "a", sampled(sampler)), 20)
    stopped = [work_off(Study(tmp_path / "b", sampled(sampler)), 1)[0] for _ in range(5)]
    begun = Study(tmp_path / "b", sampled(sampler)).next()  # and then its process was killed
    rest = work_off(Study(tmp_path / "b", sampled(sampler)), 15)
    assert rest[0] == begun
    assert stopped + rest == undisturbed
    assert Study(tmp_path / "b", sampled(sampler)).next() is None
    assert len({params["lr"] for _, params in undisturbed}) >= 18
    (tmp_path / "c").mkdir()
    other = work_off(Study(tmp_path / "c", sampled(sampler, seed=1)), 20)
    of_both = {params["lr"] for _, params in other} & {params["lr"] for _, params in undisturbed}
    assert len(of_both) <= {"cmaes": 2, "gp": 2}.get(sampler, 0)  # which try the middle, and the ends


def test_a_grid_is_a_study_of_which_optunas_tools_know_all(tmp_path):
    study = Study(tmp_path, gridded(4))
    work = [study.next() for _ in range(3)]
    assert work == [(0, {"seed": "0"}), (1, {"seed": "1"}), (2, {"seed": "2"})]
    study.tell(0, done(0.5))
    study.tell(1, JobResult("failed", "RuntimeError: no"))
    study.tell(2, JobResult("interrupted", "killed by SIGKILL"))
    leave(tmp_path, 0)
    read = optuna.load_study(study_name="sweep", storage=journal(tmp_path))
    assert [trial.state for trial in read.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
    assert read.best_trial.params == {"seed": 0}
    assert read.trials[1].user_attrs == {"reason": "RuntimeError: no"}
    again = Study(tmp_path, gridded(4))  # job 1 has left nothing, so it is done again
    assert [again.next() for _ in range(4)] == [(1, {"seed": "1"}), (2, {"seed": "2"}), (3, {"seed": "3"}), None]
    again.tell(1, done(0.4))
    assert again.trials()[1].state == TrialState.FAIL  # Optuna's trials end once


def test_more_trials_may_be_asked_for(tmp_path):
    work_off(Study(tmp_path, sampled("random", 3)), 3)
    assert Study(tmp_path, sampled("random", 3)).next() is None
    assert [number for number, _ in work_off(Study(tmp_path, sampled("random", 5)), 2)] == [3, 4]


def test_what_is_told_to_be_first_is_tried_first(tmp_path):
    first = [{"lr": 0.01, "kind": "a"}, {"kind": [8, 16], "width": 40}]
    jobs = work_off(Study(tmp_path, sampled("tpe", 3, first=first)), 3)
    assert (jobs[0][1]["lr"], jobs[0][1]["kind"]) == ("0.01", "a")
    assert (jobs[1][1]["kind"], jobs[1][1]["width"]) == ("[8,16]", "40")
    (tmp_path / "other").mkdir()
    others = work_off(Study(tmp_path / "other", sampled("tpe", 3)), 3)
    assert [params["width"] for _, params in others[:1]] == [jobs[0][1]["width"]]  # as it would have been


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        ({"lr": 2}, "sweep.first: lr=2 is not among lr: 0.0001 to 1.0, log"),
        ({"width": 40.5}, "sweep.first: width=40.5 is not among width: 8 to 64 in steps of 8"),
        ({"width": 41}, "sweep.first: width=41 is not among width: 8 to 64 in steps of 8"),
        ({"width": True}, "sweep.first: width=True is not among width: 8 to 64 in steps of 8"),
        ({"kind": "b"}, r"sweep.first: kind=b is not among kind=a,\[8,16\]"),
        ({"depth": 1}, "sweep.first: depth has not several values; there is lr, width, kind"),
    ],
)
def test_what_cannot_be_first_is_told(first, problem):
    with pytest.raises(UserError, match=problem):
        sampled("tpe", 3, first=[first]).first_jobs()


def test_optunas_samplers_do_better_than_chance(tmp_path):
    found = {}
    for sampler in ("random", "tpe", "gp"):
        (tmp_path / sampler).mkdir()
        plan = sampled(sampler, 40)
        jobs = work_off(Study(tmp_path / sampler, plan), 40)
        found[sampler] = sum(quality(params) for _, params in jobs[20:]) / 20
    assert min(found["tpe"], found["gp"]) > found["random"] + 0.1


def test_a_journal_whose_last_line_was_cut_off_is_mended(tmp_path):
    whole = work_off(Study(tmp_path, sampled("random")), 3)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"op_code":4,"worker_id":"x","study')
    study = Study(tmp_path, sampled("random"))
    assert sorted(study.ended) == [number for number, _ in whole]
    assert work_off(study, 1)[0][0] == 3


@pytest.mark.parametrize("text", ["garbage\n", '{"a":1}\n', "[]\n"])
def test_a_damaged_journal_is_named_with_the_remedy(tmp_path, text):
    work_off(Study(tmp_path, sampled("random")), 3)
    file = tmp_path / JOURNAL
    file.write_text(text + file.read_text())
    with pytest.raises(UserError, match=r"study.journal is damaged: .*; remove it, and what the jobs' folders say"):
        Study(tmp_path, sampled("random"))


def test_a_lock_ends_with_its_process(tmp_path):
    import multiprocessing
    import os
    import signal

    def hold():
        Lock(tmp_path / "lock").acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert Lock(tmp_path / "lock").acquire()


def test_pruning_stops_what_does_worse_than_half_and_never_the_best(tmp_path):
    study = Study(tmp_path, gridded(9))
    stopped = []
    for level in (5, 4, 6, 3, 7, 2, 8, 1, 9):
        number, _ = study.next()
        pruner = Pruner(study.storage.load("median"), number)
        pruned = any(pruner(epoch, level * (epoch + 1)) for epoch in range(4))
        stopped.append(pruned)
        study.tell(number, JobResult("pruned") if pruned else done(float(level)))
    assert stopped == [False] * 5 + [True, False, True, False]  # Optuna lets the first five go on
    assert study.study.best_trial.values == [9.0]
    assert [trial.state for trial in study.trials()].count(TrialState.PRUNED) == 2


def test_a_job_that_goes_on_reports_a_validation_once(tmp_path):
    study = Study(tmp_path, gridded())
    study.next()
    assert not Pruner(study.storage.load("median"), 0)(0, 0.5)
    again = Pruner(study.storage.load("median"), 0)
    assert not again(0, 0.5)
    assert not again(1, 0.6)
    assert Study(tmp_path, gridded()).trials()[0].intermediate_values == {0: 0.5, 1: 0.6}
    study.tell(0, done(0.6))
    assert not again(2, 0.7)  # it is done again, as its folder is gone

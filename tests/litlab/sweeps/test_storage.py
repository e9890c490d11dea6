"""Sweeps whose study is in a database, by a real server."""

import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import sys
import time
from contextlib import contextmanager, suppress

import optuna
import pytest
from optuna.pruners import NopPruner
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from postgresql import Server, free_port
from processes import Process, contents, run
from test_study import COMMON, LR, done, sampled
from test_study import plan as planned
from test_sweep import only, record, statuses, sweep_arguments, table

from litlab.config import command_schema
from litlab.errors import ProcessLost
from litlab.runs.run import Run
from litlab.sweeps.plan import Plan
from litlab.sweeps.pruner import Pruner
from litlab.sweeps.storage import journal, probe
from litlab.sweeps.study import Study

pytestmark = [
    pytest.mark.usefixtures("mnist_dir"),
]

GRID = ("seed=1,2", "optimizer.lr=0.001,0.01", "model.net.channels=[8,16],[4,8]")
TPE = ("sweep=tpe", "sweep.n_trials=13", "optimizer.lr=tag(log,interval(1e-4,0.1))", "data.batch_size=choice(20,50)")
RATES = "optimizer.lr=0.003,0.002,0.001,0.004,0.005,0.000001,0.0000001"
PRUNED = ("sweep.pruner=median", RATES, "trainer.max_epochs=3")


@pytest.fixture(scope="module")
def server():
    with Server() as server:
        yield server


def studies(url):
    """The trials of all studies in the database, by their names."""
    storage = RDBStorage(url)
    names = optuna.get_all_study_names(storage)
    found = {name: optuna.load_study(study_name=name, storage=storage).trials for name in names}
    storage.engine.dispose()
    return found


def study_of(sweep, url):
    return studies(url)[Plan.load(sweep).study]


def without_times(trials):
    return [(one.number, one.state, one.values, one.params, one.intermediate_values) for one in trials]


def in_the_journal(sweep):
    return optuna.load_study(study_name="sweep", storage=journal(sweep)).trials


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [GRID, TPE, PRUNED], ids=["grid", "tpe", "pruned"])
def test_a_study_in_a_database_is_the_same_to_the_bit(server, tmp_path, jobs):
    arguments = sweep_arguments(tmp_path, *jobs)
    assert run(tmp_path, "train", *arguments, f"hydra.sweep.dir={tmp_path}/file").code == 0
    in_database = [f"hydra.sweep.dir={tmp_path}/database", f"sweep.storage={server.url}"]
    ended = run(tmp_path, "train", *arguments, *in_database)
    assert ended.code == 0, ended.err
    assert not (tmp_path / "database" / "study.journal").exists()
    assert table(tmp_path / "database") == table(tmp_path / "file")
    trials = study_of(tmp_path / "database", server.url)
    assert without_times(trials) == without_times(in_the_journal(tmp_path / "file"))
    assert (TrialState.PRUNED in {trial.state for trial in trials}) == (jobs is PRUNED)


@pytest.mark.slow
def test_several_jobs_at_once_report_to_the_database(server, tmp_path):
    arguments = sweep_arguments(tmp_path, *PRUNED, "launcher=local", f"sweep.storage={server.url}")
    ended = run(tmp_path, "train", *arguments)
    assert ended.code == 0, ended.err
    trials = study_of(only(tmp_path), server.url)
    assert [trial.state.name.lower().replace("complete", "done") for trial in trials] == statuses(only(tmp_path))
    for trial in trials:
        validations = Run.open(only(tmp_path) / str(trial.number)).record.metrics.validations
        assert trial.intermediate_values == {at: one.metrics["val/acc"] for at, one in enumerate(validations)}


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_with_its_study(server, tmp_path):
    moments = random.Random(0)
    arguments = sweep_arguments(tmp_path, *GRID, f"sweep.storage={server.url}")
    kills = 0
    while kills < 3:
        process = Process(tmp_path, "train", *arguments)
        process.wait_for(lambda: (tmp_path / "logs" / "train" / "multiruns").exists())
        time.sleep(moments.uniform(0.3, 1.2))
        process.send(signal.SIGKILL)
        kills += process.end().code == -signal.SIGKILL
        arguments = ["-m", f"resume={only(tmp_path)}"]
    ended = run(tmp_path, "train", *arguments)
    assert ended.code == 0, ended.err
    trials = study_of(only(tmp_path), server.url)
    assert [trial.number for trial in trials] == list(range(8))
    best = [record(only(tmp_path) / str(job))["metrics"]["best"]["val/acc"] for job in range(8)]
    assert [trial.value for trial in trials] == best


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["none", "median"])
def test_a_database_that_goes_away_stops_the_sweep_and_nothing_is_lost(tmp_path, pruner):
    with Server() as server:
        longer = ("trainer.max_epochs=4,40,5", f"sweep.pruner={pruner}", "launcher=local")
        process = Process(tmp_path, "train", *sweep_arguments(tmp_path, *longer), f"sweep.storage={server.url}")
        process.wait_for(lambda: len(list(tmp_path.glob("logs/train/multiruns/*/*/checkpoints/last.ckpt"))) >= 2)
        server.stop()
        ended = process.end()
        sweep = only(tmp_path)
        assert ended.code == 2
        assert ended.err.startswith("train: sweep.storage does not answer: "), ended.err
        assert ended.lines()[0].endswith(
            f"; what is done is kept, go on with: python -m litlab train -m resume={sweep}"
        )
        assert len(ended.lines()) == 1
        assert set(statuses(sweep)) <= {"done", "interrupted", "not begun"}
        assert "interrupted" in statuses(sweep)  # the longer job, at the latest when the result of the other is told
        if pruner == "median":
            reasons = [record(job.parent)["reason"] for job in sweep.glob("*/run.json")]  # of the other it is a signal
            assert any(reason and reason.startswith("sweep.storage does not answer: ") for reason in reasons), reasons
        gone = run(tmp_path, "train", "-m", f"resume={sweep}")
        assert (gone.code, len(gone.lines())) == (2, 1)
        assert gone.err.startswith(f"train: sweep.storage={server.url}: connection failed: ")
        shutil.copytree(sweep, tmp_path / "without")
        server.start()
        ended = run(tmp_path, "train", "-m", f"resume={sweep}")
        assert ended.code == 0, ended.err
        assert [trial.number for trial in study_of(sweep, server.url)] == [0, 1, 2]
        assert {trial.state for trial in study_of(sweep, server.url)} == {TrialState.COMPLETE}
    ended = run(tmp_path, "train", "-m", f"resume={tmp_path}/without", "sweep.storage=null")
    assert ended.code == 0, ended.err
    assert table(tmp_path / "without") == table(sweep)


def test_a_pruner_that_is_not_answered_says_so(tmp_path):
    with Server() as server:
        study = Study(tmp_path, sampled("random", storage=server.url))
        number, _ = study.next()
        pruner = Pruner(study.storage.load("median"), number)
        assert not pruner(0, 0.5)
        study.study._storage._backend.engine.dispose()
    with pytest.raises(ProcessLost, match="^sweep.storage does not answer: connection failed: "):
        pruner(1, 0.5)


def proxy(file, port):
    optuna.storages.run_grpc_proxy_server(RDBStorage(f"sqlite:///{file}"), host="127.0.0.1", port=port)


@contextmanager
def serving(file, port):
    """Optuna's proxy before a database in that file."""
    process = multiprocessing.get_context("spawn").Process(target=proxy, args=(file, port))
    process.start()
    try:
        while process.is_alive():
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.join()


@pytest.mark.slow
def test_any_storage_of_optunas_may_stand_behind_its_proxy(tmp_path):
    port = free_port()
    storage = f"sweep.storage=grpc://127.0.0.1:{port}"
    longer = ("seed=1,2,3,4", "trainer.max_epochs=5", "sweep.pruner=median")
    arguments = sweep_arguments(tmp_path, *longer)
    assert run(tmp_path, "train", *arguments, f"hydra.sweep.dir={tmp_path}/file").code == 0
    gone = run(tmp_path, "train", *arguments, storage)
    refusal = f"train: {storage}: failed to connect to all addresses; "
    assert (gone.code, len(gone.lines()), (tmp_path / "logs" / "train" / "multiruns").exists()) == (2, 1, False)
    assert gone.err.startswith(refusal)
    with serving(tmp_path / "studies", port):
        process = Process(tmp_path, "train", *arguments, storage)
        process.wait_for(lambda: list(tmp_path.glob("logs/train/multiruns/*/1/checkpoints/last.ckpt")))
    ended = process.end()
    sweep = only(tmp_path)
    assert ended.code == 2
    assert re.fullmatch(
        rf"train: sweep.storage does not answer: .*; what is done is kept, go on with: .* -m resume={sweep}\n",
        ended.err,
    ), ended.err
    assert set(statuses(sweep)) <= {"done", "pruned", "interrupted", "not begun"}
    with serving(tmp_path / "studies", port):
        ended = run(tmp_path, "train", "-m", f"resume={sweep}")
    assert (ended.code, ended.err) == (0, ""), ended.err
    assert table(sweep) == table(tmp_path / "file")
    trials = optuna.load_study(study_name=Plan.load(sweep).study, storage=f"sqlite:///{tmp_path}/studies").trials
    assert without_times(trials) == without_times(in_the_journal(tmp_path / "file"))


@pytest.mark.slow
def test_a_sweep_may_move_into_a_database_and_then_its_folder_elsewhere(server, tmp_path):
    drawn = ("sweep=tpe", "sweep.pruner=median", "optimizer.lr=tag(log,interval(1e-6,0.1))", "launcher=local")
    arguments = sweep_arguments(tmp_path, *drawn, "trainer.max_epochs=2")
    assert run(tmp_path, "train", *arguments, "sweep.n_trials=8").code == 0
    before = without_times(in_the_journal(only(tmp_path)))
    results = {file: text for file, text in contents(only(tmp_path)).items() if file.name == "run.json"}
    here = [f"resume={only(tmp_path)}", f"sweep.storage={server.url}"]
    ended = run(tmp_path, "train", *arguments, *here)  # repeated without the number of trials, which stays
    assert ended.code == 0, ended.err
    assert "training on" not in ended.out
    assert {file: file.read_bytes() for file in results} == results
    assert without_times(study_of(only(tmp_path), server.url)) == before
    known = len(studies(server.url))
    only(tmp_path).rename(tmp_path / "elsewhere")
    more = [f"resume={tmp_path}/elsewhere", "sweep=tpe", "sweep.n_trials=9"]
    ended = run(tmp_path, "train", "-m", *more)
    assert ended.code == 0, ended.err
    assert without_times(study_of(tmp_path / "elsewhere", server.url))[:8] == before
    assert len(study_of(tmp_path / "elsewhere", server.url)) == 9
    assert len(studies(server.url)) == known


def test_each_sweep_has_a_study_of_its_own(server, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        ended = run(tmp_path, "train", *sweep_arguments(tmp_path / folder, "seed=1,2"), f"sweep.storage={server.url}")
        assert ended.code == 0, ended.err
        assert len(study_of(only(tmp_path / folder), server.url)) == 2


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("postgresql+psycopg://litlab@127.0.0.1:1/x", "connection failed: .*port 1 failed: Connection refused.*"),
        ("postgresql+psycopg://litlab@127.0.0.1:{port}/other", '.*database "other" does not exist'),
        ("postgresql+psycopg://nobody@127.0.0.1:{port}/studies", '.*role "nobody" does not exist'),
        (
            "postgresql+psycopg2://x@y/z",
            r"takes psycopg2; pip install -e '.\[postgresql\]' brings it for postgresql\+psycopg://…",
        ),
        ("nonsense", "Could not parse SQLAlchemy URL .*"),
        ("oracl://x", "Can't load plugin: .*"),
        ("grpc://127.0.0.1", "should be grpc://HOST:PORT"),
        ("grpc://127.0.0.1:x", "Port could not be cast to integer value as 'x'"),
    ],
)
def test_a_database_that_cannot_be_had_is_told_in_one_line_and_no_folder_is_made(server, tmp_path, url, line):
    url = url.format(port=server.port)
    ended = run(tmp_path, "train", *sweep_arguments(tmp_path, "seed=1,2", f"sweep.storage={url}"))
    assert ended.code == 2
    assert re.fullmatch(f"train: sweep.storage={re.escape(url)}: {line}\n", ended.err), ended.err
    assert not (tmp_path / "logs").exists()


def test_a_driver_that_is_not_installed_is_named(tmp_path):
    def without_driver():
        sys.modules["psycopg"] = None

    url = "sweep.storage=postgresql+psycopg://x@y/z"
    ended = run(tmp_path, "train", *sweep_arguments(tmp_path, "seed=1,2", url), prepare=without_driver)
    assert ended.code == 2
    assert ended.err.endswith("takes psycopg; pip install -e '.[postgresql]' brings it for postgresql+psycopg://…\n")


@pytest.mark.slow
def test_a_password_is_kept_nowhere(server, tmp_path, monkeypatch):
    for option in ("-m", "trainer.max_epochs=1"):  # the second is a run, which takes no storage
        url = f"sweep.storage=postgresql+psycopg://x:hunter2@127.0.0.1:{server.port}/studies"
        refused = run(tmp_path, "train", option, "seed=1,2" if option == "-m" else "seed=1", url)
        assert refused.code == 2
        assert refused.err.startswith("train: sweep.storage: holds a password, ")
        assert "hunter2" not in refused.out + refused.err
    server.tell("create role keeper superuser login password 'hunter2'")
    rules = server.folder / "data" / "pg_hba.conf"
    rules.write_text("host all keeper 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    server.tell("select pg_reload_conf()")
    arguments = sweep_arguments(tmp_path, "seed=1,2", f"sweep.storage={server.url_for('keeper')}")
    refused = run(tmp_path, "train", *arguments)
    assert (refused.code, len(refused.lines())) == (2, 1)
    assert "no password supplied" in refused.err
    monkeypatch.setenv("PGPASSWORD", "hunter3")
    refused = run(tmp_path, "train", *arguments)
    assert (refused.code, len(refused.lines())) == (2, 1)
    assert "password authentication failed" in refused.err
    assert not (tmp_path / "logs").exists()
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    ended = run(tmp_path, "train", *arguments, "launcher=local", "sweep.pruner=median")
    assert ended.code == 0, ended.err
    assert len(study_of(only(tmp_path), server.url)) == 2
    assert not [file for file, text in contents(tmp_path).items() if b"hunter" in text]


WRITERS, TRIALS = 8, 10_000


def measured(number, validation):
    """What the job of that number has measured; no two have the same."""
    return number + validation / 4


def write(folder, plan, start):
    """Begin jobs, report what they measure and enter how they end, all at the pace of the database."""
    os.nice(10)  # they take minutes, in which other tests are to have their turn
    study = Study(folder, plan)
    study.study.pruner = NopPruner()
    start.wait()
    for _ in range(TRIALS // WRITERS):
        number, _ = study.next()
        report = Pruner(study.study, number)
        report(0, measured(number, 0))
        study.tell(number, done(measured(number, 1)))


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_eight_writers_lose_and_double_none_of_ten_thousand_trials(server, tmp_path):
    """In a sweep one process begins and ends the trials and the others report; here all do all, which is harder."""
    settings = command_schema.Sampled(**COMMON | {"storage": server.url}, sampler="random", n_trials=TRIALS, seed=0)
    plan = planned([LR], settings, [], TRIALS)
    probe(server.url)  # has the tables made
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(WRITERS)
    writers = [context.Process(target=write, args=(tmp_path, plan, start)) for _ in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    trials = studies(server.url)[plan.study]
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert [trial.value for trial in trials] == [measured(number, 1) for number in range(TRIALS)]
    assert [trial.intermediate_values for trial in trials] == [{0: measured(number, 0)} for number in range(TRIALS)]
    assert len({trial.params["lr"] for trial in trials}) == TRIALS

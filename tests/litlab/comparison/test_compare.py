import csv
import io
import json
import subprocess
import sys
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from itertools import count

import numpy as np
import pytest
from browser import opened_offline
from conftest import compose
from matplotlib import image
from records import READABLE, UNREADABLE
from scipy import stats

from litlab.comparison.compare import compare, report
from litlab.comparison.pictures import draw
from litlab.config import schema
from litlab.config.compose import check, run_config
from litlab.errors import UserError
from litlab.runs.record import Metrics, Record, Validation

NO_TORCH = (
    "import sys; sys.argv = ['compare', *sys.argv[1:]]\n"
    "from litlab import cli\n"
    "try: cli.compare()\n"
    "except SystemExit as end: code = end.code\n"
    "else: code = 0\n"
    "heavy = {'torch', 'lightning', 'torchmetrics', 'torchvision', 'optuna', 'matplotlib'} & set(sys.modules)\n"
    "assert not heavy, heavy\n"
    "sys.exit(code)"
)

SGD = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "nesterov": False}


def command(*arguments, cwd=None):
    """Run `compare` in a process that fails if it has imported what takes long."""
    return subprocess.run(
        [sys.executable, "-c", NO_TORCH, *map(str, arguments)], capture_output=True, text=True, timeout=60, cwd=cwd
    )


@pytest.fixture(scope="module")
def default():
    """The settings of a run, as run.json has them."""
    return check(run_config(compose()), schema.Train).model_dump()


@pytest.fixture
def make(tmp_path, default):
    """Make a run's folder: settings by dotted key, and what it has measured."""
    order = count()

    def run(folder, value=None, seed=0, status="done", settings=(), curve=(), test=None, **changes):
        own = deepcopy(default)
        own["seed"] = own["data"]["seed"] = seed
        for key, setting in dict(settings).items():
            *parents, name = key.split(".")
            place = own
            for parent in parents:
                place = place[parent]
            place[name] = setting
        metrics = Metrics(
            monitor="val/acc",
            best={} if value is None else {"val/acc": value, "val/loss": 1 - value},
            best_epoch=None if value is None else seed,
            last={"val/acc": 0.5, "train/loss": 0.25},
            test={} if test is None else {"test/acc": test},
            validations=[
                Validation(epoch=epoch, step=epoch, metrics={"val/acc": point}) for epoch, point in enumerate(curve)
            ],
        )
        started = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=next(order))
        fields = {"training_seconds": 10.0 + seed, "examples_per_second": 100.0, "settings": own, "metrics": metrics}
        record = Record(
            command="train", status=status, started=started, seed=seed, python="3", versions={}, **fields | changes
        )
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "run.json").write_text(record.model_dump_json())

    return run


def learning_rate(value):
    return {"optimizer.lr": value}


def test_the_statistics_are_numpys_and_scipys(make, tmp_path):
    values = [0.91, 0.937, 0.9502]
    for seed, value in enumerate(values):
        make(f"runs/{seed}", value, seed=seed)
    make("runs/one", 0.8, settings=learning_rate(0.5))
    best, single = compare([tmp_path]).groups
    assert best.main.n == 3
    assert best.main.mean == np.mean(values)
    assert best.main.std == np.std(values, ddof=1)
    low, high = stats.t.interval(0.95, 2, loc=0, scale=stats.sem(values))
    assert (-best.main.interval, best.main.interval) == pytest.approx((low, high), rel=1e-12)
    assert best.best_epoch == 1
    assert best.seconds == 11
    assert (single.main.n, single.main.mean, single.main.std, single.main.interval) == (1, 0.8, None, None)


def test_groups_with_the_same_seeds_are_compared_seed_by_seed(make, tmp_path):
    values = {"0.001": [0.9, 0.93, 0.91], "0.5": [0.85, 0.9, 0.865]}
    for rate, of_rate in values.items():
        for seed, value in enumerate(of_rate):
            make(f"{rate}/{seed}", value, seed=seed, settings=learning_rate(float(rate)))
    make("other/0", 0.8, seed=0, settings=learning_rate(0.1))
    make("other/1", 0.8, seed=7, settings=learning_rate(0.1))
    best, second, other = compare([tmp_path]).groups
    expected = stats.ttest_rel(values["0.5"], values["0.001"]).confidence_interval(0.95)
    difference = second.to_best
    assert (difference.mean - difference.interval, difference.mean + difference.interval) == pytest.approx(expected)
    assert (difference.n, best.to_best, other.to_best) == (3, None, None)


def test_folds_are_averaged_over_and_whatever_is_told(make, tmp_path):
    for seed, fold in ((0, 0), (0, 1), (1, 0), (1, 1)):
        settings = {"data.fold": fold, "optimizer.lr": 0.1 * (1 + seed), "name": f"seed{seed}"}
        make(f"{seed}{fold}", 0.9 - fold / 10 - seed / 100, seed=seed, settings=settings)
    assert [group.main.n for group in compare([tmp_path]).groups] == [2, 2]
    assert compare([tmp_path], over=["optimizer.lr", "seed", "data.fold"]).groups[0].main.n == 4
    single = compare([tmp_path], over=[])
    assert [group.main.n for group in single.groups] == [1] * 4
    assert {"seed", "data.fold", "optimizer.lr"} >= set(single.keys)
    named = compare([tmp_path], columns=["name", "optimizer.lr"])
    assert [column.name for column in named.columns()][:3] == ["name", "optimizer.lr", "n"]
    shown = compare([tmp_path], columns=["optimizer.lr", "trainer.max_epochs"])
    assert shown.keys == ["optimizer.lr", "trainer.max_epochs"]
    with pytest.raises(UserError, match=r"columns: optimizer.lrr is not a setting of any run, did you mean optim"):
        compare([tmp_path], columns=["optimizer.lrr"])


def test_several_metrics_are_shown(make, tmp_path):
    for seed in range(2):
        make(str(seed), 0.9 + seed / 100, seed=seed, test=0.8 + seed / 100)
    comparison = compare([tmp_path], ["val/acc", "test/acc", "val/loss"])
    (group,) = comparison.groups
    assert {name: one.mean for name, one in group.statistics.items()} == pytest.approx(
        {"val/acc": 0.905, "test/acc": 0.805, "val/loss": 0.095}
    )
    done = command(tmp_path, "metric=val/acc,test/acc", "columns=optimizer.lr", "over=seed", "format=csv")
    assert done.returncode == 0, done.stderr
    header, row = csv.reader(io.StringIO(done.stdout))
    assert header[:7] == ["optimizer.lr", "n", "mean", "std", "interval", "mean test/acc", "interval test/acc"]
    assert float(row[5]) == group.statistics["test/acc"].mean
    with pytest.raises(UserError, match="metric=test/ac: no such metric, did you mean test/acc"):
        compare([tmp_path], ["val/acc", "test/ac"])


def test_runs_that_differ_only_in_what_makes_no_difference_are_one_group(make, tmp_path):
    elsewhere = {"paths.root": "/a", "paths.data": "/a/data", "paths.logs": "/b", "data.dir": "/a/data/x"}
    here = {"paths.root": "/c", "paths.data": "/c/data", "paths.logs": "/c/logs", "data.dir": "/c/data/x"}
    make("0", 0.9, seed=0, settings=elsewhere | {"test": False})
    make("1", 0.9, seed=1, settings=here | {"checkpoint.every_n_steps": 7, "checkpoint.every_minutes": None})
    comparison = compare([tmp_path])
    assert comparison.keys == []
    assert [group.main.n for group in comparison.groups] == [2]


def test_another_seed_of_the_data_alone_or_another_file_is_a_difference(make, tmp_path):
    make("0", 0.9, seed=1)
    make("1", 0.9, seed=1, settings={"data.seed": 5})
    folders = {"paths.data": "/data"}
    make("2", 0.9, settings=folders | {"data.dir": "/data/a"})
    make("3", 0.9, settings=folders | {"data.dir": "/data/b"})
    comparison = compare([tmp_path])
    assert set(comparison.keys) == {"data.seed", "data.dir"}
    assert len(comparison.groups) == 4


def test_columns_are_what_differs_and_a_class_goes_by_its_name(make, tmp_path):
    make("adam", 0.9)
    make("wide", 0.8, settings={"model.net.channels": [32, 64]})
    make("sgd", 0.7, settings={"optimizer": SGD})
    make("sgd-0", 0.6, settings={"optimizer": SGD | {"momentum": 0.0}})
    comparison = compare([tmp_path])
    # Adam's betas and the like say no more than that it is Adam.
    assert comparison.keys == ["model.net.channels", "optimizer", "optimizer.lr", "optimizer.momentum"]
    shown = [group.settings for group in comparison.groups]
    assert [settings["optimizer"] for settings in shown] == ["Adam", "Adam", "SGD", "SGD"]
    assert shown[1]["model.net.channels"] == [32, 64]
    assert [settings.get("optimizer.momentum") for settings in shown] == [None, None, 0.9, 0.0]
    assert "optimizer.momentum" not in shown[0]


def test_classes_of_one_name_from_different_modules_stay_apart(make, tmp_path):
    make("0", 0.9, settings={"optimizer": SGD})
    make("1", 0.8, settings={"optimizer": SGD | {"_target_": "mine.SGD"}})
    comparison = compare([tmp_path])
    assert comparison.keys == ["optimizer._target_"]
    assert [group.settings["optimizer._target_"] for group in comparison.groups] == ["torch.optim.SGD", "mine.SGD"]


def test_a_schedule_or_none(make, tmp_path):
    make("0", 0.9)
    make("1", 0.8, settings={"scheduler": {"_target_": "litlab.schedulers.OneCycle", "warmup": 0.3}})
    comparison = compare([tmp_path])
    assert comparison.keys == ["scheduler"]
    assert [group.settings.get("scheduler") for group in comparison.groups] == [None, "OneCycle"]


def test_counts_what_is_not_done(make, tmp_path):
    sweep = "logs/train/multiruns/now"
    make(f"{sweep}/0", 0.9)
    make(f"{sweep}/1", 0.95, seed=1, status="failed")
    make(f"{sweep}/2", 0.1, seed=2, status="pruned")
    make(f"{sweep}/3", seed=3, status="running")
    make(f"{sweep}/4", 0.9, status="failed", settings=learning_rate(9.0))
    make(f"{sweep}/5", float("nan"), seed=4)
    make(f"{sweep}/6", status="failed", settings={}, seed=5)
    (tmp_path / sweep / "7").mkdir()
    (tmp_path / sweep / "8").mkdir()
    (tmp_path / sweep / "8" / "run.json").write_text("{")
    (tmp_path / sweep / "plan.json").write_text('{"planned": 12, "more": []}')
    comparison = compare([tmp_path])
    best, worst = comparison.groups
    assert (best.main.n, best.main.mean, best.main.std) == (1, 0.9, None)
    assert best.counts == {"running": 1, "done": 2, "pruned": 1, "failed": 2}
    assert best.not_done() == "1 running, 1 pruned, 2 failed, 1 without value"
    assert (worst.main.n, worst.main.mean, worst.not_done()) == (0, None, "1 failed")
    assert comparison.totals() == "12 planned: 1 running, 2 done, 1 pruned, 3 failed, 1 damaged, 4 missing"
    assert list(comparison.damaged) == [tmp_path / sweep / "8"]


def test_a_run_that_failed_before_it_had_settings_counts(make, tmp_path):
    make("0", 0.9)
    make("1", status="failed")
    record = json.loads((tmp_path / "1" / "run.json").read_text()) | {"settings": {}}
    (tmp_path / "1" / "run.json").write_text(json.dumps(record))
    comparison = compare([tmp_path])
    assert comparison.totals() == "2 runs: 1 done, 1 failed"
    assert [group.counts for group in comparison.groups] == [{"done": 1}]


def test_evaluations_are_passed_over_and_a_folder_given_twice_counts_once(make, tmp_path):
    make("runs/0", 0.9)
    make("runs/1", 0.9, evaluated="/checkpoint")
    assert compare([tmp_path, tmp_path / "runs", tmp_path / "runs/0"]).totals() == "1 run: 1 done"


@pytest.mark.parametrize("plan", ["", "[]", "{}", '{"planned": null}', "\x00"])
def test_a_plan_that_says_nothing_is_tolerated(make, tmp_path, plan):
    make("0", 0.9)
    (tmp_path / "plan.json").write_text(plan)
    assert compare([tmp_path]).totals() == "1 planned: 1 done"


def test_the_best_is_first_by_the_direction_of_the_metric(make, tmp_path):
    for name, value in {"a": 0.2, "b": 0.9, "c": None, "d": 0.4}.items():
        make(name, value, settings=learning_rate(0.1 + (value or 0)), test=value)
    assert [group.main.mean for group in compare([tmp_path]).groups] == [0.9, 0.5, 0.4, 0.2]  # c has only its last
    assert [group.main.mean for group in compare([tmp_path], "test/acc", "min").groups] == [0.2, 0.4, 0.9, None]
    assert [group.main.mean for group in compare([tmp_path], "val/loss", "max").groups][:2] == [0.8, 0.6]


@pytest.mark.parametrize(
    ("metric", "value"),
    [("test/acc", 0.7), ("train/loss", 0.25), ("training_seconds", 10.0), ("examples_per_second", 100.0)],
)
def test_any_metric_will_do(make, tmp_path, metric, value):
    make("0", 0.9, test=0.7)
    assert compare([tmp_path], metric, "min").groups[0].main.mean == value
    with pytest.raises(UserError, match="give mode=min or mode=max"):
        compare([tmp_path], metric)


def test_wrong_metrics(make, tmp_path):
    make("0", 0.9)
    with pytest.raises(UserError, match=r"no such metric, did you mean val/acc\?; there is examples_per_second, .*val"):
        compare([tmp_path], "val/ac")
    make("1", 0.9, metrics=Metrics(monitor="val/loss", best={"val/loss": 1.0}))
    with pytest.raises(UserError, match="the runs monitor val/acc, val/loss; give metric="):
        compare([tmp_path])
    assert compare([tmp_path], "val/loss").mode == "max"  # the direction of those that monitor it


@pytest.mark.parametrize(
    ("where", "seeds"),
    [
        ("seed!=1", {0, 2, 3}),
        ("optimizer.lr<1e-2", {0, 1}),
        ("optimizer.lr<1e-2 and val/acc>0.85", {0}),
        ("status==failed", {3}),
        ("optimizer==Adam and test==true", {0, 1, 2, 3}),
        ("test/acc>0", {2}),
    ],
)
def test_where(make, tmp_path, where, seeds):
    make("0", 0.9, seed=0)
    make("1", 0.8, seed=1)
    make("2", 0.7, seed=2, settings=learning_rate(0.5), test=0.9)
    make("3", 0.6, seed=3, settings=learning_rate(0.5), status="failed")
    comparison = compare([tmp_path], where=where)
    assert {entry.run.record.seed for group in comparison.groups for entry in group.entries} == seeds
    assert comparison.totals() == f"4 runs: 3 done, 1 failed; {len(seeds)} where {where}"


def test_a_wrong_where(make, tmp_path):
    make("0", 0.9)
    with pytest.raises(
        UserError, match=r"optimizer.lrr is neither a setting nor a metric.*did you mean optimizer.lr\?"
    ):
        compare([tmp_path], where="optimizer.lrr<1")
    with pytest.raises(UserError, match="none of 1 runs is like that"):
        compare([tmp_path], where="seed==7")
    with pytest.raises(UserError, match="is not a condition"):
        compare([tmp_path], where="seed=7")


@pytest.fixture
def two_groups(make, tmp_path):
    curve = [0.5, 0.8, 0.85]
    for seed in range(3):
        make(f"runs/{seed}", 0.9 + seed / 300, seed=seed, curve=[point + seed / 100 for point in curve])
        make(f"runs/sgd{seed}", 0.7 + seed / 70, seed=seed, settings={"optimizer": SGD, "trainer.max_time": "a|b"})
    make("runs/failed", seed=3, status="failed", settings={"optimizer": SGD, "trainer.max_time": "a|b"})
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "run.json").write_text("{")
    return tmp_path / "runs"


COLUMNS = "n mean val/acc std ± 95 % to best ± 95 % best epoch time not done best run"
HEADER = ["optimizer", "optimizer.lr", "trainer.max_time"]


def test_json_has_everything(two_groups):
    done = command(two_groups, "format=json")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "damaged" in done.stderr
    document = json.loads(done.stdout)
    expected = compare([two_groups])
    assert (document["metric"], document["mode"]) == ("val/acc", "max")
    assert document["counts"] == {"done": 6, "failed": 1, "damaged": 1}
    assert document["damaged"] == [str(two_groups / "damaged")]
    first, second = document["groups"]
    statistics = ("n", "mean", "std", "interval")
    assert list(first) == [
        "names", "settings", *statistics, "best_epoch", "seconds", "counts", "others", "to_best", "runs"
    ]  # fmt: skip
    assert second["settings"] == {"optimizer": "SGD", "optimizer.lr": 0.1, "trainer.max_time": "a|b"}
    assert second["counts"] == {"done": 3, "failed": 1}
    assert first["runs"] == [str(two_groups / str(seed)) for seed in range(3)]
    for group, own in zip(expected.groups, (first, second), strict=True):
        assert [own[name] for name in statistics] == [
            getattr(group.main, name) for name in statistics
        ]  # to the last bit
        assert (own["best_epoch"], own["seconds"]) == (group.best_epoch, group.seconds)
    assert first["to_best"] is None
    assert second["to_best"]["n"] == 3


def test_csv_has_all_digits(two_groups):
    done = command(two_groups, "format=csv")
    header, first, second = csv.reader(io.StringIO(done.stdout))
    differences = ["difference", "difference_interval"]
    assert header == [
        *HEADER, "n", "mean", "std", "interval", *differences, "best_epoch", "seconds", "not_done", "runs"
    ]  # fmt: skip
    group = compare([two_groups]).groups[0]
    numbers = [group.main.n, group.main.mean, group.main.std, group.main.interval, group.best_epoch, group.seconds]
    assert [float(cell) for cell in (*first[3:7], *first[9:11])] == numbers
    assert first[7:9] == ["", ""]
    assert float(second[7]) == pytest.approx(np.mean([0.7 + seed / 70 - 0.9 - seed / 300 for seed in range(3)]))
    assert first[:3] == ["Adam", "0.001", "null"]
    assert second[-2] == "1 failed"
    assert first[-1].split(";") == [str(two_groups / str(seed)) for seed in range(3)]


def test_markdown_is_a_table(two_groups):
    done = command(two_groups, "format=markdown")
    lines = [line.replace("\\|", "/").strip("|").split(" | ") for line in done.stdout.splitlines()]
    assert len(lines) == 4
    assert {len(line) for line in lines} == {13}
    assert [cell.strip() for cell in lines[0]][:3] == HEADER
    assert [cell.strip() for cell in lines[3]] == [
        "SGD", "0.1", "a/b", "3", "0.71429", "0.014", "0.035", "-0.19", "0.027", "1", "11.0 s", "1 failed", "sgd2"
    ]  # fmt: skip


def test_a_table_for_people(two_groups):
    done = command(two_groups)
    lines = done.stdout.splitlines()
    assert " ".join(lines[0].split()) == " ".join(
        [*HEADER, "n mean val/acc std ± 95 % to best ± 95 % best epoch time not done best run"]
    )
    assert lines[2].split() == ["Adam", "0.001", "null", "3", "0.90333", "0.0033", "0.0083", "1", "11.0", "s", "2"]
    assert lines[-1] == "8 runs: 6 done, 1 failed, 1 damaged"
    assert "\x1b" not in done.stdout


def test_a_narrow_terminal_truncates_no_number(two_groups, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    table = compare([two_groups]).as_table()
    assert "…" not in table
    assert all(number in table for number in ("0.001", "0.90333", "0.71429", "0.0083"))


def test_text_of_others_cannot_move_the_cursor_or_mean_markup(make, tmp_path):
    make("0", 0.9, settings={"trainer.max_time": "[red]\x1b[2J\n"})
    make("1", 0.8)
    comparison = compare([tmp_path])
    for text in (comparison.as_table(), comparison.as_markdown()):
        assert "[red]\\x1b[2J\\n" in text


def test_pictures_show_something(make, tmp_path):
    channels = [[8, 16], [16, 32]]
    for number in range(12):
        rate = 10 ** (-1 - number / 4)
        settings = learning_rate(rate) | {"model.net.channels": channels[number % 2], "trainer.max_time": "$x$"}
        make(f"runs/{number}", 0.9 - rate, settings=settings, seed=number % 3, curve=[0.1, 0.5, 0.9 - rate])
    make("runs/sgd", 0.5, settings={"optimizer": SGD})
    folder = tmp_path / "a" / "b"
    files = draw(compare([tmp_path / "runs"]), folder)
    assert [file.name for file in files] == ["parameters.png", "parallel.png", "curves.png", "importance.png"]
    for file in files:
        pixels = image.imread(file)
        assert pixels.shape[0] > 100
        assert len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0)) > 20
    assert sorted(folder.iterdir()) == sorted(files)


def test_a_picture_of_nothing_is_not_drawn(make, tmp_path):
    make("runs/0", 0.9, curve=[0.9])
    make("runs/1", status="failed", settings=learning_rate(0.5))
    assert [file.name for file in draw(compare([tmp_path / "runs"]), tmp_path)] == ["parameters.png"]
    assert draw(compare([tmp_path / "runs/0"]), tmp_path / "none") == []
    make("runs/2", 0.8, seed=1, curve=[0.1, 0.8])
    comparison = compare([tmp_path / "runs/0", tmp_path / "runs/2"])
    assert [file.name for file in draw(comparison, tmp_path)] == ["curves.png"]


def test_the_command_draws_and_says_so(two_groups, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "litlab", "compare", two_groups, f"pictures={tmp_path}/p"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert (
        done.stdout.splitlines()[-1]
        == f"pictures in {tmp_path}/p: parameters.png, parallel.png, curves.png, importance.png"
    )
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "litlab", "compare", two_groups, f"pictures={tmp_path}/file"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"compare: pictures={tmp_path}/file cannot be written: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "compare: give the folders to compare"),
        (["nowhere"], "compare: nowhere: there is no such folder"),
        (["empty"], "compare: empty holds no runs"),
        (["runs", "metric=val/ac"], "compare: metric=val/ac: no such metric, did you mean val/acc?"),
        (["runs", "where=lr=3"], "compare: 'lr=3' is not a condition"),
        (["runs", "where=lr<3"], "compare: where: lr is neither a setting nor a metric of any run"),
        (["runs", "format=xml"], "compare: format=xml: should be 'table', 'json', 'csv', 'markdown' or 'html'"),
        (["runs", "fromat=csv"], "compare: fromat=csv: no such key, did you mean format?"),
        (["-m", "runs"], "compare: does one thing at a time"),
        (["sweep"], "compare: no run to compare in sweep: there is 3 planned, 3 missing"),
        (["damaged"], "compare: no run to compare in damaged: there is 1 damaged; run="),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2(make, tmp_path, arguments, line):
    make("runs/0", 0.9)
    for name in ("empty", "sweep", "damaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "sweep" / "plan.json").write_text('{"planned": 3}')
    (tmp_path / "damaged" / "run.json").write_text("{")
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_folders_and_conditions_need_no_quotes_of_hydras(make, tmp_path):
    names = ["a b", "c'd", 'e"f', "g=h", "i\\j", "k[1],{2}", "3"]
    for seed, name in enumerate(names):
        make(f"{name}/0", 0.9, seed=seed)
    done = command(*names, "format=json", "where=optimizer.lr<1e-2 and optimizer!='x\"y'", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [len(group["runs"]) for group in json.loads(done.stdout)["groups"]] == [len(names)]


def test_leaves_nothing_behind_even_in_a_runs_folder(make, tmp_path):
    make("0", 0.9)
    before = (tmp_path / "0" / "run.json").read_bytes()
    done = command(".", cwd=tmp_path / "0")
    assert done.returncode == 0, done.stderr
    assert [file.name for file in (tmp_path / "0").iterdir()] == ["run.json"]
    assert (tmp_path / "0" / "run.json").read_bytes() == before


def test_a_sweep_can_be_compared_while_runs_come_and_go(make, tmp_path, monkeypatch):
    make("0", 0.9)
    make("1", 0.8)
    from litlab.comparison import tables

    scan = tables._scan

    def scan_then_remove(folder):
        found = scan(folder)
        (tmp_path / "1" / "run.json").unlink()
        return found

    monkeypatch.setattr(tables, "_scan", scan_then_remove)
    comparison = compare([tmp_path])
    assert comparison.totals() == "1 run: 1 done"
    assert comparison.damaged == {}


def test_hundreds_of_runs(make, tmp_path):
    for number in range(500):
        make(f"runs/{number}", 0.5 + number / 1000, seed=number % 5, settings=learning_rate(0.001 * (1 + number // 5)))
    done = command("runs", "format=json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert len(document["groups"]) == 100
    assert document["groups"][0]["mean"] == np.mean([0.5 + number / 1000 for number in range(495, 500)])
    assert document["counts"] == {"done": 500}


def test_records_of_somebody_else_break_no_comparison(make, tmp_path, capsys):
    for seed, value in enumerate((0.9, 0.92)):
        make(f"runs/{seed}", value, seed=seed, curve=(0.5, value))
    for number, write in enumerate([*UNREADABLE.values(), *READABLE.values()]):
        (tmp_path / "runs" / f"odd-{number}").mkdir()
        write(tmp_path / "runs" / f"odd-{number}" / "run.json")
    comparison = compare([tmp_path / "runs"])
    (ours,) = (group for group in comparison.groups if group.main.n == 2)
    assert ours.main.mean == np.mean([0.9, 0.92])
    done, damaged = 2 + len(READABLE), len(UNREADABLE)
    assert comparison.totals() == f"{done + damaged} runs: {done} done, {damaged} damaged"
    for form in ("csv", "json", "markdown", "table"):
        report(comparison, form, tmp_path / "pictures" if form == "table" else None)
    told = capsys.readouterr()
    assert told.out.count("\x1b") == 1  # in CSV, which is as it was
    lines = told.err.splitlines()
    assert all(line.isprintable() for line in lines)
    for number in range(damaged):
        named = [line for line in lines if line.startswith(f"compare: run={tmp_path}/runs/odd-{number}")]
        assert named
    assert len(lines) == 4 * damaged


# --- as a page --------------------------------------------------------------------------------------------------------


def as_html(folder):
    compare_command = [sys.executable, "-m", "litlab", "compare", folder, "format=html"]
    return subprocess.run(compare_command, capture_output=True, text=True, timeout=60)


def test_a_page_shows_all_in_a_browser_that_asks_no_server(make, tmp_path):
    for seed in range(3):
        for rate, kind in ((0.001, "</script><b>"), (0.01, "$x & y"), (0.1, "plain")):
            settings = {"optimizer.lr": rate, "data.kind": kind}
            curve = [0.5, 0.8 + rate, 0.85 + rate]
            make(f"{rate}/{seed}", 0.9 - rate + seed / 300, seed=seed, settings=settings, curve=curve)
    done = as_html(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "page.html").write_text(done.stdout)
    with opened_offline(tmp_path / "page.html", drawn=4) as page:
        assert page.locator(".main-svg").count() >= 4
        column = "tbody td:nth-child(3)"
        assert page.locator("th").all_inner_texts()[:4] == ["data.kind", "optimizer.lr", "n", "mean val/acc"]
        page.click("th:nth-child(2)")
        assert page.locator("tbody td:nth-child(2)").all_inner_texts() == ["0.001", "0.01", "0.1"]
        page.click("th:nth-child(2)")
        assert page.locator("tbody td:nth-child(2)").all_inner_texts() == ["0.1", "0.01", "0.001"]
        assert page.locator(column).all_inner_texts() == ["3", "3", "3"]
        assert page.locator("tbody td:nth-child(1)").all_inner_texts()[-1] == "</script><b>"


def test_a_page_of_many_runs_is_small(make, tmp_path):
    for number in range(500):
        settings = {"optimizer.lr": 0.001 * (number + 1), "data.batch_size": 10 + number % 7}
        make(f"runs/{number}", 0.5 + number / 2000, seed=number, settings=settings, curve=[0.1, 0.2])
    done = as_html(tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.encode()) < 5e6

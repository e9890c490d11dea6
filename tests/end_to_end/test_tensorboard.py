"""What TensorBoard shows of real runs, asked over HTTP and looked at in a real browser."""

import json
import re
import shutil
import time
import urllib.parse
import urllib.request

import browser
import pytest
from conftest import SHORT
from processes import run, script

screenshots = script("dev/screenshots")

RUN = (*(text for text in SHORT if text != "views=none"), "trainer.max_epochs=2", "trainer.limit_test_batches=2")
SWEEP = ("-m", *SHORT, "optimizer.lr=0.001,0.01,0.1")


@pytest.fixture(scope="module")
def logs(tmp_path_factory, mnist_dir):
    """A run and a sweep of three jobs."""
    folder = tmp_path_factory.mktemp("board")
    for arguments in (RUN, SWEEP):
        ended = run(folder, "train", *arguments, f"paths.logs={folder}/logs")
        assert ended.code == 0, ended.err
    return folder / "logs"


@pytest.fixture(scope="module")
def url(logs):
    with screenshots.tensorboard(logs) as address:
        yield address


@pytest.fixture
def page():
    with browser.opened() as page:
        yield page


def records(logs):
    """What run.json says, by TensorBoard's names of the runs."""
    files = logs.rglob("run.json")
    return {str(file.parent.relative_to(logs)): json.loads(file.read_text()) for file in files}


def ask(url, path, content=None):
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"{url}data/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def curve(url, name, tag):
    return ask(url, f"plugin/scalars/scalars?{urllib.parse.urlencode({'run': name, 'tag': tag})}")


def sessions(url):
    """The HPARAMS table: settings and results by run."""
    experiment = ask(url, "plugin/hparams/experiment", {"experimentName": ""})
    columns = [{"metric": info["name"]} for info in experiment["metricInfos"]]
    columns += [{"hparam": info["name"]} for info in experiment["hparamInfos"]]
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    request = {"allowedStatuses": statuses, "colParams": columns, "startIndex": 0, "sliceSize": 1000}
    groups = ask(url, "plugin/hparams/session_groups", request)["sessionGroups"]
    return {
        group["sessions"][0]["name"]: (
            group["hparams"],
            {value["name"]["tag"]: value["value"] for value in group["metricValues"]},
        )
        for group in groups
    }


def test_every_series_is_complete(url, logs):
    for name, record in records(logs).items():
        points = curve(url, name, "train/loss")
        steps = 20 * record["settings"]["trainer"]["max_epochs"]
        assert [step for _, step, _ in points] == list(range(steps))
        (*_, (_, _, last)) = ask(
            url, f"plugin/scalars/scalars?{urllib.parse.urlencode({'run': name, 'tag': 'val/acc'})}"
        )
        assert last == pytest.approx(record["metrics"]["last"]["val/acc"])


def test_hparams_has_all_runs_with_what_they_were_given_and_reached(url, logs):
    found, expected = sessions(url), records(logs)
    assert found.keys() == expected.keys()
    for name, (given, reached) in found.items():
        record = expected[name]
        assert given["seed"] == record["seed"]
        assert given.get("optimizer.lr", 0.001) == record["settings"]["optimizer"]["lr"]
        assert reached["best/val_acc"] == pytest.approx(record["metrics"]["best"]["val/acc"])
        assert reached["best/epoch"] == record["metrics"]["best_epoch"]
        assert reached["best/training_seconds"] == pytest.approx(record["training_seconds"])
        if record["metrics"]["test"]:
            assert reached["best/test_acc"] == pytest.approx(record["metrics"]["test"]["test/acc"])
        else:
            assert "best/test_acc" not in reached


def test_a_sweep_of_a_hundred_runs_loads(logs, tmp_path):
    (job,) = logs.glob("train/multiruns/*/1")
    for number in range(100):
        shutil.copytree(job, tmp_path / str(number))
    with screenshots.tensorboard(tmp_path) as url:
        until = time.monotonic() + 60
        while len(ask(url, "runs")) < 100:  # it reads them in the background
            assert time.monotonic() < until
            time.sleep(0.1)
        while len(found := sessions(url)) < 100:
            assert time.monotonic() < until
            time.sleep(0.1)
    assert {reached["best/val_acc"] for _, reached in found.values()} == {found["0"][1]["best/val_acc"]}


@pytest.mark.slow
@pytest.mark.parametrize("tab", screenshots.PAGES)
def test_a_browser_shows_it(page, url, tab):
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    screenshots.show(page, url, tab)
    picture = page.screenshot()
    assert errors == []
    LOOKS[tab](page, picture)


def looks_like_curves(page, picture):
    for tag in ("train/acc", "train/loss", "val/acc", "val/loss"):
        assert page.get_by_text(tag, exact=True).first.is_visible()


def looks_like_pictures(page, picture):
    for tag in ("filters", "test/confusion", "test/mistakes"):
        assert page.get_by_text(f"tag: {tag}").count() == 1
    assert screenshots.coloured(picture) > 2000  # the matrix is red where it is wrong


def looks_like_a_table(page, picture):
    assert page.get_by_text("optimizer.lr").first.is_visible()
    assert page.get_by_text(re.compile(r"^\s*train/runs/\S+\s*$")).count() >= 1
    for number in range(3):
        assert page.get_by_text(re.compile(rf"^\s*train/multiruns/\S+/{number}\s*$")).count() >= 1


def looks_like_precision_and_recall(page, picture):
    assert page.get_by_text("tag: test_class/").count() >= 3
    assert page.locator("tf-pr-curve-card path").count() > 3


def looks_like_points(page, picture):
    inner = page.frame_locator("iframe").first.frame_locator("iframe").first
    assert inner.get_by_text("Dimension: 1568").is_visible()
    assert inner.locator("canvas").first.is_visible()


LOOKS = {
    "timeseries": looks_like_curves,
    "images": looks_like_pictures,
    "hparams": looks_like_a_table,
    "pr_curves": looks_like_precision_and_recall,
    "projector": looks_like_points,
}

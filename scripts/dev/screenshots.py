"""Takes the pictures of TensorBoard that README shows, in a real browser: of the default run and of a sweep."""

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich.progress import track

ROOT = Path(__file__).resolve().parents[2]

COMMANDS = (
    "train",
    "train -m optimizer.lr=0.001,0.003,0.01 model.net.channels=[16,32],[8,16] trainer.max_epochs=1 test=true",
)
"""What is looked at."""

FLAGS = (
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

PATIENCE = 60_000
"""Milliseconds that a page may take to show what it should."""


def time_series(page: Page) -> None:
    """The curves of one run."""
    page.get_by_role("combobox", name="Filter tags").fill("(train|val)/(acc|loss)$")
    page.get_by_text("val/loss", exact=True).wait_for()
    page.keyboard.press("Escape")  # closes the list of tags that it offers
    charts = page.locator("scalar-card line-chart:visible")  # some that are there are not shown
    _until(page, lambda: all(coloured(charts.nth(index).screenshot()) > 100 for index in (0, 1)))
    page.wait_for_timeout(1_000)  # until those below, which are partly in view, are drawn as well


def images(page: Page) -> None:
    """The pictures in view, decoded."""
    page.get_by_text("tag: test/mistakes").first.wait_for()
    pictures = page.locator("tf-image-loader img")
    _until(page, lambda: pictures.evaluate_all("all => all.filter(one => one.naturalWidth > 100).length") >= 3)


def hparams(page: Page) -> None:
    """The table of all runs with their results."""
    page.get_by_text("Trial ID").wait_for()
    page.get_by_text("best/test_acc").first.wait_for()


def pr_curves(page: Page) -> None:
    """A curve of each class."""
    page.get_by_text("tag: test_class/0").first.wait_for()


def projector(page: Page) -> None:
    """The features of test images."""
    inner = page.frame_locator("iframe").first.frame_locator("iframe").first
    inner.get_by_text("Points: 500").wait_for()
    page.wait_for_timeout(4_000)  # until the principal components are found and the points have come to rest


PAGES: dict[str, Callable[[Page], None]] = {
    "timeseries": time_series,
    "images": images,
    "hparams": hparams,
    "pr_curves": pr_curves,
    "projector": projector,
}
"""TensorBoard's tabs, and what waits until one shows what it should."""


def coloured(png: bytes) -> int:
    """How many pixels of a picture are neither black nor white nor grey."""
    saturation = Image.open(io.BytesIO(png)).convert("HSV").getchannel("S")
    return sum(saturation.histogram()[64:])


def _until(page: Page, condition: Callable[[], bool]) -> None:
    """Wait for what cannot be said by a selector."""
    until = time.monotonic() + PATIENCE / 1000
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{page.url} does not show what it should")
        page.wait_for_timeout(100)


def main() -> None:
    """Make the runs, unless they are there, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=Path, help="folder of runs to show; without it they are made first")
    parser.add_argument("--into", type=Path, default=ROOT / "docs", help="folder for the pictures")
    arguments = parser.parse_args()
    browser = chromium()
    if browser is None:
        sys.exit("screenshots: there is no Chromium; on Debian: apt-get install chromium fonts-dejavu-core")
    with tempfile.TemporaryDirectory() as made:
        logs = arguments.logs or make_runs(Path(made))
        with tensorboard(logs) as url, opened(browser) as page:
            for tab in track(PAGES, "pictures", transient=True):
                show(page, url, tab)
                page.screenshot(path=arguments.into / f"{tab}.png")


def make_runs(logs: Path) -> Path:
    """Train what is to be looked at."""
    for command in track(COMMANDS, "runs", transient=True):
        environment = os.environ | {"LITLAB_LOGS": str(logs)}
        line = [sys.executable, "-m", "litlab", *command.split()]
        subprocess.run(line, check=True, env=environment, stdout=subprocess.DEVNULL)
    return logs


def chromium() -> Path | None:
    """A Chromium, if there is one."""
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    return next(map(Path, found), None)


@contextmanager
def tensorboard(logs: Path) -> Iterator[str]:
    """The address of a TensorBoard on these runs, on a free port of this machine alone."""
    line = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            said: Iterator[str] = iter(process.stdout or [])
            yield next(match[0] for text in said if (match := re.search(r"http://127\.0\.0\.1:\d+/", text)))
        finally:
            process.terminate()


@contextmanager
def opened(browser: Path) -> Iterator[Page]:
    """A page of a browser that is closed afterwards."""
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=browser, args=list(FLAGS))
        try:
            page = window.new_page(viewport={"width": 1280, "height": 860})
            page.set_default_timeout(PATIENCE)
            yield page
        finally:
            window.close()


def show(page: Page, url: str, tab: str) -> None:
    """Open a tab, and wait until it shows what it should."""
    page.goto("about:blank")  # else the same page stays, with another anchor
    page.goto(f"{url}#{tab}")
    PAGES[tab](page)


if __name__ == "__main__":
    main()

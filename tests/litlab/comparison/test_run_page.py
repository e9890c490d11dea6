import re

import pytest
from processes import run, script

screenshots = script("dev/screenshots")
pytestmark = pytest.mark.usefixtures("mnist_dir")

SMALL = ("trainer=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=10", "trainer.limit_val_batches=2",
         "trainer.limit_test_batches=2", "data.batch_size=10")  # fmt: skip


@pytest.mark.parametrize("logger", ["tensorboard", "none"])
def test_a_runs_page_shows_it_in_a_browser(tmp_path, logger):
    told = ("name=wide", "notes='<b>why</b>'", f"logger={logger}", f"paths.logs={tmp_path}/logs")
    done = run(tmp_path, "train", *SMALL, *told)
    assert done.code == 0, done.err
    made = run(tmp_path, "report", "run=wide", f"paths.logs={tmp_path}/logs")
    assert made.code == 0, made.err
    (file,) = (tmp_path / "logs").rglob("report.html")
    assert made.out == f"{file}\n"
    text = file.read_text()
    pictures = re.findall(r"<h2>([^<]*)</h2><img", text)
    assert ({"test/confusion", "test/mistakes", "filters"} <= set(pictures)) is (logger == "tensorboard")
    assert "_target_: digits.mnist.MNISTDataModule" in text
    browser = screenshots.chromium()
    if browser is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
    with screenshots.opened(browser) as page:
        asked, problems = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(file.as_uri())
        page.wait_for_function("document.body.dataset.drawn > 1")
        assert [url for url in asked if not url.startswith(("blob:", "data:"))] == [file.as_uri()]
        assert problems == []
        assert "<b>why</b>" in page.locator("td").all_inner_texts()
        assert page.locator(".main-svg").count() >= 2

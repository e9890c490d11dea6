import re

import pytest
from browser import opened_offline
from processes import run

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
    with opened_offline(file, drawn=2) as page:
        assert "<b>why</b>" in page.locator("td").all_inner_texts()
        assert page.locator(".main-svg").count() >= 2

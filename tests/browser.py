"""A page in a real browser."""

from contextlib import contextmanager

import pytest
from processes import script

screenshots = script("dev/screenshots")


@contextmanager
def opened():
    """An empty page; the test is skipped where there is no browser."""
    browser = screenshots.chromium()
    if browser is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
    with screenshots.opened(browser) as page:
        yield page


@contextmanager
def opened_offline(file, drawn):
    """The page in the file, once so many figures are drawn; it may ask no server, and nothing on it may fail."""
    with opened() as page:
        asked, problems = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(file.as_uri())
        page.wait_for_function(f"document.body.dataset.drawn >= {drawn}")
        yield page
        assert [url for url in asked if not url.startswith(("blob:", "data:"))] == [file.as_uri()]
        assert problems == []

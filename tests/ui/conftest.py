from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import Tab, chromium, open_tab
from page_support import Books

from vllm_enhance.types import Source


@pytest.fixture(scope="session")
def browser() -> Iterator[Tab]:
    if chromium() is None:
        pytest.skip("the status page was not tested in a browser: no Chromium (Debian: apt-get install chromium)")
    with open_tab() as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Tab:
    browser.open("about:blank")
    browser.look(1280, 900)
    browser.console.clear()
    browser.addresses.clear()
    return browser


@pytest.fixture(scope="session")
def shared_books() -> Books:
    """One per session: Prometheus keeps one set of metrics per process."""
    return Books()


@pytest.fixture
def books(shared_books: Books) -> Books:
    shared_books.log = type(shared_books.log)(1000)
    shared_books.verdicts.clear()
    shared_books.serve(1, Source.ENGINE)
    shared_books.serve(8, Source.MEMORY)
    shared_books.serve(3, Source.ENGINE, reason="sampled")
    return shared_books

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import Tab, chromium, open_tab
from page_support import Books, shared_books

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


@pytest.fixture
def books() -> Books:
    books = shared_books().emptied()
    books.serve(1, Source.ENGINE)
    books.serve(8, Source.MEMORY)
    books.serve(3, Source.ENGINE, reason="sampled")
    return books

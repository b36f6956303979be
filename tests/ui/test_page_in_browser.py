"""The status page as a person meets it: real Chromium, real HTTP, vLLM's own authentication in front."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import Tab
from page_support import HOSTILE, KEY, Books, serving

from vllm_enhance.types import Source

OPENED = "!document.getElementById('main').hidden && document.querySelectorAll('#requests tbody tr').length > 0"
ROW = "#requests button[data-spot='{}']"


@pytest.fixture
def url(books: Books) -> Iterator[str]:
    with serving(books, key=None) as address:
        yield address


def opened(tab: Tab, url: str) -> None:
    tab.open(f"{url}/enhance/ui")
    tab.run("sessionStorage.clear()")
    tab.wait(OPENED)


def screenshot(tab: Tab, name: str) -> None:
    """Kept where a person can look, when ``ENHANCE_TEST_SCREENSHOTS`` names a folder."""
    folder = os.environ.get("ENHANCE_TEST_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tab.screenshot(Path(folder) / f"{name}.png")


def test_shows_what_the_server_did_and_breaks_no_rule_of_its_content_policy(tab: Tab, url: str) -> None:
    opened(tab, url)
    page = tab.text("main")
    assert "Hit rate" in page
    assert "redis://cache:6379 does not answer" in page
    assert tab.text("#status") == "degraded"
    assert "chatcmpl-00000008" in tab.text("#requests")
    assert "from memory" in tab.text("#requests")
    assert "sampled" in tab.text("#requests")
    tab.run("document.querySelector('#settings summary').click()")
    assert "--enhance-cache-ttl" in tab.text("#settings")
    assert tab.console == []
    assert all(address.startswith((url + "/", "about:")) for address in tab.addresses), tab.addresses
    screenshot(tab, "desktop")


def test_rates_and_latency_are_drawn_from_what_happens_meanwhile(tab: Tab, books: Books, url: str) -> None:
    opened(tab, url)
    for number in range(20, 60):
        books.serve(number, Source.MEMORY if number % 4 else Source.ENGINE)
    tab.wait("document.querySelectorAll('#plot-hits path').length > 0")
    assert "75.0%" in tab.text("#plot-hits")
    label = tab.run("document.querySelector('#plot-latency svg').getAttribute('aria-label')")
    assert "reused, median: " in label
    assert "ms" in label.split("generated")[0]
    assert "1." in label.split("generated, median: ")[1] or "ms" in label.split("generated, median: ")[1]


def test_asks_for_the_key_and_keeps_it_out_of_addresses(tab: Tab, books: Books) -> None:
    with serving(books, key=KEY) as url:
        tab.open(f"{url}/enhance/ui")
        tab.run("sessionStorage.clear()")
        tab.wait("document.activeElement.id === 'key'")
        assert "chatcmpl" not in tab.run("document.body.textContent")
        tab.type("not the key")
        tab.press("Enter")
        tab.wait("!document.getElementById('refused').hidden")
        tab.type(KEY)
        tab.press("Enter")
        tab.wait(OPENED)
        assert not [address for address in tab.addresses if KEY in address or "not%20the" in address]
        assert tab.run("localStorage.length + document.cookie.length") == 0
        tab.open(f"{url}/enhance/ui")  # the tab remembers
        tab.wait(OPENED)
        tab.run("document.getElementById('sign-out').click()")
        tab.wait("document.getElementById('main').hidden && sessionStorage.length === 0")


@pytest.mark.parametrize("key", [None, KEY])
def test_the_address_under_v1_leads_to_the_page_for_those_who_may(books: Books, key: str | None) -> None:
    with serving(books, key=key) as url, httpx.Client(trust_env=False, follow_redirects=True) as client:
        assert client.get(f"{url}/v1/enhance/ui").status_code == (200 if key is None else 401)
        found = client.get(f"{url}/v1/enhance/ui", headers={"authorization": f"Bearer {key}"})
        assert found.url.path == "/enhance/ui"
        assert "<main" in found.text


def test_hostile_questions_are_shown_and_not_run(tab: Tab, books: Books, url: str) -> None:
    books.serve(4, Source.MEMORY, question=HOSTILE, reason=HOSTILE, model=HOSTILE, notes=[(HOSTILE, HOSTILE)])
    opened(tab, url)
    tab.wait(f'document.querySelector("{ROW.format("chatcmpl-00000004")}")')
    tab.run(f'document.querySelector("{ROW.format("chatcmpl-00000004")}").click()')
    tab.wait("document.querySelector('.why')")
    assert HOSTILE in tab.run("document.querySelector('.why').textContent")
    assert HOSTILE[:60] in tab.run("document.querySelector('#top').textContent")
    assert tab.run("document.querySelectorAll('main img, main script').length") == 0
    assert tab.run("document.title") == "vllm-enhance"
    assert tab.console == []


def test_an_explanation_and_a_verdict_with_the_keyboard_alone(tab: Tab, books: Books, url: str) -> None:
    opened(tab, url)
    row = ROW.format("chatcmpl-00000001")
    tab.tab_to(row)
    tab.press("Enter")
    tab.wait("document.querySelector('.why')")
    assert "differs in: temperature, prompt" in tab.text(".why")
    assert "nearest 0.913, below 0.95" in tab.text(".why")
    assert tab.run(f'document.querySelector("{row}").getAttribute("aria-expanded")') == "true"
    screenshot(tab, "explained")
    tab.tab_to("[data-spot='wrong chatcmpl-00000001']")
    tab.press("Enter")
    tab.wait("document.getElementById('confirm').open")
    screenshot(tab, "asked")
    tab.press("Escape")
    tab.wait("!document.getElementById('confirm').open")
    assert books.verdicts == []
    tab.tab_to("[data-spot='wrong chatcmpl-00000001']")
    tab.press("Enter")
    tab.wait("document.getElementById('confirm').open")
    assert tab.run("document.activeElement.value") == "no"  # the harmless one
    tab.tab_to("#confirm-yes")
    tab.press("Enter")
    tab.wait("document.getElementById('done').textContent.includes('Marked as wrong')")
    assert books.verdicts == [("chatcmpl-00000001", "wrong")]


def test_an_open_explanation_stays_while_newer_requests_come(tab: Tab, books: Books, url: str) -> None:
    opened(tab, url)
    tab.run(f'document.querySelector("{ROW.format("chatcmpl-00000001")}").click()')
    tab.wait("document.querySelector('.why')")
    for number in range(100, 180):
        books.serve(number, Source.MEMORY)
    tab.wait(f'document.querySelector("{ROW.format("chatcmpl-000000b3")}")')
    assert "chatcmpl-00000001" in tab.text(".why")


def test_forgetting_counts_first_and_asks(tab: Tab, books: Books, url: str) -> None:
    opened(tab, url)
    books.serve(2, Source.ENGINE)
    tab.run("document.getElementById('scope').value = 'all'")
    tab.run("document.getElementById('scope').dispatchEvent(new Event('change'))")
    tab.run("document.querySelector('#forget [name=count]').click()")
    counted = tab.wait("document.getElementById('forget-result').textContent")
    assert counted.endswith("would go.")
    assert counted == "1 stored answer would go."
    tab.run("document.getElementById('forget-now').click()")
    tab.wait("document.getElementById('confirm').open")
    assert counted.split(" would")[0] in tab.text("#confirm-text")
    tab.run("document.getElementById('confirm-yes').click()")
    tab.wait("document.getElementById('forget-result').textContent.endsWith('forgotten.')")
    tab.run("document.querySelector('#forget [name=count]').click()")
    tab.wait("document.getElementById('forget-result').textContent.startsWith('0 stored answers would go')")


def test_what_the_server_does_not_understand_is_told(tab: Tab, url: str) -> None:
    opened(tab, url)
    tab.run("document.getElementById('value').value = 'yesterday'")
    tab.run("document.querySelector('#forget [name=count]').click()")
    tab.wait("!document.getElementById('notice').hidden")
    assert "scope=age wants" in tab.text("#notice")


def test_a_narrow_screen_needs_no_sideways_scrolling(tab: Tab, url: str) -> None:
    tab.look(360, 740)
    opened(tab, url)
    tab.run(f'document.querySelector("{ROW.format("chatcmpl-00000001")}").click()')
    tab.wait("document.querySelector('.why')")
    assert tab.run("document.documentElement.scrollWidth") <= 360
    screenshot(tab, "narrow")


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_readable_in_both_colour_schemes(tab: Tab, url: str, dark: bool) -> None:
    tab.look(1280, 900, dark=dark)
    opened(tab, url)
    # WCAG 2.1, success criterion 1.4.3: 4.5 to 1
    contrast = """
    (() => {
      const rgb = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const light = (c) => { const [r, g, b] = rgb(c).map((v) => v / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const behind = (e) => { for (; e; e = e.parentElement) {
        const c = getComputedStyle(e).backgroundColor; if (c !== 'rgba(0, 0, 0, 0)') return c; }
        return 'rgb(255,255,255)'; };
      const ratio = (e) => { const a = light(getComputedStyle(e).color), b = light(behind(e));
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
      return [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && !e.closest('svg') &&
        [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
        .map((e) => [ratio(e), e.tagName + '.' + e.className + ': ' + e.textContent.slice(0, 30)])
        .filter(([r]) => r < 4.5);
    })()"""
    assert tab.run(contrast) == []
    behind = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (behind == "rgb(15, 18, 22)") is dark
    if dark:
        screenshot(tab, "dark")


def test_works_under_a_path_of_a_proxy(tab: Tab, books: Books) -> None:
    with serving(books, key=None, prefix="/llm") as url:
        opened(tab, url)
        assert tab.console == []


def test_tells_that_the_server_is_gone(tab: Tab, books: Books) -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serving(books, key=None))
        opened(tab, url)
        tab.run("window.stayed = 1")
        stack.close()
        tab.wait("!document.getElementById('notice').hidden")
        assert "cannot be reached" in tab.text("#notice")
        assert tab.text("#status") == "no news"

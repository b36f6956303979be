"""The operator's side on a real server: command line and status page see what real requests did."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "ui"))

from browser import chromium, open_tab

from vllm_enhance.cli import build
from vllm_enhance.testing.server import ServerProcess

pytestmark = pytest.mark.engine


def complete(url: str, prompt: str, **fields: Any) -> str:
    """The id of the response."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 16, "temperature": 0, **fields}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(json.load(response)["id"])


def command(url: str, *arguments: str) -> Any:
    result = CliRunner().invoke(build([]), [*arguments, "--base-url", url, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_why_it_hit_and_why_it_missed(enhance_server: ServerProcess) -> None:
    url = enhance_server.base_url
    first = complete(url, "operator: what is a cache?")
    second = complete(url, "operator: what is a cache?")
    other = complete(url, "operator: what is a cache?", stop=["zz"])
    assert command(url, "explain", first)["source"] == "engine"
    assert command(url, "explain", second)["source"] == "memory"
    found = command(url, "explain", other)
    assert found["source"] == "engine"
    assert found["nearest"]["differs_in"]
    assert "question" not in found  # --enhance-log-prompts is off
    stats = command(url, "stats")
    assert stats["all_processes"]["requests"]["memory"] >= 1
    assert stats["all_processes"]["saved_tokens"] >= 16


def test_a_wrong_answer_is_not_given_again(enhance_server: ServerProcess) -> None:
    url = enhance_server.base_url
    complete(url, "operator: to be marked as wrong")
    hit = complete(url, "operator: to be marked as wrong")
    assert command(url, "feedback", hit, "wrong")["removed"] == 1
    again = complete(url, "operator: to be marked as wrong")
    assert command(url, "explain", again)["source"] == "engine"


def test_flush_forgets_what_it_counted(enhance_server: ServerProcess) -> None:
    url = enhance_server.base_url
    kept = complete(url, "operator: to be forgotten")
    key = command(url, "explain", kept)["key"]
    scope = ("flush", "--scope", "key", "--value", key)
    assert command(url, *scope, "--dry-run")["removed"] == 1
    assert command(url, *scope, "--yes")["removed"] == 1
    assert command(url, *scope, "--dry-run")["removed"] == 0


def test_the_page_shows_real_requests(enhance_server: ServerProcess, tmp_path: Path) -> None:
    if chromium() is None:
        pytest.skip("the status page was not tested in a browser: no Chromium (Debian: apt-get install chromium)")
    url = enhance_server.base_url
    complete(url, "operator: seen on the page")
    hit = complete(url, "operator: seen on the page")
    with open_tab() as tab:
        tab.look(1280, 900)
        tab.open(f"{url}/enhance/ui")
        tab.wait("document.querySelectorAll('#requests tbody tr').length > 0")
        shown = tab.run("[...document.querySelectorAll('#requests button')].map((each) => each.title)")
        assert any(each.startswith(hit) for each in shown), (hit, shown)
        assert "from memory" in tab.text("#requests")
        assert tab.text("#status") in ("healthy", "degraded")
        complete(url, "operator: seen on the page")
        tab.wait("document.querySelectorAll('#plot-hits path').length > 0")
        assert tab.console == []
        tab.screenshot(tmp_path / "page.png")

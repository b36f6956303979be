"""The operator's side on a real server: command line and status page see what real requests did."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
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
    assert found["nearest"]["differs_in"] == ["sampling"]
    assert found["nearest"]["sampling_fields"] == ["stop"]
    assert "zz" not in json.dumps(found)
    longer = command(url, "explain", complete(url, "operator: what is a cache? And why?"))
    assert longer["nearest"]["differs_in"] == ["prompt"]
    assert 0 < longer["nearest"]["prompt_differs_at"] < longer["prompt_tokens"]
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


# --------------------------------------------------------------------------- from traffic to settings

SHADOW_KEY = "operator-key"
WORDINGS = (
    "What is the capital of Norway?",
    "what's Norway's capital?",
    "What is the capital city of Norway?",
    "How do I convert 5 USD to EUR?",
    "How do I convert 7 USD to EUR?",
)


@pytest.fixture(scope="module")
def shadow(tiny_model: Path, minilm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, str]]:
    """A server in shadow mode with a traffic log: its address, the log's folder, the embedding model."""
    folder = tmp_path_factory.mktemp("shadow")
    arguments = ["--enhance", "--api-key", SHADOW_KEY, "--enhance-embedding-model", minilm]
    arguments += ["--enhance-similarity-mode", "shadow", "--enhance-similarity-policy", "threshold"]
    arguments += ["--enhance-similarity-threshold", "0.85", "--enhance-similarity-judge", "equal"]
    arguments += ["--enhance-similarity-deadline", "30s", "--enhance-traffic-log-dir", str(folder / "traffic")]
    with ServerProcess(tiny_model, arguments, log=folder / "server.log") as server:
        yield server.base_url, folder / "traffic", minilm


def told(url: str, *arguments: str) -> Any:
    result = CliRunner().invoke(
        build(), [*arguments, "--json"], env={"ENHANCE_BASE_URL": url, "VLLM_API_KEY": SHADOW_KEY, "COLUMNS": "200"}
    )
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def ask(url: str, text: str) -> str:
    """The id of the response."""
    # An answer without text is not judged, and the tiny model may begin with its end.
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "temperature": 0}
    body |= {"max_tokens": 8, "min_tokens": 8}
    headers = {"content-type": "application/json", "authorization": f"Bearer {SHADOW_KEY}"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        return str(json.load(response)["id"])


def wait_for(url: str, holds: Any) -> Any:
    deadline = time.monotonic() + 120
    while not holds(found := told(url, "stats")):
        assert time.monotonic() < deadline, found
        time.sleep(0.3)
    return found


def test_shadow_mode_measures_on_live_traffic_what_tune_then_reads(
    shadow: tuple[str, Path, str], tmp_path: Path
) -> None:
    url, folder, model = shadow
    wait_for(url, lambda found: found["process"]["hooks"]["similarity"]["enabled"])
    ids = [ask(url, text) for text in WORDINGS]
    assert ask(url, WORDINGS[0]) not in ids
    found = wait_for(url, lambda found: found["all_processes"]["similarity"]["judged"] >= 2)
    assert found["all_processes"]["requests"].get("similar", 0) == 0  # nothing is served
    measured = found["all_processes"]["similarity"]
    assert measured["would_reuse"] == 2
    assert measured["judged"] == 2
    refused = told(url, "explain", ids[4])
    assert refused["similar"][0]["refused_by"] == "number"
    assert "question" not in refused["similar"][0]  # --enhance-log-prompts is off
    assert not any("Norway" in line for line in (folder.parent / "server.log").read_text().splitlines())

    config = tmp_path / "tuned.yaml"
    result = told(
        url, "tune", str(folder), "--embedding-model", model, "--embeddings", str(tmp_path / "v.npz"),
        "--out", str(tmp_path / "tune.html"), "--config", str(config), "--labels", str(tmp_path / "labels.jsonl"),
    )  # fmt: skip
    assert (result["requests"], result["texts"], result["skipped"]) == (6, 5, 0)
    loosest = next(row for row in result["settings"] if row["value"] == 0.84)
    assert loosest["hit_rate"][0] == pytest.approx(2 / 6)
    assert loosest["judged"] == 2  # by the server's own judge
    assert 'enhance-similarity-mode: "shadow"' in config.read_text()  # two verdicts prove nothing
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}

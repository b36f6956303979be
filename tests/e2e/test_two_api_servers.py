"""Two API server processes behind an API key, on one store, with hooks that misbehave and one that counts quotas."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from vllm_enhance.testing.server import ServerProcess

pytestmark = pytest.mark.engine

HERE = Path(__file__).parent
QUOTA = HERE.parents[1] / "examples" / "quota_hook"
BAD = ("Raises", "Hangs", "Blocks", "Nonsense", "Unstartable", "Redactor")
KEY = {"Authorization": "Bearer first"}
THIRD = {"Authorization": "Bearer third"}


def install_quota_hook(folder: Path) -> None:
    """The example, installed as a third party's package would be."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(folder), str(QUOTA)], check=True, timeout=300)


@pytest.fixture(scope="module")
def server(model_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("two")
    install_quota_hook(folder / "site")
    hooks = ",".join(["cache", "quota", *(f"bad_hooks:{name}" for name in BAD)])
    arguments = [
        *("--enhance", "--api-server-count", "2", "--api-key", "first", "second", "third"),
        *("--enhance-hooks", hooks, "--enhance-hook-deadline", "50ms"),
        *("--enhance-quota-requests-per-minute", "60", "--enhance-coalesce-scope", "shared"),
        # A late store is left aside and both generate: right in service, but not what is tested here.
        *("--enhance-lookup-deadline", "5s", "--enhance-store-deadline", "1s"),
    ]
    path = os.pathsep.join([str(folder / "site"), str(HERE), os.environ.get("PYTHONPATH", "")])
    env = {"PYTHONPATH": path, "ENHANCE_STORE": f"sqlite:///{folder / 'store.db'}"}
    with ServerProcess(model_path, arguments, log=folder / "server.log", env=env) as running:
        yield running


def ask(server: ServerProcess, question: str, headers: dict[str, str] = KEY, **extra: Any) -> httpx.Response:
    body = {"model": "tiny", "prompt": question, "max_tokens": 8, "temperature": 0, **extra}
    # A connection of its own for each request, so that both processes get their share.
    return httpx.post(f"{server.base_url}/v1/completions", json=body, headers=headers, timeout=60)


def processes(server: ServerProcess) -> set[int]:
    """Which API server processes answer."""
    found = set()
    for _ in range(20):
        reply = httpx.get(f"{server.base_url}/v1/enhance/stats", headers=KEY, timeout=30)
        found.add(reply.json()["api_process"][0])
    return found


def test_bad_hooks_cost_nothing_but_their_deadline(server: ServerProcess) -> None:
    first = ask(server, "bad hooks")
    assert first.status_code == 200
    assert first.headers["cache-status"] == "vllm-enhance; fwd=miss; stored"
    time.sleep(0.3)
    again = [ask(server, "bad hooks") for _ in range(10)]
    assert {answer.json()["choices"][0]["text"] for answer in again} == {first.json()["choices"][0]["text"]}
    assert all("hit" in answer.headers["cache-status"] for answer in again)
    page = httpx.get(f"{server.base_url}/metrics").text
    for plugin, why in (("Raises", "raised"), ("Hangs", "deadline"), ("Blocks", "deadline"), ("Nonsense", "nonsense")):
        label = f'hook="pre_request",plugin="bad_hooks:{plugin}",why="{why}"'
        assert re.search(rf"vllm_enhance_hook_failures_total{{{label}}} [1-9]", page), label
    log = server.log.read_text()
    assert log.count("did not start and is left out") == 2  # one line in each process
    assert "called although it did not start" not in log


def test_what_one_process_generated_the_other_serves(server: ServerProcess) -> None:
    kinds: Counter[str] = Counter()
    for number in range(4):
        ask(server, f"shared {number}")
        time.sleep(0.3)
        kinds.update(ask(server, f"shared {number}").headers["cache-status"].split(";")[1].strip() for _ in range(2))
    assert kinds == {"hit": 8}


def generations(server: ServerProcess) -> float:
    """Generations of all processes together."""
    page = httpx.get(f"{server.base_url}/metrics").text
    found = re.findall(r'^vllm_enhance_requests_total{reason="",source="engine"} (\S+)$', page, re.MULTILINE)
    return sum(float(value) for value in found)


def test_both_processes_together_generate_once(server: ServerProcess) -> None:
    question = f"only one of us {time.monotonic()}"  # a test that is run again must not find the first run's answer
    before = generations(server)
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: ask(server, question, max_tokens=300), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
    assert generations(server) - before == 1, Counter(answer.headers["cache-status"] for answer in answers)


def test_a_rewrite_makes_a_new_key(server: ServerProcess) -> None:
    ask(server, "mail to EMAIL now")
    time.sleep(0.3)
    redacted = ask(server, "mail to alice@example.org now")
    assert "hit" in redacted.headers["cache-status"]
    assert (
        redacted.json()["usage"]["prompt_tokens"] == ask(server, "mail to EMAIL now").json()["usage"]["prompt_tokens"]
    )


def test_without_a_key_nothing_is_told_or_done(server: ServerProcess) -> None:
    base = f"{server.base_url}/v1/enhance"
    assert {httpx.get(f"{base}/{name}").status_code for name in ("health", "stats", "config", "requests/x")} == {401}
    assert httpx.delete(f"{base}/cache", params={"scope": "all"}).status_code == 401
    assert httpx.post(f"{base}/feedback", json={"request_id": "x", "verdict": "wrong"}).status_code == 401
    assert ask(server, "shared 0", headers={}).status_code == 401


def test_two_keys_are_two_tenants(server: ServerProcess) -> None:
    ask(server, "whose answer")
    time.sleep(0.3)
    assert "hit" not in ask(server, "whose answer", {"Authorization": "Bearer second"}).headers["cache-status"]


def test_a_flush_through_one_process_reaches_both(server: ServerProcess) -> None:
    ask(server, "flushed")
    time.sleep(0.3)
    assert all("hit" in ask(server, "flushed").headers["cache-status"] for _ in range(4))
    gone = httpx.delete(f"{server.base_url}/v1/enhance/cache", params={"scope": "all"}, headers=KEY, timeout=30)
    assert gone.json()["removed"] >= 1
    time.sleep(1.0)
    answers = [ask(server, "flushed").headers["cache-status"] for _ in range(6)]
    assert "hit" not in answers[0]


def test_every_process_explains_what_either_has_served(server: ServerProcess) -> None:
    asked = [ask(server, f"explained {number}", THIRD).json()["id"] for number in range(6)]
    base = f"{server.base_url}/v1/enhance"
    for request_id in asked:
        found = [httpx.get(f"{base}/requests/{request_id}", headers=THIRD, timeout=30) for _ in range(8)]
        assert {reply.status_code for reply in found} == {200}
        assert all(reply.json()["request_id"].startswith(request_id) for reply in found)
    latest = httpx.get(f"{base}/requests", params={"limit": 6}, headers=THIRD, timeout=30).json()["requests"]
    assert all(entry["request_id"].startswith(each) for entry, each in zip(latest, reversed(asked), strict=True))
    assert httpx.get(f"{base}/requests/cmpl-unknown", headers=THIRD, timeout=30).status_code == 404


def test_a_wrong_answer_is_pinned_in_both(server: ServerProcess) -> None:
    """Marked through whichever process is reached: about half of them have not served the request."""
    for number in range(8):
        answer = ask(server, f"wrong {number}", THIRD)
        time.sleep(0.3)
        verdict = {"request_id": answer.json()["id"], "verdict": "wrong"}
        marked = httpx.post(f"{server.base_url}/v1/enhance/feedback", json=verdict, headers=THIRD, timeout=30)
        assert marked.status_code == 200, marked.text
        assert marked.json()["removed"] == 1
        again = {ask(server, f"wrong {number}", THIRD).headers["cache-status"] for _ in range(3)}
        assert again == {"vllm-enhance; fwd=bypass; detail=marked_wrong"}
    assert "vllm_enhance_peer_failures_total{" not in httpx.get(f"{server.base_url}/metrics").text


def test_the_quota_hook_refuses_with_429(server: ServerProcess) -> None:
    other = {"Authorization": "Bearer second"}
    assert ask(server, "quota", other).status_code == 200
    refused: list[httpx.Response] = []
    for _ in range(600):  # each of the two processes allows 60, and one more every second
        answer = ask(server, "quota", other)
        refused += [answer] if answer.status_code == 429 else []
        if len(refused) == 10:
            break
    assert len(refused) == 10
    assert "quota" in refused[0].json()["error"]["message"].lower()
    streamed = ask(server, "quota", other, stream=True)
    assert streamed.status_code in (200, 429)


def test_both_processes_answer_and_metrics_are_summed(server: ServerProcess) -> None:
    assert processes(server) <= {0, 1}
    page = httpx.get(f"{server.base_url}/metrics").text
    assert re.search(r"^vllm_enhance_enabled 1\.0$", page, re.MULTILINE)
    assert 'pid="' not in "".join(line for line in page.splitlines() if line.startswith("vllm_enhance"))

"""One real server under the treatment that operators and clients give it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"


def body(question: str, **extra: Any) -> dict[str, Any]:
    return {
        "model": "tiny",
        "temperature": 0,
        "max_tokens": 24,
        "messages": [{"role": "user", "content": question}],
        **extra,
    }


def post(base_url: str, question: str, headers: dict[str, str] | None = None, **extra: Any) -> httpx.Response:
    return httpx.post(base_url + CHAT, json=body(question, **extra), headers=headers, timeout=120)


def status(response: httpx.Response) -> str:
    return str(response.headers.get("cache-status", "")).removeprefix("vllm-enhance; ")


def stats(base_url: str) -> dict[str, Any]:
    return dict(httpx.get(f"{base_url}/v1/enhance/stats").json())


def settled(base_url: str, within: float = 10.0) -> dict[str, Any]:
    """Stats once nothing runs any more."""
    deadline = time.monotonic() + within
    while True:
        found = stats(base_url)
        if not (found["active_requests"] or found["inflight_generations"] or found["engine_unfinished"]):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


async def many(base_url: str, count: int, payload: dict[str, Any]) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=base_url, timeout=180, limits=limits) as client:
        return await asyncio.gather(*[client.post(CHAT, json=payload) for _ in range(count)])


# --------------------------------------------------------------------------- joined generations


def test_a_thousand_identical_requests_cost_one_generation(base_url: str) -> None:
    before = settled(base_url)["requests"]
    answers = asyncio.run(many(base_url, 1000, body("asked a thousand times", max_tokens=64)))
    after = settled(base_url)["requests"]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
    assert after["engine"] - before.get("engine", 0) == 1
    kinds = Counter(status(answer).split(";")[0] for answer in answers)
    assert kinds["fwd=miss"] + kinds["hit"] == 1000


def test_streams_join_whole_answers_and_the_other_way_round(base_url: str) -> None:
    async def run(first_streams: bool) -> set[str]:
        question = body(f"joined by both kinds {first_streams}", max_tokens=100, temperature=0.5)
        async with httpx.AsyncClient(base_url=base_url, timeout=60) as client:

            async def whole() -> str:
                return str((await client.post(CHAT, json=question)).json()["choices"][0]["message"]["content"])

            async def streamed() -> str:
                text = ""
                async with client.stream("POST", CHAT, json={**question, "stream": True}) as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: {"):
                            text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                return text

            first, second = (streamed, whole) if first_streams else (whole, streamed)
            leading = asyncio.create_task(first())
            await asyncio.sleep(0.08)
            others = await asyncio.gather(second(), second(), first())
            return {await leading, *others}

    assert len(asyncio.run(run(first_streams=True))) == 1
    assert len(asyncio.run(run(first_streams=False))) == 1
    settled(base_url)


def test_the_first_caller_hangs_up_and_the_others_are_served(base_url: str) -> None:
    async def run() -> list[int]:
        question = body("the leader leaves", max_tokens=400, ignore_eos=True)
        async with httpx.AsyncClient(base_url=base_url, timeout=60) as client:
            leading = asyncio.create_task(client.post(CHAT, json=question))
            await asyncio.sleep(0.15)
            others = [asyncio.create_task(client.post(CHAT, json=question)) for _ in range(5)]
            await asyncio.sleep(0.1)
            leading.cancel()
            answers = await asyncio.gather(*others)
            return [answer.json()["usage"]["completion_tokens"] for answer in answers]

    assert asyncio.run(run()) == [400] * 5
    settled(base_url)


def test_nothing_is_left_when_everybody_hangs_up(base_url: str) -> None:
    async def run() -> None:
        question = body("everybody leaves", max_tokens=3000, ignore_eos=True)
        async with httpx.AsyncClient(base_url=base_url, timeout=60) as client:
            tasks = [asyncio.create_task(client.post(CHAT, json=question)) for _ in range(6)]
            await asyncio.sleep(0.5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    settled(base_url)


def test_a_client_that_leaves_in_mid_replay_leaves_nothing(base_url: str) -> None:
    payload = body("left in the middle", max_tokens=600, ignore_eos=True)
    assert httpx.post(base_url + CHAT, json=payload, timeout=120).status_code == 200
    for _ in range(20):
        with httpx.stream("POST", base_url + CHAT, json={**payload, "stream": True}, timeout=60) as answer:
            next(answer.iter_lines())
    assert settled(base_url)["faults"] == {}


# --------------------------------------------------------------------------- directives


def test_request_directives(base_url: str) -> None:
    assert status(post(base_url, "directives", {"Cache-Control": "no-store"})) == "fwd=miss"
    assert status(post(base_url, "directives")) == "fwd=miss; stored"
    assert status(post(base_url, "directives")).startswith("hit; ttl=")
    assert status(post(base_url, "directives", {"Cache-Control": "no-cache"})).startswith("fwd=")
    assert "hit" in status(post(base_url, "directives", {"Cache-Control": "max-age=60, only-if-cached"}))
    time.sleep(1.1)
    assert "fwd=" in status(post(base_url, "directives", {"Cache-Control": "max-age=0"}))
    bypassed = post(base_url, "directives", {"Cache-Control": "no-store, no-cache"})
    assert status(bypassed).startswith("fwd=bypass")
    assert "client_bypass" in status(bypassed)


def test_directives_in_the_body(base_url: str) -> None:
    assert status(post(base_url, "xargs", vllm_xargs={"enhance": "no-store"})) == "fwd=miss"
    assert status(post(base_url, "xargs")) == "fwd=miss; stored"
    assert "hit" in status(post(base_url, "xargs", vllm_xargs={"enhance": "max-age=100"}))
    assert "client_bypass" in status(post(base_url, "xargs", vllm_xargs={"enhance": "bypass"}))


@pytest.mark.parametrize("stream", [False, True])
def test_only_if_cached_is_504_when_nothing_fits(base_url: str, stream: bool) -> None:
    answer = post(base_url, f"never asked {stream}", {"Cache-Control": "only-if-cached"}, stream=stream)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == 504


@pytest.mark.parametrize("stream", [False, True])
def test_bad_directives_are_400_and_say_what_is_allowed(base_url: str, stream: bool) -> None:
    answer = post(base_url, "bad", {"Cache-Control": "max-age=soon"}, stream=stream)
    assert answer.status_code == 400
    assert "max-age=60" in answer.json()["error"]["message"]
    answer = post(base_url, "bad", vllm_xargs={"enhance": "sometimes"}, stream=stream)
    assert answer.status_code == 400
    assert "only-if-cached" in answer.json()["error"]["message"]


# --------------------------------------------------------------------------- who asks


def test_callers_never_see_each_others_answers(base_url: str) -> None:
    one, two = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
    assert status(post(base_url, "mine", one)) == "fwd=miss; stored"
    assert "hit" in status(post(base_url, "mine", one))
    assert status(post(base_url, "mine", two)) == "fwd=miss; stored"
    assert status(post(base_url, "mine")) == "fwd=miss; stored"
    assert status(post(base_url, "mine", cache_salt="pepper")) == "fwd=miss; stored"


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5},
        {"max_tokens": 23},
        {"seed": 4},
        {"presence_penalty": 0.5},
        {"stop": ["zz"]},
        {"logit_bias": {"70": 1}},
        {"vllm_xargs": {"other": "argument"}},
        {"messages": [{"role": "user", "content": "what is asked matchez"}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_asked_must_match(base_url: str, change: dict[str, Any]) -> None:
    post(base_url, "what is asked matches")
    assert "hit" not in status(post(base_url, "what is asked matches", **change))


# --------------------------------------------------------------------------- what the operator sees and orders


def test_explain_feedback_and_flush(base_url: str) -> None:
    answer = post(base_url, "explain me")
    found = httpx.get(f"{base_url}/v1/enhance/requests/{answer.json()['id']}").json()
    assert found["source"] == "engine"
    assert found["storable"] is True
    assert "explain me" not in json.dumps(found)
    again = post(base_url, "explain me").json()["id"]
    assert httpx.get(f"{base_url}/v1/enhance/requests/{again}").json()["source"] == "memory"
    verdict = {"request_id": again, "verdict": "wrong"}
    assert httpx.post(f"{base_url}/v1/enhance/feedback", json=verdict).json()["removed"] == 1
    assert "hit" not in status(post(base_url, "explain me"))
    counted = httpx.delete(f"{base_url}/v1/enhance/cache", params={"scope": "all", "dry_run": True}).json()
    removed = httpx.delete(f"{base_url}/v1/enhance/cache", params={"scope": "all"}).json()
    assert counted["removed"] == removed["removed"] > 0
    assert "hit" not in status(post(base_url, "explain me"))


def test_resetting_the_prefix_cache_forgets(base_url: str) -> None:
    post(base_url, "reset me")
    assert "hit" in status(post(base_url, "reset me"))
    reset = httpx.post(f"{base_url}/reset_prefix_cache")
    if reset.status_code == 404:
        pytest.skip("this server offers no /reset_prefix_cache")
    assert "hit" not in status(post(base_url, "reset me"))


def test_metrics_are_in_vllms_own_page(base_url: str) -> None:
    post(base_url, "metrics")
    post(base_url, "metrics")
    page = httpx.get(f"{base_url}/metrics").text
    for name in ("requests_total", "hit_age_seconds", "saved_tokens_total", "hook_seconds", "enabled", "cache_bytes"):
        assert f"vllm_enhance_{name}" in page
    assert "vllm:request_success_total" in page


def test_server_is_healthy_and_without_faults(base_url: str) -> None:
    health = httpx.get(f"{base_url}/v1/enhance/health").json()
    assert health["status"] == "healthy", health
    assert settled(base_url)["faults"] == {}

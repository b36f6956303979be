"""One index for many processes: entries, flushes, messages that are wrong; real stores, the real MiniLM."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from similarity_support import ENGINE, Peer, peer, record
from vllm_enhance_cache.seal import Seal
from vllm_enhance_cache.stores import open_store
from vllm_enhance_similarity.exchange import sharing_tag
from vllm_enhance_similarity.messages import EntryMessage, VerdictMessage, read_entry, read_verdict

from vllm_enhance.records import encode_record
from vllm_enhance.stores import LogLimits
from vllm_enhance.testing.redis import RedisServer
from vllm_enhance.types import InvalidationScope

NORWAY = "What is the capital of Norway?"


def message_of(**changes: Any) -> bytes:
    """An entry of another process, with changes."""
    now = time.time()
    fields: dict[str, Any] = {
        "partition": b"p" * 16,
        "key": b"k" * 32,
        "tenant": b"t" * 16,
        "model": "m",
        "text": NORWAY,
        "group": b"k" * 32,
        "created": now,
        "expires": now + 60,
        "generation": 0,
        "vector": np.eye(384, dtype=np.float32)[0].tobytes(),
        "payload": encode_record(record("Oslo.", now)),
    }
    return msgspec.msgpack.encode(EntryMessage(**(fields | changes)))


async def send(url: str, here: Peer, payload: bytes, secret: str = "") -> None:
    """Put a message of a stranger into the log that ``here`` reads."""
    store, topic = open_store(url), topic_of(here)
    await store.append(topic, Seal(secret).seal(topic, payload, origin=b"stranger", now=time.time()), LogLimits())
    await store.close()


def topic_of(here: Peer, identity: bytes = b"i" * 16) -> str:
    embedder = here.hook._service.embedder.identity  # type: ignore[union-attr]
    assert embedder is not None
    return f"similar-{sharing_tag(identity, embedder)}"


# --------------------------------------------------------------------------- what comes in


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"key": b"short"}, "unreadable"),
        ({"partition": b""}, "unreadable"),
        ({"text": ""}, "unreadable"),
        ({"created": float("nan")}, "unreadable"),
        ({"expires": float("inf"), "created": float("-inf")}, "unreadable"),
        ({"generation": -1}, "unreadable"),
        ({"vector": b"\0" * 384 * 4}, "dimension"),
        ({"vector": np.full(384, np.nan, dtype=np.float32).tobytes()}, "dimension"),
        ({"vector": np.eye(385, dtype=np.float32)[0].tobytes()}, "dimension"),
        ({"vector": b"123"}, "dimension"),
        ({"expires": 1.0}, "expired"),
        ({"created": 1.0}, "expired"),
        ({"payload": b"x" * 5000}, "too_large"),
        ({"payload": b"no record"}, "record"),
    ],
)
def test_messages_that_are_refused(changes: dict[str, Any], problem: str) -> None:
    data = message_of(**changes)
    assert read_entry(data, dimension=384, now=time.time(), ttl=3600.0, max_payload=4096) == problem


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x90", msgspec.msgpack.encode({"a": 1})])
def test_garbage_is_refused(data: bytes) -> None:
    assert read_entry(data, dimension=384, now=0.0, ttl=1.0, max_payload=10) == "unreadable"
    assert read_verdict(data, dimension=384, now=0.0, ttl=1.0) is None


def test_a_message_lives_no_longer_than_our_own_time_to_live() -> None:
    now = time.time()
    data = message_of(created=now + 500, expires=now + 10**9)
    found = read_entry(data, dimension=384, now=now, ttl=60.0, max_payload=4096)
    assert isinstance(found, EntryMessage)
    assert (found.created, found.expires) == (now, now + 60)


@pytest.mark.parametrize(
    "message",
    [
        VerdictMessage(b"k" * 31, "wrong"),
        VerdictMessage(b"k" * 32, "splendid"),
        VerdictMessage(b"k" * 32, "wrong", b"p", b"e", b"g", b"123", 10.0),
        VerdictMessage(b"k" * 32, "wrong", b"p", b"e", b"g", np.eye(384, dtype=np.float32)[0].tobytes(), 1.0),
    ],
)
def test_verdicts_that_are_refused(message: VerdictMessage) -> None:
    assert read_verdict(msgspec.msgpack.encode(message), dimension=384, now=5.0, ttl=60.0) is None


# --------------------------------------------------------------------------- entries


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/store.db"


async def test_what_one_stores_another_answers_within_a_second(minilm: str, url: str) -> None:
    async with peer(minilm, url) as one, peer(minilm, url) as two:
        taken = []
        for question, answer in (
            (NORWAY, "Oslo."),
            ("Who wrote Don Quixote?", "Cervantes."),
            ("What is TCP?", "It is."),
        ):
            await one.ask(question)  # embeds it, so that the time is the log's
            await two.ask(question)
            await one.generate(question, answer)
            taken.append(await two.gets(question, answer))
        assert min(taken) < 1.0, "also when the machine has had a bad moment"
        assert await two.ask("what's Norway's capital?") == "Oslo."
        assert two.hook.stats()["shared"]["received"] == {"added": 3}
        assert one.hook.stats()["shared"]["received"] == {}, "its own are not read back"
        assert two.metrics.value("vllm_enhance_similarity_shared", "added") == 3
        assert "shared through the store" in two.hook.health()[0].detail
        for other in ({"tenant": b"u" * 16}, {"partition": b"q" * 16}):
            assert await two.ask(NORWAY, **other) is None
        async with peer(minilm, url) as late:
            await late.gets(NORWAY, "Oslo.")


async def test_other_weights_and_other_embedders_share_nothing(minilm: str, url: str) -> None:
    async with peer(minilm, url) as one, peer(minilm, url, identity=b"j" * 16) as other, peer(minilm, url) as same:
        await one.generate(NORWAY, "Oslo.")
        await same.gets(NORWAY, "Oslo.")
        assert other.hook.stats()["index"]["entries"] == 0
        assert other.hook.stats()["shared"]["received"] == {}


async def test_only_signed_messages_enter_and_none_leaves_its_tenant(minilm: str, url: str) -> None:
    async with peer(minilm, url, key="ours") as one:
        embedded = await one.hook._service.embedder.embed(NORWAY)  # type: ignore[union-attr]
        assert embedded.vector is not None
        vector = embedded.vector.tobytes()
        forged = message_of(vector=vector, payload=encode_record(record("Bergen.", time.time())))
        moved = Seal("ours").seal("similar-0000", forged, origin=b"stranger", now=time.time())
        store = open_store(url)
        await store.append(topic_of(one), moved, LogLimits())
        await store.close()
        await send(url, one, forged)
        await send(url, one, forged, "theirs")
        await send(url, one, b"nonsense", "ours")
        await send(url, one, message_of(vector=vector), "ours")
        await one.gets(NORWAY, "Oslo.")
        assert one.hook.stats()["shared"]["received"] == {"unreadable": 1, "added": 1}
        assert one.metrics.value("vllm_enhance_store_messages_refused", "mac") == 3
        # Even a message that lies about its partition answers only the tenant that it names.
        assert await one.ask(NORWAY, tenant=b"u" * 16) is None


async def test_an_older_entry_does_not_replace_a_newer_one(minilm: str, url: str) -> None:
    async with peer(minilm, url) as one:
        await one.generate(NORWAY, "Oslo.")
        payload = encode_record(record("Kristiania.", time.time()))
        await send(url, one, message_of(key=one.request(NORWAY).key, created=time.time() - 30, payload=payload))
        await one.wait(lambda: one.hook.stats()["shared"]["received"] == {"known": 1})
        assert await one.ask(NORWAY) == "Oslo."


# --------------------------------------------------------------------------- forgetting


@pytest.mark.parametrize(
    "scope",
    [
        InvalidationScope("all"),
        InvalidationScope("tenant", (b"t" * 16).hex()),
        InvalidationScope("model", "m"),
        InvalidationScope("key", NORWAY.encode().ljust(32, b".")[:32].hex()),
        InvalidationScope("age", "0"),
    ],
    ids=lambda scope: scope.kind,
)
async def test_a_flush_reaches_every_index_and_what_is_under_way(
    minilm: str, url: str, scope: InvalidationScope
) -> None:
    async with peer(minilm, url) as one, peer(minilm, url) as two:
        await one.generate(NORWAY, "Oslo.")
        await two.gets(NORWAY, "Oslo.")
        running = two.request(NORWAY)  # admitted before the flush, finished after it
        await two.look_up(running)
        created = time.time() - 0.001
        await one.forget(scope)
        assert await one.ask(NORWAY) is None, "at once where it was asked for"
        await two.gets(NORWAY, None)
        await two.hook.post_output(running, record("Oslo?", created), ENGINE)
        assert await two.ask(NORWAY) is None
        for each in (one, two):
            await each.wait(lambda each=each: each.hook.stats()["index"]["entries"] == 0)
        await asyncio.sleep(0.01)
        await one.generate(NORWAY, "Oslo again.")
        await two.gets(NORWAY, "Oslo again.")


async def test_an_entry_that_arrives_after_its_flush_is_refused(minilm: str, url: str) -> None:
    """Sent by a process that had not heard of the flush, so behind the horizon for everybody."""
    async with peer(minilm, url) as one:
        await one.forget(InvalidationScope("model", "m"))
        await one.forget(InvalidationScope("key", (b"z" * 32).hex()))
        await send(url, one, message_of(generation=0))
        await one.wait(lambda: one.hook.stats()["shared"]["received"] == {"forgotten": 1})
        assert one.hook.stats()["index"]["entries"] == 0


async def test_what_was_flushed_while_a_process_was_away_does_not_come_back(
    minilm: str, url: str, tmp_path: Path
) -> None:
    folder = str(tmp_path / "index")
    async with peer(minilm, url, similarity_dir=folder) as one:
        await one.generate(NORWAY, "Oslo.")
        await one.generate("Who wrote Don Quixote?", "Cervantes.", tenant=b"u" * 16, partition=b"q" * 16)
    async with peer(minilm, url) as other:
        await other.forget(InvalidationScope("tenant", (b"t" * 16).hex()))
    async with peer(minilm, url, similarity_dir=folder) as back:
        assert await back.ask(NORWAY) is None
        assert await back.ask("Who wrote Don Quixote?", tenant=b"u" * 16, partition=b"q" * 16) == "Cervantes."
        assert back.hook.stats()["index"]["entries"] == 1


# --------------------------------------------------------------------------- a sick store


@pytest.mark.redis
async def test_a_redis_that_hangs_or_dies_costs_nothing_and_is_joined_again(minilm: str, tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    try:
        async with peer(minilm, server.url) as one, peer(minilm, server.url) as two:
            await one.generate(NORWAY, "Oslo.")
            await two.gets(NORWAY, "Oslo.")
            server.freeze()
            started = time.monotonic()
            for number in range(20):
                await one.generate(f"Who wrote book {chr(97 + number)}?", "Somebody.")
                assert await two.ask(NORWAY) == "Oslo."
            assert time.monotonic() - started < 10.0, "nobody waits for the store"
            server.thaw()
            await one.generate("Who painted Guernica?", "Picasso.")
            await two.gets("Who painted Guernica?", "Picasso.", 20.0)
            server.kill()
            assert await two.ask(NORWAY) == "Oslo."
            await one.generate("Who composed Carmen?", "Bizet.")
            server.start()
            deadline = time.monotonic() + 30
            while await two.ask("Who built the Eiffel tower?") is None:
                assert time.monotonic() < deadline
                await one.generate("Who built the Eiffel tower?", "Eiffel.")
                await asyncio.sleep(0.3)
            await one.forget(InvalidationScope("all"))
            await two.gets(NORWAY, None)
    finally:
        server.stop()

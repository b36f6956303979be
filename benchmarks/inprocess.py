"""What each step of a request costs inside the process, in microseconds and bytes, by size.

    python benchmarks/inprocess.py                     # all, about a minute and a half
    python benchmarks/inprocess.py --save base         # keep the figures under a name
    python benchmarks/inprocess.py --compare base      # measure again and show both; --fail 25 fails above +25%
    python benchmarks/inprocess.py -k "key or replay"  # a part
    python benchmarks/inprocess.py --sizes 1000,1000000

Run by pytest-benchmark; saved figures lie under ``.benchmarks`` as its JSON. ``benchmarks/stores.py`` looks closer at
the stores (restart, writes behind), ``benchmarks/middleware.py`` at the HTTP side.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parent))

from common import CACHE, ROOT, finish, machine, options, say

from vllm_enhance.context import HookContext
from vllm_enhance.dispatch import Dispatcher
from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import PluginSet, new_manager
from vllm_enhance.records import (
    ChoiceRecord,
    GenerationRecord,
    decode_record,
    encode_record,
    pack_token_ids,
    unpack_token_ids,
)
from vllm_enhance.settings import CORE_SETTINGS, Settings, SettingsTable
from vllm_enhance.stores import EntryTags
from vllm_enhance.types import Outcome, RequestContext, Source

SIZES = tuple(int(size) for size in os.environ.get("BENCH_SIZES", "1000,10000,100000").split(","))
TOKENS = (32, 1000, 16000)
ANSWERS = (64, 1000)
DIMENSION = 384
STRIDE = 7919  # a prime: visits entries all over the table

Benchmark = Any


def run_async(
    benchmark: Benchmark, step: Callable[[], Any], *, loop: asyncio.AbstractEventLoop, batch: int = 64
) -> None:
    """Measure a coroutine function without the cost of entering the event loop each time."""

    async def many() -> None:
        for _ in range(batch):
            await step()

    benchmark.extra_info["batch"] = batch
    benchmark(lambda: loop.run_until_complete(many()))


@pytest.fixture(scope="module", name="loop")
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def record_of(tokens: int) -> GenerationRecord:
    """A stored answer of ``tokens`` tokens, four letters each."""
    ids = pack_token_ids((31 * number) % 150_000 for number in range(tokens))
    text = "".join(f"w{number % 100:02d} " for number in range(tokens))
    return GenerationRecord(1, (ChoiceRecord(ids, text, "stop"),), prompt_tokens=128, created_at=1e9)


def metrics() -> Metrics:
    import prometheus_client

    made = Metrics(registry=prometheus_client.CollectorRegistry())
    made.hold()  # as in a running server
    return made


def context(number: int = 0, tokens: int = 128) -> RequestContext:
    return RequestContext(f"r{number}", list(range(tokens)), None, model="m", key=number.to_bytes(32, "big"))


# --------------------------------------------------------------------------- key


@functools.cache
def sampling_params() -> Any:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from vllm.sampling_params import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=64, top_p=0.9, stop=["END"])


@pytest.mark.parametrize("tokens", TOKENS)
def test_key(benchmark: Benchmark, tokens: int) -> None:
    """The exact key of a rendered chat request."""
    params = sampling_params()
    from vllm_enhance.engine.key import request_key

    prompt = {"type": "token", "prompt_token_ids": [(31 * number) % 150_000 for number in range(tokens)]}
    benchmark(request_key, prompt=prompt, params=params, identity=b"i" * 16, epoch=b"e" * 8, tenant=b"t" * 16)


@pytest.mark.parametrize("tokens", TOKENS)
def test_pack_token_ids(benchmark: Benchmark, tokens: int) -> None:
    benchmark(pack_token_ids, [(31 * number) % 150_000 for number in range(tokens)])


@pytest.mark.parametrize("tokens", TOKENS)
def test_unpack_token_ids(benchmark: Benchmark, tokens: int) -> None:
    benchmark(unpack_token_ids, record_of(tokens).choices[0].token_ids)


# --------------------------------------------------------------------------- records


@pytest.mark.parametrize("tokens", ANSWERS)
def test_record_encode(benchmark: Benchmark, tokens: int) -> None:
    benchmark.extra_info["bytes"] = len(encode_record(record_of(tokens)))
    benchmark(encode_record, record_of(tokens))


@pytest.mark.parametrize("tokens", ANSWERS)
def test_record_decode(benchmark: Benchmark, tokens: int) -> None:
    benchmark(decode_record, encode_record(record_of(tokens)))


@pytest.mark.parametrize("tokens", ANSWERS)
def test_envelope_seal(benchmark: Benchmark, tokens: int) -> None:
    """With a store key: compressed and signed."""
    envelope, entry = _envelope(), _entry(7, record_of(tokens))
    benchmark.extra_info["bytes"] = len(envelope.seal(entry))
    benchmark(envelope.seal, entry)


@pytest.mark.parametrize("tokens", ANSWERS)
def test_envelope_open(benchmark: Benchmark, tokens: int) -> None:
    envelope, entry = _envelope(), _entry(7, record_of(tokens))
    sealed, now = envelope.seal(entry), time.time()
    benchmark(lambda: envelope.open(sealed, key=entry.key, tenant=entry.tenant, now=now))


def _envelope() -> Any:
    from vllm_enhance_cache.envelope import Envelope

    return Envelope("a secret")


def _entry(number: int, record: GenerationRecord) -> Any:
    from vllm_enhance_cache.entries import Entry

    now = time.time()
    return Entry(number.to_bytes(32, "big"), record, b"t" * 16, "m", now, now + 1e6)


# --------------------------------------------------------------------------- memory tier


@functools.lru_cache(maxsize=1)
def filled_cache(entries: int) -> tuple[Any, float]:
    """A cache of ``entries`` answers of 64 tokens, and bytes of memory per entry besides the record itself."""
    from vllm_enhance_cache.lru import LRUCache

    shared = record_of(64)
    measured = entries <= 100_000
    if measured:
        tracemalloc.start()
    cache = LRUCache(2**44, 2 * entries)
    now = time.time()
    for number in range(entries):
        cache.put(_entry(number, shared), now)
    per_entry = tracemalloc.get_traced_memory()[0] / entries if measured else float("nan")
    if measured:
        tracemalloc.stop()
    return cache, per_entry


@pytest.mark.parametrize("entries", SIZES)
def test_memory_get(benchmark: Benchmark, entries: int) -> None:
    cache, per_entry = filled_cache(entries)
    benchmark.extra_info["bytes_per_entry"] = per_entry
    keys = [((STRIDE * number) % entries).to_bytes(32, "big") for number in range(1000)]
    now = time.time()

    def thousand() -> None:
        for key in keys:
            cache.get(key, now)

    benchmark.extra_info["batch"] = 1000
    benchmark(thousand)
    assert cache.get(keys[0], now) is not None


@pytest.mark.parametrize("entries", SIZES)
def test_memory_put(benchmark: Benchmark, entries: int) -> None:
    """Replacing entries of a full cache."""
    cache, _ = filled_cache(entries)
    shared, now = record_of(64), time.time()
    entries_again = [_entry((STRIDE * number) % entries, shared) for number in range(1000)]

    def thousand() -> None:
        for entry in entries_again:
            cache.put(entry, now)

    benchmark.extra_info["batch"] = 1000
    benchmark(thousand)


@pytest.mark.parametrize("hit", [True, False], ids=["hit", "miss"])
def test_lookup_hook(benchmark: Benchmark, loop: asyncio.AbstractEventLoop, hit: bool) -> None:
    """The cache hook's ``pre_request``, as the engine calls it: through the dispatcher."""
    from vllm_enhance_cache.options import SETTINGS
    from vllm_enhance_cache.plugin import CacheHook

    hook, request = CacheHook(), context(1)

    async def start() -> None:
        table = SettingsTable((*CORE_SETTINGS, *SETTINGS))
        await hook.startup(HookContext(settings=Settings(table, {}, {}), metrics=metrics()))
        hook.pre_request(request)
        record = GenerationRecord(1, record_of(64).choices, prompt_tokens=128, created_at=time.time())
        hook.post_output(request, record, Outcome(Source.ENGINE, storable=True))

    loop.run_until_complete(start())
    dispatcher = _dispatcher([hook])
    asked = request if hit else context(2)
    verdict = loop.run_until_complete(dispatcher.pre_request(asked, lambda *_: None))
    assert (type(verdict.decision).__name__ == "Respond") is hit
    run_async(benchmark, lambda: dispatcher.pre_request(asked, lambda *_: None), loop=loop)
    loop.run_until_complete(hook.shutdown())


# --------------------------------------------------------------------------- dispatch


class InlineHook:
    """Says nothing, at once."""

    @hookimpl(inline=True)
    def pre_request(self, request: RequestContext) -> None:
        return None

    @hookimpl(inline=True)
    def post_output(self, request: RequestContext) -> None:
        return None


class AsyncHook:
    """Says nothing, on the event loop."""

    @hookimpl
    async def pre_request(self, request: RequestContext) -> None:
        return None


class ThreadHook:
    """Says nothing, from a worker thread."""

    @hookimpl
    def pre_request(self, request: RequestContext) -> None:
        return None


def _dispatcher(hooks: list[Any]) -> Dispatcher:
    plugins = PluginSet(new_manager())
    for number, hook in enumerate(hooks):
        plugins.register(hook, f"hook{number}", "benchmark")
    return Dispatcher(plugins.manager, metrics())


@pytest.mark.parametrize("count", [0, 3, 10])
@pytest.mark.parametrize("kind", [InlineHook, AsyncHook, ThreadHook], ids=["inline", "async", "thread"])
def test_dispatch(benchmark: Benchmark, loop: asyncio.AbstractEventLoop, kind: type, count: int) -> None:
    if count == 0 and kind is not InlineHook:
        pytest.skip("none is none")
    dispatcher, request = _dispatcher([kind() for _ in range(count)]), context()
    run_async(benchmark, lambda: dispatcher.pre_request(request, lambda *_: None), loop=loop)
    loop.run_until_complete(dispatcher.shutdown())


@pytest.mark.parametrize("count", [0, 3, 10])
def test_dispatch_post(benchmark: Benchmark, count: int) -> None:
    dispatcher, request, record = _dispatcher([InlineHook() for _ in range(count)]), context(), record_of(64)
    benchmark(dispatcher.post_output, request, record, Outcome(Source.ENGINE, storable=True))


# --------------------------------------------------------------------------- replay and recording


@functools.cache
def tokenizer() -> Any:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from transformers import AutoTokenizer

    from vllm_enhance.testing.models import tiny_model

    return AutoTokenizer.from_pretrained(tiny_model(CACHE))


def _spoken(tokens: int) -> GenerationRecord:
    """A record whose ids the tiny tokenizer can say: printable bytes."""
    ids = [32 + (31 * number) % 90 for number in range(tokens)]
    choice = ChoiceRecord(pack_token_ids(ids), tokenizer().decode(ids), "length")
    return GenerationRecord(1, (choice,), prompt_tokens=128, created_at=1e9)


@pytest.mark.parametrize("tokens", ANSWERS)
@pytest.mark.parametrize("kind", ["whole", "stream", "stream by token"])
def test_replay(benchmark: Benchmark, kind: str, tokens: int) -> None:
    """From a record to the last ``RequestOutput``."""
    record = _spoken(tokens)
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    from vllm_enhance.engine.replay import Reader, ReplayRequest
    from vllm_enhance.engine.tape import Tape

    output_kind = RequestOutputKind.FINAL_ONLY if kind == "whole" else RequestOutputKind.DELTA
    params = SamplingParams(temperature=0.0, max_tokens=tokens, output_kind=output_kind)
    chunk = 1 if kind == "stream by token" else 16
    ids = [65] * 128

    def replay() -> str:
        tape = Tape(1)
        tape.load(record)
        request = ReplayRequest(request_id="r", params=params, prompt_token_ids=ids, tokenizer=tokenizer(), chunk=chunk)
        reader, text = Reader(tape, request), ""
        while (output := reader.read()) is not None:
            text += output.outputs[0].text
        return text

    assert replay() == record.choices[0].text
    benchmark(replay)


@pytest.mark.parametrize("tokens", ANSWERS)
@pytest.mark.parametrize("kind", ["delta", "final"])
def test_record(benchmark: Benchmark, kind: str, tokens: int) -> None:
    """What a miss costs: every output written on the tape, and the record made at the end."""
    stored = _spoken(tokens)
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.sampling_params import RequestOutputKind

    from vllm_enhance.engine.tape import Tape

    ids = unpack_token_ids(stored.choices[0].token_ids)
    pieces = [[each] for each in ids] if kind == "delta" else [ids]
    outputs = []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        text = tokenizer().decode(piece)
        completion = CompletionOutput(0, text, piece, None, None, finish_reason="length" if last else None)
        outputs.append(RequestOutput("r", None, [1], None, [completion], finished=last))
    output_kind = RequestOutputKind.DELTA if kind == "delta" else RequestOutputKind.FINAL_ONLY

    def write() -> GenerationRecord:
        tape = Tape(1)
        for output in outputs:
            tape.ingest(output, output_kind)
        return tape.record(prompt_tokens=1, created_at=1e9, seconds=1.0, first_token_seconds=0.1, model="m")

    assert write().choices[0].token_ids == stored.choices[0].token_ids
    benchmark(write)


# --------------------------------------------------------------------------- stores


@pytest.fixture(scope="module", params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    """An open store of each kind, Redis over loopback."""
    from vllm_enhance_cache.stores import open_store

    from vllm_enhance.testing.redis import RedisServer

    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder) / "redis").start() if request.param == "redis" else None
        url = {"memory": "memory://", "sqlite": f"sqlite://{folder}/cache.db"}.get(request.param) or server.url  # type: ignore[union-attr]
        opened = open_store(url)
        yield opened
        loop.run_until_complete(opened.close())
        if server is not None:
            server.stop()


@pytest.mark.parametrize("tokens", ANSWERS)
def test_store_put(benchmark: Benchmark, store: Any, loop: asyncio.AbstractEventLoop, tokens: int) -> None:
    entry = _entry(tokens, record_of(tokens))
    value, tags = _envelope().seal(entry), EntryTags(entry.tenant, entry.model, entry.created_at)
    run_async(benchmark, lambda: store.put(entry.key, value, ttl=3600.0, tags=tags), loop=loop)


@pytest.mark.parametrize("tokens", ANSWERS)
def test_store_get(benchmark: Benchmark, store: Any, loop: asyncio.AbstractEventLoop, tokens: int) -> None:
    entry = _entry(tokens, record_of(tokens))
    value, tags = _envelope().seal(entry), EntryTags(entry.tenant, entry.model, entry.created_at)
    loop.run_until_complete(store.put(entry.key, value, ttl=3600.0, tags=tags))
    assert loop.run_until_complete(store.get(entry.key)) is not None
    run_async(benchmark, lambda: store.get(entry.key), loop=loop)


# --------------------------------------------------------------------------- index


@functools.lru_cache(maxsize=1)
def filled_index(kind: str, entries: int) -> Any:
    np = pytest.importorskip("numpy")
    pytest.importorskip("hnswlib", reason="hnswlib is not installed")
    from vllm_enhance_similarity.index.flat import FlatIndex
    from vllm_enhance_similarity.index.hnsw import HnswIndex

    index = FlatIndex(DIMENSION) if kind == "flat" else HnswIndex(DIMENSION, capacity=entries)
    for start in range(0, entries, 10_000):
        count = min(10_000, entries - start)
        index.add(list(range(start, start + count)), _vectors(np, start, count))
    return index


def _vectors(np: Any, seed: int, count: int) -> Any:
    """Unit vectors in clumps, as questions come; uniform noise in 384 dimensions has no neighbours."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((256, DIMENSION), dtype=np.float32)
    made = centres[rng.integers(256, size=count)] + 0.7 * rng.standard_normal((count, DIMENSION), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


INDEX_SIZES = [(kind, size) for kind, most in (("flat", 10_000), ("hnsw", 10**6)) for size in SIZES if size <= most]


@pytest.mark.parametrize(("kind", "entries"), INDEX_SIZES)
def test_index_search(benchmark: Benchmark, kind: str, entries: int) -> None:
    """The eight nearest of one question; ``recall`` against the exact answer."""
    np = pytest.importorskip("numpy")
    if kind == "hnsw" and entries > 20_000 and os.environ.get("BENCH_LARGE_INDEX") != "1":
        pytest.skip("building takes minutes: BENCH_LARGE_INDEX=1")
    index, asked = filled_index(kind, entries), _vectors(np, 10**9, 50)
    ids, vectors = index.export()
    best = [{ids[place] for place in np.argsort(-(vectors @ vector))[:8]} for vector in asked]
    found = [{match.id for match in index.search(vector[None], 8)[0]} for vector in asked]
    benchmark.extra_info["recall"] = sum(len(a & b) for a, b in zip(best, found, strict=True)) / (8 * len(asked))
    benchmark.extra_info["bytes_per_entry"] = 4 * DIMENSION
    benchmark(index.search, asked[:1], 8)


# --------------------------------------------------------------------------- as a script


class _Plugin:
    """Takes names of machines out of what is saved, and keeps the figures for the summary."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    @pytest.hookimpl
    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        machine_info["node"] = ""

    @pytest.hookimpl
    def pytest_benchmark_update_json(self, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
        output_json["commit_info"] = {"id": output_json.get("commit_info", {}).get("id", "")}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for each in session.config._benchmarksession.benchmarks:  # type: ignore[attr-defined]
            extra = dict(each.extra_info)
            batch = extra.pop("batch", 1)
            stats = each.stats
            row = {
                "name": each.name.removeprefix("test_"),
                "us": 1e6 * stats.median / batch,
                "min_us": 1e6 * stats.min / batch,
            }
            self.rows.append({**row, **extra})


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("-k", dest="select", default="", help="which, as pytest's -k")
    parser.add_argument("--save", metavar="NAME", help="keep the figures under this name")
    parser.add_argument("--compare", metavar="NAME", help="show them beside those kept under this name")
    parser.add_argument("--fail", type=float, metavar="PERCENT", help="with --compare: fail when a median grew by more")
    parser.add_argument("--sizes", help="entries in caches and indexes, such as 1000,10000,1000000")
    arguments = parser.parse_args()
    if arguments.sizes or arguments.quick:
        os.environ["BENCH_SIZES"] = arguments.sizes or "1000"
    seconds = "0.01" if arguments.quick else "0.3"
    given = [str(Path(__file__)), "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=", "--no-header"]
    given += ["--benchmark-only", f"--benchmark-max-time={seconds}", "--benchmark-min-rounds=3"]
    given += ["--benchmark-columns=min,median,stddev,rounds", "--benchmark-sort=fullname", "--benchmark-disable-gc"]
    given += [f"--benchmark-storage={(ROOT / '.benchmarks').as_uri()}", "--rootdir", str(ROOT)]
    given += ["-k", arguments.select] if arguments.select else []
    given += [f"--benchmark-save={arguments.save}"] if arguments.save else []
    if arguments.compare:
        given.append(f"--benchmark-compare={_saved(arguments.compare)}")
        given += [f"--benchmark-compare-fail=median:{arguments.fail:g}%"] if arguments.fail else []
    before, plugin = machine(), _Plugin()
    stdout, sys.stdout = sys.stdout, sys.stderr  # the last line of stdout is ours
    try:
        code = pytest.main(given, plugins=[plugin])
    finally:
        sys.stdout = stdout
    finish("inprocess", {"rows": plugin.rows}, out=arguments.out, before=before)
    sys.exit(code)


def _saved(name: str) -> str:
    """The number that pytest-benchmark gave the newest figures kept under ``name``."""
    found = sorted((ROOT / ".benchmarks").glob(f"*/*_{name}.json"))
    if not found:
        say(f"nothing is kept under {name!r}; python benchmarks/inprocess.py --save {name}")
        sys.exit(2)
    return found[-1].name.split("_", 1)[0]


if __name__ == "__main__":
    main()

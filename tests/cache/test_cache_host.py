"""Several API server processes without a shared store still forget together."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import prometheus_client
import pytest
from cache_support import record_of, request_of
from vllm_enhance_cache.options import SETTINGS
from vllm_enhance_cache.plugin import CacheHook
from vllm_enhance_cache.stores.host import HostHorizon

from vllm_enhance.context import HookContext
from vllm_enhance.errors import ConfigurationError
from vllm_enhance.metrics import Metrics
from vllm_enhance.settings import CORE_SETTINGS, Settings, SettingsTable
from vllm_enhance.types import InvalidationScope, Outcome, Respond, Source


@pytest.fixture(autouse=True)
def _own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@asynccontextmanager
async def process(index: int, count: int) -> AsyncIterator[CacheHook]:
    settings = Settings(SettingsTable((*CORE_SETTINGS, *SETTINGS)), {}, {})
    metrics = Metrics(registry=prometheus_client.CollectorRegistry())
    hook = CacheHook()
    await hook.startup(HookContext(settings=settings, metrics=metrics, api_process=(index, count)))
    yield hook
    await hook.shutdown()


@pytest.mark.parametrize("scope", [InvalidationScope("tenant", (b"a" * 16).hex()), InvalidationScope("model", "m")])
async def test_a_flush_reaches_the_siblings(tmp_path: Path, scope: InvalidationScope) -> None:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(process(index, 2)) for index in range(2)]
        for hook in (one, two):
            request = request_of(tenant=b"a" * 16)
            assert hook.pre_request(request) is None, "no lookup: there is no store to look in"
            hook.post_output(request, record_of(created_at=time.time()), Outcome(Source.ENGINE, storable=True))
        assert await one.invalidate(scope) == 1
        deadline = time.monotonic() + 1.0
        while isinstance(two.pre_request(request_of(tenant=b"a" * 16)), Respond):
            assert time.monotonic() < deadline, "within a second"
            await asyncio.sleep(0.01)
        assert {report.component: report.status for report in one.health()} == {"cache": "healthy", "store": "healthy"}
    assert list(tmp_path.rglob("horizon-*")) == [], "nothing is left behind"


async def test_one_process_needs_no_file(tmp_path: Path) -> None:
    async with process(0, 1) as hook:
        assert hook._shared is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / f"vllm-enhance-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="private"):
        HostHorizon()

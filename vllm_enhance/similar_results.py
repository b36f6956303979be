"""Similar questions of a request, kept where the other processes of the host can read them.

A hook package that writes what similarity found (the ``SIMILAR`` annotation) into a shared store, by request id. Stores
are opened through the entry-point group ``vllm_enhance.stores``: URL scheme -> function of a URL.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec

from vllm_enhance.errors import ConfigurationError, EnhanceError
from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.outputs import nearest_first
from vllm_enhance.settings import Setting
from vllm_enhance.stores import EntryTags, Store
from vllm_enhance.throttle import Throttle
from vllm_enhance.types import SIMILAR, HealthReport, Outcome, RequestContext, Source, Standby

if TYPE_CHECKING:
    from vllm_enhance.context import HookContext
    from vllm_enhance.records import GenerationRecord

__all__ = ["STORE_GROUP", "SimilarResultsHook", "open_store", "read_similar_results"]

logger = logging.getLogger("vllm_enhance.similar_results")

STORE_GROUP = "vllm_enhance.stores"
SEARCH_WAIT, SEARCH_POLL = 0.2, 0.01
CALL_SECONDS = 5.0
SECTION = "Similarity"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108

SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="similar-results",
        kind="text",
        default="",
        secret=True,
        section=SECTION,
        help="A store's URL (sqlite:///PATH, redis://…) where the similar questions found for a request are kept for "
        "other processes, by request id. Unset keeps them nowhere.",
    ),
    Setting(
        name="similar-results-ttl",
        kind="duration",
        default="600s",
        minimum=1,
        maximum=3.2e8,
        section=SECTION,
        help="How long they are kept.",
    ),
    Setting(
        name="similar-results-limit",
        kind="int",
        default="5",
        minimum=1,
        maximum=100,
        section=SECTION,
        help="How many similar questions are listed for a request, nearest first.",
    ),
)


class SimilarResultsHook:
    """Writes after the answer, in the background; a store that fails is counted and costs nobody anything."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._url = ""
        self._ttl = 600.0
        self._limit = 5
        self._searching = False
        self._written = 0
        self._failed = 0
        self._last_failure = ""
        self._throttle = Throttle(60.0)

    @hookimpl
    def declare_settings(self) -> Sequence[Setting]:
        return SETTINGS

    @hookimpl
    async def startup(self, context: HookContext) -> Standby | None:
        settings = context.settings
        self._url = settings["similar-results"]
        self._ttl, self._limit = settings["similar-results-ttl"], settings["similar-results-limit"]
        self._searching = bool(settings.get("embedding-model")) and settings.get("similarity-mode") != "off"
        if not self._url:
            return Standby()
        self._store = await asyncio.to_thread(open_store, self._url)
        return None

    @hookimpl(trylast=True)
    async def post_output(self, request: RequestContext, record: GenerationRecord, outcome: Outcome) -> None:
        """Keep what was found for this request."""
        if self._store is None:
            return
        if outcome.source is Source.ENGINE and self._searching and request.key is not None:
            await self._wait(request)
        found = nearest_first(request.annotations.get(SIMILAR) or (), self._limit)
        if not found:
            return
        tags = EntryTags(request.tenant, request.model, record.created_at)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._store.put(_key(request.request_id), msgspec.json.encode(found), ttl=self._ttl, tags=tags)
            self._written += 1
            self._last_failure = ""
        except (EnhanceError, TimeoutError, OSError) as error:
            self._failed += 1
            self._last_failure = type(error).__name__
            if self._throttle.allow("put") is not None:
                logger.warning("similar results could not be kept: %s", self._last_failure)

    async def _wait(self, request: RequestContext) -> None:
        """The search may still run when a short answer is done already."""
        for _ in range(int(SEARCH_WAIT / SEARCH_POLL)):
            if SIMILAR in request.annotations:
                return
            await asyncio.sleep(SEARCH_POLL)

    @hookimpl
    async def shutdown(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            await store.close()

    @hookimpl(inline=True)
    def health(self) -> HealthReport:
        if self._store is None:
            return HealthReport("similar-results", "healthy", "off")
        if self._last_failure:
            return HealthReport("similar-results", "degraded", f"the store fails: {self._last_failure}")
        return HealthReport("similar-results", "healthy", f"{self._written} kept in {self._store.name}")

    @hookimpl(inline=True)
    def stats(self) -> dict[str, Any]:
        return {"enabled": self._store is not None, "written": self._written, "failed": self._failed}


async def read_similar_results(url: str, request_id: str) -> list[dict[str, Any]] | None:
    """What was found for a request, from any process of the host; ``None`` when nothing is kept under this id.

    Args:
        url: as in ``--enhance-similar-results`` or ``SimilarityConfig.results_store``.

    Returns:
        neighbours, nearest first, each with ``key``, ``similarity``, ``question``, ``refused_by``.

    Raises:
        ConfigurationError: the URL cannot be used.
        StoreError: the store fails.
    """
    store = await asyncio.to_thread(open_store, url)
    try:
        async with asyncio.timeout(CALL_SECONDS):
            found = await store.get(_key(request_id))
    finally:
        await store.close()
    return None if found is None else msgspec.json.decode(found)


def open_store(url: str) -> Store:
    """The store that a URL names, through the entry points of :data:`STORE_GROUP`.

    Raises:
        ConfigurationError: no installed package has this scheme; or a file's folder in shared memory is another user's.
    """
    parts = urlsplit(url)
    found = {point.name: point for point in entry_points(group=STORE_GROUP)}
    if parts.scheme not in found:
        known = ", ".join(sorted(found)) or "none is installed"
        raise ConfigurationError(f"no store for URLs that begin with {parts.scheme}:// (installed: {known})")
    if parts.scheme == "sqlite":
        _own_folder(Path(unquote(parts.path)).parent)
    opened: Store = found[parts.scheme].load()(url)
    return opened


def _own_folder(folder: Path) -> None:
    """Make a private folder in shared memory, where others could have put one of that name."""
    if SHARED_MEMORY not in folder.parents:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigurationError(f"{folder} belongs to somebody else: name another place")


def _key(request_id: str) -> bytes:
    return hashlib.blake2b(
        request_id.encode("utf-8", "surrogatepass"), digest_size=32, person=b"similar-results"
    ).digest()

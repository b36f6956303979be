"""A small system around one engine: places, results by id, health, numbers, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from vllm_enhance.config import HandlerConfig
from vllm_enhance.directives import NO_DIRECTIVES, parse_xarg
from vllm_enhance.errors import (
    AlreadyClosedError,
    AlreadyStartedError,
    ConfigurationError,
    EngineStoppedError,
    EnhanceError,
    GenerationError,
    NotStartedError,
    UnsupportedEngineError,
)
from vllm_enhance.outputs import EnhancedOutput
from vllm_enhance.places import Places
from vllm_enhance.results import Results
from vllm_enhance.scope import RequestScope, current_scope
from vllm_enhance.stores import tenant_tag

if TYPE_CHECKING:
    from vllm_enhance.engine.client import EnhancedAsyncLLM
    from vllm_enhance.engine.collector import EnhancedRequestOutputCollector

__all__ = ["EnhancedHandler", "Stats"]

logger = logging.getLogger("vllm_enhance.handler")

RANK = {"healthy": 0, "degraded": 1, "unhealthy": 2}
EMBEDDER_SECONDS = 120.0


class Stats(dict[str, Any]):
    """Numbers of this moment. Awaiting it adds, under ``hooks``, what the hook packages report."""

    gather: Callable[[], Awaitable[Mapping[str, Any]]] | None = None

    def __await__(self) -> Generator[Any, None, Stats]:
        return self._complete().__await__()

    async def _complete(self) -> Stats:
        if self.gather is not None:
            self["hooks"] = dict(await self.gather())
        return self


class EnhancedHandler:
    """Requests in, answers out, on one :class:`~vllm_enhance.engine.client.EnhancedAsyncLLM`.

    Made by :func:`~vllm_enhance.factory.create_enhanced_system`. States: made, started, stopped; it starts once.

    Args:
        llm: the engine; other handlers may use it too.
        config: limits and time-outs.
        release: called once at the end, for the engine.
        vector_dimension: what the embedder must have; ``None`` for whatever it has.
    """

    def __init__(
        self,
        llm: EnhancedAsyncLLM,
        config: HandlerConfig | None = None,
        *,
        release: Callable[[EnhancedHandler], Awaitable[None]] | None = None,
        vector_dimension: int | None = None,
    ) -> None:
        self.llm = llm
        self.config = config or HandlerConfig()
        self._release = release
        self._vector_dimension = vector_dimension
        self._places = Places(self.config.max_active_requests, self.config.max_waiting_requests)
        self._results = Results(self.config.max_results, self.config.result_ttl, time.monotonic)
        self._state = "made"
        self._stopping: asyncio.Task[None] | None = None
        self._started_at = 0.0
        self._counts = {"started": 0, "finished": 0, "failed": 0}

    # ------------------------------------------------------------------ life cycle

    async def start(self) -> None:
        """Start the hooks and take requests from now on.

        Raises:
            AlreadyStartedError: it runs already.
            AlreadyClosedError: it was stopped.
            ConfigurationError: the embedder has another dimension than ``vector_dimension``.
            UnsupportedEngineError: this vLLM lacks a seam that the plugin needs.
        """
        if self._state == "started":
            raise AlreadyStartedError("the handler runs already: start() is called once")
        self._check_not_stopped()
        if self.llm.enhance is None:
            raise UnsupportedEngineError("this vLLM is served plain, see the log: use one of docs/compatibility.md")
        await self.llm.enhance.start()
        if self._vector_dimension is not None:
            await self._check_dimension(self._vector_dimension)
        self._state, self._started_at = "started", time.monotonic()

    async def stop(self) -> None:
        """Take no more requests, let those under way finish (``drain_timeout``), then let go of the engine.

        Called twice, also at the same time, it is done once.
        """
        if self._stopping is None:
            self._state = "stopped"
            self._stopping = asyncio.create_task(self._stop(), name="enhance-handler-stop")
        await asyncio.shield(self._stopping)

    async def __aenter__(self) -> Self:
        if self._state != "started":
            await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _stop(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.drain_timeout):
                await self._places.emptied()
        tasks = self._results.tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        release, self._release = self._release, None
        if release is not None:
            await release(self)

    @property
    def running(self) -> bool:
        """Whether it takes requests."""
        return self._state == "started"

    def _check_running(self) -> None:
        self._check_not_stopped()
        if self._state != "started":
            raise NotStartedError("the handler has not started: await handler.start(), or use async with")

    def _check_not_stopped(self) -> None:
        if self._state == "stopped":
            raise AlreadyClosedError("the handler was stopped: create a new system")

    async def _check_dimension(self, wanted: int) -> None:
        found = await self.llm.embedder_dimension(EMBEDDER_SECONDS)
        if found is not None and found != wanted:
            raise ConfigurationError(
                f"SimilarityConfig.vector_dimension is {wanted}, but the embedding model has {found}: "
                "write that, or None"
            )

    # ------------------------------------------------------------------ requests

    async def add_request_v2(
        self,
        prompt: Any,
        sampling_params: Any = None,
        request_id: str | None = None,
        *,
        directives: str | None = None,
        tenant: bytes = b"",
        **kwargs: Any,
    ) -> EnhancedRequestOutputCollector:
        """Send a request; read the answer with ``async for output in collector.aiter()``.

        Waits while ``max_active_requests`` are under way. A request is under way until its answer has been read, its
        collector closed, or the reader gone.

        Args:
            prompt: a text or another prompt of vLLM's, or chat messages (a list of ``{"role": …, "content": …}``).
            sampling_params: vLLM's ``SamplingParams``; its defaults when ``None``.
            request_id: a fresh one when ``None``.
            directives: of the cache: ``no-cache``, ``no-store``, ``only-if-cached``, ``max-age=N``, ``bypass``.
            tenant: who asks; different tenants never share an answer.
            kwargs: further arguments of ``AsyncLLM.add_request``, such as ``lora_request``.

        Raises:
            NotStartedError, AlreadyClosedError, EngineStoppedError: there is nobody to answer.
            OverloadedError: too many wait already.
            DirectiveError: ``directives`` cannot be understood.
        """
        self._check_running()
        scope = RequestScope(
            directives=NO_DIRECTIVES if directives is None else parse_xarg(directives),
            tenant=tenant_tag(tenant) if tenant else b"",
        )
        await self._places.enter()
        try:
            self._check_running()  # it may have been stopped while this caller waited
            collector = await self._send(prompt, sampling_params, request_id or _new_id(), scope, kwargs)
        except BaseException:
            self._counts["failed"] += 1
            self._places.leave()
            raise
        self._counts["started"] += 1
        collector.after_close.append(self._left)
        if self.config.features.enable_detailed_logging:
            collector.after_close.append(_write_line)
        return collector

    async def _send(
        self, prompt: Any, params: Any, request_id: str, scope: RequestScope, kwargs: Mapping[str, Any]
    ) -> EnhancedRequestOutputCollector:
        try:
            if _is_chat(prompt):
                scope.body = [json.dumps({"messages": prompt}, default=str).encode()]
                prompt = await self.llm.render_chat(prompt)
            llm: Any = self.llm  # its signature is vLLM's
            token = current_scope.set(scope)
            try:
                collector: EnhancedRequestOutputCollector = await llm.add_request(
                    request_id, prompt, self.llm.sampling_params(params), **kwargs
                )
                return collector
            finally:
                current_scope.reset(token)
        except Exception as error:
            if self.llm.errored and not isinstance(error, EnhanceError):
                raise EngineStoppedError("the engine has died: stop this system and create a new one") from error
            raise

    def _left(self, collector: EnhancedRequestOutputCollector) -> None:
        self._counts["finished"] += 1
        self._places.leave()

    async def generate(self, prompt: Any, sampling_params: Any = None, **kwargs: Any) -> EnhancedOutput:
        """The whole answer; arguments as in :meth:`add_request_v2`. A failure of the engine is in its ``error``."""
        collector = await self.add_request_v2(prompt, sampling_params, **kwargs)
        return await _last(collector)

    async def generate_batch(
        self, prompts: Iterable[Any], sampling_params: Any = None, **kwargs: Any
    ) -> list[EnhancedOutput]:
        """Whole answers to many prompts, in their order; a refused one has its ``error`` set and stops no other.

        Args:
            prompts: as in :meth:`add_request_v2`.
            sampling_params: one for all, or a list with one each.
        """
        self._check_running()
        asked = list(prompts)
        params = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(asked)
        if len(params) != len(asked):
            raise ConfigurationError(f"{len(asked)} prompts, but {len(params)} sampling_params: one each, or one")
        outputs: list[EnhancedOutput | None] = [None] * len(asked)
        turns = iter(range(len(asked)))

        async def work() -> None:
            for index in turns:
                outputs[index] = await self._one(asked[index], params[index], kwargs)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(asked), self.config.max_active_requests)):
                group.create_task(work())
        return [output for output in outputs if output is not None]

    async def _one(self, prompt: Any, params: Any, kwargs: Mapping[str, Any]) -> EnhancedOutput:
        try:
            return await self.generate(prompt, params, **kwargs)
        except Exception as error:
            typed = error if isinstance(error, EnhanceError) else GenerationError(f"refused: {error}")
            typed.__cause__ = None if typed is error else error
            return EnhancedOutput("", "", True, error=typed)

    # ------------------------------------------------------------------ the old way: by request id

    async def add_request(
        self, prompt: Any, sampling_params: Any = None, request_id: str | None = None, **kwargs: Any
    ) -> str:
        """Send a request and return its id at once; fetch the answer with :meth:`get_result` or :meth:`poll`.

        Raises:
            RequestRejected: the id is in use.
        """
        name = request_id or _new_id()
        self._check_running()
        self._results.check(name)
        collector = await self.add_request_v2(prompt, sampling_params, name, **kwargs)
        try:
            self._results.check(name)
        except EnhanceError:
            await collector.cancel()
            raise
        self._results.add(name, asyncio.create_task(_last(collector), name=f"enhance-result-{name}"))
        return name

    async def get_result(self, request_id: str, timeout: float | None = None) -> EnhancedOutput:
        """Wait for the answer of :meth:`add_request`.

        Raises:
            UnknownRequestError: no such id, or its result was forgotten.
            TimeoutError: not there yet; the request goes on.
        """
        return await self._results.wait(request_id, timeout)

    def poll(self, request_id: str) -> dict[str, Any]:
        """``status`` (``running``, ``finished``, ``failed``, ``cancelled``) and, when there is one, the answer.

        Raises:
            UnknownRequestError: no such id, or its result was forgotten.
        """
        return self._results.poll(request_id)

    async def cancel(self, request_id: str) -> None:
        """Stop a request of :meth:`add_request`.

        Raises:
            UnknownRequestError: no such id, or its result was forgotten.
        """
        await self._results.cancel(request_id)

    # ------------------------------------------------------------------ looks

    async def health_check(self) -> dict[str, Any]:
        """``status`` and ``components``, each from a real look; never raises.

        ``healthy``; ``degraded``: answers come, but some part does not work; ``unhealthy``: no answers.
        """
        components = {"handler": self._own_health()}
        if self._state != "stopped":
            components["engine"] = await self.llm.probe(self.config.health_timeout)
            components.update(await self._parts())
        worst = max(RANK.get(each["status"], 1) for each in components.values())
        return {"status": next(name for name, rank in RANK.items() if rank == worst), "components": components}

    async def _parts(self) -> dict[str, dict[str, str]]:
        try:
            async with asyncio.timeout(self.config.health_timeout):
                parts = (await self.llm.enhance_control.health())["components"]
        except Exception as error:
            return {"hooks": {"status": "degraded", "detail": f"no answer: {type(error).__name__}"}}
        return {
            part["component"]: {"status": part["status"], "detail": part["detail"]}
            for part in parts
            if part["component"] != "engine"
        }

    def _own_health(self) -> dict[str, str]:
        if self._state != "started":
            return {"status": "unhealthy", "detail": "not started" if self._state == "made" else "stopped"}
        if self._places.waiting:
            return {"status": "degraded", "detail": f"{self._places.waiting} callers wait for a place"}
        return {"status": "healthy", "detail": f"{self._places.taken} requests under way"}

    def get_stats(self) -> Stats:
        """Numbers of this handler and its engine, JSON-able; ``await`` it for those of the hook packages too."""
        control = self.llm.enhance_control
        stats = Stats({} if control is None else control.numbers())
        stats.update(
            active_requests=self._places.taken,
            waiting_requests=self._places.waiting,
            started_requests=self._counts["started"],
            finished_requests=self._counts["finished"],
            failed_requests=self._counts["failed"],
            results_kept=len(self._results),
            state=self._state,
            running=self.running,
            llm_running=not self.llm.errored and self._state != "stopped",
            uptime_seconds=time.monotonic() - self._started_at if self._started_at else 0.0,
        )
        if control is not None and self._state == "started":
            stats.gather = self.llm.hook_numbers
        return stats

    async def similar_results(self, request_id: str) -> list[dict[str, Any]] | None:
        """Similar questions found for a request of any process of this host; ``None`` when none are kept."""
        from vllm_enhance.similar_results import read_similar_results

        runtime = self.llm.enhance
        url = runtime.settings.get("similar-results") if runtime is not None else ""
        return await read_similar_results(url, request_id) if url else None


async def _last(collector: EnhancedRequestOutputCollector) -> EnhancedOutput:
    """Read an answer to its end."""
    async with contextlib.aclosing(collector.aiter()) as outputs:
        last: EnhancedOutput | None = None
        async for output in outputs:
            last = output
    if last is None:
        raise GenerationError("the engine ended this request without an output")
    return last


def _write_line(collector: EnhancedRequestOutputCollector) -> None:
    """One line for each request that ends; never its text."""
    decided = collector.decision
    logger.info(
        "request %s: %s%s, %.3f s",
        collector.user_id,
        "plain" if decided is None else decided.source.value,
        "" if decided is None or decided.similarity is None else f" (similarity {decided.similarity:.3f})",
        time.monotonic() - collector.arrived,
    )


def _is_chat(prompt: Any) -> bool:
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, str | bytes)
        and bool(prompt)
        and all(isinstance(message, Mapping) and "role" in message for message in prompt)
    )


def _new_id() -> str:
    return f"enhanced-{secrets.token_hex(8)}"

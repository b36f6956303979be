"""What ``EnhancedAsyncLLM`` offers besides ``AsyncLLM``'s own interface."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Self

from vllm.renderers import ChatParams
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from vllm_enhance.assembly import Assembly, assemble
from vllm_enhance.config import CacheConfig, HandlerConfig, SimilarityConfig, VLLMConfig, chosen_settings
from vllm_enhance.engine.arguments import client_arguments
from vllm_enhance.errors import AlreadyClosedError, InvalidConfigError
from vllm_enhance.outputs import EnhancedOutput

__all__ = ["PythonAPI", "assembly_of", "construction"]

OURS = frozenset(
    {"assembly", "handler_config", "cache_config", "similarity_config", "cache_manager", "similarity_search_helper"}
)
EMBEDDER_POLL = 0.05
GIVEN = {"cache_manager": "cache", "similarity_search_helper": "similarity"}


def assembly_of(values: Mapping[str, Any]) -> Assembly | None:
    """The assembly that constructor arguments ask for; ``None`` when none of ours is among them.

    Raises:
        ConfigurationError: they cannot be used.
    """
    if values.get("assembly") is not None:
        return values["assembly"]
    if not any(values.get(name) is not None for name in OURS):
        return None
    cache, similarity, handler = (_checked(values, *each) for each in CONFIGS)
    return assemble(
        chosen_settings([cache, similarity, handler]),
        os.environ,
        given={GIVEN[name]: values[name] for name in GIVEN if values.get(name) is not None},
        vector_dimension=None if similarity is None else similarity.vector_dimension,
    )


CONFIGS = (
    ("cache_config", CacheConfig),
    ("similarity_config", SimilarityConfig),
    ("handler_config", HandlerConfig),
)


def _checked(values: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    value = values.get(name)
    if value is not None and not isinstance(value, kind):
        raise InvalidConfigError(f"{name}: {kind.__name__} is wanted, not {type(value).__name__}")
    return value


def construction(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], Assembly | None]:
    """Arguments for ``AsyncLLM.__init__``, and what the engine is equipped with.

    Without ``vllm_config`` this is the convenience constructor, and the keywords are engine arguments.
    """
    ours = {name: value for name, value in kwargs.items() if name in OURS}
    rest = {name: value for name, value in kwargs.items() if name not in OURS}
    assembly = assembly_of(ours)
    if args or "vllm_config" in rest:
        return rest, assembly
    handler = ours.get("handler_config")
    if handler is not None and handler.model_name and "model" not in rest and "engine_args" not in rest:
        rest["model"] = handler.model_name
    return client_arguments(rest), assembly


class PythonAPI:
    """Mixed into :class:`~vllm_enhance.engine.client.EnhancedAsyncLLM`."""

    _closed = False
    _closing: asyncio.Task[None] | None = None
    assembly: Assembly | None = None

    @classmethod
    def from_custom_config(
        cls,
        custom_config: Any,
        cache_manager: object | None = None,
        similarity_search_helper: object | None = None,
        *,
        cache_config: CacheConfig | None = None,
        similarity_config: SimilarityConfig | None = None,
        handler_config: HandlerConfig | None = None,
        **kwargs: Any,
    ) -> Self:
        """An engine from configuration objects and hook objects of one's own.

        Args:
            custom_config: ``VLLMConfig``, ``AsyncEngineArgs``, or vLLM's ``VllmConfig``.
            cache_manager: a hook object that takes the place of the cache package; ``None`` keeps that.
            similarity_search_helper: the same for the similarity package.
            cache_config, similarity_config, handler_config: settings.
            kwargs: parameters of ``AsyncLLM``.

        Raises:
            ConfigurationError: something of it cannot be used.
        """
        ours = {
            "cache_manager": cache_manager,
            "similarity_search_helper": similarity_search_helper,
            "cache_config": cache_config,
            "similarity_config": similarity_config,
            "handler_config": handler_config,
        }
        if isinstance(custom_config, VLLMConfig):
            return cls(engine_args=custom_config.engine_args, **ours, **kwargs)  # type: ignore[call-arg]
        if hasattr(custom_config, "scheduler_config"):
            from vllm.v1.executor import Executor

            kwargs = {"executor_class": Executor.get_class(custom_config), "log_stats": True, **kwargs}
            return cls(vllm_config=custom_config, **ours, **kwargs)  # type: ignore[call-arg]
        return cls(engine_args=custom_config, **ours, **kwargs)  # type: ignore[call-arg]

    async def generate_enhanced(
        self, prompt: Any, sampling_params: SamplingParams | None = None, request_id: str | None = None, **kwargs: Any
    ) -> AsyncGenerator[EnhancedOutput, None]:
        """``generate`` with enhanced outputs; leaving the loop early aborts the request.

        Args:
            prompt: anything that ``generate`` takes.
            sampling_params: vLLM's; its defaults when ``None``.
            request_id: a fresh one when ``None``.
            kwargs: further arguments of ``add_request``.
        """
        collector = await self.add_request(  # type: ignore[attr-defined]
            request_id or f"enhanced-{secrets.token_hex(8)}", prompt, sampling_params or SamplingParams(), **kwargs
        )
        outputs = collector.aiter()
        try:
            async for output in outputs:
                yield output
        finally:
            await outputs.aclose()

    async def render_chat(self, messages: Sequence[Any], **template: Any) -> Mapping[str, Any]:
        """Chat messages as a prompt, as the server renders them (``ChatCompletionRequest.build_chat_params``).

        Args:
            template: further arguments of the chat template, such as ``enable_thinking``.
        """
        arguments = {"add_generation_prompt": True, "continue_final_message": False, **template}
        _, (prompt,) = await self.renderer.render_chat_async(  # type: ignore[attr-defined]
            [list(messages)], ChatParams(chat_template_kwargs=arguments)
        )
        return prompt

    @staticmethod
    def sampling_params(given: Any) -> SamplingParams:
        """``SamplingParams``: those given, a mapping of their fields, or the defaults."""
        if given is None or isinstance(given, Mapping):
            return SamplingParams(**(given or {}))
        return given

    async def probe(self, timeout: float) -> dict[str, str]:
        """Ask the engine's process something and wait for its answer: ``status`` and ``detail``.

        Args:
            timeout: seconds; an engine that is slower but alive is ``degraded``.
        """
        if self._closed:
            return {"status": "unhealthy", "detail": "cleaned up"}
        started = time.monotonic()
        try:
            await self.check_health()  # type: ignore[attr-defined]
            async with asyncio.timeout(timeout):
                asleep = await self.is_sleeping()  # type: ignore[attr-defined]
        except TimeoutError:
            return {"status": "degraded", "detail": f"no answer from the engine within {timeout:g} s"}
        except Exception as error:
            return {"status": "unhealthy", "detail": f"the engine has died: {type(error).__name__}"}
        if asleep:
            return {"status": "degraded", "detail": "the engine is asleep"}
        return {"status": "healthy", "detail": f"answered in {(time.monotonic() - started) * 1e3:.1f} ms"}

    async def hook_numbers(self) -> Mapping[str, Any]:
        """What the hook packages report of themselves, by name."""
        runtime = self.enhance  # type: ignore[attr-defined]
        return {} if runtime is None else await runtime.dispatcher.gather("stats")

    async def embedder_dimension(self, timeout: float) -> int | None:
        """Length of the embedder's vectors; ``None`` without similarity, or when it is not ready within ``timeout``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while (found := (await self.hook_numbers()).get("similarity")) is not None:
                    if found.get("dimension") is not None:
                        return int(found["dimension"])
                    if found.get("detail") != "loading":
                        return None
                    await asyncio.sleep(EMBEDDER_POLL)
        return None

    async def cleanup(self) -> None:
        """Stop hooks and engine, and wait until both are gone. Callers who still wait get an error. Twice is once."""
        self._closed = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._cleanup(), name="enhance-cleanup")
        await asyncio.shield(self._closing)

    async def _cleanup(self) -> None:
        await self._end_callers(AlreadyClosedError("the engine was cleaned up while this request was under way"))
        runtime = self.enhance  # type: ignore[attr-defined]
        if runtime is not None:
            await runtime.stop()
            for task in list(runtime.races):
                task.cancel()
            await asyncio.gather(*runtime.races, return_exceptions=True)
        handler = self.output_handler  # type: ignore[attr-defined]
        if handler is not None:  # before the engine: it takes an engine that goes for one that died
            handler.cancel()
            await asyncio.gather(handler, return_exceptions=True)
        await asyncio.to_thread(self.shutdown)  # type: ignore[attr-defined]

    async def _end_callers(self, error: Exception) -> None:
        states = self.output_processor.request_states  # type: ignore[attr-defined]
        self.output_processor.propagate_error(error)  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):  # a dead engine has nothing to stop
            await AsyncLLM.abort(self, list(states), internal=True)
        runtime = self.enhance  # type: ignore[attr-defined]
        for reader in [] if runtime is None else runtime.table.readers():
            if reader.reader is None:
                reader.raise_to_caller(error)

    def _check_open(self) -> None:
        if self._closed:
            raise AlreadyClosedError("this engine was cleaned up: create a new one")

    def _given_out(self, collector: Any, request_id: str, arrived: float) -> Any:
        """Tell a collector who made it."""
        collector.abort_engine = self.abort  # type: ignore[attr-defined]
        collector.user_id = request_id
        collector.arrived = arrived
        return collector

    @staticmethod
    def _now() -> float:
        return time.monotonic()

"""Systems and the engines behind them: the same configuration twice is one engine."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm_enhance.assembly import Assembly, assemble
from vllm_enhance.config import CacheConfig, HandlerConfig, SimilarityConfig, VLLMConfig, chosen_settings
from vllm_enhance.errors import EngineStoppedError, EnhanceError, InvalidConfigError
from vllm_enhance.handler import EnhancedHandler

if TYPE_CHECKING:
    from vllm_enhance.engine.client import EnhancedAsyncLLM

__all__ = ["SystemFactory", "create_enhanced_system", "get_global_factory"]

logger = logging.getLogger("vllm_enhance.factory")

KINDS = {
    "vllm_config": VLLMConfig,
    "cache_config": CacheConfig,
    "similarity_config": SimilarityConfig,
    "handler_config": HandlerConfig,
}


@dataclass(slots=True, eq=False)
class Instance:
    """One engine and the handlers on it."""

    name: str
    loop: asyncio.AbstractEventLoop
    building: asyncio.Task[EnhancedAsyncLLM]
    handlers: set[EnhancedHandler] = field(default_factory=set)
    expected: int = 0
    created_at: float = field(default_factory=time.monotonic)

    @property
    def llm(self) -> EnhancedAsyncLLM | None:
        """The engine, once it is there."""
        done = self.building.done() and not self.building.cancelled() and self.building.exception() is None
        return self.building.result() if done else None

    @property
    def usable(self) -> bool:
        llm = self.llm
        gone = self.building.done() if llm is None else llm.errored
        return not gone and not self.loop.is_closed() and self.loop is asyncio.get_running_loop()


class SystemFactory:
    """Makes systems, and engines for them; an engine ends when the last handler on it stops."""

    def __init__(self) -> None:
        self._instances: dict[str, Instance] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def create(
        self,
        vllm_config: VLLMConfig | None = None,
        cache_config: CacheConfig | None = None,
        similarity_config: SimilarityConfig | None = None,
        handler_config: HandlerConfig | None = None,
        *,
        hooks: Mapping[str, object] | None = None,
    ) -> EnhancedHandler:
        """A handler, not started yet, on a new engine or on the one of an equal configuration.

        Args:
            hooks: hook objects of one's own, by the name of the package whose place they take.

        Raises:
            ConfigurationError: something of it cannot be used; no engine was started.
            EngineStoppedError: vLLM could not start the engine.
        """
        configs = (vllm_config, cache_config, similarity_config, handler_config)
        for (name, kind), config in zip(KINDS.items(), configs, strict=True):
            if config is not None and not isinstance(config, kind):
                raise InvalidConfigError(f"{name}: {kind.__name__} is wanted, not {type(config).__name__}")
        dimension = None if similarity_config is None else similarity_config.vector_dimension
        chosen = chosen_settings([cache_config, similarity_config, handler_config])
        assembly = await asyncio.to_thread(assemble, chosen, os.environ, given=hooks)
        arguments = await asyncio.to_thread(_engine_args, vllm_config, handler_config)
        instance = self._instance(_name(arguments, assembly, hooks), arguments, assembly)
        llm = await self._built(instance)
        handler = EnhancedHandler(llm, handler_config, release=self._release, vector_dimension=dimension)
        instance.handlers.add(handler)
        return handler

    def get_instance_stats(self) -> dict[str, dict[str, Any]]:
        """Engines by name: model, handlers, requests under way, whether it runs, and its numbers."""
        return {name: _instance_stats(instance) for name, instance in self._instances.items()}

    async def cleanup_all(self) -> None:
        """Stop every handler and every engine that this factory made."""
        for instance in list(self._instances.values()):
            mine = instance.loop is asyncio.get_running_loop()
            if mine:
                await asyncio.gather(*(handler.stop() for handler in list(instance.handlers)))
            if self._instances.get(instance.name) is instance:
                await self._end(instance)
        await asyncio.gather(*self._ending, return_exceptions=True)

    # ------------------------------------------------------------------ engines

    def _instance(self, name: str, engine_args: Any, assembly: Assembly) -> Instance:
        instance = self._instances.get(name)
        if instance is not None and not instance.usable:
            del self._instances[name]
            self._end_later(instance)
            instance = None
        if instance is None:
            task = asyncio.create_task(_build(engine_args, assembly), name=f"enhance-engine-{name}")
            instance = self._instances[name] = Instance(name, asyncio.get_running_loop(), task)
        return instance

    async def _built(self, instance: Instance) -> EnhancedAsyncLLM:
        """Wait for the engine; when every waiting creator is cancelled, it is stopped as soon as it is there."""
        instance.expected += 1
        try:
            return await asyncio.shield(instance.building)
        except Exception:
            if self._instances.get(instance.name) is instance:
                del self._instances[instance.name]
            raise
        except asyncio.CancelledError:
            if instance.expected == 1 and not instance.handlers:
                self._end_later(instance)
            raise
        finally:
            instance.expected -= 1

    async def _release(self, handler: EnhancedHandler) -> None:
        for instance in list(self._instances.values()):
            instance.handlers.discard(handler)
            if instance.llm is handler.llm:
                if not instance.handlers and not instance.expected:
                    await self._end(instance)
                return
        await handler.llm.cleanup()

    def _end_later(self, instance: Instance) -> None:
        task = asyncio.create_task(self._end(instance), name=f"enhance-end-{instance.name}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, instance: Instance) -> None:
        if self._instances.get(instance.name) is instance:
            del self._instances[instance.name]
        if instance.loop is not asyncio.get_running_loop():
            llm = instance.llm  # its loop is gone, so only the engine's process is left to stop
            if llm is not None:
                await asyncio.to_thread(llm.shutdown)
            return
        try:
            llm = await instance.building
        except Exception:
            return  # whoever asked for it has been told
        await llm.cleanup()


async def _build(engine_args: Any, assembly: Assembly) -> EnhancedAsyncLLM:
    def make() -> EnhancedAsyncLLM:
        from vllm_enhance.engine.client import EnhancedAsyncLLM

        return EnhancedAsyncLLM(engine_args=engine_args, assembly=assembly)

    try:
        return await asyncio.to_thread(make)
    except EnhanceError:
        raise
    except Exception as error:
        raise EngineStoppedError(f"vLLM could not start the engine, see its log: {error}") from error


def _engine_args(config: VLLMConfig | None, handler: HandlerConfig | None) -> Any:
    """The engine arguments; a copy, so that later changes of the caller's have no effect."""
    from vllm_enhance.engine.arguments import as_engine_args, copied

    if config is not None:
        return copied(config.engine_args, handler.model_name if handler is not None else None)
    model = None if handler is None else handler.model_name
    if not model:
        raise InvalidConfigError("no model: set VLLMConfig.engine_args.model, or HandlerConfig.model_name")
    return as_engine_args({"model": model})


def _name(engine_args: Any, assembly: Assembly, hooks: Mapping[str, object] | None) -> str:
    """The same for equal configurations. Settings may hold passwords, so it is a digest."""
    parts = [f"{name}={value!r}" for name, value in sorted(vars(engine_args).items())]
    parts += [assembly.settings.to_json(), repr(sorted((name, id(hook)) for name, hook in (hooks or {}).items()))]
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _instance_stats(instance: Instance) -> dict[str, Any]:
    llm = instance.llm
    numbers = {} if llm is None or llm.enhance is None else llm.enhance_control.numbers()
    return {
        "model": None if llm is None else llm.model_config.model,
        "state": "starting" if not instance.building.done() else "dead" if llm is None or llm.errored else "running",
        "llm_running": llm is not None and not llm.errored,
        "handlers": len(instance.handlers),
        "active_requests": numbers.get("active_requests", 0),
        "served": numbers.get("served", 0),
        "hit_rate": numbers.get("hit_rate", 0.0),
        "saved_engine_seconds": numbers.get("saved_engine_seconds", 0.0),
        "uptime_seconds": time.monotonic() - instance.created_at,
    }


_factory = SystemFactory()


def get_global_factory() -> SystemFactory:
    """The factory of this process."""
    return _factory


async def create_enhanced_system(
    vllm_config: VLLMConfig | None = None,
    cache_config: CacheConfig | None = None,
    similarity_config: SimilarityConfig | None = None,
    handler_config: HandlerConfig | None = None,
    *,
    hooks: Mapping[str, object] | None = None,
) -> EnhancedHandler:
    """A handler on an engine with caching, similarity and language analysis; see :meth:`SystemFactory.create`."""
    return await _factory.create(vllm_config, cache_config, similarity_config, handler_config, hooks=hooks)

"""Five demonstrations of the Python API: ``python examples/enhanced_llm_usage.py MODEL``.

Without MODEL a tiny model with random weights is made on the spot: what it says is noise, but everything else is real.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from vllm import SamplingParams

from vllm_enhance import (
    CacheConfig,
    CacheType,
    EnhancedHandler,
    EnhancedOutput,
    HandlerConfig,
    SimilarityConfig,
    VLLMConfig,
    create_enhanced_system,
    get_global_factory,
)


def configuration(model: str) -> tuple[VLLMConfig, CacheConfig, SimilarityConfig, HandlerConfig]:
    """What the demonstrations run on."""
    vllm_config = VLLMConfig()
    vllm_config.engine_args.model = model
    vllm_config.engine_args.max_model_len = 1024
    vllm_config.engine_args.enforce_eager = True

    cache_config = CacheConfig(cache_type=CacheType.MEMORY, memory_cache_size=1000, ttl=3600)
    similarity_config = SimilarityConfig(enable_vector_search=False)

    handler_config = HandlerConfig()
    handler_config.features.enable_caching = True
    handler_config.features.enable_nlp_enhancement = True
    handler_config.nlp.max_concurrent_tasks = 50
    return vllm_config, cache_config, similarity_config, handler_config


async def ask(handler: EnhancedHandler, prompt: str, max_tokens: int = 100) -> EnhancedOutput:
    """One answer, read as it comes."""
    collector = await handler.add_request_v2(prompt, SamplingParams(temperature=0.7, max_tokens=max_tokens))
    async for output in collector.aiter():
        if output.finished:
            return output
    raise RuntimeError("an answer ends with a finished output")


async def basic_generation(handler: EnhancedHandler) -> None:
    output = await ask(handler, "什么是人工智能？")
    print(f"  {len(output.request_output.outputs[0].token_ids)} tokens from {output.metadata['source']}")


async def cache_hit(handler: EnhancedHandler) -> None:
    prompt = "Why is the sky blue?"
    first, second = await ask(handler, prompt), await ask(handler, prompt)
    assert second.metadata["cached"]
    assert second.text == first.text
    for output in (first, second):
        print(f"  {output.metadata['source']:<7} {output.metadata['processing_time'] * 1000:8.1f} ms")
    print(f"  saved {second.metadata['saved_seconds'] * 1000:.1f} ms of the engine's time")


async def compound_question(handler: EnhancedHandler) -> None:
    output = await ask(handler, "What is TCP, and why is it used although UDP is faster?")
    reading = output.metadata["nlp_result"]
    print(f"  connectives: {', '.join(each['text'] for each in reading['connectives'])}")
    for part in reading["sub_questions"]:
        print(f"  asks: {part['text']}")


async def concurrent_batch(handler: EnhancedHandler) -> None:
    prompts = [f"Tell me about number {number % 10}." for number in range(100)]
    started = time.perf_counter()
    outputs = await handler.generate_batch(prompts, SamplingParams(temperature=0.7, max_tokens=50))
    sources = [output.metadata["source"] for output in outputs]
    counts = ", ".join(f"{sources.count(name)} {name}" for name in ("engine", "joined", "memory"))
    print(f"  {len(outputs)} answers in {time.perf_counter() - started:.2f} s: {counts}")


async def health_check(handler: EnhancedHandler) -> None:
    health, stats = await handler.health_check(), handler.get_stats()
    print(f"  {health['status']}: {', '.join(sorted(health['components']))}")
    print(f"  hit rate {stats['hit_rate']:.0%}, {stats['saved_tokens']} tokens not generated again")


DEMONSTRATIONS: dict[str, Callable[[EnhancedHandler], Awaitable[None]]] = {
    "1. Basic generation": basic_generation,
    "2. A cache hit and its gain": cache_hit,
    "3. Language analysis of a compound question": compound_question,
    "4. A batch of concurrent requests": concurrent_batch,
    "5. Health check": health_check,
}


async def main(model: str) -> None:
    async with await create_enhanced_system(*configuration(model)) as handler:
        for title, demonstrate in DEMONSTRATIONS.items():
            print(title)
            await demonstrate(handler)
    await get_global_factory().cleanup_all()


def _tiny_model() -> str:
    from vllm_enhance.testing.models import tiny_model

    return str(tiny_model(Path(".cache")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="a model that vLLM can load")
    asyncio.run(main(parser.parse_args().model or _tiny_model()))

"""Whether requests with images or sound may be answered from memory by this engine, and if not, why.

Two things in vLLM's front end stand in the way, each by configuration:

- The ``lru`` and ``shm`` processor caches keep a shadow of the engine's cache in this process and count on every
  rendered request reaching the engine (``vllm/multimodal/cache/base.py``). Skipping the engine would let the two
  drift apart.
- With both the processor cache and prefix caching off, nobody in vLLM needs a content hash, and ``mm_hashes`` holds
  the number of the request instead (``_process_mm_uuids`` in ``vllm/renderers/base.py``), which begins anew in each
  process: two images would share a name.
"""

from __future__ import annotations

from typing import Any

__all__ = ["media_obstacle"]


def media_obstacle(client: Any) -> str | None:
    """The bypass reason of requests with images or sound, or ``None`` when they may be cached."""
    cache = getattr(client.renderer, "mm_processor_cache", None)
    if cache is not None:
        return None if type(cache).__name__ == "MultiModalProcessorOnlyCache" else "multimodal_cache"
    prefix_caching = getattr(client.vllm_config.cache_config, "enable_prefix_caching", None)
    return None if prefix_caching else "multimodal_unhashed"
